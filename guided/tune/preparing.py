"""From a recipe with a base to what is trained: the base with its new head, its adapters, what it must not forget."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from guided.data import BadPicture, Pictures, Record, Source, Split
from guided.data.aspects import BatchOrder, ManySizes
from guided.data.order import Order
from guided.data.splitting import fraction
from guided.degrade import Pairs
from guided.denoiser import Denoiser
from guided.frames import DDPM, Framed
from guided.model import Model
from guided.model.autoencoder import AutoencoderKL
from guided.model.conditioning import LazyEncoder
from guided.train import setup
from guided.train.batch import Drawn, Samples, values
from guided.train.levels import Law, LogNormal, Trained
from guided.train.recipe import Recipe, Tune
from guided.train.setup import Conditions, Job
from guided.tune import heading, replay, training
from guided.tune.budget import Watched
from guided.tune.latents import Latents
from guided.tune.tuned import Tuned, apart, nowhere

HELD = 8
"""One picture in so many is kept out, where there are as many at least."""
MOST_HELD = 64
COMPARED = 1000
"""Of more pictures nobody reads all the files to find those that are there twice."""


def prepare_tuning(
    recipe: Recipe, device: torch.device, facts: Mapping[str, Any] | None = None, stand_in: bool = False
) -> Job:
    """Open the base and the data, change the head, draw what is replayed, and say what is trained.

    As `guided.train.setup.prepare`, which calls it; raises ValueError, FileNotFoundError. stand_in: nothing is drawn or
    written; the person's own pictures stand for what would be replayed.
    """
    tune = recipe.tune
    assert tune is not None
    base = opened(tune, facts)
    taught = base.translation if recipe.translate is None else recipe.translate.taught()
    if taught is not None and any(isinstance(task, Pairs) for task in taught.tasks):
        raise ValueError("translate.tasks: pairs are learnt by training (guided train): tuning reads no partners")
    spec = tune.encoder or (base.encoders["text"].spec if "text" in base.encoders else None)
    if spec is not None:
        section = recipe.text.model_copy(update={"encoder": spec, "length": None})
        recipe = recipe.model_copy(update={"text": section})
    own = heading.told(recipe, base, setup.open_source(as_found(recipe))[0])
    setup.unchanged(recipe, own.records, facts)
    split = parted(own)
    known_as = {"base": base.name, "base_sha256": base.hash}
    replayed = _ready(base, recipe, own, device, stand_in)
    source: Source = own if replayed is None else replay.Joined(own, replayed)
    known = None if facts is None else facts["text"]
    tokens = setup.read_texts(recipe, source, device, known) if recipe.data.condition == "text" else None
    model = heading.headed(base, recipe, own, tokens)
    trained = training.chosen(model, recipe, changed=model.denoiser.network is not base.denoiser.network)
    conditions = conditions_of(source.records, tokens, model.denoiser.accepts)
    of_base = _of_base(base, source, device) if tune.encoder is not None and replayed is not None else None
    pictures = _pictures(recipe, source, model)
    first = len(own.records)
    kept = range(first, len(source.records))
    shown: Any = pictures  # latents are read like pictures
    many = None
    if recipe.data.aspects:
        many = setup.many_sizes(recipe, source, model.denoiser.network.config, getattr(model.codec, "factor", 1))  # type: ignore[arg-type]
        shown = latents_of(many, model)
    order, watched = _order(recipe, split, kept, many)
    law = law_of(recipe, model.denoiser)
    drop = recipe.train.drop if recipe.data.condition != "none" else 0.0
    looks = recipe.data.flip, recipe.data.crop
    samples = Samples(shown, order, split.train, conditions, law, recipe.seed, drop, *looks, taught)
    denoiser = model.denoiser.to(device)
    rest(model, device, reads=training.reads(tune))
    tuning = Tuned(
        recipe=recipe,
        model_in_training=model,
        facts=known_as,
        first=first,
        quiet=trained.quiet or (apart(base.denoiser) if replayed is not None else nowhere),
        watched=_watched(recipe, pictures, watched, (conditions, of_base), law),
        adapter=trained.adapter,
        extras=trained.extras,
        reader=trained.reader,
        conditions=of_base,
    )
    config = model.denoiser.network.config
    made = source, pictures, split, conditions, samples, law, denoiser, config, setup.fingerprint(own.records)
    return Job(recipe, *made, taught, None, tuning)  # type: ignore[arg-type]


def _ready(base: Model, recipe: Recipe, own: Source, device: torch.device, stand_in: bool) -> Source | None:
    """Put the base on the device as it is trained; draw with it what is replayed, if anything is."""
    tune = recipe.tune
    assert tune is not None
    if training.freezes(tune):
        training.laid_down(base.denoiser.network, tune)
    base.to(device)
    base.denoiser.autocast = setup.AUTOCAST.get(recipe.train.precision)
    rows = _sound(recipe, own, base, tune.replayed if stand_in else 1)
    replayed = _replayed(base, recipe, own, rows if stand_in else None) if tune.replay else None
    rest(base, device, reads=training.reads(tune), encodes=True)
    return replayed


def rest(model: Model, device: torch.device, reads: bool, encodes: bool = False) -> None:
    """On a GPU, leave its memory to what is at work: the autoencoder and encoders that are done wait on the CPU.

    reads: whether texts are read all along. encodes: whether there are pictures that the autoencoder is yet to encode.
    """
    if device.type == "cpu":
        return
    if isinstance(model.codec, AutoencoderKL) and not encodes:
        model.codec.to("cpu")
    if not reads:
        lazy = {name: e for name, e in model.encoders.items() if isinstance(e, LazyEncoder)}
        model.encoders |= {name: encoder.to("cpu") for name, encoder in lazy.items()}


def _sound(recipe: Recipe, source: Source, base: Model, most: int) -> list[int]:
    """The first rows whose pictures can be read, so many at most; ValueError where there is none."""
    pictures, rows, first = _plain(recipe, source, base), [], ""
    for row in range(len(source.records)):
        try:
            pictures[row]
        except BadPicture as error:
            first = first or str(error)
            continue
        rows.append(row)
        if len(rows) == most:
            break
    if not rows:
        raise ValueError(f"data.path: {recipe.data.path}: none of its pictures can be read; the first: {first}")
    return rows


def _replayed(base: Model, recipe: Recipe, own: Source, instead: Sequence[int] | None) -> Source:
    """What the base drew; instead: rows of one's own pictures that stand for it."""
    if instead is not None:
        return replay.stand_in(base, recipe, own, instead)
    return replay.drawn(base, recipe, Path(recipe.out) / replay.FOLDER)


