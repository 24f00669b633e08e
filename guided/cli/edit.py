"""`guided edit` and `guided inpaint`: photos, one or a folder, changed as asked and nowhere else."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Device, Dtype, Json, ModelOption

if TYPE_CHECKING:
    from guided.tasks import Edit
    from guided.tasks.folder import Job
    from guided.tasks.methods import Method

EXAMPLE = 'For example: [bold]guided edit photo.jpg --prompt "green apple" --strength 0.6 --out edited.png[/bold]'
PAINT = 'For example: [bold]guided inpaint photo.jpg --prompt "red apple" --mask 20,20,90,90 --out filled.png[/bold]'
METHODS = "inversion, exact, ddpm, flowedit, p2p"

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


def edit(
    image: Photo,
    *,
    prompt: Prompt = None,
    label: Label = None,
    model: ModelOption = "emoji",
    mask: Mask = None,
    strength: Strength = None,
    faithful: Annotated[
        str | None,
        typer.Option("--faithful", help='In place of --strength: "10%" of the pixels changed, or "28dB" of PSNR.'),
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help=f"An edit by inversion: {METHODS}; with --source.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="What the photo shows, for --by.")] = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Work on a large photo at its own size, window by window.")
    ] = False,
    steps: Steps = None,
    w: Weight = None,
    guide: GuideText = None,
    negative: Negative = None,
    solver: SolverName = None,
    seed: Seed = 0,
    out: Out,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Edit a photo, or every photo of a folder, and say what changed; a sheet of before and after stands beside it.

    Sizes, modes, depths and colour profiles stay what they are; a black place in the mask keeps its pixels bit for bit.
    The same command goes on where it was interrupted.
    """
    said: dict[str, Any] = {
        "task": "edit",
        "prompt": prompt,
        "label": label,
        "mask": mask,
        "strength": strength,
        "faithful": faithful,
        "by": by,
        "source": source,
        "tiles": tiles or None,
        "steps": steps,
        "w": w,
        "guide": guide,
        "negative": negative,
        "solver": solver,
        "seed": seed,
    }
    _run(image, out, said, (model, device, dtype), as_json)


def inpaint(
    image: Photo,
    *,
    prompt: Prompt = None,
    label: Label = None,
    model: ModelOption = "emoji",
    mask: Mask = None,
    expand: Annotated[
        str | None, typer.Option("--expand", metavar="L,T,R,B", help="Pixels to add at left, top, right, bottom.")
    ] = None,
    resample: Annotated[int, typer.Option("--resample", help="RePaint: so many walks of each part, at its cost.")] = 1,
    strength: Strength = None,
    steps: Steps = None,
    w: Weight = None,
    guide: GuideText = None,
    negative: Negative = None,
    solver: SolverName = None,
    seed: Seed = 0,
    out: Out,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Paint what a mask frees, or beyond the borders, of a photo or every photo of a folder.

    All other pixels stay bit for bit. The same command goes on where it was interrupted.
    """
    if mask is None and expand is None:
        raise ValueError("inpaint takes --mask, what to paint, or --expand L,T,R,B, how far beyond the borders")
    said: dict[str, Any] = {
        "task": "inpaint",
        "prompt": prompt,
        "label": label,
        "mask": mask,
        "expand": expand,
        "resample": resample,
        "strength": strength,
        "steps": steps,
        "w": w,
        "guide": guide,
        "negative": negative,
        "solver": solver,
        "seed": seed,
    }
    _run(image, out, said, (model, device, dtype), as_json)


def _run(
    image: pathlib.Path, out: pathlib.Path, said: Mapping[str, Any], network: tuple[str, str, str], as_json: bool
) -> None:
    from guided import tasks
    from guided.tasks import folder

    every = folder.jobs(image, out)
    asked = {name: value for name, value in {"model": network[0], **said}.items() if value is not None}
    todo = folder.left(every, lambda job: {**asked, "photo": str(job.photo)})
    masks = {job.photo: _mask(said["mask"], image, job) for job in todo}
    for job in todo:
        job.check()
    if out.suffix.lower() in (".jpg", ".jpeg"):
        common.say("JPEG is not exact: it changes all pixels a little, those outside a mask too")
    if len(todo) < len(every):
        common.say(f"{len(every) - len(todo)} of {len(every)} are done already")
    failed: list[tuple[pathlib.Path, ValueError]] = []
    if todo:
        model = common.open_model(*network)
        with common.bar(len(todo), "photos") as update:
            for done, job in enumerate(todo):
                try:
                    edit = _edit(job, masks[job.photo], said)
                    for progress in tasks.run(model, edit):
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
        raise ValueError(f"{len(failed)} of {len(every)} photos could not be edited, the first is {failed[0][0]}")


def _edit(job: Job, mask: Any, said: Mapping[str, Any]) -> Edit:
    """What the command means for one photo."""
    from guided.model import Request
    from guided.tasks import Edit, faithful

    request = Request(
        said["prompt"], 1, said["label"], said["steps"], said["guide"], said["w"], said["negative"],
        None, said["solver"], None, said["seed"],
    )  # fmt: skip
    target = None if said.get("faithful") is None else faithful.parse(said["faithful"])
    strength = said["strength"] if said["task"] == "edit" or said["strength"] is not None else 1.0
    how = {"expand": _sides(said.get("expand")), "resample": said.get("resample", 1)}
    by = _method(said.get("by"), said.get("source"))
    return Edit(
        job.photo,
        request,
        strength,
        mask,
        task=said["task"],
        by=by,
        faithful=target,
        **how,
        tiles=bool(said.get("tiles")),
    )


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
    name = job.photo.name if image.is_file() else os.fspath(job.photo.relative_to(image))
    found = sorted(place.glob(f"{pathlib.Path(name).with_suffix('')}.*"))
    if not found:
        raise FileNotFoundError(f"--mask: {place} holds no mask named as {name}")
    return found[0]


def _sides(text: str | None) -> tuple[int, int, int, int] | None:
    """Four whole numbers between commas; ValueError."""
    if text is None:
        return None
    found = common.numbers_of(text, "--expand", 0)
    if len(found) != 4:
        raise ValueError(f"--expand: expected left,top,right,bottom in pixels, got {text!r}")
    return found[0], found[1], found[2], found[3]


def _method(name: str | None, source: str | None) -> Method | None:
    """The edit by inversion of a name; raises ValueError for another name, and where --source is missing."""
    from guided import tasks

    if name is None:
        if source is not None:
            raise ValueError(f"--source: it tells an edit by inversion what the photo shows; give --by ({METHODS}) too")
        return None
    if name == "p2p":
        if source is None:
            raise ValueError("--by p2p: give --source too, the prompt of what the photo shows")
        return tasks.PromptToPrompt(source)
    kinds: dict[str, Any] = {
        "inversion": tasks.Inversion,
        "exact": tasks.Exact,
        "ddpm": tasks.DDPMInversion,
        "flowedit": tasks.FlowEdit,
    }
    if name not in kinds:
        raise ValueError(f"--by: expected one of {METHODS}, got {name!r}")
    method: Method = kinds[name](source)
    return method


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
