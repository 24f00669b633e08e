"""Small networks for the tests, with every zero-initialised weight made non-zero."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from guided.cond import Cond
from guided.nn import UNet, UNetConfig, preset

TEXT = preset("tiny-text")
FULL = replace(
    TEXT,
    classes=3,
    vector_width=5,
    aug=True,
    image_channels=2,
    presence=True,
    pool_heads=2,
    out_channels=6,
)


def awake(config: UNetConfig, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> UNet:
    """A network whose every weight matters: a fresh one returns zero whatever it is given."""
    torch.manual_seed(seed)
    network = UNet(config)
    wake(network)
    return network.to(device, dtype)


def wake(network: nn.Module) -> None:
    """Give random values to what is initialised to a constant."""
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim == 1 and "norm" in name and name.endswith("weight"):
                value.add_(torch.randn_like(value) * 0.2)
            elif value.std() < 1e-3 or value.ndim == 1:
                value.normal_(0, 0.2 if value.ndim == 1 else value[0].numel() ** -0.5)


def inputs(
    config: UNetConfig, size: tuple[int, int] = (8, 8), batch: int = 3, device: str = "cpu", length: int = 5
) -> tuple[Tensor, Tensor, Cond]:
    """x, c_noise and a Cond with every field the network accepts; row i of the text has i + 1 tokens."""
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(length) <= torch.arange(batch)[:, None]
    fields = {
        "label": torch.arange(batch) % max(config.classes, 1),
        "tokens": torch.randn(batch, length, config.token_width, generator=g),
        "mask": mask,
        "vector": torch.randn(batch, config.vector_width, generator=g),
        "image": torch.randn(batch, config.image_channels, *size, generator=g),
        "aug": torch.rand(batch, generator=g),
    }
    x = torch.randn(batch, config.in_channels, *size, generator=g)
    c_noise = torch.linspace(-400, 700, batch)
    given = {k: v.to(device) for k, v in fields.items() if k in config.accepts}
    return x.to(device), c_noise.to(device), Cond(**given)
