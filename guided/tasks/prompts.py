"""Prompt-to-Prompt: the edit looks at each word where the photo looked at it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from guided import ode
from guided.cond import Cond
from guided.denoiser import Denoise
from guided.guide import Guide
from guided.guide.contrast import Perturbed
from guided.guide.planner import accepted
from guided.model.drawing import guided_by
from guided.perturbation import Copied, applied
from guided.sampling import trajectory
from guided.solvers import Solver
from guided.tasks.inversion import ways
from guided.tasks.methods import Scene, check_levels, check_single, shown, step_of

if TYPE_CHECKING:
    from guided.model.model import Model
    from guided.model.request import Plan


@dataclass(frozen=True, eq=False)
class PromptToPrompt:
    """Prompt-to-Prompt on a photo (Hertz et al. 2022, arXiv 2208.01626): words swapped, added or weighed anew.

    source: the prompt of what the photo shows, near that of what is asked. The photo is inverted by the ODE; on the way
    down, for the first `words` of the moves, the edit's attention to text is the photo's: where words are the same,
    theirs; where some stand for others, the old ones' in equal parts; new words keep their own. For the first `own` of
    the moves the picture's attention to itself is the photo's. weights: how many times as strongly a word of what is
    asked acts. Takes a network with cross-attention, and a solver of one evaluation a step.
    """

    source: str
    words: float = 0.8
    own: float = 0.4
    weights: Mapping[str, float] = field(default_factory=dict)
    refinements: int = 1
    strength: float = 1.0
    solver: ClassVar[str | None] = None

    def check(self, model: Model, plan: Plan) -> None:
        """Raise ValueError for a network without cross-attention, a solver of several evaluations a step, a guide that
        changes attention too, shares outside [0, 1], and a weighed word that nothing says."""
        config = getattr(model.denoiser.network, "config", None)
        if "text" not in model.encoders or getattr(config, "attention", None) not in ("cross", "transformer"):
            raise ValueError(f"{model.name} has no cross-attention to a prompt, which Prompt-to-Prompt copies")
        check_levels(plan)
        check_single(plan, "Prompt-to-Prompt")
        terms = plan.guide.terms if isinstance(plan.guide, Guide) else (plan.guide,)
        if any(isinstance(term, Perturbed) for term in terms):
            raise ValueError("guide: Prompt-to-Prompt and perturbed() both change attention: leave one of them out")
        for name, share in (("words", self.words), ("own", self.own)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: expected a share of the moves from 0 to 1, got {share!r}")
        shown(model, self.source)
        for prompt in {image.prompt or "" for image in plan.images}:
            shared(model.encoders["text"].ids, self.source, prompt, self.weights)

    def __call__(self, scene: Scene) -> Iterator[Tensor]:
        """x after every move down; last with what the photo's own way back misses of it."""
        model, path, told = scene.model, scene.path, scene.told(self.source)
        step = step_of(scene.plan)
        x = top = ode.invert(scene.plain, scene.x0, path, told, step, refinements=self.refinements)
        photo = {float(path[0]): top}
        for level, x, _ in trajectory(scene.plain, top, path, told, solver=step):
            photo[level] = x
        missed = scene.x0 - x
        prompts = [image.prompt or "" for image in scene.plan.images[scene.rows]]
        maps = [shared(model.encoders["text"].ids, self.source, prompt, self.weights) for prompt in prompts]
        until = [float(path[min(round(part * (len(path) - 1)), len(path) - 1)]) for part in (self.words, self.own)]
        pair = _Together(scene.plain, photo, told, scene.cond, tuple(maps), until[0], until[1])
        denoise = guided_by(model, scene.plan, scene.rows)(pair)
        for level, x, _ in trajectory(denoise, top, path, scene.cond, solver=step):
            yield x if level > 0 else x + missed

    def nfe(self, path: Tensor, solver: Solver) -> int:
        """The inversion, the photo's way down, and both ways down together."""
        return (len(path) - 2) * ways(self.refinements) + 3 * (len(path) - 1)


