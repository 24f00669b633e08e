"""What memory there is, and what is held of it: Linux's words for the CPU, torch's for a GPU, tensors by counting."""

from __future__ import annotations

import contextlib
import resource
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def available() -> int:
    """Bytes that the system can still give; without bound where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 1 << 62


def resident() -> int:
    """Bytes that this process holds now."""
    return _status("VmRSS")


def watch(device: torch.device) -> None:
    """Begin to watch the peak anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        REFS.write_text("5")


def peak(device: torch.device) -> int:
    """The most bytes this process has held, on a GPU its tensors, since `watch` or since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def gigabytes(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that are born within it: `now` alive, and `most` at once.

    Memory that was there before is not counted, whatever is done with it; neither is what an operator takes for itself.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if not isinstance(tensor, torch.Tensor):
                continue
            memory = tensor.untyped_storage()
            if memory._cdata not in given:  # no view, and nothing that was written in place
                given.add(memory._cdata)
                self.now += memory.nbytes()
                weakref.finalize(memory, self._gone, memory.nbytes())
        self.most = max(self.most, self.now)
        return made

    def _gone(self, count: int) -> None:
        self.now -= count


def _status(key: str) -> int:
    """A line of what Linux says of this process, in bytes; elsewhere the most it ever held."""
    try:
        lines = STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
