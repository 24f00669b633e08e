"""`guided bench`: what the parts are worth, beside their peers."""

from __future__ import annotations

from typing import Annotated

import typer

from guided.cli import common
from guided.cli.common import Json

app = typer.Typer(no_args_is_help=True, help="Measure solvers and guides beside their peers.")
Own = Annotated[list[str] | None, typer.Option("--solver", help="A solver's name, or your own as module:name.")]


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
