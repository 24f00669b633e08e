"""Linear maps and convolutions by oneDNN, with what follows them in the same pass: the private calls, a function each.

For inference on a CPU: elsewhere each says None, and the layer takes torch's public functions. Weights are packed once
a run (`guided.reuse`) into the blocks that oneDNN's kernels read; the numbers stay what they are.
"""

from __future__ import annotations

import functools
import pathlib

import torch
from torch import Tensor, nn

from guided import reuse

DTYPES = (torch.float32, torch.bfloat16)
_CALLS = ("_linear_pointwise", "_convolution_pointwise", "_reorder_linear_weight", "_reorder_convolution_weight")


@functools.cache
def available() -> bool:
    """Whether this torch has oneDNN and the calls that its own compiler makes to it."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and all(hasattr(torch.ops.mkldnn, name) for name in _CALLS)


@functools.cache
def beats_mkl() -> bool:
    """Whether float32 matmuls go to oneDNN: everywhere but on Intel's processors, for which MKL is made.

    On others MKL takes code for a processor of long ago, at less than half of what oneDNN reaches with AVX-512.
    """
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "GenuineIntel" not in text


def dtype_for(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The dtype in which these calls take x and the weight; None where they may not.

    They may on a CPU, without gradients and compilers, in a dtype they know: both's own, or autocast's.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    dtype = x.dtype if x.dtype == weight.dtype else None
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    if dtype not in DTYPES or not (torch.backends.mkldnn.enabled and available()):
        return None
    return dtype


def linear_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """`dtype_for`, but None where MKL multiplies float32 faster."""
    dtype = dtype_for(x, weight)
    return None if dtype == torch.float32 and not beats_mkl() else dtype


def linear(x: Tensor, layer: nn.Linear, plus: Tensor | None = None) -> Tensor | None:
    """layer(x), plus another in the same pass; None where torch's way is to be taken."""
    dtype = linear_dtype(x, layer.weight)
    if dtype is None:
        return None
    x = x.to(dtype)
    weight, bias = reuse.once(
        ("linear", dtype), (layer,), lambda: _packed(layer.weight, layer.bias, dtype, x), lasting=True
    )
    if plus is None:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return torch.ops.mkldnn._linear_pointwise.binary(x, plus.to(dtype), weight, bias, "add")  # type: ignore[no-any-return]


def gated(x: Tensor, layer: nn.Linear) -> Tensor | None:
    """value * gelu(gate), of layer(x) = (value, gate); None where torch's way is to be taken."""
    dtype = linear_dtype(x, layer.weight)
    if dtype is None:
        return None
    x = x.to(dtype)
    (value, value_bias), (gate, gate_bias) = reuse.once(
        ("gated", dtype), (layer,), lambda: tuple(_packed(*half, dtype, x) for half in _halves(layer)), lasting=True
    )
    y = torch.ops.mkldnn._linear_pointwise(x, gate, gate_bias, "gelu", [], "none")
    return torch.ops.mkldnn._linear_pointwise.binary(x, y, value, value_bias, "mul")  # type: ignore[no-any-return]


def convolution(x: Tensor, layer: nn.Conv2d, plus: Tensor | None = None) -> Tensor | None:
    """layer(x), plus another in the same pass, with channels last; None where torch's way is to be taken."""
    dtype = dtype_for(x, layer.weight)
    if dtype is None:
        return None
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    shape = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups

    def pack() -> tuple[Tensor, Tensor | None]:
        weight = layer.weight.to(dtype)
        if _worth_packing(weight):
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *shape, list(x.shape))
        return weight, None if layer.bias is None else layer.bias.to(dtype)

    weight, bias = reuse.once(("convolution", dtype), (layer,), pack, lasting=True)
    if plus is None:
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "none", [], "")  # type: ignore[no-any-return]
    plus = plus.to(dtype).contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._convolution_pointwise.binary(  # type: ignore[no-any-return]
        x, plus, weight, bias, *shape, "add", None, None, [], None
    )


Weights = tuple[Tensor, Tensor | None]


def _halves(layer: nn.Linear) -> list[Weights]:
    biases = (None, None) if layer.bias is None else layer.bias.chunk(2)
    return list(zip(layer.weight.chunk(2), biases, strict=True))


def _packed(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, x: Tensor) -> Weights:
    """The weight as oneDNN's kernel for as many rows as x has reads it; outside a run, where it is used once, as is."""
    weight = weight.to(dtype)
    if _worth_packing(weight):
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), x.numel() // x.shape[-1])
    return weight, None if bias is None else bias.to(dtype)


def _worth_packing(weight: Tensor) -> bool:
    """Whether the weight is used again and again, in a run, and there is room for a second copy of it."""
    run = reuse.current()
    if run is None or run.room < weight.nbytes:
        return False
    run.room -= weight.nbytes
    return True
