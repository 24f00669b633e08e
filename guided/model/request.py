"""What a call asks a model to draw, checked before any work starts."""

from __future__ import annotations

import dataclasses
import difflib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from guided import path as paths
from guided import solvers
from guided.cond import SEMANTIC, Cond
from guided.denoiser import Denoiser
from guided.guide import Cfg, Dial, Guide, Term, cfg, expression
from guided.guide.contrast import Bank
from guided.guide.shaping import Clip, Threshold
from guided.guide.term import written
from guided.model import card as cards
from guided.model import conditioning
from guided.model.distilled import refuse_dial
from guided.operators import Operator
from guided.solvers import Solver

if TYPE_CHECKING:
    from guided.model.model import Model

STEPS = 24
BATCH = 16
NEAR = 0.5
"""How far from the weight that a path was calibrated at it is still used."""
Size = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments of `Model.generate`, see there."""

    prompts: str | Sequence[str] | None = None
    n: int = 1
    labels: str | int | Sequence[str | int] | None = None
    steps: int | None = None
    guide: Guide | Term | str | None = None
    w: float | None = None
    negative: str | int | None = None
    size: Size | None = None
    solver: Solver | str | None = None
    path: Tensor | None = None
    seed: int = 0
    batch: int | None = None


@dataclass(frozen=True)
class Wanted:
    """One picture: its prompt or its class (or neither), and its seed."""

    seed: int
    prompt: str | None = None
    label: int | None = None


class Walk(Protocol):
    """A way from a plan to pictures other than one path: what makes x of some of its images, move by move."""

    def __call__(self, model: Model, plan: Plan, rows: slice, cond: Cond, /) -> Iterator[Tensor]: ...

    def moves(self, path: Tensor) -> int:
        """How many x it yields on a path."""
        ...

    def nfe(self, path: Tensor, solver: Solver) -> int:
        """How often it evaluates the denoiser."""
        ...


@dataclass(frozen=True, eq=False)
class Plan:
    """A request that this model can draw, with all defaults filled in."""

    images: tuple[Wanted, ...]
    size: tuple[int, int]
    path: Tensor
    steps: int | None  # None: the caller's own path
    solver: Solver | str
    guide: Guide | Term | None
    w: float | None  # of a plain cfg; None where the guide is something else
    expression: str | None  # the text that the guide was written as
    negative: str | int | None
    batch: int
    x0: Tensor | None = None  # (B or 1, C, h, w) in the codec's space: what the path begins from; None: noise alone
    walk: Walk | None = None  # None: down the path
    shown: Cond | None = None  # of 1 or all images: the picture that the network is shown, and what it is told of it
    stream: str = "x"  # of its noise
    tiles: tuple[int, int] | None = None  # windows that the denoiser works in, in the codec's space; None: the whole


def plan(model: Model, request: Request, shown: Cond | None = None) -> Plan:
    """Check a request against a model; raises ValueError or TypeError for whatever cannot be drawn.

    shown: for a network that changes pictures what it is shown; words are then no must.
    """
    if shown is None:
        _drawing_alone(model)
    drawn = images(model, request.prompts, request.labels, request.n, request.seed, silent=shown is not None)
    asked = drawn[0].prompt is not None or drawn[0].label is not None
    guide, w = guide_of(model, request.guide, request.w, request.negative, asked or shown is None)
    guide = guide if guide is None else within(guide, model.codec.limit, model.name)
    guide_rows(guide, slice(0, len(drawn)), len(drawn), model.device)  # for its refusal
    path, steps, solver = course_of(model, request, guide)
    batch = request.batch if request.batch is not None else 1 if model.device.type == "cpu" else BATCH
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}")
    return Plan(
        images=drawn,
        size=size_of(model, request.size),
        path=path,
        steps=steps,
        solver=solver,
        guide=guide,
        w=w,
        expression=request.guide if isinstance(request.guide, str) else None,
        negative=request.negative,
        batch=batch,
        shown=shown,
    )


def _drawing_alone(model: Model) -> None:
    """Raise ValueError for a network that was always shown a picture in training: no call gives it one."""
    config = getattr(model.denoiser.network, "config", None)
    shown = getattr(config, "image_channels", 0)
    if model.translation is not None:
        verb = "translate" if model.translation.several or model.translation.down is None else "upscale"
        raise ValueError(f"{model.name} changes pictures, it draws none from nothing: use model.{verb} (guided {verb})")
    if shown and not getattr(config, "presence", False) and not model.card.get("edge", {}).get("paint"):
        raise ValueError(
            f"{model.name} enlarges or changes a picture of {shown} channels, which a call cannot give it: sample from "
            "model.denoiser with Cond(image=...), see guided.sample"
        )


def images(
    model: Model,
    prompts: str | Sequence[str] | None,
    labels: str | int | Sequence[str | int] | None,
    n: int,
    seed: int,
    silent: bool = False,
) -> tuple[Wanted, ...]:
    """Image i has seed `seed + i`, prompts outer, n inner; raises ValueError for what the model cannot draw.

    silent: a model of prompts or classes may be told none.
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 picture for each prompt, got {n}")
    texts = [prompts] if isinstance(prompts, str) else None if prompts is None else list(prompts)
    names = [labels] if isinstance(labels, str | int) else None if labels is None else list(labels)
    _fitting(model, texts, names, silent)
    if texts is not None and any(not isinstance(text, str) for text in texts):
        raise TypeError(f"a prompt is a text, got {next(text for text in texts if not isinstance(text, str))!r}")
    numbers = None if names is None else [label(model, name) for name in names]
    count = len(texts or numbers or [None])
    rows = [
        (None if texts is None else texts[i], None if numbers is None else numbers[i])
        for i in range(count)
        for _ in range(n)
    ]
    return tuple(Wanted(seed + i, prompt, number) for i, (prompt, number) in enumerate(rows))


