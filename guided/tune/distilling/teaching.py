"""A student, and what its update minimises in each kind of stage."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guided.cond import Cond
from guided.denoiser import Denoise, Denoiser, spread
from guided.model import Model
from guided.nn import UNet
from guided.noise import key
from guided.tune.distilling import targets
from guided.tune.distilling.rollout import Rollout
from guided.tune.distilling.stages import TICKS, Stage

AUTOCAST = {"bf16": torch.bfloat16, "float32": None}
NOISED = 4
"""Of so many images that are drawn whole one is a noised picture besides."""


def student_of(teacher: Model, dial: bool, seed: int) -> Denoiser:
    """A copy of the teacher's denoiser that is told a guidance weight, and begins bit for bit as what it copies."""
    network = teacher.denoiser.network
    assert isinstance(network, UNet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("distill/init", seed, 0))
        made = UNet(dataclasses.replace(network.config, guidance=dial))
    missing, _ = made.load_state_dict(network.state_dict(), strict=False)
    assert all(name.startswith("vector.guidance.") for name in missing), missing
    return placed(teacher.denoiser, made).to(teacher.device)


def placed(like: Denoiser, network: nn.Module) -> Denoiser:
    """A network in the frame of another, for evaluation and without dropout."""
    made = type(like)(network, like.parametrization, like.lo, like.hi)
    made.edge, made.autocast = like.edge, like.autocast
    return made.eval()


def frozen(student: Denoiser) -> Denoiser:
    """The student as it stands, as a teacher."""
    return placed(student, copy.deepcopy(student.network)).requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Lesson:
    """One stage's objective; everything is image by image.

    teach: what the student is to become: the guided teacher, or the student before this stage. data: whether the
    direction of a consistency stage is that of the pictures themselves, where there is no guide (ECT as published).
    rollout: of a stage by trajectory; mean (C,): where its noise is centred.
    """

    stage: Stage
    teach: Denoise
    data: bool
    seed: int
    rollout: Rollout | None = None
    mean: Tensor | float = 0.0

    def losses(
        self, student: Denoiser, x0: Tensor, noise: Tensor, levels: Tensor, cond: Cond, counter: int
    ) -> Iterator[Tensor]:
        """Losses of the images (B,), one after the other, so that the graph of each can go before the next is made.

        x0 and noise (B, *), levels (k + 1, B) float64; counter: of the first image.
        """
        if self.rollout is not None:
            yield from self.rollout.losses(student, self.mean + self.rollout.solver.levels[0] * noise, cond)
            # A few on noised pictures, at any level: it stays a denoiser there, and edits begin there.
            few = slice(0, -(-len(x0) // NOISED))
            x0, noise, levels, cond = x0[few], noise[few], levels[:, few], cond.index(few)
        x = torch.addcmul(x0, spread(levels[0], x0), noise)
        if self.stage.kind == "consistency":
            yield self._consistency(student, x, x0, levels[0], cond, counter)
            return
        with torch.no_grad():
            if self.stage.kind == "halving":
                target = targets.jump(self.teach, x, levels, cond)
            else:
                target = self.teach(x, levels[0], cond)
        yield targets.squared(student(x, levels[0], cond), target, levels[0])

    def _consistency(self, student: Denoiser, x: Tensor, x0: Tensor, t: Tensor, cond: Cond, counter: int) -> Tensor:
        tick = TICKS * (counter - self.stage.begin) // self.stage.images
        r = targets.nearer(t, tick)
        r = torch.where(r < student.lo, 0.0, r)
        with torch.no_grad():
            D = x0 if self.data else self.teach(x, t, cond)
            before = D + spread(r / t, x) * (x - D)
            with same_dropout(student, self.seed, counter):
                found = student(before, r.clamp(min=student.lo), cond)
            # At level 0 a picture is its own: no network need say so.
            target = torch.where(spread(r, x) > 0, found, before)
        with same_dropout(student, self.seed, counter):
            return targets.huber(student(x, t, cond), target, t, r)


@contextlib.contextmanager
def same_dropout(student: Denoiser, seed: int, counter: int) -> Iterator[None]:
    """The network's dropout at work, and the same at both levels of a pair (ECT, section 3.2)."""
    dropouts = [module for module in student.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    if not dropouts:
        yield
        return
    device = next(student.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key("distill/dropout", seed, counter))
        for module in dropouts:
            module.train()
        try:
            yield
        finally:
            for module in dropouts:
                module.eval()
