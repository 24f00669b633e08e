"""Spoil one stage of a cascade's folder, in the ways that people spoil them: python -m tests.evaluate.spoil.

The folder is rewritten as one that proves to fit: nothing in it says what was done.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from guided import Cascade
from guided.degrade import Translation, parse
from guided.model import Model

FAULTS = ("under-trained", "colour bias", "wrong kernel", "augmentation not learnt", "wrong augmentation level")


def spoilt(source: Path, target: Path, fault: str, stage: int = 2, seed: int = 0) -> Path:
    """A copy of a cascade with one fault in a stage (counted from 1); seed: varies how strong it is."""
    cascade = Cascade.load(source)
    model, level = cascade.stages[stage - 1], list(cascade.levels)
    rng = torch.Generator().manual_seed(seed)
    strength = float(torch.rand((), generator=rng))
    if fault == "under-trained":
        _untrained(model)
    elif fault == "colour bias":
        _tinted(model, (0.04 if stage > 1 else 0.15) * (1 + strength), seed % 3)
    elif fault == "wrong kernel":
        _taught(model, tasks=("down(4, up='linear')", "down(4, 'bicubic')")[seed % 2])
        if seed % 2:
            cascade.stages[0].card["recipe"]["data"]["resize"] = "bicubic"
    elif fault == "augmentation not learnt":
        _deaf(model)
    elif fault == "wrong augmentation level":
        taught = model.translation
        assert taught is not None and taught.augment is not None
        level[stage - 2] = taught.augment.most
    else:
        raise ValueError(f"known are {', '.join(FAULTS)}, got {fault!r}")
    again = Cascade([_afresh(one) for one in cascade.stages], level, name=cascade.name, folders=cascade.folders)
    return again.save(target)


def _afresh(model: Model) -> Model:
    """The model as its card now says it is."""
    return Model(model.denoiser, model.codec, model.encoders, model.card, early=model._early)


def _untrained(model: Model) -> None:
    """The weights of its early snapshot, at 15 % of training, and no other snapshot that would tell."""
    early = model._early
    assert early is not None
    model.denoiser.network.load_state_dict({name: value.float() for name, value in early.items()})
    model._early = None


def _tinted(model: Model, by: float, channel: int) -> None:
    """Its last layer adds to one colour, as much as the picture moves by `by` at the last steps' start."""
    patch = model.denoiser.network.config.patch  # type: ignore[union-attr]
    bias: Any = model.denoiser.network.conv_out.bias  # type: ignore[union-attr]
    scale = float(model.denoiser.parametrization.sigma_data)  # type: ignore[attr-defined]
    bias.data[channel * patch**2 : (channel + 1) * patch**2] += by / scale


def _taught(model: Model, tasks: str) -> None:
    old = model.translation
    assert old is not None
    model.card["translate"] = Translation((parse(tasks),), old.augment).card()


def _deaf(model: Model) -> None:
    """Its embedding of the level says the same whatever it is told."""
    aug: Any = model.denoiser.network.vector.aug  # type: ignore[union-attr]
    for weights in aug.parameters():
        weights.data.zero_()


if __name__ == "__main__":
    spoilt(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
