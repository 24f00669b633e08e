"""From a model, a folder of pictures and a method to a whole recipe: what the data and the model ask for."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guided import data
from guided.data import Source
from guided.model import Model
from guided.train import Recipe, load_recipe

WORD = "zwx"
"""What pictures are called that nobody named: a word that no encoder knows a meaning of."""
LARGE = 100_000_000
"""Parameters beyond which the weights themselves are not trained unless it is asked for."""
CHECKS = 10
VIEWS = 160
"""How often a picture is seen, by default, and at least and at most how many images a run has."""
FEWEST, MOST = 1600, 40_000
RANKS = (16, 8, 4, 2, 1)
SMALL = 0.04
"""The share of its base's folder that an adapter may weigh, where rank 1 allows it."""
_FOREIGN = {"noise": {"law": "trained"}, "loss": {"weight": "output"}}


@dataclass(frozen=True)
class Asked:
    """What a person may ask for besides; None: as the model and the data suggest.

    Fields are those of the recipe's sections of the same names; see `guided.train.recipe.Tune`.
    """

    images: int | None = None
    rank: int | None = None
    targets: str | None = None
    text_rank: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    replay: float | None = None
    prompts: tuple[str, ...] | None = None
    budget: float | None = None
    word: str | None = None
    vectors: int | None = None
    size: tuple[int, int] | None = None
    classes: bool = False
    encoder: str | None = None
    tasks: tuple[str, ...] | None = None
    seed: int = 0
    precision: str | None = None
    checkpointing: bool | None = None
    accumulate: int | None = None
    optimizer: str | None = None
    frozen: str | None = None
    aspects: bool = False


