"""What the trainer asks of a run that changes a model which exists; `guided.tune` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from guided.cond import Cond
from guided.denoiser import Denoiser
from guided.model import Model
from guided.train.batch import Batch

if TYPE_CHECKING:
    from guided.train.loss import Objective
    from guided.train.setup import Job
    from guided.train.state import State


class Tuning(Protocol):
    """A base model within a run.

    extras: what is trained beside the network, by a name that its checkpoints keep. facts: what decides the run besides
    its recipe and data, as JSON: another base is another run.
    """

    @property
    def extras(self) -> Mapping[str, nn.Module]: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def read(self, batch: Batch) -> Cond:
        """The condition of a batch, with a graph where the encoder of texts is trained."""
        ...

    def now(self, job: Job, rows: Sequence[int]) -> Cond:
        """The condition of some records as the encoder of texts reads them by now."""
        ...

    def target(self, batch: Batch, denoiser: Denoiser) -> Tensor | None:
        """What the denoiser is to say of a batch, (b, C, H, W); None: its pictures."""
        ...

    def weigh(self, batch: Batch, state: State) -> Tensor | None:
        """How much each picture of a batch counts, (b,); None: all alike."""
        ...

    def check(self, job: Job, state: State, denoiser: Denoiser, objective: Objective) -> str | None:
        """Look at the averaged denoiser: write into the state what was found, what is best, and whether the run ends.

        Returns what a person should read.
        """
        ...

    def preview(self, job: Job, denoiser: Denoiser, file: Path) -> None:
        """Draw with the averaged denoiser what the run is about, as one PNG."""
        ...

    def model(self, job: Job, state: State, metrics: Mapping[str, Any]) -> Model:
        """The tuned model, of the best state."""
        ...

    def save(self, model: Model, folder: Path) -> None:
        """Write it."""
        ...
