"""From a recipe to what is trained: pictures, split, conditions, network, denoiser."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided import _files, data, text
from guided.cond import Cond
from guided.data import BadPicture, Pictures, Record, Source, Split, pairing
from guided.data.aspects import BatchOrder, ManySizes, sizes
from guided.data.order import Order
from guided.degrade import Task, Translation
from guided.denoiser import EDM, X0, Around, Denoiser, Eps, Flow, Parametrization, V
from guided.frames import DDPM, Framed
from guided.model import NoisyClassifier
from guided.nn import EncoderUNet, UNet, UNetConfig, preset
from guided.noise import key
from guided.train import estimates
from guided.train.batch import Drawn, Samples
from guided.train.estimates import Estimates
from guided.train.levels import Law, LogNormal
from guided.train.recipe import Recipe
from guided.train.tuning import Tuning

DTYPES = {"float32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "float64": torch.float64}
MEAN_OF = 2048
FRAMES = {"linear": DDPM(), "scaled": DDPM("scaled", 0.00085, 0.012), "cosine": DDPM("cosine")}
"""The published schedules: DDPM's and ADM's, Stable Diffusion's, and Improved DDPM's."""
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Conditions:
    """The conditions of a source's records, as the network takes them."""

    captions: tuple[str | None, ...]
    labels: tuple[int, ...]
    tokens: text.TokenCache | None
    accepts: frozenset[str]

    def __call__(self, rows: Sequence[int]) -> Cond:
        if self.tokens is not None:
            captions = [self.captions[row] for row in rows]
            missing = torch.tensor([caption is None for caption in captions])
            return self.of([caption or "" for caption in captions]).drop(missing)
        if "label" in self.accepts:
            return Cond(label=torch.tensor([self.labels[row] for row in rows]))
        return Cond()

    def of(self, captions: Sequence[str]) -> Cond:
        """The condition of captions that are in the cache."""
        assert self.tokens is not None
        found = self.tokens.rows(captions)
        return Cond(tokens=found.tokens, mask=found.mask, vector=found.vector).only(self.accepts)


