"""`guided edit` and `guided inpaint`: photos, one or a folder, changed as asked and nowhere else."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common, photos
from guided.cli.common import Device, Dtype, Json, Lora, ModelOption
from guided.cli.photos import (
    GuideText,
    Label,
    Mask,
    Negative,
    Out,
    Photo,
    Prompt,
    Seed,
    SolverName,
    Steps,
    Strength,
    Weight,
)

if TYPE_CHECKING:
    from guided.cascade import Cascade
    from guided.model import Model, Progress
    from guided.tasks import Edit
    from guided.tasks.folder import Job
    from guided.tasks.methods import Method

EXAMPLE = 'For example: [bold]guided edit photo.jpg --prompt "green apple" --strength 0.6 --out edited.png[/bold]'
PAINT = 'For example: [bold]guided inpaint photo.jpg --prompt "red apple" --mask 20,20,90,90 --out filled.png[/bold]'
METHODS = "inversion, exact, ddpm, flowedit, p2p"


def edit(
    image: Photo,
    *,
    prompt: Prompt = None,
    label: Label = None,
    model: ModelOption = "emoji",
    lora: Lora = None,
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
        "model": model,
        "lora": lora or None,
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
    _run(image, out, said, (model, device, dtype, lora), as_json)


def inpaint(
    image: Photo,
    *,
    prompt: Prompt = None,
    label: Label = None,
    model: ModelOption = "emoji",
    lora: Lora = None,
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
        "model": model,
        "lora": lora or None,
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
    _run(image, out, said, (model, device, dtype, lora), as_json)


def _run(
    image: pathlib.Path,
    out: pathlib.Path,
    said: Mapping[str, Any],
    network: tuple[str, str, str, list[str] | None],
    as_json: bool,
) -> None:
    photos.run(
        image,
        out,
        said,
        lambda: common.open_drawing(*network),
        lambda opened, job, mask: _moves(opened, job, mask, said),
        as_json,
    )


def _moves(model: Model | Cascade, job: Job, mask: Any, said: Mapping[str, Any]) -> Iterator[Progress]:
    from guided import tasks
    from guided.cascade import Cascade

    edit = _edit(job, mask, said)
    if not isinstance(model, Cascade):
        return tasks.run(model, edit)
    from guided.cascade import editing

    more = [f"--{name}" for name in ("faithful", "by", "tiles", "expand", "solver", "negative") if said.get(name)]
    more += ["--resample"] if edit.resample > 1 else []
    if more:
        raise ValueError(f"{model.name} is a cascade: it edits without {', '.join(more)}")
    return editing.run(model, job.photo, edit.request, edit.dial, mask, edit.task)


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
    how = {"expand": photos.sides(said.get("expand")), "resample": said.get("resample", 1)}
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
