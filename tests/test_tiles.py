"""Tiles: the whole picture's result where the network cannot tell, and a cover without gaps everywhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from guided import path as paths
from guided import sample
from guided.cond import Cond
from guided.guide import cfg
from guided.tiles import Tiled

KERNEL = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 20


class Local:
    """A denoiser of radius 4: two convolutions of 5 x 5 around a nonlinearity; it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, cond: Cond) -> torch.Tensor:
        self.calls += 1
        bias = 0 if cond.label is None else cond.label.reshape(-1, 1, 1, 1)
        image = 0 if cond.image is None else cond.image
        return (
            torch.tanh(F.conv2d(torch.tanh(F.conv2d(x + image, KERNEL, padding=2) + bias), KERNEL, padding=2)) / sigma
        )


@pytest.mark.parametrize("size", [(40, 40), (40, 97), (61, 50), (24, 70), (20, 20)])
def test_below_its_reach_tiles_are_the_whole_picture(size: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    cond = Cond(label=torch.tensor([0, 1]), image=torch.randn(2, 3, *size, generator=rng, dtype=torch.float64))
    sigma, local = torch.tensor(0.7, dtype=torch.float64), Local()
    found = Tiled(local, (40, 40), (20, 24))(x, sigma, cond)
    torch.testing.assert_close(found, Local()(x, sigma, cond), atol=1e-12, rtol=0)
    assert local.calls == (1 if max(size) <= 40 else local.calls) and local.calls <= 6


def test_it_is_guided_and_sampled_like_any_denoiser() -> None:
    x = torch.randn(2, 3, 30, 70, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 5
    cond, path = Cond(label=torch.tensor([1, 1])), paths.karras(6, 0.1, 5.0)
    whole, tiled = (
        sample(cfg(2.0)(denoise), x, path, cond) for denoise in (Local(), Tiled(Local(), (32, 32), (16, 16)))
    )
    torch.testing.assert_close(whole, tiled, atol=1e-10, rtol=0)


def test_every_pixel_is_covered_whatever_the_stride() -> None:
    sigma = torch.tensor(1.0)
    for side in range(5, 40):
        for stride in (1, 3, 7, 8):
            x = torch.rand(1, 1, side, 9)
            found = Tiled(lambda x, sigma, cond: 2 * x, (8, 8), (stride, stride))(x, sigma, Cond())
            torch.testing.assert_close(found, 2 * x)


def test_a_stride_beyond_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="stride"):
        Tiled(Local(), (8, 8), (9, 8))
