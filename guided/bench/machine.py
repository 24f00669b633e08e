"""What was measured on: the machine, the versions, and the most that its matrix products reach."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided.bench import timing

_MEASURED = (
    "nn",
    "guide",
    "solvers",
    "train",
    "sampling.py",
    "denoiser.py",
    "frames.py",
    "reuse.py",
    "cond.py",
    "path.py",
)


@dataclass(frozen=True)
class Machine:
    """Device by name, threads, versions, and a digest of the source that is measured."""

    device: str
    threads: int
    torch: str
    diffusers: str
    guided: str
    code: str

    def facts(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if not self.device.startswith("NVIDIA") else ""
        versions = f"torch {self.torch}, diffusers {self.diffusers}, guided {self.guided} ({self.code})"
        return f"{self.device}{threads}; {versions}"


def here(device: str) -> Machine:
    """This machine, for a device by its torch name."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    try:
        diffusers = importlib.metadata.version("diffusers")
    except importlib.metadata.PackageNotFoundError:
        diffusers = "absent"
    import guided

    return Machine(name, torch.get_num_threads(), torch.__version__, diffusers, guided.__version__, _code())


def _processor() -> str:
    """The processor's own name where the system tells it."""
    info = pathlib.Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _code() -> str:
    """A digest of what is measured: a figure of other code is another figure."""
    import guided

    root = pathlib.Path(guided.__file__).parent
    found = hashlib.sha256()
    for part in _MEASURED:
        place = root / part
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            found.update(file.read_bytes() if file.suffix in (".py", ".cpp") and file.is_file() else b"")
    return found.hexdigest()[:8]


@functools.cache
def peak(device: str, dtype: torch.dtype, side: int = 2048) -> float:
    """FLOP/s of the fastest of a few square matrix products, by torch.mm and as a 1x1 convolution.

    On a CPU the two go through different libraries, and one may reach twice what the other does.
    """
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    picture = a.reshape(1, side, 1, side).to(memory_format=torch.channels_last)
    ways: list[Callable[[], Tensor]] = [lambda: a @ b]
    if not device.startswith("cuda"):
        ways.append(lambda: F.conv2d(picture, b[:, :, None, None]))
    meter = timing.clock(device)
    with torch.no_grad():
        return max(2 * side**3 / min(meter(way) for _ in range(8)) for way in ways)