def opened(tune: Tune, facts: Mapping[str, Any] | None) -> Model:
    """The base; ValueError where it is none to be tuned, or not the one that a run began with."""
    from guided import zoo

    base = zoo.load_model(tune.base)
    base.plain("tune")
    if base.distilled is not None:
        raise ValueError(
            f"tune.base: {base.name} is distilled: to denoise pictures would undo what it learnt; tune its teacher, "
            "and distil that again"
        )
    if facts is not None and facts["base"]["base_sha256"] != base.hash:
        raise ValueError(
            f"tune.base: the weights of {tune.base} are no longer those this run began with; restore them, or begin "
            "another run with out="
        )
    return base


def as_found(recipe: Recipe) -> Recipe:
    """The recipe without its condition: what captions and classes mean to the base is for `heading.told` to say."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"condition": "none"})})


def parted(source: Source) -> Split:
    """One picture in 8 kept out, at most 64, by the hash of its name; none of fewer than 6.

    Of a file that is there several times all are kept out, or none: else what is learnt of one would be judged by it.
    """
    records = source.records
    count = min(MOST_HELD, max(1, len(records) // HELD)) if len(records) >= HELD - 2 else 0
    order = sorted(range(len(records)), key=lambda i: fraction(Path(records[i].name).name))
    twins = _twins(source) if count > 0 and len(records) <= COMPARED else {}
    held: set[int] = set()
    for row in order:
        alike = twins.get(row, {row})
        if len(held) < count and not alike <= held and len(held) + len(alike) <= 2 * count:
            held |= alike
    return Split(tuple(i for i in range(len(records)) if i not in held), tuple(sorted(held)), ())


def _twins(source: Source) -> dict[int, set[int]]:
    """Of each record those with the same file, itself among them."""
    same: dict[bytes, set[int]] = {}
    for row in range(len(source.records)):
        try:
            digest = hashlib.sha256(source.bytes(row)).digest()
        except (BadPicture, OSError):  # said where the picture is asked for
            continue
        same.setdefault(digest, set()).add(row)
    return {row: rows for rows in same.values() for row in rows}


def conditions_of(records: Sequence[Record], tokens: Any, accepts: frozenset[str]) -> Conditions:
    """The conditions of records, as the network takes them."""
    captions = tuple(record.caption for record in records)
    labels = tuple(-1 if record.label is None else record.label for record in records)
    return Conditions(captions, labels, tokens, accepts)


def _of_base(base: Model, source: Source, device: torch.device) -> Conditions:
    """The conditions of records as the base takes them, by its own encoder."""
    tokens = setup.read_captions(base.encoders["text"].spec, None, source, device)
    return conditions_of(source.records, tokens, base.denoiser.accepts)


def law_of(recipe: Recipe, denoiser: Denoiser) -> Law:
    """The recipe's law of noise levels; "trained": the levels of the base's own frame, or evenly over its range."""
    if recipe.noise.law != "trained":
        return LogNormal(recipe.noise.mean, recipe.noise.std, denoiser.lo, denoiser.hi)
    kind = denoiser.parametrization
    if isinstance(kind, Framed) and isinstance(kind.frame, DDPM):
        return Trained(tuple(kind.frame.log_sigmas().tolist()))
    return Trained(tuple(torch.linspace(math.log(denoiser.lo), math.log(denoiser.hi), 1000).tolist()))


def _plain(recipe: Recipe, source: Source, model: Model) -> Pictures:
    channels = 3 if isinstance(model.codec, AutoencoderKL) else model.channels
    return Pictures(source, recipe.data.size, channels, recipe.data.background, recipe.data.resize)


def _pictures(recipe: Recipe, source: Source, model: Model) -> Pictures | Latents:
    return latents_of(_plain(recipe, source, model), model)  # type: ignore[no-any-return]


def latents_of(pictures: Any, model: Model) -> Any:
    """The pictures as the model's denoiser sees them: themselves, or latents."""
    if not isinstance(model.codec, AutoencoderKL):
        return pictures
    return Latents(pictures, model.codec, setup.token_folder().parent / "latents")


