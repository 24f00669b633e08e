"""One network twice: a UNet2DConditionModel of diffusers with random weights, and ours with the same ones."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guided import zoo
from guided._compat import ensure_torchvision
from guided.bench.peers import installed
from guided.cond import Cond
from guided.nn import UNet

MISSING = "nothing to compare with: pip install diffusers"


@dataclass(frozen=True)
class Size:
    """What a network is and is shown: pictures or latents (channels, side, side), text (tokens, width)."""

    name: str
    config: Mapping[str, Any]
    side: int
    channels: int
    tokens: int
    width: int


def _config(side: int, channels: int, width: int, widths: tuple[int, ...], attends: tuple[int, ...]) -> dict[str, Any]:
    """`attends`: the levels with a transformer."""
    down = ["CrossAttnDownBlock2D" if i in attends else "DownBlock2D" for i in range(len(widths))]
    return {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "down_block_types": tuple(down),
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
        "cross_attention_dim": width,
    }


# diffusers' `attention_head_dim` is the number of heads here.
PIXEL64 = _config(64, 3, 768, (64, 128, 192, 256), (2, 3)) | {"attention_head_dim": (1, 2, 3, 4)}
SD15 = _config(64, 4, 768, (320, 640, 1280, 1280), (0, 1, 2)) | {"attention_head_dim": 8}
TINY = _config(16, 3, 32, (32, 64), (1,)) | {"attention_head_dim": 2, "layers_per_block": 1, "norm_num_groups": 8}

SIZES = {
    size.name: size
    for size in (
        Size("pixel64", PIXEL64, 64, 3, 77, 768),
        Size("sd15", SD15, 64, 4, 77, 768),
        Size("tiny", TINY, 16, 3, 8, 32),
    )
}


def sized(name: str) -> Size:
    """A size by its name; ValueError for an unknown one, or where diffusers is not installed."""
    if name not in SIZES:
        raise ValueError(f"--size: expected one of {', '.join(SIZES)}, got {name!r}")
    if not installed():
        raise ValueError(MISSING)
    return SIZES[name]


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch: x (B, C, H, W), timesteps t (B,) int64, tokens (B, T, W), all of it counted from a seed."""

    x: Tensor
    t: Tensor
    tokens: Tensor

    @functools.cached_property
    def cond(self) -> Cond:
        """The text as our networks take it: one record, so that what is known of it can be kept."""
        return self.anew()

    def anew(self) -> Cond:
        """The same text as a record and tensors of its own, of which nothing is known yet."""
        return Cond(tokens=self.tokens[:], mask=torch.ones_like(self.tokens[..., 0], dtype=torch.bool))

    def first(self, count: int) -> Inputs:
        """The first images alone."""
        return Inputs(self.x[:count], self.t[:count], self.tokens[:count])

    def to(self, dtype: torch.dtype) -> Inputs:
        """In another dtype; timesteps stay whole numbers."""
        return Inputs(self.x.to(dtype), self.t, self.tokens.to(dtype))


def inputs(size: Size, batch: int, device: str = "cpu", side: int | None = None, tokens: int | None = None) -> Inputs:
    """A batch for a network; side, tokens: in place of the size's own."""
    source = torch.Generator().manual_seed(batch)
    side, tokens = side or size.side, tokens or size.tokens
    x = torch.randn(batch, size.channels, side, side, generator=source)
    t = torch.randint(1000, (batch,), generator=source)
    text = torch.randn(batch, tokens, size.width, generator=source)
    return Inputs(x.to(device), t.to(device), text.to(device))


def library() -> Any:
    """diffusers, made to load and kept quiet."""
    ensure_torchvision()
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    return diffusers


def theirs(size: Size, seed: int = 0) -> nn.Module:
    """diffusers' network, float32, on the CPU; no weight of it is zero or one as it was made.

    A layer that begins as nothing would hide what stands before it from every comparison of outputs.
    """
    diffusers = library()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = diffusers.UNet2DConditionModel.from_config(dict(size.config))
        for parameter in network.parameters():
            if float(parameter.detach().std(correction=0)) == 0:
                nn.init.normal_(parameter, float(parameter.detach().flatten()[0]), 0.05)
    return network.eval().requires_grad_(False)


class Pair:
    """The same weights in both libraries, on a device; each is made when it is first asked for."""

    def __init__(self, size: Size, device: str = "cpu", seed: int = 0) -> None:
        self.size, self.device, self.seed = size, device, seed

    @functools.cached_property
    def peer(self) -> nn.Module:
        """diffusers' network as it comes; it is copied before anything about it is changed."""
        return theirs(self.size, self.seed).to(self.device)

    @property
    def config(self) -> dict[str, Any]:
        """The peer's config.json."""
        return dict(self.peer.config)  # type: ignore[arg-type]

    def ours(self) -> UNet:
        """Our network with these weights, a new one at each call."""
        return self.as_ours(self.peer.state_dict())

    def copied(self) -> nn.Module:
        """A copy of diffusers' network, to be trained."""
        return copy.deepcopy(self.peer)

    def as_ours(self, tensors: Mapping[str, Tensor]) -> UNet:
        """Tensors by the peer's names (weights, or their gradients) in our network."""
        found = zoo.network({name: tensor.float() for name, tensor in tensors.items()}, self.config)
        assert isinstance(found, UNet)
        return found.to(self.device)

    def exact_network(self) -> Callable[[Inputs], Tensor]:
        """The peer's network in float64."""
        return functools.partial(run_theirs, self._exact())

    def exact(self, batch: Inputs) -> Tensor:
        """What the network gives out in float64, by the peer's code."""
        with torch.no_grad():
            return self.exact_network()(batch.to(torch.float64))

    def exact_gradients(self, batch: Inputs, along: Tensor) -> Tensor:
        """The gradients of all weights in float64, by the peer's code, in the order of ours, flat."""
        network = self._exact().requires_grad_(True)
        run_theirs(network, batch.to(torch.float64)).backward(along.double())  # type: ignore[no-untyped-call]
        return self.flat(gradients(network))

    def _exact(self) -> nn.Module:
        made = theirs(self.size, self.seed)
        return made.to(self.device, torch.float64)

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors by the peer's names in the order of our network's parameters, flat."""
        return flat(dict(self.as_ours(tensors).named_parameters()))


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter's gradient by its name."""
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All numbers of some tensors, (N,), on the CPU."""
    return torch.cat([tensor.detach().reshape(-1).float().cpu() for tensor in tensors.values()])


def run_theirs(network: nn.Module, batch: Inputs) -> Tensor:
    """The peer's network on a batch."""
    found: Tensor = network(batch.x, batch.t, encoder_hidden_states=batch.tokens, return_dict=False)[0]
    return found
