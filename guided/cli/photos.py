"""What the commands that work on photos share: their options, a photo or a folder of them, and the report."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common

if TYPE_CHECKING:
    from guided.cascade import Cascade
    from guided.model import Model, Progress
    from guided.tasks.folder import Job

Photo = Annotated[pathlib.Path, typer.Argument(help="A picture, or a folder of them.", metavar="IMAGE_OR_DIR")]
Out = Annotated[pathlib.Path, typer.Option("--out", help="A file, or a folder: one picture for each, same names.")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="What is asked for.")]
Label = Annotated[str | None, typer.Option("--label", help="A class, for models of classes.")]
Mask = Annotated[
    str | None,
    typer.Option(
        "--mask",
        help='What may change: a picture (white changes) or a folder of them by the photos\' names, "alpha", '
        '"left,top,right,bottom", or corners "x,y x,y x,y".',
    ),
]
Strength = Annotated[float | None, typer.Option("--strength", help="0 is the photo, 1 is drawn anew.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the solver, whatever the strength.")]
Weight = Annotated[float | None, typer.Option("--w", help="Guidance weight; 1 is none.")]
GuideText = Annotated[str | None, typer.Option("--guide", metavar="EXPR", help="In place of --w, see generate.")]
Negative = Annotated[str | None, typer.Option("--negative", help="What to steer away from.")]
SolverName = Annotated[str | None, typer.Option("--solver", help="Any of solvers.NAMES.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every photo: each is edited as it would be alone.")]

Work = Callable[[Any, "Job", Any], "Iterator[Progress]"]
"""(model, job, mask) -> the moves of one photo, the last of which holds its picture."""


def run(
    image: pathlib.Path,
    out: pathlib.Path,
    said: Mapping[str, Any],
    model: Callable[[], Model | Cascade],
    work: Work,
    as_json: bool,
) -> None:
    """Do the work for a photo, or for every one of a folder that is not done yet; then say what was done.

    said: the caller's own words, with `model`, which the records keep. model: opened where there is work.
    """
    from guided.tasks import folder

    every = folder.jobs(image, out)
    asked = {name: value for name, value in said.items() if value is not None}
    todo = folder.left(every, lambda job: {**asked, "photo": str(job.photo)})
    masks = {job.photo: _mask(said.get("mask"), image, job) for job in todo}
    for job in todo:
        job.check(in_colour=said["task"] == "translate")
    if out.suffix.lower() in (".jpg", ".jpeg"):
        common.say("JPEG is not exact: it changes all pixels a little, those outside a mask too")
    if len(todo) < len(every):
        common.say(f"{len(every) - len(todo)} of {len(every)} are done already")
    failed: list[tuple[pathlib.Path, ValueError]] = []
    if todo:
        opened = model()
        with common.bar(len(todo), "photos") as update:
            for done, job in enumerate(todo):
                try:
                    for progress in work(opened, job, masks[job.photo]):
                        update(done + progress.done / progress.total)
                        if progress.result is not None:
                            folder.write(job, progress.result, {**asked, "photo": str(job.photo)})  # type: ignore[arg-type]
                except ValueError as error:
                    if len(every) == 1:
                        raise
                    failed.append((job.photo, error))
                    common.say(f"{job.photo}: {str(error).removeprefix(f'{job.photo}: ')}")
    _report(every, out, as_json)
    if failed:
        raise ValueError(f"{len(failed)} of {len(every)} photos could not be done, the first is {failed[0][0]}")


def _mask(text: str | None, image: pathlib.Path, job: Job) -> Any:
    """The mask of one photo; raises FileNotFoundError where a folder of masks has none for it."""
    if text is None:
        return None
    from guided.tasks import masks

    place = pathlib.Path(text)
    if not place.is_dir():
        mask = masks.parse(text)
        if isinstance(mask, str) and mask != masks.ALPHA and not place.is_file():
            raise FileNotFoundError(f"--mask: {text}: no such file")
        return mask
    from guided.data.folder import PICTURES

    name = job.photo.name if image.is_file() else os.fspath(job.photo.relative_to(image))
    wanted = (place / name).with_suffix("")
    # Compared letter by letter: the name of a photo is no pattern, even where it has brackets.
    beside = sorted(wanted.parent.iterdir()) if wanted.parent.is_dir() else []
    found = [
        file
        for file in beside
        if file.stem == wanted.name and file.suffix.lower().lstrip(".") in PICTURES and file.is_file()
    ]
    if not found:
        raise FileNotFoundError(f"--mask: {place} holds no mask named as {name}")
    return found[0]


def sides(text: str | None) -> tuple[int, int, int, int] | None:
    """Four whole numbers between commas; ValueError."""
    if text is None:
        return None
    found = common.numbers_of(text, "--expand", 0)
    if len(found) != 4:
        raise ValueError(f"--expand: expected left,top,right,bottom in pixels, got {text!r}")
    return found[0], found[1], found[2], found[3]


def _report(every: list[Job], out: pathlib.Path, as_json: bool) -> None:
    """The names of all pictures and what was done to them; the sheet."""
    from guided.model import record_of
    from guided.tasks import folder

    places = [place for place in (job.found for job in every) if place is not None]
    rows = [{"file": str(place), **(record_of(place) or {})} for place in places]
    compared = folder.compare(every, out)
    if as_json:
        common.show_json(rows)
        return
    for row in rows:
        print(f"{row['file']}  {folder.told(row)}", flush=True)
    if compared is not None:
        common.say(f"before and after: {compared}")
