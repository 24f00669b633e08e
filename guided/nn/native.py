"""Our own kernels for the CPU, native.cpp: compiled once for this processor where there is a compiler, else not used.

The library is kept among what can be made again (`$GUIDED_CACHE`, ~/.cache/guided), under a name that changes with the
source, the compiler and the processor. `GUIDED_NATIVE=0` leaves it out. Nothing needs it: each caller has torch's way.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided import _files

SOURCE = pathlib.Path(__file__).with_name("native.cpp")
# Sums may be reordered; NaN and infinity keep their meaning, and so do subnormal numbers in the rest of the program.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-fopenmp"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
PATIENCE = 60.0
SMALL = 1 << 15
"""Up to so many numbers one thread is done before a second has begun."""

_P, _L, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_SHAPE, _BESIDE = [_I, _L, _L, _I, _I], [*[_P] * 5, _L]
_CALLS = {
    "guided_group_norm": [_P, _P, *_SHAPE, _F, *_BESIDE, _I, _I],
    "guided_train_forward": [_P, _P, *_SHAPE, _F, *_BESIDE, _I, _P, _P, _I],
    "guided_train_backward": [_P, _P, _P, *_SHAPE, *_BESIDE, _I, _P, _P, _P, _I],
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be made or are not wanted."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or os.environ.get("GUIDED_NATIVE") == "0":
        return None
    try:
        found = ctypes.CDLL(str(_compiled(compiler)))
        for name, arguments in _CALLS.items():
            call = getattr(found, name)
            call.argtypes, call.restype = arguments, None
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None
    return found


def _compiled(compiler: str) -> pathlib.Path:
    source = SOURCE.read_bytes()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=PATIENCE).stdout
    threads = _threads()
    made_of = hashlib.sha256(b"\0".join((source, version, _processor(), " ".join((*FLAGS, threads)).encode())))
    path = _files.cache("native") / f"{made_of.hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory() as room, _files.writing(path) as aside:
            compiled = pathlib.Path(room) / "native.o"
            for command in (
                [compiler, *FLAGS, "-c", str(SOURCE), "-o", str(compiled)],
                [compiler, "-shared", str(compiled), threads, "-o", str(aside)],
            ):
                subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
    return path


def _threads() -> str:
    """What to link for threads: torch's own library of them, for two in one process get into each other's way."""
    found = sorted((pathlib.Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return str(found[0]) if found else "-fopenmp"


def _processor() -> bytes:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor().encode()
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(("model name", "flags"))})).encode()


def usable(x: Tensor) -> bool:
    """Whether the kernels take x: on a CPU, float32 or bfloat16, outside compilers and functional transforms."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and library() is not None
    )


@dataclass(frozen=True)
class Norm:
    """A group normalisation and what stands around it: act(norm(x + add) (1 + scale) + shift), act SiLU or nothing.

    weight, bias (C,), add (B, C) and affine = (scale, shift) (B, 2 C) in float32; one of the last two at most.
    """

    groups: int
    eps: float
    act: bool
    weight: Tensor
    bias: Tensor
    add: Tensor | None = None
    affine: Tensor | None = None

    def _pointers(self, channels: int) -> tuple[int | None, ...]:
        """weight, bias, add, scale, shift, and the length of a row of the last three."""
        beside = self.add if self.affine is None else self.affine
        if beside is None:
            return self.weight.data_ptr(), self.bias.data_ptr(), None, None, None, 0
        assert beside.stride(1) == 1
        at = beside.data_ptr()
        more = (at, None, None) if self.affine is None else (None, at, at + 4 * channels)
        return self.weight.data_ptr(), self.bias.data_ptr(), *more, beside.stride(0)


def group_norm(x: Tensor, norm: Norm) -> Tensor:
    """x (B, C, H, W) normalised, with channels last."""
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x)
    _call("guided_group_norm")(
        x.data_ptr(), y.data_ptr(), *_shape(x, norm), norm.eps, *norm._pointers(x.shape[1]), norm.act, _threads_for(x)
    )
    return y


def train_forward(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, C, H, W) normalised, with channels first; and what the way back wants: mean and 1 / std, (B, groups)."""
    x = x.contiguous()
    y = torch.empty_like(x)
    mean, rstd = torch.empty(2, x.shape[0], norm.groups).unbind()
    kept = norm.act, mean.data_ptr(), rstd.data_ptr()
    _call("guided_train_forward")(
        x.data_ptr(), y.data_ptr(), *_shape(x, norm), norm.eps, *norm._pointers(x.shape[1]), *kept, _threads_for(x)
    )
    return y, mean, rstd


def train_backward(dy: Tensor, x: Tensor, norm: Norm, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient by x, and sums over each channel (3, B, C): of dz, z before act, of dz normalised x, and of it."""
    x, dy = x.contiguous(), dy.to(x.dtype).contiguous()
    dx, sums = torch.empty_like(x), torch.empty(3, *x.shape[:2])
    kept = norm.act, mean.data_ptr(), rstd.data_ptr(), sums.data_ptr()
    at = dy.data_ptr(), x.data_ptr(), dx.data_ptr()
    _call("guided_train_backward")(*at, *_shape(x, norm), *norm._pointers(x.shape[1]), *kept, _threads_for(x))
    return dx, sums


def _call(name: str) -> Any:
    found = library()
    assert found is not None
    return getattr(found, name)


def _shape(x: Tensor, norm: Norm) -> tuple[int, ...]:
    return int(x.dtype == torch.bfloat16), x.shape[0], x.shape[2:].numel(), x.shape[1], norm.groups


def _threads_for(x: Tensor) -> int:
    return 1 if x.numel() <= SMALL else torch.get_num_threads()
