"""What a distillation holds between two updates; with the seed it is all that a checkpoint needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided.denoiser import Denoiser
from guided.train import checkpoint, optimizer
from guided.train.recipe import TrainSection
from guided.tune.distilling.settings import Settings
from guided.tune.distilling.stages import Stage
from guided.tune.distilling.teaching import frozen

WARMUP = 0.05
"""The share of a stage over which its learning rate rises."""
NEAR = {"halving": 0.125, "trajectory": 0.5}
"""The share of the learning rate that these begin with: they start beside their goal, and a larger step leaves it (on
emoji, at 1e-3, the loss of 16 steps to 8 rose from 0.005 to 0.009)."""
KEEP = 2


class State:
    """The student, the student of the stage before (a halving's teacher), the optimizer, and the counter of images.

    applied: updates of this stage. calibrated: the steps of a student by trajectory, as its card will have them, once
    they are found.
    """

    def __init__(self, student: Denoiser, settings: Settings, stages: tuple[Stage, ...]) -> None:
        self.student, self.settings, self.stages = student, settings, stages
        self.modules: dict[str, nn.Module] = {"network": student.network}
        self.weights = list(student.network.requires_grad_(True).parameters())
        section = {"optimizer": settings.optimizer, "lr": settings.lr, "precision": settings.precision}
        self.section = TrainSection.model_validate(section)
        self.before: Denoiser | None = None
        self.calibrated: dict[str, Any] | None = None
        self.counter = self.applied = 0
        self.at = -1
        self.optimizer: torch.optim.Optimizer = optimizer.make(self.modules, self.section)

    @property
    def total(self) -> int:
        """The counter at the end."""
        return self.stages[-1].end

    def begin(self) -> Stage:
        """The stage of the next update; where it is a new one, its teacher and optimizer are made."""
        at = next(i for i, stage in enumerate(self.stages) if self.counter < stage.end)
        if at != self.at:
            self.at, self.applied = at, 0
            self.before = frozen(self.student) if self.stages[at].kind == "halving" else None
            self.optimizer = optimizer.make(self.modules, self.section)
        return self.stages[at]

    def rate(self, stage: Stage) -> float:
        """The learning rate of the next update: it rises, then falls to 0 over the stage; less where it starts near."""
        done = (self.counter - stage.begin) / stage.images
        ahead = self.settings.batch / stage.images
        return float(self.settings.lr * NEAR.get(stage.kind, 1.0) * min(1.0, (done + ahead) / WARMUP) * (1.0 - done))

    def step(self, rate: float) -> float:
        """Apply the gradients as they stand; returns their norm before clipping."""
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.section.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.weights, self.section.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.applied += 1
        return float(norm)

    def save(self, folder: Path) -> Path:
        """Write a checkpoint; OSError where there is no room."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            "weights": self.student.network.state_dict(),
            "optimizer": optimizer.moments(self.optimizer, self.modules),
        }
        if self.before is not None:
            tensors["before"] = self.before.network.state_dict()
        facts = {"counter": self.counter, "applied": self.applied, "stage": self.at, "calibrated": self.calibrated}
        return checkpoint.save(folder, self.counter, tensors, facts, KEEP)

    def load(self, path: Path) -> None:
        """Take up a sound checkpoint."""
        tensors, facts = checkpoint.load(path)
        self.student.network.load_state_dict(tensors["weights"])
        self.counter, self.applied, self.at = facts["counter"], facts["applied"], facts["stage"]
        self.calibrated, self.before = facts.get("calibrated"), None
        if "before" in tensors:
            self.before = frozen(self.student)
            self.before.network.load_state_dict(tensors["before"])
        optimizer.restore(self.optimizer, self.modules, tensors["optimizer"], self.applied)