def recipe_for(
    base: Model,
    name: str,
    path: str | os.PathLike[str],
    method: str,
    out: str | os.PathLike[str],
    asked: Asked | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a tuning run. base: opened from `name`. changes: dotted keys, last word. Raises ValueError."""
    asked = Asked() if asked is None else asked
    within = pathlib.Path(out).resolve()
    if pathlib.Path(path).is_dir() and pathlib.Path(path).resolve() in (within, *within.parents):
        raise ValueError(f"out: {out} lies among the pictures of {path}, which must stay as they are; choose another")
    source = data.open(path)
    if not source.records:
        raise ValueError(f"{path}: holds no pictures")
    learnt = base.card.get("recipe") or {}
    values: dict[str, Any] = {"name": f"{base.name}-{method}", "seed": asked.seed, "out": os.fspath(out)}
    values["data"] = _data(base, path, source, asked)
    values |= {key: dict(learnt[key]) for key in ("denoiser", "noise", "loss") if key in learnt} or _FOREIGN
    values.setdefault("denoiser", {})
    # What is estimated, and of what, the base says itself.
    values["denoiser"] = {**values["denoiser"], "around": False, "lo": base.denoiser.lo, "hi": base.denoiser.hi}
    if asked.tasks is not None:
        values["translate"] = {"tasks": list(asked.tasks)}
    values["tune"] = _tune(base, name, method, source, asked)
    values["train"] = _train(base, values["tune"], len(source.records), asked)
    defaults = base.card.get("defaults") or {}
    values["sample"] = {key: defaults[key] for key in ("steps", "w") if key in defaults}
    return load_recipe(values, changes or {})


def _data(base: Model, path: str | os.PathLike[str], source: Source, asked: Asked) -> dict[str, Any]:
    text = "text" in base.encoders or asked.encoder is not None
    condition = "text" if text else "class" if base.classes or asked.classes else "none"
    learnt = (base.card.get("recipe") or {}).get("data") or {}
    kept = {key: learnt[key] for key in ("background", "resize", "crop") if key in learnt}
    channels = 3 if getattr(base.codec, "factor", 1) > 1 else base.channels
    return {
        **kept,
        "path": os.fspath(path),
        "size": list(asked.size or base.size),
        "channels": channels,
        "condition": condition,
        "aspects": asked.aspects,
        "hold_out": None,
    }


def _tune(base: Model, name: str, method: str, source: Source, asked: Asked) -> dict[str, Any]:
    given = {
        "rank": asked.rank,
        "targets": asked.targets,
        "text_rank": asked.text_rank,
        "replay": asked.replay,
        "prompts": asked.prompts,
        "budget": asked.budget,
        "word": asked.word,
        "vectors": asked.vectors,
        "encoder": asked.encoder,
        "frozen": asked.frozen,
    }
    values: dict[str, Any] = {"base": name, "method": method, "classes": asked.classes}
    if method == "full" or (method == "dreambooth" and _parameters(base) <= LARGE):
        values["rank"] = 0
    if method == "textual-inversion" or base.translation or list(asked.size or base.size) != list(base.size):
        # A word alone forgets nothing; who changes pictures draws none; at another size the base is no judge.
        values |= {"replay": 0, "budget": None}
    unnamed = all(record.caption is None and record.label is None for record in source.records)
    if "text" in base.encoders and unnamed:
        values["word"] = WORD
    values |= {key: value for key, value in given.items() if value is not None}
    if values.get("rank") is None and method != "textual-inversion":
        values["rank"] = rank_for(base, str(values.get("targets", "all")))
    if values.get("budget") == 0 or (not values.get("replay", 1) and asked.budget is None):
        values["budget"] = None
    return values


def _train(base: Model, tune: Mapping[str, Any], pictures: int, asked: Asked) -> dict[str, Any]:
    batch = asked.batch_size if asked.batch_size is not None else 16 if pictures < 200 else 32
    share = max(0.1, 1 - float(tune.get("replay", 0.5)))
    images = asked.images if asked.images is not None else min(MOST, max(FEWEST, round(pictures * VIEWS / share)))
    if min(images, batch) > 0:  # what is neither, the recipe refuses
        images = -(-images // batch) * batch
    learnt = (base.card.get("recipe") or {}).get("train") or {}
    return {
        "images": images,
        "batch_size": batch,
        "lr": asked.lr if asked.lr is not None else rate(base, bool(tune.get("rank", 16))),
        "warmup": max(0, images // 10),
        "decay": 0.4,
        "precision": asked.precision or learnt.get("precision") or "bf16",
        "checkpointing": bool(asked.checkpointing),
        **({} if asked.accumulate is None else {"accumulate": asked.accumulate}),
        "optimizer": asked.optimizer or "adamw",
        "ema": [0.1],
        "early": 0.0,
        "drop": 0.1,
        "save_every": max(1, batch, images // 4),
        "preview_every": max(1, batch, images // 4),
        "held_every": max(1, batch, images // CHECKS),
        "tensorboard": False,
    }


def rank_for(base: Model, targets: str) -> int:
    """The largest usual rank whose adapter, in float32, weighs at most 4 % of its base."""
    from guided.tune.adapters.fresh import targeted

    layers = targeted(base.denoiser.network, targets).values()
    of_one = sum(math.prod(layer.weight.shape[1:]) + layer.weight.shape[0] for layer in layers)
    return next((rank for rank in RANKS if 4 * rank * of_one <= SMALL * _weighs(base)), RANKS[-1])


def _weighs(base: Model) -> int:
    """Bytes of the base's folder or file; of one from elsewhere, of its network in float32."""
    from guided import zoo

    source = base.source or ""
    place = zoo.shipped(source) if source in zoo.SHIPPED else pathlib.Path(source)
    place = place / "model" if (place / "model" / "card.json").is_file() else place  # a run holds more than its model
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()] if source else []
    return sum(file.stat().st_size for file in files) or 4 * _parameters(base)


def rate(base: Model, adapters: bool) -> float:
    """The learning rate: small networks bear a larger one; adapters, which start at nothing, a larger one yet."""
    small: float = min(10.0, (8.6e8 / _parameters(base)) ** 0.5)
    return (1e-4 if adapters else 2e-5) * small


def _parameters(base: Model) -> int:
    return sum(weight.numel() for weight in base.denoiser.network.parameters())
