"""`guided cascade`: models that were trained apart as one."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from guided.cli import common
from guided.cli.common import Device, Dtype, Json

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

    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise FileExistsError(f"--out: {out} is there already; choose another folder")
    models = [zoo.load_model(stage) for stage in stages]
    cascade = Cascade(models, level or None, name=out.name)
    cascade.save(out)
    sizes = ", ".join(f"{width} x {height}" for height, width in cascade.sizes)
    common.say(f"{len(models)} stages that draw {sizes} pixels")
    print(out)


@app.command(epilog="For example: [bold]guided cascade doctor runs/both --against emoji[/bold]")
def doctor(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The folder of a cascade, or emoji-128.")],
    against: Annotated[str, typer.Option("--against", help="Real pictures: a folder, a file, or a dataset.")],
    n: Annotated[int, typer.Option("--n", help="Pictures that are drawn and compared.")] = 64,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of the first stage; its own by default.")] = None,
    later: Annotated[int | None, typer.Option("--later", help="Steps of the others; their own by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the pictures that are chosen and drawn.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Find the weak stage: under-trained, off in colour, fed by another kernel, deaf to the noise it is told of.

    Exits 0 with its findings, sound or not.
    """
    from guided.cascade import Cascade
    from guided.evaluate.doctor import Doctor, examine

    cascade = common.open_drawing(model, device, dtype)
    if not isinstance(cascade, Cascade):
        raise ValueError(f"{model}: one model, no cascade; join stages with: guided cascade join")
    found = examine(cascade, against, Doctor(n, steps, later, seed), common.say)
    if as_json:
        common.show_json(found.json())
        return
    for figure in found.figures:
        print(f"{figure.name} on {figure.at} pictures: {figure.value:.3g} ({figure.low:.3g} .. {figure.high:.3g})")
    for line in found.advice:
        print(line)
    for finding in found.findings:
        print(f"stage {finding.stage}: {finding.kind}: {finding.evidence}: {finding.remedy}")
    if found.sound:
        print("sound: nothing was found")