@dataclass(frozen=True, eq=False)
class Job:
    """All that a recipe means."""

    recipe: Recipe
    source: Source
    pictures: Pictures
    split: Split
    conditions: Conditions
    samples: Samples
    law: Law
    denoiser: Denoiser | NoisyClassifier
    config: UNetConfig
    fingerprint: str
    translation: Translation | None = None
    partners: Pictures | None = None
    tuning: Tuning | None = None
    estimates: Estimates | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the run besides its recipe, as JSON: the data, what reopens the text encoder, other models."""
        text_spec = None if self.conditions.tokens is None else self.conditions.tokens.spec
        base: dict[str, Any] = {} if self.tuning is None else {"base": dict(self.tuning.facts)}
        base |= {} if self.estimates is None else {"estimates": self.estimates.sha256}
        return {"data": self.fingerprint, "text": text_spec, **base}

    def mean(self) -> list[float]:
        """The mean of the training pictures, one number a channel in [-1, 1], from at most 2,048 of them."""
        rows = self.split.train
        chosen = rows if len(rows) <= MEAN_OF else [rows[at * len(rows) // MEAN_OF] for at in range(MEAN_OF)]
        total, count = torch.zeros(self.recipe.data.channels, dtype=torch.float64), 0
        for row in chosen:
            try:
                total += self.pictures[row].double().mean((1, 2))
                count += 1
            except BadPicture:
                continue
        return [round(value, 6) for value in (total / max(count, 1) / 127.5 - 1).tolist()]

    def looked_at(self, row: int) -> Tensor:
        """What stands for a record where it is judged or shown: uint8 (C, H, W), or (2 C, H, W) with its partner.

        The whole picture; where the network learns on windows of the pictures' own scale, the middle one. BadPicture.
        """
        if self.recipe.data.crop == 0 and self.tuning is None:
            middle = row, 0.0, 0.5, 0.5
            if self.partners is None:
                return self.pictures.piece(*middle)
            return pairing.piece(self.pictures, self.partners, *middle)
        return self.pictures[row] if self.partners is None else pairing.pair(self.pictures, self.partners, row)

    def shown(self, rows: Sequence[int], x0: Tensor, cond: Cond) -> Cond:
        """The condition of some records with what a translating network is shown of them: the same each time.

        x0 (B, C, H, W) in [-1, 1] are the records' pictures; nothing is added to the condition of other networks.
        """
        if self.translation is None:
            return cond
        if self.partners is not None:
            both = torch.stack([self.looked_at(row) for row in rows])
            x0 = both[:, self.pictures.channels :].to(x0) / 127.5 - 1
        seeds = [key("held/degrade", self.recipe.seed, row) for row in rows]
        return self.translation.taught(x0.cpu(), seeds, cond, "degrade")[0]

    @property
    def held(self) -> tuple[int, ...]:
        """The records that were kept out."""
        return tuple(sorted((*self.split.held_bases, *self.split.held_pairs)))


def prepare(recipe: Recipe, device: torch.device, facts: Mapping[str, Any] | None = None) -> Job:
    """Open the data, split it, cache the texts and make the network; all errors of input are raised here.

    facts: what is known of the run where one goes on: a complete cache then needs no encoder, and other data under
    the same path are refused. Raises ValueError, FileNotFoundError.
    """
    if recipe.tune is not None:
        from guided.tune.preparing import prepare_tuning

        return prepare_tuning(recipe, device, facts)
    source, partner = open_source(recipe)
    known_text = None if facts is None else facts["text"]
    unchanged(recipe, source.records, facts)
    split = part(recipe, source.records)
    if not split.train:
        raise ValueError(f"data.path: {recipe.data.path}: no picture is left for training")
    tokens = read_texts(recipe, source, device, known_text) if recipe.data.condition == "text" else None
    config = network_config(recipe, source, tokens)
    records = source.records
    conditions = Conditions(
        tuple(record.caption for record in records),
        tuple(-1 if record.label is None else record.label for record in records),
        tokens,
        config.accepts if recipe.task == "denoiser" else frozenset({"label"}),
    )
    form = recipe.data.size, recipe.data.channels, recipe.data.background, recipe.data.resize
    pictures, partners = Pictures(source, *form), None if partner is None else Pictures(partner, *form)
    translation = None if recipe.translate is None else recipe.translate.taught()
    law = LogNormal(recipe.noise.mean, recipe.noise.std, recipe.denoiser.lo, recipe.denoiser.hi)
    order: Drawn = (
        Order.even(records, split.train, recipe.seed)
        if recipe.data.balance == "base"
        else Order.uniform(split.train, recipe.seed)
    )
    drop = recipe.train.drop if recipe.data.condition != "none" and recipe.task == "denoiser" else 0.0
    looks = recipe.data.flip, recipe.data.crop
    shown: Any = pictures
    if recipe.data.aspects:
        shown = many_sizes(recipe, source, config)
        order = BatchOrder(shown.size_of, split.train, recipe.train.batch_size, recipe.seed)
    samples = Samples(shown, order, split.train, conditions, law, recipe.seed, drop, *looks, translation, partners)
    denoiser = make_denoiser(recipe, config).to(device=device, dtype=DTYPES[recipe.train.precision])
    if device.type == "cuda":
        denoiser = denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = AUTOCAST.get(recipe.train.precision)
    read = None if recipe.estimates is None else estimates.opened(recipe, device, precision, facts)
    made = source, pictures, split, conditions, samples, law, denoiser, config, fingerprint(records)
    return Job(recipe, *made, translation, partners, estimates=read)


def unchanged(recipe: Recipe, records: Sequence[Record], facts: Mapping[str, Any] | None) -> None:
    """Raise ValueError where a run that goes on finds other data."""
    if facts is not None and facts["data"] != fingerprint(records):
        raise ValueError(
            f"data.path: {recipe.data.path} no longer holds the pictures, captions and labels that this run "
            "began with; restore them, or begin another run with out="
        )


def many_sizes(recipe: Recipe, source: Source, config: UNetConfig, factor: int = 1) -> ManySizes:
    """The pictures in their own shapes, at sizes that every level of the network halves evenly.

    factor: pixels to one of the codec's. Raises ValueError where the recipe's size is none.
    """
    section = recipe.data
    step = factor * config.patch * 2 ** (len(config.widths) - 1)
    try:
        known = sizes(section.size, step)
    except ValueError as error:
        raise ValueError(f"data.{error}") from None
    tasks = () if recipe.translate is None else recipe.translate.taught().tasks
    known = tuple(size for size in known if all(_spoils(task, section.channels, size) for task in tasks))
    return ManySizes(source, known, section.channels, section.background, section.resize)


def _spoils(task: Task, channels: int, size: tuple[int, int]) -> bool:
    """Whether pictures of this size can be spoilt so."""
    try:
        task.check(channels, size)
    except ValueError:
        return False
    return True


def open_source(recipe: Recipe) -> tuple[Source, Source | None]:
    """The pictures with the condition that the recipe asks for, and the partners of pairs; ValueError without."""
    section = recipe.data
    if recipe.translate is not None and "pairs" in recipe.translate.tasks:
        targets, partners = data.pairs(section.path, section.format, section.caption_key, section.label_key)
        return _conditioned(recipe, targets), partners
    if section.path == "shapes":
        from guided.data.shapes import ShapesSource

        shapes, classed = section.shapes, section.condition == "class"
        return ShapesSource(shapes.n, recipe.seed, shapes.objects, shapes.hold_out, classed=classed), None
    source: Source = data.open(
        section.path, format=section.format, caption_key=section.caption_key, label_key=section.label_key
    )
    return _conditioned(recipe, source), None


def _conditioned(recipe: Recipe, source: Source) -> Source:
    section = recipe.data
    if section.condition == "text" and all(record.caption is None for record in source.records):
        raise ValueError(
            f"data.condition: text, but {section.path} has no captions (looked for the key {section.caption_key!r}); "
            "use data.condition=class or none, or give captions in metadata.jsonl"
        )
    if section.condition == "class" and not source.classes:
        raise ValueError(
            f"data.condition: class, but {section.path} has no classes; use data.condition=text or none, or one folder "
            "a class"
        )
    return source


def part(recipe: Recipe, records: Sequence[Record]) -> Split:
    """Training and held-out records; by base captions, or where there are none, or classes, by pictures' names."""
    hold = recipe.data.hold_out
    if hold is None:
        return Split(tuple(range(len(records))), (), ())
    if recipe.data.condition != "class" and any(record.caption is not None for record in records):
        return data.split(records, share=hold.share, pairs=hold.pairs)
    return data.split(records, share=hold.share, pairs=0, key=lambda record: Path(record.name).name)


