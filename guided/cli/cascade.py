"""`guided cascade`: models that were trained apart as one."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from guided.cli import common

app = typer.Typer(
    name="cascade",
    help="Join models into a cascade, the first of which draws and the others enlarge; find the weak one.",
    no_args_is_help=True,
)


@app.command(epilog="For example: [bold]guided cascade join runs/base runs/up --out runs/both[/bold]")
def join(
    stages: Annotated[list[str], typer.Argument(metavar="MODEL...", help="The stages, smallest first.")],
    out: Annotated[pathlib.Path, typer.Option("--out", help="The folder of the cascade; the stages are copied.")],
    level: Annotated[
        list[float] | None,
        typer.Option("--level", help="Augmentation of each enlarging stage's picture; its own by default."),
    ] = None,
) -> None:
    """Prove that stages fit, and write them as one cascade."""
    from guided import zoo
    from guided.cascade import Cascade

    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out}: is there already; choose another folder")
    models = [zoo.load_model(stage) for stage in stages]
    cascade = Cascade(models, level or None, name=out.name)
    cascade.save(out)
    sizes = ", ".join(f"{width} x {height}" for height, width in cascade.sizes)
    common.say(f"{len(models)} stages that draw {sizes} pixels")
    print(out)
