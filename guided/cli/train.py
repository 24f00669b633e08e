"""`guided train`: run a recipe. The training itself is the generator `guided.fit`; this only shows what it yields."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Device, Json

if TYPE_CHECKING:
    from guided.train import Recipe, Step

EXAMPLE = "For example: [bold]guided train recipes/emoji32.yaml data.path=emoji out=runs/emoji[/bold]"
QUIET = 30.0
"""Seconds between two lines where nobody watches a progress bar."""
PRECISIONS = {"float32": "float32", "bfloat16": "bf16", "float16": "fp16"}


def train(
    recipe: Annotated[pathlib.Path, typer.Argument(help="A YAML or TOML file.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(help="Entries of the recipe to change, such as train.images=20000.", metavar="[KEY=VALUE]..."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")] = False,
    device: Device = "auto",
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="train.precision: float32, bf16 or fp16.", rich_help_panel="Machine"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model on pictures; the same command goes on where a stopped run stands.

    The folder of the run is the recipe's entry out (out=RUN). Ctrl-C saves first.
    """
    from guided.train import load_recipe

    overrides = list(changes or [])
    if dtype is not None:
        overrides.append(f"train.precision={PRECISIONS[common.dtype_of(dtype)]}")
    checked = load_recipe(recipe, overrides)
    place = common.device_of(device)
    if dry_run:
        _plan(checked, place, as_json)
        return
    main = os.environ.get("RANK", "0") == "0"
    if main:
        common.say(f"{checked.name} in {checked.out} on {place}, {checked.train.precision}")
    begun = time.monotonic()
    last = watched(checked, place if device != "auto" else "auto", main)
    if not main:
        return
    common.took(begun, place)
    folder = pathlib.Path(checked.out) / "model"
    if as_json:
        held = None if last.held is None else dict(last.held)
        common.show_json({"out": checked.out, "model": str(folder), "images": last.images, "held": held})
    else:
        print(folder)


def watched(recipe: Recipe, device: str, main: bool) -> Step:
    """Run to the end and show it: a bar where a person watches, a line now and then elsewhere."""
    from guided.train import fit

    steps: Iterator[Step] = fit(recipe, device=device)
    last: Step | None = None
    told = time.monotonic()
    if not main:
        return [step for step in steps][-1]
    with common.bar(recipe.train.images, "images") as update:
        for step in steps:
            last = step
            pace = f"{step.images_per_second:.0f} images/s, loss {step.loss:.4f}"
            update(step.images, pace)
            if step.note:
                common.say(step.note)
            if step.held and recipe.tune is None:
                levels = ", ".join(f"{name}: {value:.4f}" for name, value in step.held.items())
                common.say(f"{step.images} images: held-out loss {levels}")
            if time.monotonic() - told > QUIET and not update.watched:
                told = time.monotonic()
                common.say(f"{step.images} of {step.total} images, {pace}")
    assert last is not None
    return last


def _plan(recipe: Recipe, device: str, as_json: bool) -> None:
    """Say what a run would do, after opening all that it needs; nothing is written."""
    import torch

    from guided import text
    from guided.train import estimates, optimizer, setup, workplace

    optimizer.require(recipe.train)
    begun = workplace.begun(pathlib.Path(recipe.out), recipe)
    source, _ = setup.open_source(recipe)
    split = setup.part(recipe, source.records)
    encoder: Any = None
    if recipe.data.condition == "text":
        encoder = text.open(recipe.text.encoder, length=recipe.text.length)
    with torch.device("meta"):
        network = setup.make_network(recipe, setup.network_config(recipe, source, encoder))
    read = None if recipe.estimates is None else estimates.opened(recipe, torch.device("cpu"), None, begun)
    facts = {
        "recipe": recipe.model_dump(mode="json", exclude_unset=True),
        "out": recipe.out,
        "started": begun is not None,
        "device": device,
        "precision": recipe.train.precision,
        "pictures": {"all": len(source.records), "training": len(split.train)},
        "text": None if encoder is None else encoder.spec,
        "estimates": None if read is None else {"name": read.name, "sha256": read.sha256},
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "updates": -(-recipe.train.images // recipe.train.batch_size),
    }
    if as_json:
        common.show_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:<10}  {common.printable(str(value))}")
