"""What a base makes of a person's pictures: their captions and classes, and the head that they ask for."""

from __future__ import annotations

import dataclasses
from typing import Any

from guided import text
from guided.data import Record, Source
from guided.model import Model
from guided.model.conditioning import LazyEncoder
from guided.nn import UNet
from guided.train.recipe import Recipe
from guided.tune.heads import changed
from guided.tune.replay import Told


def told(recipe: Recipe, base: Model, source: Source) -> Source:
    """The source with the captions, or the classes, that the base takes.

    A picture without a caption is called by its class, or by the recipe's word. Classes are those of the base by their
    names, and new ones after them where the recipe allows it (`tune.classes`). Raises ValueError that says what to do.
    """
    kind = recipe.data.condition
    wanted = "text" if "text" in base.encoders or _replaces_text(recipe) else "class" if base.classes else "none"
    if kind != wanted and not (kind == "class" and _adds_classes(recipe)):
        raise ValueError(f"data.condition: {base.name} is tuned with {wanted}, got {kind}")
    if kind == "text":
        if _adds_classes(recipe):
            raise ValueError(
                f"tune.classes: {base.name} reads words: a picture without a caption is called by its folder; leave "
                "--new-classes out"
            )
        return Told(source, [_captioned(recipe, source, record) for record in source.records])
    if kind == "class":
        return _classed(recipe, base, source)
    return Told(source, [dataclasses.replace(record, caption=None, label=None) for record in source.records])


def _captioned(recipe: Recipe, source: Source, record: Record) -> Record:
    assert recipe.tune is not None
    named = None if record.label is None or not source.classes else source.classes[record.label].replace("_", " ")
    caption = record.caption or named or recipe.tune.word
    if caption is None:
        raise ValueError(
            f"{record.name}: no caption, and no class folder to call it by: name what the pictures show with "
            '--word "..." (tune.word), or give captions: NAME.txt beside each picture, or metadata.jsonl'
        )
    word = recipe.tune.word if recipe.tune.method == "textual-inversion" else None
    if word is not None and word not in caption:
        caption = f"{word} {caption}"
    return dataclasses.replace(record, caption=caption, label=None)


def _replaces_text(recipe: Recipe) -> bool:
    return recipe.tune is not None and recipe.tune.encoder is not None


def _adds_classes(recipe: Recipe) -> bool:
    return recipe.tune is not None and recipe.tune.classes


def _classed(recipe: Recipe, base: Model, source: Source) -> Source:
    if not source.classes:
        raise ValueError(f"data.path: {base.name} draws classes: give one folder a class, named as the class is")
    new = [name for name in source.classes if name not in base.classes]
    if new and not _adds_classes(recipe):
        known = ", ".join(base.classes[:10]) + (", ..." if len(base.classes) > 10 else "")
        raise ValueError(
            f"data.path: {base.name} knows no class {', '.join(map(repr, new[:5]))} (it knows {known}): rename the "
            "folders, or teach it new classes with --new-classes (tune.classes)"
        )
    classes = [*base.classes, *new]
    records = [
        dataclasses.replace(
            record,
            caption=None,
            label=None if record.label is None else classes.index(source.classes[record.label]),
        )
        for record in source.records
    ]
    return Told(source, records, classes)


def headed(base: Model, recipe: Recipe, own: Source, tokens: text.TokenCache | None) -> Model:
    """The base itself, or a model with another head that begins where the base stands; see `heads.changed`."""
    network, card = base.denoiser.network, {k: v for k, v in base.card.items() if k not in ("calibrated", "edge")}
    if not isinstance(network, UNet):
        raise TypeError(f"a base holds a UNet, got {type(network).__name__}")
    changes: dict[str, Any] = {}
    encoders: dict[str, Any] = dict(base.encoders)
    if len(own.classes) > network.config.classes:
        changes["classes"] = len(own.classes)
        card["classes"] = list(own.classes)
    if recipe.translate is not None:
        taught = recipe.translate.taught()
        changes |= {"image_channels": network.config.in_channels, "presence": taught.presence}
        changes |= {"aug": taught.augment is not None}
        changes |= {"classes": len(taught.tasks)} if taught.several else {}
        card["translate"] = taught.card()
    another = tokens is not None and _replaces_text(recipe)
    if another:
        assert tokens is not None
        if network.config.token_width:
            changes["token_width"] = tokens.width
        if network.config.vector_width and tokens.vector_width:
            changes["vector_width"] = tokens.vector_width
        encoders = {"text": LazyEncoder(tokens.spec)}
    if list(recipe.data.size) != list(base.size):
        card["size"] = list(recipe.data.size)
    if not changes and not another and card.get("size") == base.card.get("size"):
        return base
    if base.card.get("edge") is not None and (changes or another):
        raise ValueError(
            f"{base.name}: a change of head is for models in guided's own form; this one came from a published "
            "pipeline, whose head its own format fixes"
        )
    made = changed(network, changes, another) if changes or another else network
    if base.card.get("edge") is not None:
        card["edge"] = base.card["edge"]
    return Model(base.denoiser.with_network(made), base.codec, encoders, card, source=base.source)