def _fitting(model: Model, texts: list[str] | None, names: list[str | int] | None, silent: bool) -> None:
    if texts is not None and "text" not in model.encoders:
        if model.classes:
            raise ValueError(
                f"{model.name} draws classes, not prompts: give labels= (--label), {_known(model.classes)}"
            )
        raise ValueError(f"{model.name} is unconditional: it takes no prompt, only n= (--n)")
    if names is not None and not model.classes:
        kind = "draws prompts, not classes" if "text" in model.encoders else "is unconditional"
        raise ValueError(f"{model.name} {kind}: leave out labels= (--label)")
    if (texts is not None and not texts) or (names is not None and not names):
        raise ValueError("the list of prompts is empty: give at least one")
    if texts is None and names is None and model.conditional and not silent:
        what = "a prompt" if "text" in model.encoders else f"labels= (--label), {_known(model.classes)}"
        raise ValueError(f"{model.name} needs {what}")
    if texts is not None and names is not None and len(texts) != len(names):
        raise ValueError(f"prompts and labels go together: got {len(texts)} and {len(names)}")


def label(model: Model, name: str | int) -> int:
    """The index of a class by its name or its number; ValueError lists the known ones."""
    classes = model.classes
    if isinstance(name, str) and name in classes:
        return classes.index(name)
    try:
        number = int(name)
    except ValueError:
        number = -1
    if not 0 <= number < len(classes) or isinstance(name, bool):
        near = difflib.get_close_matches(str(name), classes, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown class {name!r}; {_known(classes)}{hint}")
    return number


def _known(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
    return f"known classes: {', '.join(classes[:20])}{more}"


def size_of(model: Model, size: int | Sequence[int] | None) -> tuple[int, int]:
    """(H, W) of a call; raises ValueError for a size the model cannot draw."""
    height, width = model.size if size is None else (size, size) if isinstance(size, int) else tuple(size)
    if not all(isinstance(side, int) and 1 <= side <= cards.SIDE for side in (height, width)):
        raise ValueError(f"size: expected (height, width), each from 1 to {cards.SIDE} pixels, got {size!r}")
    factor = getattr(model.codec, "factor", 1)
    if height % factor or width % factor:
        fits = tuple(max(factor, round(side / factor) * factor) for side in (height, width))
        raise ValueError(f"size: {height} x {width} is no multiple of {factor}; {fits[0]} x {fits[1]} would fit")
    return height, width


def course_of(model: Model, request: Request, guide: Guide | Term | None) -> tuple[Tensor, int | None, Solver | str]:
    """The noise levels of a call, its number of steps (None for the caller's own path), its solver; raises ValueError.

    The caller's choice goes before what was calibrated for this model, that before the card's default and the rule.
    """
    if isinstance(request.solver, str) and request.solver != solvers.Fitted.name:
        solvers.by_name(request.solver)
    if request.path is not None:
        if request.steps is not None:
            raise ValueError("give path= or steps=, not both")
        levels = torch.as_tensor(request.path, dtype=torch.float64).cpu()
        if levels.ndim != 1 or len(levels) < 2 or not bool(levels.isfinite().all() and (levels >= 0).all()):
            raise ValueError(
                f"path: expected a list of two noise levels or more, finite and >= 0, got {request.path!r:.80}"
            )
        return levels, None, solver_of(model, request.solver, levels)
    count = model.card.get("defaults", {}).get("steps", STEPS) if request.steps is None else request.steps
    if not isinstance(count, int) or not 1 <= count <= cards.STEPS:
        raise ValueError(f"steps: expected a whole number from 1 to {cards.STEPS}, got {count!r}")
    found, said = calibrated(model, count, guide), model.distilled
    own = said is not None and said.jumps
    if found is not None and (own or request.solver in (None, found["solver"])):
        levels, solver = torch.tensor(found["levels"], dtype=torch.float64), request.solver or found["solver"]
        solver = cards.fitted(found) if solver == solvers.Fitted.name else solver
        return levels if said is None else said.woven(levels), count, solver
    levels = paths.default(count, model.denoiser.lo, model.denoiser.hi, contrast_of(guide))
    levels = levels if said is None else said.woven(levels)
    return levels, count, solver_of(model, request.solver, levels)


def solver_of(model: Model, solver: Solver | str | None, path: Tensor) -> Solver | str:
    """The caller's solver, the card's, or the one of the path; raises ValueError for an unknown name on the card."""
    chosen = solver or model.card.get("defaults", {}).get("solver") or solvers.default_name(path)
    if chosen == solvers.Fitted.name:
        raise ValueError(f"solver: {chosen!r} goes with a calibrated path; {model.name} has none at these steps and w")
    if isinstance(chosen, str):
        solvers.by_name(chosen)
    return chosen


def calibrated(model: Model, steps: int, guide: Guide | Term | None) -> Mapping[str, Any] | None:
    """What the card keeps for so many steps at about this weight of a plain cfg, else None; see `guided.tune`.

    The path of a student is that at any weight.
    """
    found: Mapping[str, Any] | None = (model.card.get("calibrated") or {}).get(str(steps))
    if model.distilled is not None and model.distilled.jumps:
        return found
    w = 1.0 if guide is None else plain_weight(guide)
    return found if found is not None and w is not None and abs(w - found["w"]) <= NEAR else None


def guide_of(
    model: Model, guide: Guide | Term | str | None, w: float | None, negative: str | int | None, asked: bool = True
) -> tuple[Guide | Term | None, float | None]:
    """The guide of a call, and its weight where it is a plain cfg; raises ValueError for contradictions.

    asked: whether there is a prompt or a class to be guided towards.
    """
    if guide is not None:
        if w is not None or negative is not None:
            raise ValueError("give guide=, or w= and negative=, not both")
        guide = parsed(model, guide) if isinstance(guide, str) else guide
        guide = _dialled(model, guide)
        return guide, plain_weight(guide)
    if not model.conditional:
        if (w is not None and w != 1) or negative is not None:
            raise ValueError(f"{model.name} is unconditional: there is nothing for w= or negative= to guide")
        return None, None
    said = model.distilled
    unheard = said is not None and said.w is None
    if w is None and negative is None and (unheard or not asked):
        return None, None
    weight = float((model.card.get("defaults") or {}).get("w", 1.0)) if w is None else float(w)
    if not math.isfinite(weight):
        raise ValueError(f"w: expected a finite number, got {weight}")
    if weight == 1 and negative is not None and said is None:
        warnings.warn("at w = 1 a negative prompt or class has no effect; give a larger w", stacklevel=4)
    drop = SEMANTIC if model.translation is None else model.translation.dropped
    made = cfg(weight, None if negative is None else conditioning.negative(model, negative), drop)
    return _dialled(model, made), weight


def _dialled(model: Model, guide: Guide | Term) -> Guide | Term:
    """The guide as the model takes it: one that is distilled turns its dial, another has none."""
    if model.distilled is not None:
        return model.distilled.told(guide, model.name)
    refuse_dial(guide, model.name)
    return guide


def parsed(model: Model, text: str) -> Guide | Term:
    """The guide of a text, in which `early` is the model's early snapshot and prompts are the model's to read."""

    def early() -> Denoiser:
        weak = model.early()
        if weak is None:
            raise ValueError(f"{model.name} has no early snapshot")
        return weak

    return expression.parse(text, {"early": early}, lambda words: conditioning.negative(model, words))


def within(guide: Guide | Term, limit: float | None, name: str) -> Guide | Term:
    """The guide with thresholds at the limit of what the model draws; ValueError where that has none."""
    if isinstance(guide, Term):
        return guide
    shaped = []
    for shaping in guide.shaping:
        if isinstance(shaping, Threshold | Clip) and shaping.limit is None:
            if limit is None:
                raise ValueError(f"{shaping!r}: what {name} draws has no fixed range; give the limit yourself")
            shaping = dataclasses.replace(shaping, limit=None if limit == 1 else limit)
        shaped.append(shaping)
    return dataclasses.replace(guide, shaping=tuple(shaped))


def contrast_of(guide: Guide | Term | None) -> float:
    """How strongly the guide contrasts: the weight of the cfg that its numbers add up to."""
    terms = () if guide is None else (guide,) if isinstance(guide, Term) else guide.terms
    return 1.0 + sum(term.w - 1.0 for term in terms if isinstance(term, Cfg | Dial) and isinstance(term.w, int | float))


def plain_weight(guide: Guide | Term) -> float | None:
    """The weight of a guide that is `cfg(number)`, or a student's `dial(number)`, and nothing more, else None."""
    kind = "dial" if isinstance(guide, Dial) else "cfg"
    numbered = isinstance(guide, Cfg | Dial) and isinstance(guide.w, int | float)
    plain = numbered and repr(guide) == f"{kind}({written(guide.w)})"  # type: ignore[union-attr]
    return float(guide.w) if plain else None  # type: ignore[union-attr, arg-type]


def guide_rows(guide: Guide | Term | None, rows: slice, total: int, device: torch.device) -> Guide | Term | None:
    """The guide for some of the images of a call: per-image weights and conditions are cut to their rows."""
    if guide is None:
        return None
    if isinstance(guide, Guide):
        terms = tuple(_term_rows(term, rows, total, device) for term in guide.terms)
        return dataclasses.replace(guide, terms=terms)
    return _term_rows(guide, rows, total, device)


def _term_rows(term: Term, rows: slice, total: int, device: torch.device) -> Term:
    """The term for some of the images; raises ValueError where it is made for another number of them."""
    values = {field.name: getattr(term, field.name) for field in dataclasses.fields(term)}
    cut = {name: _cut(value, rows, total, device, f"guide: {name} of {term!r}") for name, value in values.items()}
    return dataclasses.replace(term, **cut)


def _cut(value: Any, rows: slice, total: int, device: torch.device, name: str) -> Any:
    """What belongs to these images: tensors and conditions of one row, or of none, belong to all."""
    if isinstance(value, tuple):
        pieces = [_cut(part, rows, total, device, name) for part in value]
        return tuple(pieces) if any(a is not b for a, b in zip(pieces, value, strict=True)) else value
    if isinstance(value, Bank):
        return dataclasses.replace(value, cond=value.cond.to(device))
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Cond):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        # A mask (H, W) or (C, H, W), or a matrix, belongs to all images; only (B, C, H, W) counts them.
        shared = {k for k, v in parts.items() if isinstance(value, Operator) and isinstance(v, Tensor) and v.ndim < 4}
        cut = {
            key: part.to(device) if key in shared else _cut(part, rows, total, device, name)
            for key, part in parts.items()
        }
        return dataclasses.replace(value, **cut) if any(cut[key] is not parts[key] for key in parts) else value
    if not isinstance(value, Tensor | Cond):
        return value
    size = value.size if isinstance(value, Cond) else len(value) if value.ndim else None
    if size not in (None, 1, total):
        raise ValueError(f"{name} is for {size} images, this call draws {total}")
    part = value if size != total else value[rows] if isinstance(value, Tensor) else value.index(rows)
    return part.to(device)
