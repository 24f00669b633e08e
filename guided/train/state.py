"""What a run holds between two updates; with the seed it is all that a checkpoint needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided.denoiser import Denoiser
from guided.model import NoisyClassifier
from guided.train import checkpoint, optimizer
from guided.train.ema import PowerEMA
from guided.train.loss import Uncertainty
from guided.train.recipe import Recipe
from guided.train.tuning import Tuning


class State:
    """Weights, their averages, the optimizer, and the counter.

    counter: images seen. applied: updates made. skipped: how many fp16 overflows came in a row just now. early: the
    first average's weights at the share of the run that the recipe names, once it was reached. held: the held-out
    loss last measured. Of a run that tunes a model (`tuning`): checks: what each check found; best: the weights of the
    best of them; ended: why the run ends before its last image; start: the held-out loss before the first update.
    """

    def __init__(self, recipe: Recipe, denoiser: Denoiser | NoisyClassifier, tuning: Tuning | None = None) -> None:
        self.recipe = recipe
        self.denoiser = denoiser
        self.tuning = tuning
        self.network: nn.Module = denoiser.network
        weights = next(self.network.parameters())
        self.modules: dict[str, nn.Module] = {"network": self.network}
        if tuning is not None:
            self.modules |= tuning.extras
        self.head: Uncertainty | None = None
        if recipe.loss.learned:
            self.head = Uncertainty(recipe.seed).to(device=weights.device, dtype=weights.dtype)
            self.modules["uncertainty"] = self.head
        self.emas = [PowerEMA(self.network, width) for width in recipe.train.ema]
        if recipe.train.compile:
            self.network.compile()
        self.optimizer = optimizer.make(self.modules, recipe.train)
        self.weights = list(optimizer.named(self.modules).values())
        fp16 = recipe.train.precision == "fp16"
        self.scaler = torch.amp.GradScaler(weights.device.type, enabled=fp16)  # type: ignore[attr-defined]
        self.drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.network.modules())
        self.counter = 0
        self.applied = 0
        self.skipped = 0
        self.held: Mapping[str, float] = {}
        self.early: dict[str, Tensor] | None = None
        self.early_at: int | None = None
        self.checks: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] | None = None
        self.ended: str | None = None
        self.start: float | None = None

    def advance(self, applied: bool) -> None:
        """Count a batch, and take the new weights into the averages."""
        self.counter += self.recipe.train.batch_size
        self.skipped = 0 if applied else self.skipped + 1
        if applied:
            self.applied += 1
            own = [weight for weight in self.network.parameters() if weight.requires_grad]
            for ema in self.emas:
                ema.update(own, self.counter // self.recipe.train.batch_size)
        train = self.recipe.train
        if train.early and self.early is None and self.counter >= train.early * train.images:
            self.early = copied(self.emas[0].network.state_dict())
            self.early_at = self.counter

    def trained(self, network: nn.Module) -> dict[str, Tensor]:
        """The tensors of the network, or of an average of it, that training changes: all but frozen weights."""
        frozen = {name for name, weight in self.network.named_parameters() if not weight.requires_grad}
        return {name: tensor for name, tensor in network.state_dict().items() if name not in frozen}

    def averaged(self) -> dict[str, Tensor]:
        """The first average's trained tensors, `network.NAME`, and what is trained beside the network, in memory."""
        return copied({f"network.{name}": t for name, t in self.trained(self.emas[0].network).items()} | self._beside())

    def _beside(self) -> dict[str, Tensor]:
        """What a tuning trains beside the network, which has no average."""
        extras = {} if self.tuning is None else dict(self.tuning.extras)
        return {name: weight.detach() for name, weight in optimizer.named(extras).items()}

    def save(self, folder: Path) -> Path:
        """Write a checkpoint; FloatingPointError rather than weights that are not finite, OSError on a full disk."""
        tensors = self._tensors()
        for stem, group in tensors.items():
            for name, tensor in group.items():
                if not bool(tensor.isfinite().all()):
                    raise FloatingPointError(f"{stem}: {name} is not finite at {self.counter} images; not saved")
        facts: dict[str, Any] = {
            "counter": self.counter,
            "applied": self.applied,
            "skipped": self.skipped,
            "seed": self.recipe.seed,
            "early_at": self.early_at,
            "scaler": self.scaler.state_dict(),
            "held": dict(self.held),
        }
        if self.tuning is not None:
            facts |= {"checks": self.checks, "ended": self.ended, "start": self.start}
        return checkpoint.save(folder, self.counter, tensors, facts, self.recipe.train.keep)

    @property
    def size(self) -> int:
        """Bytes of a checkpoint, roughly."""
        return checkpoint.size(self._tensors())

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        tensors: dict[str, Mapping[str, Tensor]] = {
            "weights": self.trained(self.network),
            "optimizer": optimizer.moments(self.optimizer, self.modules),
        }
        tensors |= {ema.name: self.trained(ema.network) for ema in self.emas}
        if beside := self._beside():
            tensors["beside"] = beside
        if self.best is not None:
            tensors["best"] = self.best
        if self.head is not None:
            tensors["uncertainty"] = self.head.state_dict()
        if self.early is not None:
            tensors["early"] = self.early
        return tensors

    def load(self, path: Path) -> None:
        """Take up a sound checkpoint."""
        tensors, facts = checkpoint.load(path)
        known = self.trained(self.network).keys()
        for network, stem in ((self.network, "weights"), *((ema.network, ema.name) for ema in self.emas)):
            if strangers := sorted(known ^ tensors[stem].keys()):
                raise ValueError(f"{path}: {stem}: of another network: {', '.join(strangers[:5])}")
            network.load_state_dict(tensors[stem], strict=False)
        self.best, self.checks, self.ended = tensors.get("best"), facts.get("checks", []), facts.get("ended")
        self.start = facts.get("start")
        for name, weight in self._beside().items():
            weight.copy_(tensors["beside"][name])
        if self.head is not None:
            self.head.load_state_dict(tensors["uncertainty"])
        optimizer.restore(self.optimizer, self.modules, tensors["optimizer"], facts["applied"])
        self.early, self.early_at = tensors.get("early"), facts["early_at"]
        self.counter, self.applied, self.skipped = facts["counter"], facts["applied"], facts["skipped"]
        self.held = facts["held"]
        self.scaler.load_state_dict(facts["scaler"])


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
