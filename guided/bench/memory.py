"""Memory that one training step adds, each in a process of its own: `python -m guided.bench.memory WHAT ...`."""

from __future__ import annotations

import contextlib
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable

import torch

from guided import _memory
from guided.bench.cases import Absent, Case, Group, Made, Side

_MODES: dict[str, bool | str] = {
    "ours": False,
    "ours, checkpointed": True,
    "ours, cheap mode": "cheap",
    "diffusers": False,
    "diffusers, checkpointed": True,
}


MEASURES = {"allocated": "tensors allocated", "resident": "memory of the process"}
"""What is counted: the tensors' own memory, or what the process holds, its allocator's gaps among it."""


def group(size: str, batch: int, device: str, measure: str = "allocated", title: str = "train") -> Group:
    """Every mode of ours beside every mode of diffusers, and beside our own default."""
    sides = {name: _side(name, size, batch, device, measure) for name in _MODES}
    ours, theirs = ([name for name in sides if name.startswith(who)] for who in ("ours", "diffusers"))
    pairs = [(mine, peer) for mine in ours for peer in theirs] + [(mine, "ours") for mine in ours[1:]]
    what = f"{title} {size}, memory added by a step ({MEASURES[measure]}), float32, batch {batch}"
    cases = tuple(Case(f"{what}: {mine} / {peer}", sides[mine], (sides[peer],)) for mine, peer in pairs)
    return Group(cases, None, lambda run: float(run()), "B", most=3, warm=0)  # type: ignore[arg-type]


def _side(name: str, size: str, batch: int, device: str, measure: str) -> Side:
    words = [sys.executable, "-m", "guided.bench.memory", name, size, str(batch), device, measure]

    def make() -> Made:
        need(device)
        return Made(lambda: asked(words))

    return Side(name, f"float32, checkpointing {_MODES[name]}, a process of its own, AdamW's state there before", make)


def need(device: str) -> None:
    """Raises Absent where a process is not told its peak of memory."""
    if not device.startswith("cuda") and not _memory.REFS.exists():
        raise Absent("this system does not tell a process its peak of memory (Linux and CUDA do)")


def asked(words: list[str]) -> int:
    """What a process of its own found, in bytes; RuntimeError where it failed."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[1:])} failed:\n{done.stderr[-2000:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def added(what: str, size: str, batch: int, device: str, measure: str = "allocated") -> int:
    """Bytes that a training step holds at most beyond what lay there before it: weights, moments, the batch.

    A step on one image goes before: it makes the moments, and loads the kernels.
    """
    from guided.bench import training
    from guided.bench.networks import Pair, inputs, sized

    pair, mode = Pair(sized(size), device), _MODES[what]
    shown, noise = inputs(pair.size, batch, device), training.noise(pair, batch)
    if what.startswith("ours"):
        made = training.our_step(pair, batch, None, mode)
    else:
        made = training.their_step(pair, training.Theirs(None, True, bool(mode)))
    made.run(shown.first(1), noise[:1])
    made.optimizer.zero_grad(set_to_none=True)
    del pair
    if measure == "allocated" and not device.startswith("cuda"):
        return allocated(lambda: made.run(shown, noise))
    with Peak(device) as found:
        made.run(shown, noise)
    return found.bytes


def allocated(run: Callable[[], object]) -> int:
    """The most bytes of tensors on the CPU that were alive at once of those that run() made."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    assert found.profiler is not None
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


class Peak(contextlib.AbstractContextManager["Peak"]):
    """How much memory a block holds at most beyond what there was before it, in `bytes`.

    On a CPU: the resident set of the process, whose high-water mark Linux lets be set back.
    """

    def __init__(self, device: str) -> None:
        self.device, self.bytes = torch.device(device), 0

    def __enter__(self) -> Peak:
        trim()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self.device)
        _memory.watch(self.device)
        self._before = torch.cuda.memory_allocated(self.device) if cuda else _memory.resident()
        return self

    def __exit__(self, *error: object) -> None:
        self.bytes = max(0, _memory.peak(self.device) - self._before)


def trim() -> None:
    """Give back what the allocator keeps: it would be used again by a step and seem to cost nothing."""
    import gc

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main(words: list[str]) -> int:
    """WHAT SIZE BATCH DEVICE MEASURE: prints the bytes as JSON."""
    what, size, batch, device, measure = words
    print(json.dumps({"bytes": added(what, size, int(batch), device, measure)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
