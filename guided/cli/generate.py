"""`guided generate`: draw pictures of prompts or classes."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Device, Dtype, Json, Lora, ModelOption

if TYPE_CHECKING:
    from guided.cascade import Cascade
    from guided.model import Model, Request, Result

EXAMPLE = 'For example: [bold]guided generate "red apple" "blue heart" --n 4 --w 3 --out pictures[/bold]'
TOGETHER = 16
"""Pictures drawn between two writes: what an interrupted command can lose."""


def generate(
    *,
    prompts: Annotated[list[str] | None, typer.Argument(help="What to draw.", metavar="PROMPT")] = None,
    file: Annotated[
        pathlib.Path | None, typer.Option("--prompts", help="A text file with a prompt on each line.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="Classes, by name or number.")] = None,
    model: ModelOption = "emoji",
    lora: Lora = None,
    n: Annotated[int, typer.Option("--n", help="Pictures of each.")] = 1,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of the solver; the model's by default.")] = None,
    w: Annotated[float | None, typer.Option("--w", help="Guidance weight; 1 is none.")] = None,
    guide: Annotated[
        str | None,
        typer.Option("--guide", metavar="EXPR", help='In place of --w: "cfg(5).during(0.3, 5) >> rescale(0.7)".'),
    ] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What to steer away from.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels.")] = None,
    solver: Annotated[
        str | None, typer.Option("--solver", help="euler, heun, dpmpp_2m, eab3, unipc3, ...: any of solvers.NAMES.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the first picture; the next ones count on.")] = 0,
    batch: Annotated[int | None, typer.Option("--batch", help="Pictures drawn at once.")] = None,
    out: Annotated[pathlib.Path, typer.Option("--out", help="Folder for the pictures.")] = pathlib.Path("out"),
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Draw pictures of prompts or classes, and print the names of their files.

    Each PNG says how it was made (guided inspect). A prompt that begins with a dash goes after --.
    """
    from guided.model import Request

    begun = time.monotonic()
    texts, labels = _asked(prompts, file, label)
    drawn = common.size_of(size)
    opened = common.open_drawing(model, device, dtype, lora)
    request = Request(texts, n, labels, steps, guide, w, negative, drawn, solver, None, seed, batch)
    rows: list[dict[str, Any]] = []
    for result in _results(opened, request):
        for path, record in zip(result.save(out), result.records, strict=True):
            rows.append({"file": str(path), **record})
            if not as_json:
                print(path, flush=True)
    if as_json:
        common.show_json(rows)
    common.took(begun, common.device_of(device))


def _asked(
    prompts: list[str] | None, file: pathlib.Path | None, label: list[str] | None
) -> tuple[list[str] | None, list[str] | None]:
    """Prompts and classes as they were meant; ValueError for both at once."""
    if file is not None:
        if prompts or label:
            raise ValueError("give prompts, --prompts or --label, only one of them")
        return common.lines_of(file), None
    if label:
        # `--label cat dog` means two classes, and a command line reads the second as an argument.
        return None, [*label, *(prompts or [])]
    return prompts or None, None


def _results(model: Model | Cascade, request: Request) -> Iterator[Result]:
    """The pictures of a request, some at a time; everything is checked before the first."""
    import dataclasses

    from guided.cascade import Cascade
    from guided.model.request import images, plan

    first = model.stages[0] if isinstance(model, Cascade) else model
    plan(first, request)
    wanted = images(first, request.prompts, request.labels, request.n, request.seed)
    together = max(TOGETHER, request.batch or 0)
    with common.bar(len(wanted), "pictures") as update:
        for start in range(0, len(wanted), together):
            part = wanted[start : start + together]
            prompts = None if request.prompts is None else [image.prompt or "" for image in part]
            labels = None if request.labels is None else [image.label or 0 for image in part]
            n = len(part) if prompts is None and labels is None else 1
            piece = dataclasses.replace(request, prompts=prompts, labels=labels, n=n, seed=part[0].seed)
            for progress in model.drawing(piece):
                share = progress.done / progress.total
                update(start + share * len(part))
                if progress.result is not None:
                    yield progress.result
