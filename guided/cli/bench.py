"""`guided bench`: what the parts are worth, beside their peers."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Json

app = typer.Typer(no_args_is_help=True, help="Measure solvers and guides beside their peers.")
Own = Annotated[list[str] | None, typer.Option("--solver", help="A solver's name, or your own as module:name.")]
OwnGuide = Annotated[
    list[str] | None,
    typer.Option(
        "--guide",
        help='A guide beside ours: an expression, "cfg(3) >> rescale(0.7)", where "2" is a class and early a weaker '
        "denoiser; or your own as module:name: a guide, a function of the problem that returns one (None where it has "
        "none for it), or a dict of these.",
    ),
]


@app.command("solvers", epilog="For example: [bold]guided bench solvers --solver mine:step[/bold]")
def solvers(
    solver: Own = None,
    nfe: Annotated[str, typer.Option("--nfe", help="Numbers of evaluations.")] = "5,8,10,15,20,30,50",
    images: Annotated[int, typer.Option("--images", help="Images of each problem.")] = 256,
    mixtures: Annotated[int, typer.Option("--random", help="So many random problems, in place of the fixed six.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the random problems.")] = 0,
    as_json: Json = False,
) -> None:
    """Error of solvers at equal evaluations, on problems solved exactly, beside diffusers' schedulers.

    Without --solver every named one is measured, on Karras' grid; `default` is the library's own rule.
    """
    from guided.bench import problems
    from guided.bench import solvers as judging
    from guided.solvers import NAMES

    evaluations = common.numbers_of(nfe, "--nfe")
    listed = list(dict.fromkeys(solver or sorted(NAMES)))
    steps = {name: judging.solver(name) for name in listed}
    drawn = problems.random_mixtures(mixtures, seed, images) if mixtures else problems.standard(images)
    with common.bar(1, "") as update:
        found = judging.compare(drawn, steps, evaluations, lambda done, total: update(done / total))
    if as_json:
        common.show_json([row._asdict() for row in judging.rows(found)])
        return
    print(judging.text(found, {name: judging.order(step) for name, step in steps.items()}))


@app.command("guides", epilog='For example: [bold]guided bench guides --guide "cfg(2)" --guide mine:guide[/bold]')
def guides(
    guide: OwnGuide = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Steps of Karras' grid.")] = 32,
    images: Annotated[int, typer.Option("--images", help="Images of each problem.")] = 512,
    solver: Annotated[str, typer.Option("--solver", help="A solver's name, or your own as module:name.")] = "eab3",
    as_json: Json = False,
) -> None:
    """What guides draw, beside the truth in closed form: classes of Gaussian mixtures, and measured pictures.

    How sure, how far from the truth and how varied, at what cost; in JSON beside the unguided model, null where none.
    """
    from guided.bench import guides as judging
    from guided.bench import presets, steered
    from guided.bench.solvers import solver as chosen

    step, drawn, measured = chosen(solver), *steered.standard(images)
    own = {name: entry for text in guide or [] for name, entry in presets.contestants(text).items()}
    with common.bar(1, "") as update:
        found = judging.compare([*drawn, *measured], own, step, steps, lambda done, total: update(done / total))
    if as_json:
        common.show_json([_plain(row._asdict()) for row in judging.rows(found)])
        return
    print(judging.text(found, steps))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers that JSON has not, as null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
