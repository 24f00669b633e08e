"""What memory there is, and what this process holds of it: Linux's own words for the CPU, torch's for a GPU."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import torch

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


def _status(key: str) -> int:
    """A line of what Linux says of this process, in bytes; elsewhere the most it ever held."""
    try:
        lines = STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
