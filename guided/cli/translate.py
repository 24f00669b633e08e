"""`guided translate` and `guided upscale`: photos through networks that were taught what to make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common, photos
from guided.cli.common import Device, Dtype, Json, Lora, ModelOption
from guided.cli.photos import GuideText, Label, Mask, Out, Photo, Prompt, Seed, SolverName, Steps, Weight

if TYPE_CHECKING:
    from guided.cascade import Cascade
    from guided.model import Model, Progress, Request
    from guided.tasks.folder import Job

EXAMPLE = "For example: [bold]guided translate old.jpg --task jpeg --model runs/palette-photos --out new.png[/bold]"
LARGER = "For example: [bold]guided upscale small.png --out large.png[/bold]"


def translate(
    image: Photo,
    *,
    task: Annotated[str | None, typer.Option("--task", help="What to do: one of those that the model learnt.")] = None,
    model: Annotated[str, typer.Option("--model", help="The folder of a model that was taught to, or of its run.")],
    lora: Lora = None,
    prompt: Prompt = None,
    label: Label = None,
    mask: Mask = None,
    expand: Annotated[
        str | None, typer.Option("--expand", metavar="L,T,R,B", help="Pixels to add at left, top, right, bottom.")
    ] = None,
    steps: Steps = None,
    w: Weight = None,
    guide: GuideText = None,
    solver: SolverName = None,
    seed: Seed = 0,
    out: Out,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Colour, fill, extend or restore a photo, or every photo of a folder; a sheet shows before and after.

    What a mask keeps comes back bit for bit. The same command goes on where it was interrupted.
    """
    said: dict[str, Any] = {
        "model": model,
        "lora": lora or None,
        "task": "translate",
        "to": task,
        "prompt": prompt,
        "label": label,
    }
    said |= {"mask": mask, "expand": expand, "steps": steps, "w": w, "guide": guide, "solver": solver, "seed": seed}
    photos.run(
        image,
        out,
        said,
        lambda: common.open_model(model, device, dtype, lora),
        lambda opened, job, mask: _translated(opened, job, mask, said),
        as_json,
    )


def upscale(
    image: Photo,
    *,
    model: ModelOption = "emoji-up",
    lora: Lora = None,
    scale: Annotated[
        int | None, typer.Option("--scale", help="How many times larger; the model's own by default.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Made small again, it is the photo to the last level.")
    ] = False,
    level: Annotated[
        float, typer.Option("--level", help="Disturb the photo first: the network then invents more.")
    ] = 0.0,
    prompt: Prompt = None,
    label: Label = None,
    steps: Steps = None,
    w: Weight = None,
    guide: GuideText = None,
    solver: SolverName = None,
    seed: Seed = 0,
    out: Out,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Make a photo larger, or every photo of a folder, window by window where it is large.

    Modes, depths, alpha and colour profiles stay. The same command goes on where it was interrupted.
    """
    said: dict[str, Any] = {"model": model, "lora": lora or None, "task": "upscale", "scale": scale}
    said["exact"] = exact or None
    said |= {"level": level or None, "prompt": prompt, "label": label, "steps": steps, "w": w, "guide": guide}
    said |= {"solver": solver, "seed": seed}
    photos.run(
        image,
        out,
        said,
        lambda: common.open_drawing(model, device, dtype, lora),
        lambda opened, job, mask: _enlarged(opened, job, mask, said),
        as_json,
    )


def _request(said: Mapping[str, Any]) -> Request:
    from guided.model import Request

    return Request(
        said["prompt"], 1, said["label"], said["steps"], said["guide"], said["w"], solver=said["solver"],
        seed=said["seed"],
    )  # fmt: skip


def _translated(model: Model, job: Job, mask: Any, said: Mapping[str, Any]) -> Iterator[Progress]:
    from guided.tasks import Translate, translating

    return translating.run(model, Translate(job.photo, _request(said), said["to"], mask, photos.sides(said["expand"])))


def _enlarged(model: Model | Cascade, job: Job, mask: Any, said: Mapping[str, Any]) -> Iterator[Progress]:
    from guided.cascade import Cascade, enlarging
    from guided.model import Request
    from guided.tasks import Upscale, upscaling

    if not isinstance(model, Cascade):
        exact, level = bool(said["exact"]), said["level"] or 0.0
        return upscaling.run(model, Upscale(job.photo, _request(said), said["scale"], exact, level))
    options = ("scale", "level", "prompt", "label", "steps", "w", "guide", "solver")
    more = [f"--{name}" for name in options if said[name] is not None]
    if more:
        raise ValueError(f"{model.name} is a cascade: it enlarges without {', '.join(more)}")
    return enlarging.run(model, job.photo, Request(seed=said["seed"]), bool(said["exact"]))
