"""`guided calibrate`: find the noise levels that serve a model best at a number of steps."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Device, Dtype, Json

EXAMPLE = "For example: [bold]guided calibrate runs/emoji32 --steps 6,8,12[/bold]"


def calibrate(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or the folder of a run.")],
    steps: Annotated[str, typer.Option("--steps", help="Numbers of steps, such as 6,8,12.")],
    w: Annotated[float | None, typer.Option("--w", help="Guidance weight; the model's by default.")] = None,
    file: Annotated[
        pathlib.Path | None, typer.Option("--prompts", help="Prompts to draw, one a line; the recipe's by default.")
    ] = None,
    images: Annotated[int, typer.Option("--images", help="Images drawn in each trial.")] = 32,
    trials: Annotated[int, typer.Option("--trials", help="Trials for each number of steps.")] = 40,
    batch: Annotated[int, typer.Option("--batch", help="Images drawn at once.")] = 16,
    out: Annotated[
        pathlib.Path | None, typer.Option("--out", help="A new folder for the model; else its card is changed.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Find noise levels and a solver for a model at numbers of steps, and keep them on its card.

    `generate` uses them at those steps and about that weight. Errors are distances to where 64 steps or more lead.
    """
    from guided import tune, zoo
    from guided.model import store

    counts = common.numbers_of(steps, "--steps", 2)
    if model in zoo.SHIPPED and out is None:
        raise ValueError(f"{model} is part of the installation: give --out, a folder for a copy of it")
    folder = store.place_of(zoo.shipped(model) if model in zoo.SHIPPED else pathlib.Path(model).expanduser())
    if out is not None:
        store.refuse_other(out)
    prompts = None if file is None else common.lines_of(file)
    opened = common.open_model(model, device, dtype)
    kept: dict[str, Any] = dict(opened.card.get("calibrated") or {})
    for n in counts:
        with common.bar(1, "") as update:

            def watch(done: int, total: int, n: int = n) -> None:
                update(done / total, f"{n} steps")

            found = tune.calibrate_model(
                opened, n, w=w, prompts=prompts, images=images, trials=trials, batch=batch, watch=watch
            )
        kept[str(n)] = found.entry()
        folder = store.amend(folder, {"calibrated": kept}, out)
        out = None  # from here on that copy is what grows
        if not as_json:
            print(
                f"{n:>4} steps  {found.name:10} error {found.error:.4f}  default {found.default:.4f}  "
                f"Karras {found.karras:.4f}",
                flush=True,
            )
    if as_json:
        common.show_json({str(n): kept[str(n)] for n in counts})
    common.say(f"written to {folder / 'card.json'}")