def token_folder() -> Path:
    """Where token states are kept: `$GUIDED_CACHE` or ~/.cache/guided, in `tokens`."""
    return _files.cache("tokens")


def read_texts(
    recipe: Recipe, source: Source, device: torch.device, known: Mapping[str, Any] | None
) -> text.TokenCache:
    """The states of all captions and prompts of a recipe, by its encoder, or by the one that a run began with."""
    return read_captions(recipe.text.encoder, recipe.text.length, source, device, recipe.sample.prompts, known)


def read_captions(
    encoder: Any,
    length: int | None,
    source: Source,
    device: torch.device,
    more: Sequence[str] = (),
    known: Mapping[str, Any] | None = None,
) -> text.TokenCache:
    """The states of all captions of a source and of `more` texts. known: the spec of the encoder that began."""
    wanted = ["", *more, *(r.caption for r in source.records if r.caption is not None)]
    if known is not None:
        # Where the cache lacks nothing, no encoder is opened; else both of these say that it is needed.
        with contextlib.suppress(FileNotFoundError, ValueError):
            cache = text.TokenCache(dict(known), token_folder())
            cache.fill(wanted)
            return cache
    try:
        found = text.open(known or encoder, length=length, device=device)
    except (FileNotFoundError, ImportError) as absent:
        try:
            cache = text.TokenCache(known or encoder, token_folder())
        except (FileNotFoundError, ValueError):
            raise absent from None
        cache.fill(wanted)  # a cache carried from where the encoder is installed
        return cache
    cache = text.TokenCache(found, token_folder())  # type: ignore[arg-type]
    cache.fill(wanted)
    cache.encoder = None  # workers read; they never encode
    return cache


