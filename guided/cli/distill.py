"""`guided distill`: a student that draws in a few evaluations what a guided teacher draws in many."""

from __future__ import annotations

import pathlib
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Device, Json

if TYPE_CHECKING:
    from guided.tune.distilling.run import Job, Step

EXAMPLE = (
    'For example: [bold]guided distill emoji --guide "cfg(4)" --steps 4 --data my/emoji --out runs/fast[/bold], then '
    "[bold]guided generate rocket --model runs/fast --w 3[/bold]"
)
QUIET = 30.0
"""Seconds between two lines where nobody watches a progress bar."""
_PRECISIONS = {"float32": "float32", "bfloat16": "bf16"}
Range = Annotated[
    str | None,
    typer.Option("--w-range", metavar="LO,HI", help="Guidance weights to learn; from 1 to the guide's by default."),
]
Expression = Annotated[
    str | None, typer.Option("--guide", metavar="EXPR", help="The teacher's guide; the cfg of its card by default.")
]
Long = Annotated[
    int | None, typer.Option("--teacher-steps", help="Steps that halving begins with; 32 or a little more.")
]
Prompts = Annotated[
    pathlib.Path | None, typer.Option("--prompts", help="Prompts for these, one a line; the card's by default.")
]
Precision = Annotated[
    str, typer.Option("--dtype", help="What networks compute in: float32 or bf16.", rich_help_panel="Machine")
]
Data = Annotated[
    str | None, typer.Option("--data", help="Pictures to learn on; without any the teacher draws some itself.")
]


def distill(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The teacher: a model folder, a run, or a name.")],
    out: Annotated[pathlib.Path, typer.Option("--out", help="The folder of the run; the student is RUN/model.")],
    guide: Expression = None,
    steps: Annotated[int, typer.Option("--steps", help="Evaluations of a picture by the student.")] = 4,
    method: Annotated[
        str, typer.Option("--method", help="trajectory, progressive, guidance or consistency.")
    ] = "trajectory",
    data: Data = None,
    images: Annotated[int, typer.Option("--images", help="Images seen in all.")] = 24_000,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 0,
    w_range: Range = None,
    teacher_steps: Long = None,
    batch: Annotated[int, typer.Option("--batch", help="Images an update.")] = 32,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate at first; less of it after guidance.")] = 1e-3,
    optimizer: Annotated[str, typer.Option("--optimizer", help="muon or adamw.")] = "muon",
    pool: Annotated[int, typer.Option("--pool", help="Pictures that the teacher draws, without --data.")] = 1024,
    file: Prompts = None,
    save_every: Annotated[int, typer.Option("--save-every", help="Images between two checkpoints.")] = 4000,
    name: Annotated[str | None, typer.Option("--name", help="The student's name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done.")] = False,
    device: Device = "auto",
    dtype: Precision = "float32",
    as_json: Json = False,
) -> None:
    """Train a student that draws in a few evaluations what a guided model draws in many; it keeps its --w.

    The same command goes on where a stopped run stands. Ctrl-C saves first.
    """
    from guided import zoo
    from guided.tune import distilling

    precision = _PRECISIONS.get(common.dtype_of(dtype))
    if precision is None:
        raise ValueError(
            f"--dtype: {dtype}: distillation computes in float32 or bf16 (fp16 would need its loss scaled)"
        )
    settings = distilling.Settings(
        guide=guide, steps=steps, method=method, w_range=_range(w_range), data=data, images=images, batch=batch,
        optimizer=optimizer, lr=lr, teacher_steps=teacher_steps, pool=pool, precision=precision, seed=seed,
        prompts=() if file is None else tuple(common.lines_of(file)), save_every=save_every, name=name,
    )  # fmt: skip
    place = common.device_of(device)
    teacher = zoo.load_model(model)
    if dry_run:
        _plan(distilling.prepared(teacher, settings, place), out, as_json)
        return
    common.say(f"{teacher.name} on {place}, {precision}: a student of {steps} steps in {out}")
    last = _watched(distilling.distill(teacher, out, settings, device=place), settings.images)
    if as_json:
        facts = {"out": str(out), "model": str(out / "model"), "images": last.images}
        common.show_json({**facts, "distilled": None if last.model is None else last.model.card["distilled"]})
    else:
        print(out / "model")


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        lo, hi = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--w-range: expected two numbers such as 1,6, got {text!r}") from None
    return lo, hi


def _watched(steps: Any, total: int) -> Step:
    """Run to the end and show it: a bar where a person watches, a line now and then elsewhere."""
    last: Step | None = None
    told = time.monotonic()
    with common.bar(total, "images") as update:
        for step in steps:
            last = step
            pace = step.stage if step.loss != step.loss else _pace(step)
            update(step.images, pace)
            if step.note:
                common.say(step.note)
            if time.monotonic() - told > QUIET and not update.watched:
                told = time.monotonic()
                common.say(f"{step.images} of {step.total} images, {pace}")
    assert last is not None
    return last


def _pace(step: Step) -> str:
    return f"{step.images_per_second:.0f} images/s, {step.stage}, loss {step.loss:.5f}"


def _plan(job: Job, out: pathlib.Path, as_json: bool) -> None:
    """Say what a run would do, with the minutes it would take by two updates of each kind; nothing is written."""
    from guided.tune.distilling import record
    from guided.tune.distilling.run import forecast

    started = record.begun(out, job.facts)
    pace = forecast(job)
    stages = [
        {
            "stage": stage.told(),
            "images": stage.images,
            "updates": stage.images // job.settings.batch,
            "minutes": round(stage.images * pace[stage.kind] / 60, 1),
        }
        for stage in job.stages
    ]
    fold = job.fold
    facts: dict[str, Any] = {
        "teacher": f"{job.teacher.name}, {job.teacher.hash[:12]}",
        "guide": None if fold.guide is None else repr(fold.guide),
        "dial": None if fold.dial is None else f"w from {fold.lo:g} to {fold.hi:g}",
        "method": job.settings.method,
        "steps": job.settings.steps,
        "data": job.settings.data or f"{job.settings.pool} pictures drawn by the teacher (not in the forecast)",
        "out": str(out),
        "started": started,
        "stages": stages,
        "minutes": round(sum(stage["minutes"] for stage in stages), 1),  # type: ignore[misc]
    }
    if as_json:
        common.show_json(facts)
        return
    for key, value in facts.items():
        if key == "stages":
            for stage in stages:
                told = ", ".join(f"{number} {what}" for what, number in stage.items() if what != "stage")
                print(f"{'stage':<8}  {stage['stage']}: {told}")
        else:
            print(f"{key:<8}  {common.printable(str(value))}")