def shared(
    ids: Callable[[str], list[int]], source: str, asked: str, weights: Mapping[str, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """share (T, T'), keep (T',) and weight (T',) of `Copied`, from the tokens of both prompts.

    Raises ValueError for a weighed word that is not in the prompt.
    """
    old, new = ids(source), ids(asked)
    share, weight = torch.zeros(len(old), len(new)), torch.ones(len(new))
    for _, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if b - a == d - c:
            share[a:b, c:d] = torch.eye(b - a)
        elif b > a and d > c:
            share[a:b, c:d] = 1 / (d - c)
    for word, factor in weights.items():
        places = _places(ids, word, new)
        if not places:
            raise ValueError(f"weights: {word!r} is not in the prompt {asked!r}")
        weight[places] = factor
    return share, (share.sum(0) == 0).float(), weight


def _places(ids: Callable[[str], list[int]], word: str, among: Sequence[int]) -> list[int]:
    """Where the tokens of a word stand."""
    special, tokens = ids(""), ids(word)
    # What every prompt has around it: a beginning, if the empty one has two tokens, and an end.
    inner = tokens[len(special) // 2 : len(tokens) - (len(special) - len(special) // 2)]
    hits = [at for at in range(len(among) - len(inner) + 1) if inner and among[at : at + len(inner)] == inner]
    return [at + k for at in hits for k in range(len(inner))]


@dataclass(frozen=True, eq=False)
class _Together:
    """The bare denoiser, for whose rows that read what is asked the photo is evaluated beside, and copied from."""

    base: Denoise
    photo: Mapping[float, Tensor]
    told: Cond
    asked: Cond
    maps: Sequence[tuple[Tensor, Tensor, Tensor]]
    words: float
    own: float

    @property
    def accepts(self) -> frozenset[str] | None:
        """The fields of `Cond` that the denoiser can see."""
        return accepted(self.base)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        level, rows = float(sigma), self._rows(cond, len(x))
        if level <= self.words or not len(rows):
            return self.base(x, sigma, cond)
        others = torch.tensor([row for row in range(len(x)) if row not in set(rows.tolist())], dtype=torch.long)
        D = torch.empty_like(x)
        if len(others):
            D[others] = self.base(x[others], sigma, cond.index(others))
        images = rows % len(self.maps)
        both = Cond.cat([self.told.index(images), cond.index(rows)], [len(rows), len(rows)])
        with applied(self._copied(images.tolist(), both, level > self.own)):
            found = self.base(torch.cat((self.photo[level][images], x[rows])), sigma, both)
        D[rows] = found[len(rows) :]
        return D

    def _rows(self, cond: Cond, count: int) -> Tensor:
        """The rows that read what is asked; a guide's other branches read something else."""
        here, asked = _read(cond), _read(self.asked)
        if here is None or asked is None:
            return torch.zeros(0, dtype=torch.long)
        width = max(here.shape[1], asked.shape[1])
        here, asked = (F.pad(t, (0, 0, 0, width - t.shape[1])) for t in (here, asked))
        same = (here == asked.repeat(count // len(asked), 1, 1)).all(-1).all(-1)
        return same.nonzero()[:, 0].cpu()

    def _copied(self, images: Sequence[int], both: Cond, own: bool) -> Copied:
        """The change for some images, at the length of both conditions."""
        assert both.tokens is not None
        T, count = both.tokens.shape[1], len(images)
        share, keep, weight = torch.zeros(count, T, T), torch.ones(count, T), torch.ones(count, T)
        for row, image in enumerate(images):
            one, kept, weighed = self.maps[image]
            share[row, : one.shape[0], : one.shape[1]] = one
            keep[row, : len(kept)], weight[row, : len(weighed)] = kept, weighed
        return Copied(share, keep, weight, own)


def _read(cond: Cond) -> Tensor | None:
    """The tokens (B, T, C) that are read, the others zero."""
    if cond.tokens is None:
        return None
    return cond.tokens if cond.mask is None else torch.where(cond.mask[..., None], cond.tokens, 0.0)
