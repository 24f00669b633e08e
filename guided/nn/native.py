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

import torch
from torch import Tensor

from guided import _files

SOURCE = pathlib.Path(__file__).with_name("native.cpp")
# Sums may be reordered; NaN and infinity keep their meaning, and so do subnormal numbers in the rest of the program.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
FLAGS += ("-fno-signed-zeros", "-fassociative-math")
PATIENCE = 60.0
SMALL = 1 << 15
"""Up to so many numbers one thread is done before a second has begun."""

_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be made or are not wanted."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or os.environ.get("GUIDED_NATIVE") == "0":
        return None
    try:
        found = ctypes.CDLL(str(_compiled(compiler)))
        call = found.guided_group_norm
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None
    call.argtypes = [_POINTER] * 2 + [_INT, _LONG, _LONG, _INT, _INT, _FLOAT] + [_POINTER] * 5 + [_LONG, _INT, _INT]
    call.restype = None
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
    """Whether the kernels take x: on a CPU, float32 or bfloat16, outside graphs and compilers."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def group_norm(
    x: Tensor,
    groups: int,
    eps: float,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    affine: Tensor | None,
    act: bool,
) -> Tensor:
    """act(norm(x + add) (1 + scale) + shift), x (B, C, H, W) and the result with channels last; act is SiLU.

    weight, bias (C,), add (B, C) and affine = (scale, shift) (B, 2 C) in float32.
    """
    found = library()
    assert found is not None
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    b, c, h, w = x.shape
    beside = add if affine is None else affine
    at = None if beside is None else beside.data_ptr()
    more = (at, None, None) if affine is None else (None, at, at and at + 4 * c)
    found.guided_group_norm(
        x.data_ptr(), y.data_ptr(), x.dtype == torch.bfloat16, b, h * w, c, groups, eps, weight.data_ptr(),
        bias.data_ptr(), *more, 0 if beside is None else beside.stride(0), act,
        1 if x.numel() <= SMALL else torch.get_num_threads(),
    )  # fmt: skip
    return y
