"""`guided tune`: teach a model a person's own pictures. `guided.fit` does it; this chooses, forecasts and shows."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Device, Json
from guided.cli.train import PRECISIONS, watched

if TYPE_CHECKING:
    from guided.model import Model
    from guided.train import Recipe
    from guided.tune import Asked
    from guided.tune.forecast import Forecast

EXAMPLE = "For example: [bold]guided tune emoji my/pictures --out runs/mine[/bold]"
HEAD = "Another head"
Method = Annotated[str, typer.Option("--method", help="lora, dora, full, dreambooth or textual-inversion.")]
Images = Annotated[int | None, typer.Option("--images", help="Length of the run, in images.")]
Rank = Annotated[int | None, typer.Option("--rank", help="Of the adapters; 0: the weights themselves.")]
Targets = Annotated[
    str | None, typer.Option("--targets", help="What adapters go on: attention, convolutions or all (the default).")
]
TextRank = Annotated[
    int | None, typer.Option("--text-rank", help="Of adapters on the text encoder, which has none by default.")
]
Word = Annotated[
    str | None, typer.Option("--word", help="What pictures without a caption are called; the word to be learnt.")
]
Vectors = Annotated[int | None, typer.Option("--vectors", help="Vectors of a word to be learnt.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Images an update.")]
Replay = Annotated[float | None, typer.Option("--replay", help="Share of a batch that the base drew itself; 0: none.")]
Prompts = Annotated[pathlib.Path | None, typer.Option("--prompts", help="What must not be forgotten, a prompt a line.")]
Budget = Annotated[
    float | None,
    typer.Option("--budget", help="Most that the loss on the base's own pictures may rise; 0: any amount."),
]
Aspects = Annotated[bool, typer.Option("--aspects", help="Pictures keep their shape, at several sizes of one area.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides all that is drawn.")]
Memory = Annotated[float | None, typer.Option("--memory", help="Gigabytes it may take; what is free by default.")]
NewClasses = Annotated[
    bool, typer.Option("--new-classes", help="Unknown class folders become new classes.", rich_help_panel=HEAD)
]
Encoder = Annotated[str | None, typer.Option("--encoder", help="Another text encoder.", rich_help_panel=HEAD)]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="Show it a picture: colourise, inpaint, ... (repeatable).", rich_help_panel=HEAD),
]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT of its pictures.", rich_help_panel=HEAD)]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Less memory for a third more time.", rich_help_panel="Machine")
]
Accumulate = Annotated[
    int | None,
    typer.Option("--accumulate", help="Parts that a batch is cut into: less memory.", rich_help_panel="Machine"),
]
Optimizer = Annotated[
    str | None,
    typer.Option("--optimizer", help="adamw, adamw8bit (of bitsandbytes) or muon.", rich_help_panel="Machine"),
]
Frozen = Annotated[
    str | None,
    typer.Option("--frozen", help="What weights that stay lie in: float32, bf16.", rich_help_panel="Machine"),
]
Precision = Annotated[str | None, typer.Option("--dtype", help="float32, bf16 or fp16.", rich_help_panel="Machine")]


def tune(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base: a model, a run, a pipeline, a hub id.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Pictures, with captions, in class folders, or neither.")],
    out: Annotated[pathlib.Path, typer.Option("--out", help="The folder of the run; the result is in its model/.")],
    method: Method = "lora",
    images: Images = None,
    rank: Rank = None,
    targets: Targets = None,
    text_rank: TextRank = None,
    word: Word = None,
    vectors: Vectors = None,
    lr: Rate = None,
    batch: Batch = None,
    replay: Replay = None,
    prompts: Prompts = None,
    budget: Budget = None,
    aspects: Aspects = False,
    seed: Seed = 0,
    memory: Memory = None,
    classes: NewClasses = False,
    encoder: Encoder = None,
    task: Tasks = None,
    size: Size = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, how long it takes.")] = False,
    checkpointing: Checkpointing = False,
    accumulate: Accumulate = None,
    optimizer: Optimizer = None,
    frozen: Frozen = None,
    device: Device = "auto",
    dtype: Precision = None,
    as_json: Json = False,
) -> None:
    """Tune a model on your own pictures, within a budget of what it may forget.

    Says what it found, what it chose and how long it will take; keeps the best state within the budget, and says what
    was short. The same command goes on where a stopped run stands.
    """
    from guided import zoo
    from guided.tune import recipe_for

    place = common.device_of(device)
    base = zoo.load_model(model)
    recipe = recipe_for(base, model, data, method, out, asked(context.params))
    facts = plan(recipe, base, place, None if memory is None else round(memory * 1e9))
    if dry_run or not as_json:
        _show(facts, as_json)
    if not dry_run:
        del base
        _run(recipe, place, device, as_json)


def asked(given: Mapping[str, Any]) -> Asked:
    """What the options ask for, by their names."""
    from guided.tune import Asked

    same = ["images", "rank", "targets", "text_rank", "lr", "replay", "budget", "word", "vectors", "classes", "encoder"]
    same += ["seed", "checkpointing", "accumulate", "aspects", "optimizer", "frozen"]
    prompts, tasks, dtype = given["prompts"], given["task"], given["dtype"]
    return Asked(
        **{name: given[name] for name in same},
        batch_size=given["batch"],
        prompts=None if prompts is None else tuple(common.lines_of(prompts)),
        size=common.size_of(given["size"]),
        tasks=tuple(tasks) if tasks else None,
        precision=None if dtype is None else PRECISIONS[common.dtype_of(dtype)],
    )


def _run(recipe: Recipe, place: str, device: str, as_json: bool) -> None:
    begun = time.monotonic()
    last = watched(recipe, place if device != "auto" else "auto", True)
    _ended(recipe, last.model, as_json)
    common.took(begun, place)


def plan(recipe: Recipe, base: Model, device: str, limit: int | None) -> dict[str, Any]:
    """What was found, what was chosen, what it will take, what will be written; a run that goes on is not forecast."""
    import torch

    from guided.train import workplace
    from guided.tune import forecast
    from guided.tune.describing import described

    started = workplace.begun(pathlib.Path(recipe.out), recipe) is not None
    found: Forecast | None = None
    if not started:
        common.say("trying 20 updates, to say what the run will take ...")
        found = forecast.forecast(recipe, torch.device(device), limit)
    return described(recipe, base, found)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        common.show_json(facts)
        return
    for name, value in facts.items():
        if name in ("seconds", "bytes"):  # for programs
            continue
        print(f"{name:<9}  {common.printable(str(value))}", flush=True)


def _ended(recipe: Recipe, model: Any, as_json: bool) -> None:
    folder = pathlib.Path(recipe.out)
    said = model.card.get("tuned") or {}
    if as_json:
        common.show_json({"out": recipe.out, "model": str(folder / "model"), "tuned": said})
        return
    common.say(f"short of {said.get('short')}: {said.get('why')}" if said.get("short") != "nothing" else said["why"])
    panel = said.get("memorised")
    if panel is not None:
        common.say(
            f"near to a picture it was shown: {panel['near']} of {panel['drawn']} drawn; of captions kept out, near to "
            f"their picture: {panel['unseen_near']} of {panel['unseen']}. See {folder / 'memorised.png'}"
        )
    print(folder / "model")
