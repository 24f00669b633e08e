"""The plan of a tuning run in words: what was found, chosen and forecast, and what will be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guided._memory import gigabytes
from guided.model import Model
from guided.train import setup
from guided.train.recipe import Recipe
from guided.tune import heading
from guided.tune.forecast import Forecast
from guided.tune.preparing import as_found, parted


def described(recipe: Recipe, base: Model, forecast: Forecast | None) -> dict[str, Any]:
    """The plan, in the order in which a person asks; forecast None: the run goes on from where it stopped."""
    tune, train = recipe.tune, recipe.train
    assert tune is not None
    source = heading.told(recipe, base, setup.open_source(as_found(recipe))[0])
    split = parted(source)
    captions = list(dict.fromkeys(record.caption for record in source.records if record.caption is not None))
    shown = ", ".join(repr(caption) for caption in captions[:3]) + (", ..." if len(captions) > 3 else "")
    found = f"{len(source.records)} pictures ({len(split.held_bases)} kept out to be judged by)"
    if captions:
        found += f", {len(captions)} captions: {shown}"
    elif source.classes:
        found += f" of the classes {', '.join(source.classes[-5:])}"
    method = tune.method + (f", rank {tune.rank} on {tune.targets}" if tune.rank else ", all weights")
    if tune.method == "textual-inversion":
        method = f"textual-inversion: {tune.word!r} of {tune.vectors} vectors"
    replayed = (
        f"{tune.replayed} pictures that it draws itself, {tune.replay:.0%} of a batch" if tune.replay else "nothing"
    )
    held = "without a budget" if tune.budget is None else f"their loss may rise by {tune.budget:.1%}"
    facts: dict[str, Any] = {
        "base": f"{base.name} ({sum(p.numel() for p in base.denoiser.network.parameters()) / 1e6:.1f} M weights)",
        "found": found,
        "method": method,
        "replays": f"{replayed}; {held}",
        "images": f"at most {train.images} in batches of {train.batch_size}, rate {train.lr:.2g}, {train.precision}",
        "writes": f"{Path(recipe.out) / 'model'}: {_result(recipe, base)}; beside it previews, memorised.png",
    }
    if forecast is None:
        return {**facts, "takes": "a run that goes on from where it stopped"}
    minutes = forecast.seconds / 60
    split_up = (
        f"updates {forecast.updates / 60:.1f}, checks {forecast.checks / 60:.1f}, drawing {forecast.drawing / 60:.1f}"
    )
    return {
        **facts,
        "takes": f"{minutes:.1f} minutes at most ({split_up})",
        "memory": f"{gigabytes(forecast.peak)} of {gigabytes(forecast.free)}",
        "seconds": round(forecast.seconds, 1),
        "bytes": forecast.peak,
    }


def _result(recipe: Recipe, base: Model) -> str:
    tune = recipe.tune
    assert tune is not None
    if tune.method == "full" or (tune.method == "dreambooth" and not tune.rank):
        return "a model of its own"
    if tune.method == "textual-inversion":
        return f"a word for {base.name}"
    return f"an adapter for {base.name}"
