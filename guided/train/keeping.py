"""What a run leaves behind: checkpoints, logs, previews, held-out losses, and the model at its end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guided import _files
from guided.data import BadPicture
from guided.denoiser import Denoiser
from guided.model import Model, NoisyClassifier
from guided.train import checkpoint
from guided.train.batch import Broken
from guided.train.log import Board, Lines
from guided.train.loss import objective
from guided.train.setup import Job
from guided.train.state import State
from guided.train.update import Update
from guided.train.watch import HeldOut, averaged, preview
from guided.train.workplace import CARDS


@dataclass(frozen=True)
class Kept:
    """What was written after one update."""

    held: Mapping[str, float] | None = None
    saved: Path | None = None
    model: Model | NoisyClassifier | None = None
    note: str | None = None


def resume(state: State, folder: Path) -> list[str]:
    """Take up the newest checkpoint, if there is one (`tidy` left sound ones alone); returns what to say about it."""
    there = checkpoint.listed(folder / "checkpoints")
    if not there:
        return []
    state.load(there[-1])
    return [f"resuming at {state.counter} images"]


class Keeper:
    """Writes into the folder of a run, in the main process alone."""

    def __init__(self, job: Job, state: State, folder: Path, notes: Sequence[str] = ()) -> None:
        self.job, self.state, self.folder = job, state, folder
        recipe = job.recipe
        self.objective = objective(recipe, job.denoiser.parametrization, job.estimates)
        self.losses = Lines(folder / "losses.jsonl", state.counter)
        self.bad = Lines(folder / "bad_samples.jsonl", state.counter)
        self.board = Board(folder / "tensorboard", state.counter, job.recipe.train.tensorboard)
        self.held_out = HeldOut(job)
        self._broken = {row["picture"] for row in self.bad.kept}
        self._notes = list(notes)
        if job.tuning is not None and recipe.train.held_every and not state.counter:
            state.start = self.held_out(averaged(job, state.emas[0]), self.objective).get("mean")

    def log(self, made: Update, lr: float) -> None:
        """One update's line, and the pictures that broke in it."""
        values = {"loss": made.loss, "lr": lr, "grad_norm": made.grad_norm}
        if not made.applied:
            self._notes.append(f"fp16 overflow at {self.state.counter} images: this update was skipped")
            values = {"lr": lr}
        self.losses.add({"images": self.state.counter, **values})
        self.board.scalars(values, self.state.counter)
        self._report(made.broken)

    def _report(self, broken: Sequence[Broken]) -> None:
        fresh = {fault.name: fault for fault in broken if fault.name not in self._broken}
        for fault in fresh.values():
            self._broken.add(fault.name)
            row = {"images": fault.counter, "picture": fault.name, "reason": fault.reason, "instead": fault.instead}
            self.bad.add(row)
        share = len(self._broken) / len(self.job.split.train)
        if share > 0.5 or (len(self._broken) > 1000 and share > 0.01):
            raise BadPicture(
                f"{len(self._broken)} of {len(self.job.split.train)} training pictures cannot be read "
                f"(listed in {self.folder / 'bad_samples.jsonl'}); see: guided data check {self.job.recipe.data.path}"
            )
        self._notes += [f"{fault.reason}; {fault.instead} stands in for it" for fault in fresh.values()]

    def after(self, before: int, last: bool, stop: bool) -> Kept:
        """Whatever is due between the counters `before` and now: held-out loss, preview, checkpoint, the model."""
        train, now = self.job.recipe.train, self.state.counter
        held = self._hold() if train.held_every and (last or _due(train.held_every, before, now)) else None
        last = last or self.state.ended is not None
        if train.preview_every and (last or _due(train.preview_every, before, now)):
            self._draw()
        saved = self.save(last) if last or stop or _due(train.save_every, before, now) else None
        model = self.finish() if last else None
        note, self._notes = "\n".join(self._notes), []
        return Kept(held or None, saved, model, note or None)

    def _hold(self) -> Mapping[str, float]:
        drawer = averaged(self.job, self.state.emas[0])
        held = self.state.held = self.held_out(drawer, self.objective)
        self.board.scalars({f"held/{name}": value for name, value in held.items()}, self.state.counter)
        if self.job.tuning is not None and isinstance(drawer, Denoiser):
            told = self.job.tuning.check(self.job, self.state, drawer, self.objective)
            self._notes += [] if told is None else [told]
        return held

    def _draw(self) -> None:
        file = self.folder / "previews" / f"{self.state.counter:09d}.png"
        drawer = averaged(self.job, self.state.emas[0])
        if not isinstance(drawer, Denoiser):
            return
        try:
            (preview if self.job.tuning is None else self.job.tuning.preview)(self.job, drawer, file)
        except OSError as error:
            self._notes.append(f"no preview at {self.state.counter} images: {error}")

    def save(self, last: bool) -> Path | None:
        """A checkpoint; where the disk is full the one before stays and training goes on; at the last, OSError."""
        place = self.folder / "checkpoints"
        self.losses.sync()
        try:
            return self.state.save(place)
        except OSError as error:
            if error.errno not in checkpoint.FULL:
                raise
            text = self._no_room(place, error)
            if last:
                raise OSError(error.errno, text) from None
            self._notes.append(f"{text}; the checkpoint before it stays, training goes on")
            return None

    def _no_room(self, place: Path, error: OSError) -> str:
        free = os.statvfs(place)
        return (
            f"no room for the checkpoint at {self.state.counter} images in {place}: it needs "
            f"{self.state.size} bytes, {free.f_bavail * free.f_frsize} are free ({error.strerror})"
        )

    def finish(self) -> Model | NoisyClassifier:
        """The model, saved in the run's folder; nothing temporary is left."""
        from guided.train.export import model_of

        metrics = {"held_out_loss": dict(self.state.held)} if self.state.held else {}
        model: Model | NoisyClassifier
        if self.job.tuning is None:
            model = model_of(self.job, self.state, metrics)
            model.save(self.folder / "model")
        else:
            model = self.job.tuning.model(self.job, self.state, metrics)
            self.job.tuning.save(model, self.folder / "model")
        self.close()
        for place in (self.folder, self.folder / "checkpoints"):
            _files.sweep(place)
        return model

    def close(self) -> None:
        """Write what is left."""
        self.board.close()


def last_good(folder: Path) -> str:
    """Where the last sound state is, for a message."""
    there = checkpoint.listed(folder / "checkpoints")
    return f"The last good checkpoint is {there[-1]}" if there else "There is no checkpoint yet"


def _due(every: int, before: int, now: int) -> bool:
    return every > 0 and now // every > before // every


def finished(folder: Path, images: int) -> int | None:
    """The counter of a run that is done: its newest checkpoint has the images asked for, and its model has them too.

    A run that tunes may have ended itself before.
    """
    there = checkpoint.listed(folder / "checkpoints")
    count = checkpoint.number(there[-1]) if there else None
    file = next((file for name in CARDS if (file := folder / "model" / name).is_file()), None)
    if count is None or file is None:
        return None
    try:
        said = json.loads(file.read_text())
        made = said.get("card", said)["provenance"]
        done = made["images"] == count and (count >= images or bool(made.get("ended")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return count if done else None