def network_config(recipe: Recipe, source: Source, tokens: text.TokenCache | None) -> UNetConfig:
    """The preset with the recipe's changes, fitted to the pictures and conditions; ValueError where they clash."""
    changes = recipe.changes()
    fitted: dict[str, Any] = {"in_channels": recipe.data.channels, "out_channels": recipe.data.channels}
    base = preset(recipe.model.preset)  # type: ignore[attr-defined]
    if recipe.task == "classifier":
        fitted |= {"out_channels": len(source.classes), "classes": 0}
    elif recipe.data.condition == "class":
        fitted["classes"] = len(source.classes)
    fitted |= _shown(recipe)
    if tokens is not None:
        if changes.get("token_width", base.token_width):
            fitted["token_width"] = tokens.width
        if changes.get("vector_width", base.vector_width):
            fitted["vector_width"] = tokens.vector_width
    for name, value in fitted.items():
        if changes.get(name, value) != value:
            raise ValueError(f"model.{name}: {changes[name]} does not fit the data, which needs {value}")
    try:
        config = preset(recipe.model.preset, **{**changes, **fitted})  # type: ignore[attr-defined]
    except ValueError as error:
        raise ValueError(f"model.{error}") from None
    if recipe.task == "classifier":
        return config
    needed = {"text": {"tokens", "vector"}, "class": {"label"}, "none": set()}[recipe.data.condition]
    if needed and not needed & config.accepts:
        raise ValueError(
            f"model: the preset {recipe.model.preset!r} sees no {recipe.data.condition} condition; "  # type: ignore[attr-defined]
            "choose another preset, or data.condition=none"
        )
    return config


def _shown(recipe: Recipe) -> dict[str, Any]:
    """What a network needs to see of a picture that it is to change."""
    if recipe.translate is None:
        return {}
    taught = recipe.translate.taught()
    fitted: dict[str, Any] = {"image_channels": recipe.data.channels, "presence": taught.presence}
    fitted["aug"] = taught.augment is not None
    return fitted | ({"classes": len(taught.tasks)} if taught.several else {})


def parametrization(recipe: Recipe) -> Parametrization:
    """What the recipe's network predicts."""
    section = recipe.denoiser
    kinds: dict[str, Parametrization] = {
        "edm": EDM(section.sigma_data),
        "x0": X0(section.sigma_data),
        "eps": Eps(),
        "v": V(),
        "flow": Flow(),
    }
    plain = kinds[section.parametrization]
    if section.frame is None:
        return plain
    frame = FRAMES[section.frame]
    # Beyond the schedule's levels the network would be shown the last of them, whatever the noise.
    if section.lo < 0.999 * frame.lo or section.hi > 1.001 * frame.hi:
        raise ValueError(
            f"denoiser: lo, hi: expected levels within those of the frame {section.frame!r}, {frame.lo:.4g} to "
            f"{frame.hi:.5g}, got {section.lo:g} and {section.hi:g}"
        )
    return Framed(frame, plain)


def make_network(recipe: Recipe, config: UNetConfig) -> UNet | EncoderUNet:
    """The network of the recipe's task, its first weights a function of the seed; ValueError where they clash."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("train/init", recipe.seed, 0))
        try:
            network = UNet(config) if recipe.task == "denoiser" else EncoderUNet(config, recipe.data.size)
        except ValueError as error:
            raise ValueError(f"model: {error}") from None
    network.checkpointing = recipe.train.checkpointing
    return network


def make_denoiser(recipe: Recipe, config: UNetConfig) -> Denoiser | NoisyClassifier:
    """The network as a denoiser, or as a classifier of noisy pictures."""
    frame = NoisyClassifier if recipe.task == "classifier" else Around if recipe.denoiser.around else Denoiser
    denoiser = frame(make_network(recipe, config), parametrization(recipe), recipe.denoiser.lo, recipe.denoiser.hi)
    denoiser.autocast = AUTOCAST.get(recipe.train.precision)
    return denoiser


def fingerprint(records: Sequence[Record]) -> str:
    """A hash of names, captions and labels: a run goes on only with the data it began with."""
    digest = hashlib.sha256()
    for record in records:
        row = [Path(record.name).name, record.caption, record.label]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:32]
