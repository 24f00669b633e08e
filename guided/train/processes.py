"""The processes of a run, by accelerate: which one this is, its device, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """This process among `count`, and the device it computes on."""

    rank: int
    count: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def main_first(self, work: Callable[[], T]) -> T:
        """Do the work in the main process, then in the others, which find its files in place."""
        if not self.main:
            self.wait()
        done = work()
        if self.main:
            self.wait()
        return done

    def told(self, word: str | None) -> str | None:
        """What the main process says, in all of them."""
        if self.count == 1:
            return word
        words = [word]
        torch.distributed.broadcast_object_list(words)
        return words[0]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange for each dtype."""
        if self.count == 1:
            return
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in group])
            torch.distributed.all_reduce(flat)
            for tensor, part in zip(group, torch.split(flat, [t.numel() for t in group]), strict=True):
                tensor.copy_(part.view_as(tensor))


def start(device: str = "auto") -> Team:
    """Join the processes that the launcher announced, on `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises ValueError for a device that is not there, and where fewer processes run than were asked for.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: no CUDA GPU is visible here; use auto or cpu")
    missing = unstarted(os.environ, _parents_words())
    if missing:
        raise ValueError(missing)
    try:
        from accelerate import PartialState
    except ImportError:
        raise ModuleNotFoundError("training needs accelerate: pip install 'guided[train]'") from None
    # Not told so, accelerate starts no group of processes where there is no GPU.
    state = PartialState(cpu=True) if device == "cpu" or not torch.cuda.is_available() else PartialState()
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes < asked:
        raise ValueError(
            f"the launcher announced {asked} processes, but only {state.num_processes} run together; "
            f"start them with: torchrun --nproc-per-node {asked} -m guided train ..."
        )
    place = state.device if device in ("auto", "cpu", "cuda") else torch.device(device)
    if place.type == "mps":
        place = torch.device("cpu")  # noise levels are float64, which Metal lacks
    return Team(state.process_index, state.num_processes, place)


def unstarted(env: Mapping[str, str], parent: Sequence[str]) -> str | None:
    """What to say where a launcher was asked for several processes and started one; None where all is well.

    `accelerate launch --cpu --num_processes 2` starts a single process. It leaves a meeting point in the environment,
    as for several, but no WORLD_SIZE; its own command line, the parent's, says how many were asked for.
    """
    announced = max((int(env.get(name) or 0) for name in ("WORLD_SIZE", "ACCELERATE_NUM_PROCESSES")), default=0)
    if "RANK" in env and "WORLD_SIZE" in env:
        return None
    launched = "ACCELERATE_MIXED_PRECISION" in env
    if launched:
        announced = max(announced, _asked(parent))
    if announced > 1 or (launched and "MASTER_ADDR" in env):
        many = announced if announced > 1 else 2
        return (
            f"the launcher was asked for {announced if announced > 1 else 'several'} processes but started only this "
            f"one, so the run would not be the one asked for; use: torchrun --nproc-per-node {many} -m guided train ..."
        )
    return None


def _asked(words: Sequence[str]) -> int:
    for at, word in enumerate(words):
        name, _, value = word.replace("-", "_").partition("=")
        if name == "__num_processes":
            value = value or (words[at + 1] if at + 1 < len(words) else "")
            return int(value) if value.isdigit() else 0
    return 0


def _parents_words() -> list[str]:
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").split("\0")
    except OSError:
        return []
