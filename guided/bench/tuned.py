"""The ways in which somebody may set diffusers' network up; each is measured under its own name."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch._inductor.config as inductor
from torch import Tensor, nn

from guided.bench.networks import Inputs, Pair, run_theirs

Forward = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Setting:
    """How diffusers' network is run. compiled: inductor's options, None: eager; faster_matmul: see `matmul`."""

    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    fused: bool = False
    compiled: Mapping[str, Any] | None = None
    faster_matmul: bool = False
    autocast: torch.dtype | None = None

    def __str__(self) -> str:
        words = [str(self.dtype).removeprefix("torch.")]
        words += [f"autocast {str(self.autocast).removeprefix('torch.')}"] if self.autocast else []
        words += ["channels_last"] if self.channels_last else []
        words += ["fuse_qkv_projections"] if self.fused else []
        options = ", ".join(name for name, value in (self.compiled or {}).items() if value)
        words += [f"torch.compile({options})"] if self.compiled is not None else []
        words += ["fp32_precision flag"] if self.faster_matmul else []
        words += ["eager NCHW"] if len(words) == 1 + bool(self.autocast) else []
        return ", ".join(words)

    def prepared(self, pair: Pair) -> Forward:
        """The network set up so, as a function of a batch; the pair's own stays as it is."""
        network = pair.peer
        if self.channels_last or self.fused or self.dtype != torch.float32:
            network = copy.deepcopy(network).to(self.dtype)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.fused:
            network.fuse_qkv_projections()  # type: ignore[operator]
        return self.around(network)

    def around(self, network: nn.Module) -> Forward:
        """A network that lies as it should, compiled where that is wanted, within the flags it is to see."""
        options = self.compiled
        call: Any = network if options is None else torch.compile(network)
        known: set[torch.Size] = set()

        def forward(batch: Inputs) -> Tensor:
            with self.within(batch.x.device.type):
                if options is None or batch.x.shape in known:
                    return run_theirs(call, self.laid(batch))
                # What is compiled is compiled by the first call of a shape. As `options=` of torch.compile, freezing
                # is taken without a word and has no effect.
                with inductor.patch(dict(options)):
                    known.add(batch.x.shape)
                    return run_theirs(call, self.laid(batch))

        return forward

    def laid(self, batch: Inputs) -> Inputs:
        """A batch in the dtype and the layout that the network wants."""
        given = batch.to(self.dtype)
        if not self.channels_last:
            return given
        return Inputs(given.x.contiguous(memory_format=torch.channels_last), given.t, given.tokens)

    @contextlib.contextmanager
    def within(self, device: str) -> Iterator[None]:
        """The flags of the setting, for the time of a call."""
        with contextlib.ExitStack() as stack:
            if self.faster_matmul:
                stack.enter_context(matmul(device))
            if self.autocast is not None:
                stack.enter_context(torch.autocast(device, self.autocast))
            yield


@contextlib.contextmanager
def matmul(device: str) -> Iterator[None]:
    """Permit faster products of float32 matrices, and no longer than this.

    On a CPU: `fp32_precision = "bf16"` of oneDNN, which on processors without AMX computes in float32 all the same, and
    faster than MKL does on some; where there is AMX it really is bfloat16. On a GPU: TF32.
    """
    flags: list[tuple[Any, str, Any]]
    if device != "cpu":
        flags = [(torch.backends.cuda.matmul, "allow_tf32", True), (torch.backends.cudnn, "allow_tf32", True)]
    else:
        onednn = torch.backends.mkldnn
        flags = [(getattr(onednn, part), "fp32_precision", "bf16") for part in ("matmul", "conv")]
    before = [getattr(place, name) for place, name, _ in flags]
    try:
        for place, name, value in flags:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(flags, before, strict=True):
            setattr(place, name, value)


def default(dtype: torch.dtype = torch.float32) -> Setting:
    """As it comes from `from_pretrained`, in a dtype."""
    return Setting(dtype)


def best(device: str, dtype: torch.dtype = torch.float32, faster_matmul: bool = False) -> tuple[Setting, ...]:
    """What is tried to find the best setting for drawing."""
    eager = Setting(dtype, True, True, None, faster_matmul)
    if device == "cpu":
        return eager, Setting(dtype, True, True, {"freezing": True}, faster_matmul)
    graphs = {"triton.cudagraphs": True, "freezing": True}
    compiled = (graphs, {**graphs, "max_autotune": True})
    return eager, *(Setting(dtype, True, True, options, faster_matmul) for options in compiled)


def forget() -> None:
    """Let go of compiled networks: dynamo compiles one piece of code eight times, and no more without being told."""
    torch.compiler.reset()
    gc.collect()
