"""`guided demo`: the shipped models draw a sheet of sentences at several guidance weights."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from guided.cli import common
from guided.cli.common import Device, Dtype, Json, ModelOption

if TYPE_CHECKING:
    from guided.cascade import Cascade
    from guided.model import Model, Result

EXAMPLE = "For example: [bold]guided demo --out demo[/bold]"
SENTENCES = (
    "red apple",
    "grinning cat",
    "woman pilot, dark skin tone",
    "man mage, light skin tone",
    "blue heart",
    "evergreen tree",
    "rocket",
    "pizza",
)
WEIGHTS = (1.0, 2.0, 4.0, 7.0)
STEPS = 20


def demo(
    out: Annotated[pathlib.Path, typer.Option("--out", help="Folder for the pictures.")] = pathlib.Path("demo"),
    model: ModelOption = "emoji-128",
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Draw eight sentences at four guidance weights, and a sheet of all of them."""
    opened = common.open_drawing(model, device, dtype)
    columns = _drawn(opened)
    paths: list[pathlib.Path] = []
    for result in columns:
        paths += result.save(out)
    sheet = _sheet(columns, out)
    common.say(f"{len(paths)} pictures in {out}; all together in {sheet}")
    if as_json:
        common.show_json({"pictures": [str(path) for path in paths], "sheet": str(sheet)})
        return
    for path in (*paths, sheet):
        print(path)


def _drawn(model: Model | Cascade) -> list[Result]:
    """One result for each weight, of all sentences; a sentence keeps its seed, hence its noise."""
    from guided.model import Request

    results = []
    total = len(WEIGHTS) * len(SENTENCES)
    with common.bar(total, "pictures") as update:
        for column, w in enumerate(WEIGHTS):
            for progress in model.drawing(Request(SENTENCES, steps=STEPS, w=w)):
                update((column + progress.done / progress.total) * len(SENTENCES))
                if progress.result is not None:
                    results.append(progress.result)
    return results


def _sheet(columns: list[Result], out: pathlib.Path) -> pathlib.Path:
    from guided import _files
    from guided.model.result import png
    from guided.model.sheet import sheet

    pictures = [result[row] for row in range(len(SENTENCES)) for result in columns]
    page = sheet(pictures, heads=[f"w = {w:g}" for w in WEIGHTS], rows=SENTENCES)
    path = out / "sheet.png"
    number = 1
    while path.exists():
        number += 1
        path = out / f"sheet-{number}.png"
    _files.write(path, png(page, None))
    return path