def _order(recipe: Recipe, split: Split, kept: range, many: ManySizes | None) -> tuple[Any, list[int]]:
    """The order of training, and the replayed rows that stay out of it."""
    batch = recipe.train.batch_size
    own: Drawn = Order.uniform(split.train, recipe.seed)
    if many is not None:
        own = BatchOrder(many.size_of, split.train, batch, recipe.seed)
    if not kept:
        return own, []
    watched = [row for row in kept if row % replay.WATCHED == 0]
    taught = [row for row in kept if row % replay.WATCHED]
    assert recipe.tune is not None
    together = 1 if many is None else batch
    return replay.Mixed(own, Order.uniform(taught, recipe.seed + 1), recipe.tune.replay, together), watched


def _watched(
    recipe: Recipe,
    pictures: Pictures | Latents,
    rows: Sequence[int],
    conditions: tuple[Conditions, Conditions | None],
    law: Law,
) -> Watched | None:
    if not rows:
        return None
    u = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    x0 = values(torch.stack([pictures[row] for row in rows]), torch.float32)
    own, of_base = conditions
    base_cond = None if of_base is None else of_base(rows)
    seeds = [recipe.seed + row for row in rows]
    return Watched(x0, own(rows), law.quantile(u).tolist(), seeds, rows, base_cond, recipe.train.at_once)
