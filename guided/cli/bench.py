"""`guided bench`: what the parts are worth, beside their peers."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Json

if TYPE_CHECKING:
    import torch

    from guided.bench.cases import Group
    from guided.bench.record import Record

app = typer.Typer(no_args_is_help=True, help="Measure solvers, guides, speed and memory beside their peers.")
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
Size = Annotated[
    str, typer.Option("--size", help="Of the network: pixel64 (64x64x3, 35 million weights), sd15, or tiny.")
]
Batches = Annotated[str, typer.Option("--batches", help="Sizes of a batch.")]
Dtypes = Annotated[
    str, typer.Option("--dtype", help="What is computed in, between commas: float32, bf16.", rich_help_panel="Machine")
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds, each in an order of its own.")]
Only = Annotated[str, typer.Option("--only", metavar="TEXT", help="Only rows whose name holds this.")]
Rows = Annotated[
    pathlib.Path | None,
    typer.Option("--out", help="A .jsonl file that gets each row as it is measured; rows that it has are not again."),
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


@app.command("unet", epilog="For example: [bold]guided bench unet --batches 2 --dtype float32 --out rows.jsonl[/bold]")
def unet(
    size: Size = "pixel64",
    batches: Batches = "1,2,8",
    dtype: Dtypes = "float32,bf16",
    rounds: Rounds = 30,
    only: Only = "",
    device: common.Device = "auto",
    out: Rows = None,
    as_json: Json = False,
) -> None:
    """The same network's forward, and forward and backward, beside diffusers at its default and at its best.

    ratio = peer / ours in seconds: above 1, ours is faster; low and high are its 95 % interval.
    """
    from guided.bench import speed
    from guided.bench.networks import sized

    place, listed = common.device_of(device), common.numbers_of(batches, "--batches")
    _compared("unet", speed.groups(sized(size), listed, _dtypes(dtype), place), rounds, only, place, out, as_json)


@app.command("sample", epilog="For example: [bold]guided bench sample --batches 1 --rounds 10[/bold]")
def sample(
    size: Size = "pixel64",
    batches: Batches = "1,4",
    steps: Annotated[int, typer.Option("--steps", min=2, help="Euler steps of the loop.")] = 25,
    rounds: Rounds = 30,
    only: Only = "",
    device: common.Device = "auto",
    out: Rows = None,
    as_json: Json = False,
) -> None:
    """A whole text-to-image loop with classifier-free guidance, from the same noise along the same noise levels.

    ratio = peer / ours in seconds: above 1, ours is faster; low and high are its 95 % interval.
    """
    from guided.bench import looping
    from guided.bench.networks import sized

    place, listed = common.device_of(device), common.numbers_of(batches, "--batches")
    _compared("sample", looping.groups(sized(size), listed, place, steps), rounds, only, place, out, as_json)


@app.command("train", epilog='For example: [bold]guided bench train --only "memory added"[/bold]')
def train(
    size: Size = "pixel64",
    batches: Batches = "4",
    dtype: Dtypes = "bf16,float32",
    rounds: Rounds = 30,
    only: Only = "",
    device: common.Device = "auto",
    out: Rows = None,
    as_json: Json = False,
) -> None:
    """A whole training step, and the memory that it adds, beside diffusers' published way and its best.

    ratio = peer / ours in seconds or bytes: above 1, ours costs less; low and high are its 95 % interval (of memory,
    which is measured in three fresh processes, their range).
    """
    from guided.bench import training
    from guided.bench.networks import sized

    place, listed = common.device_of(device), common.numbers_of(batches, "--batches")
    groups = training.groups(sized(size), listed, _dtypes(dtype), place)
    _compared("train", groups, rounds, only, place, out, as_json)


@app.command("overhead", epilog="For example: [bold]guided bench overhead --only euler[/bold]")
def overhead(
    batches: Batches = "1",
    rounds: Rounds = 30,
    only: Only = "",
    device: common.Device = "auto",
    out: Rows = None,
    as_json: Json = False,
) -> None:
    """Time outside the network for each step of a guided loop, beside diffusers' schedulers and a loop by hand.

    ratio = peer / ours in seconds: above 1, ours is faster; low and high are its 95 % interval.
    """
    from guided.bench import overhead as judging

    place = common.device_of(device)
    groups = [group for n in common.numbers_of(batches, "--batches") for group in judging.groups(place, n)]
    _compared("overhead", groups, rounds, only, place, out, as_json)


@app.command("scaling", epilog="For example: [bold]guided bench scaling --rounds 5 --out growth[/bold]")
def scaling(
    size: Size = "pixel64",
    rounds: Rounds = 10,
    only: Only = "",
    device: common.Device = "auto",
    out: Annotated[
        pathlib.Path, typer.Option("--out", help="A folder for the plots, and for rows.jsonl, which is resumed.")
    ] = pathlib.Path("scaling"),
    as_json: Json = False,
) -> None:
    """How time and memory grow with batch, size, length of text and steps, a plot each beside the FLOP's growth.

    ratio = peer / ours in seconds or bytes: above 1, ours costs less; low and high are its 95 % interval.
    """
    from guided.bench import scaling as judging
    from guided.bench.networks import sized

    place, network = common.device_of(device), sized(size)
    rows = out / "rows.jsonl"
    found = _compared("scaling", judging.groups(network, place), rounds, only, place, rows, as_json)
    for line in judging.drawn(network, found, out):
        common.say(line)


@app.command("report", epilog="For example: [bold]guided bench report rows.jsonl --out RESULTS.md[/bold]")
def report(
    rows: Annotated[list[pathlib.Path], typer.Argument(help="Files that --out of the other commands wrote.")],
    out: Annotated[pathlib.Path | None, typer.Option("--out", help="The page; stdout without.")] = None,
) -> None:
    """The rows of files as one page of Markdown, the last of each name, by machine and command."""
    from guided.bench import record
    from guided.bench.report import results

    page = results([row for file in rows for row in record.read(file)])
    if out is None:
        print(page, end="")
    else:
        out.write_text(page, encoding="utf-8")


def _dtypes(text: str) -> list[torch.dtype]:
    import torch

    return [getattr(torch, common.dtype_of(word.strip())) for word in text.split(",")]


def _compared(
    command: str,
    groups: Sequence[Group],
    rounds: int,
    only: str,
    device: str,
    out: pathlib.Path | None,
    as_json: bool,
) -> list[Record]:
    """Measure what is not yet in the file, and print the rows."""
    from guided.bench import cases, machine
    from guided.bench.record import Log
    from guided.bench.report import text

    here, wanted = machine.here(device), cases.chosen(groups, only)
    with common.bar(1, "") as update:
        found = list(cases.measure(wanted, rounds, command, here, Log(out), update, common.say))
    if as_json:
        common.show_json([_plain(row.shown()) for row in found])
    else:
        print(text(found, here))
    return found


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers that JSON has not, as null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
