"""The run that changes a model: what the trainer asks of it, see `guided.train.tuning.Tuning`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import guided
from guided.cond import Cond
from guided.denoiser import Denoiser, spread
from guided.model import Model
from guided.train import watch
from guided.train.batch import Batch
from guided.train.loss import Objective
from guided.train.recipe import Recipe
from guided.train.setup import Conditions, Job
from guided.train.state import State
from guided.tune import budget, memorised
from guided.tune.budget import Watched

PANEL = "memorised.png"
"""In the folder of a run: what the tuned model draws, beside the nearest pictures it was shown."""
Quiet = Callable[[Denoiser], contextlib.AbstractContextManager[Denoiser]]
"""Of the denoiser in training, the base, for as long as the context lasts."""


@dataclass(eq=False)
class Tuned:
    """A model in the making: `first` is the first replayed record, `quiet` gives the base, `reader` reads captions.

    adapter: whether the result is an adapter beside the base, else a model. conditions: of the records, as the base
    takes them, where it reads them by another encoder.
    """

    recipe: Recipe
    model_in_training: Model
    facts: Mapping[str, Any]
    first: int
    quiet: Quiet
    watched: Watched | None
    adapter: bool
    extras: Mapping[str, nn.Module] = field(default_factory=dict)
    reader: Callable[[Sequence[str | None]], Cond] | None = None
    conditions: Conditions | None = None

    def read(self, batch: Batch) -> Cond:
        if self.reader is None:
            return batch.cond
        return self.reader(batch.captions).to(batch.x0.device, batch.x0.dtype)

    def now(self, job: Job, rows: Sequence[int]) -> Cond:
        if self.reader is None:
            return job.conditions(rows)
        return self.reader([job.conditions.captions[row] for row in rows])

    @torch.no_grad()
    def target(self, batch: Batch, denoiser: Denoiser) -> Tensor | None:
        """On replayed pictures, what the base says: before anything was learnt, they pull nowhere."""
        rows = [i for i, row in enumerate(batch.rows) if row >= self.first]
        if not rows:
            return None
        x0, sigma = batch.x0[rows], batch.sigma[rows]
        x = torch.addcmul(x0, spread(sigma, x0), batch.noise[rows])
        target = batch.x0.clone()
        with self.quiet(denoiser) as base:
            target[rows] = base(x, sigma, self._of_base(batch, rows)).to(target)
        return target

    def weigh(self, batch: Batch, state: State) -> Tensor | None:
        strength = budget.pull(state.checks, self.recipe.tune.budget if self.recipe.tune else None)
        if strength == 1:
            return None
        return torch.tensor([strength if row >= self.first else 1.0 for row in batch.rows], device=batch.x0.device)

    def _of_base(self, batch: Batch, rows: list[int]) -> Cond:
        if self.conditions is None:
            return batch.cond.index(rows)
        dropped = torch.tensor([batch.captions[i] is None for i in rows])
        return self.conditions([batch.rows[i] for i in rows]).drop(dropped).to(batch.x0.device, batch.x0.dtype)

    def check(self, job: Job, state: State, denoiser: Denoiser, objective: Objective) -> str | None:
        assert self.recipe.tune is not None
        limit = self.recipe.tune.budget
        found: dict[str, Any] = {"images": state.counter, "held_out": float(state.held["mean"])}
        found["levels"] = {name: float(value) for name, value in sorted(state.held.items()) if name != "mean"}
        if self.watched is not None:
            if not self.watched.learnt:
                with self.quiet(state.denoiser) as base:  # type: ignore[arg-type]
                    self.watched.learn(base, objective)
            lost = self.watched(denoiser, objective, self.now(job, self.watched.rows))
            found |= {"forgotten": lost.rise, "moved": lost.moved}
        state.checks.append(dict(sorted(found.items())))  # in the order that a checkpoint gives back
        if budget.best_of(state.checks, limit) is state.checks[-1]:
            state.best = state.averaged()
        state.ended = budget.ending(state.checks, limit, self.recipe.tune.patience)
        said = f"; forgotten {found['forgotten']:+.1%}" if "forgotten" in found else ""
        told = f"{state.counter} images: held-out loss {found['held_out']:.4g}{said}"
        return told if state.ended is None else f"{told}\n{state.ended}: the run ends"

    def preview(self, job: Job, denoiser: Denoiser, file: Path) -> None:
        if job.translation is not None:
            watch.preview(job, denoiser, file)
            return
        model = self.model_in_training
        drawer = Model(denoiser, model.codec, model.encoders, model.card, source=model.source)
        result, _ = memorised.drawn(drawer, job, job.held or job.split.train)
        watch.grid(result.tensor, file)

    def model(self, job: Job, state: State, metrics: Mapping[str, Any]) -> Model:
        limit = self.recipe.tune.budget if self.recipe.tune else None
        best = state.best if state.best is not None else state.averaged()
        with torch.no_grad():
            own = self.model_in_training.denoiser.network.state_dict()
            for name, tensor in best.items():
                group, _, rest = name.partition(".")
                place = own[rest] if group == "network" else self.extras[group].get_parameter(rest)
                place.copy_(tensor)
        chosen = budget.best_of(state.checks, limit)
        self.model_in_training.card |= {
            "tuned": {
                **self.facts,
                **self.recipe.tune.model_dump(mode="json", exclude={"base"}),  # type: ignore[union-attr]
                "pictures": len(job.split.train),
                "kept_out": len(job.held),
                "checks": state.checks,
                "before": state.start,
                "chosen": None if chosen is None else chosen["images"],
                **budget.verdict(state.checks, limit, state.ended, state.start, held=bool(job.held)),
            },
            "metrics": {**metrics} if chosen is None else {**metrics, "held_out_loss": _of(chosen)},
            "provenance": {
                "guided": guided.__version__,
                "torch": str(torch.__version__),
                "images": state.counter,
                "ended": state.ended,
            },
        }
        self.model_in_training._hash = None
        panel = memorised.memorised(self.model_in_training, job)
        if panel is not None:
            self.model_in_training.card["tuned"]["memorised"] = panel.facts()
            memorised.save(panel, job, Path(self.recipe.out) / PANEL)
        self.model_in_training.denoiser.autocast = None
        return self.model_in_training

    def save(self, model: Model, folder: Path) -> None:
        if not self.adapter:
            model.save(folder)
            return
        from guided.tune import adapters

        card = {name: model.card[name] for name in ("name", "tuned", "metrics", "provenance")}
        source = self.recipe.tune.base  # type: ignore[union-attr]
        base = {"source": source, "name": self.facts["base"], "sha256": self.facts["base_sha256"]}
        adapters.save(model, folder, base=base, card=card)


def _of(check: Mapping[str, Any]) -> dict[str, float]:
    """The held-out loss of a check, as `guided.train.watch.HeldOut` gives it."""
    return {**check["levels"], "mean": check["held_out"]}


def apart(base: Denoiser) -> Quiet:
    """The base as it was, as a network of its own."""
    kept = base.with_network(copy.deepcopy(base.network)).eval().requires_grad_(False)

    @contextlib.contextmanager
    def quiet(denoiser: Denoiser) -> Iterator[Denoiser]:
        kept.autocast = denoiser.autocast
        yield kept

    return quiet


def nowhere(denoiser: Denoiser) -> contextlib.AbstractContextManager[Denoiser]:
    """No base is heard where nothing is replayed."""
    raise AssertionError("nothing is replayed, so no base is heard")
