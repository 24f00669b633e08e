"""`guided data`: look at a data set before training on it, and build the one of the recipes."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from guided.cli import common
from guided.cli.common import Json

app = typer.Typer(help="Check a data set; build the emoji set of the recipes.", no_args_is_help=True)


@app.command("check", epilog="For example: [bold]guided data check my/pictures --size 32[/bold]")
def check(
    path: Annotated[str, typer.Argument(help="A folder, a file of rows, shards, or the name of a dataset.")],
    size: Annotated[str, typer.Option("--size", help="What the network will see: WIDTHxHEIGHT, or one number.")] = "64",
    background: Annotated[str, typer.Option("--background", help="Behind transparent pictures.")] = "white",
    kind: Annotated[str, typer.Option("--format", help="How the set is laid out, where it cannot be told.")] = "auto",
    sheet: Annotated[
        pathlib.Path | None,
        typer.Option("--sheet", help="The contact sheet; NAME-check.png in this folder by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decode every picture as training would: what is found, skipped and refused, and a sheet of what will be seen.

    Exits 0 when all is usable or merely skipped, 2 when anything is refused or in error.
    """
    from guided import data

    height_width = common.size_of(size)
    assert height_width is not None
    target = sheet or pathlib.Path(f"{pathlib.PurePath(path).stem or 'data'}-check.png")
    report = data.check(path, height_width, background=background, format=kind, sheet=target)
    if as_json:
        common.show_json(report.to_dict())
    else:
        print(common.printable(report.text()))
    raise typer.Exit(report.exit)


@app.command("noto", epilog="For example: [bold]guided data noto noto-emoji --out emoji[/bold]")
def noto(
    checkout: Annotated[pathlib.Path, typer.Argument(help="A checkout of github.com/googlefonts/noto-emoji.")],
    out: Annotated[pathlib.Path, typer.Option("--out", help="The folder to make.")] = pathlib.Path("emoji"),
    names: Annotated[
        pathlib.Path | None, typer.Option("--names", help="Unicode's emoji-test.txt, for other versions of the set.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build the emoji imagefolder with captions that the emoji recipes train on."""
    from guided import data

    made = data.noto(checkout, out, names=names)
    if as_json:
        common.show_json(made)
        return
    common.say(f"{made['pictures']} pictures with captions; {made['missing']} known names have no picture here")
    print(made["path"])
