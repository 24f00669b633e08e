"""AdamW with moments of 8 bits, in blocks of 256 with a scale each (Dettmers et al. 2022, arXiv 2110.02861).

The optimizer is bitsandbytes' and no other's: from 0.50 it runs on a CPU as on a GPU without compiling anything
(torchao's compiles for every shape of weight), and its moments are plain tensors, which a checkpoint keeps as they are.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

FIRST = (0, 50)
"""The first version that runs on a CPU."""
SMALL = 4096
"""Weights with fewer entries keep float32 moments: a norm's, a bias, an adapter's of a narrow layer."""
BLOCK = 256
MOMENTS = ("state1", "state2", "absmax1", "absmax2")
"""What stands in its state: codes (uint8, in the weight's shape) and the scales of their blocks, or float32 moments."""


def require() -> None:
    """ImportError that says what to install where bitsandbytes is missing or too old."""
    try:
        version = importlib.metadata.version("bitsandbytes")
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version is None or tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < FIRST:
        found = "which is not installed" if version is None else f"got {version}"
        raise ImportError(
            f"train.optimizer: adamw8bit needs bitsandbytes >= {FIRST[0]}.{FIRST[1]}, {found}: "
            "pip install 'guided[memory]', or take adamw"
        )


def make(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """The optimizer over groups with a `weight_decay` each; their weights are laid out plainly, (out, in, h, w)."""
    require()
    import bitsandbytes

    for group in groups:
        for weight in group["params"]:
            # The step would do it, but then a run that goes on would begin in another layout than one that never ended.
            weight.data = weight.data.contiguous()
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=lr, betas=betas, min_8bit_size=SMALL)
    return made


def restore(optimizer: Any, weight: nn.Parameter, saved: Mapping[str, Tensor], updates: int) -> None:
    """Put the saved moments of a weight back, after so many updates."""
    for at, group in enumerate(optimizer.param_groups):
        for place, found in enumerate(group["params"]):
            if found is weight:
                optimizer.init_state(group, weight, at, place)
    state = optimizer.state[weight]
    state["step"] = updates
    for moment, tensor in saved.items():
        state[moment].copy_(tensor)


def size(weight: Tensor) -> int:
    """Bytes of the moments of a weight."""
    count = weight.numel()
    return 2 * 4 * count if count < SMALL else 2 * (count + 4 * -(-count // BLOCK))
