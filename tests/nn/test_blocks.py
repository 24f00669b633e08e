"""Residual blocks, sizes and embeddings against plain formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from guided.nn import UNetConfig, preset
from guided.nn.blocks import ResBlock, double, halve
from guided.nn.embeddings import AttentionPool, Fourier, Sinusoid
from guided.nn.layers import modulated_norm
from tests.nn.tools import wake

CONFIG = preset("tiny")


@pytest.mark.parametrize("move", ["stay", "down", "up"])
@pytest.mark.parametrize("scale_shift", [True, False])
def test_resblock_is_its_formula(scale_shift: bool, move: str, device: str) -> None:
    config = replace(CONFIG, scale_shift=scale_shift, residual_scale=1.5)
    block = ResBlock(config, 8, 12, move).to(device, torch.float64)
    wake(block)
    h = torch.randn(2, 8, 6, 4, device=device, dtype=torch.float64)
    e = torch.randn(2, 16, device=device, dtype=torch.float64)
    size = {"stay": (6, 4), "down": (3, 2), "up": (12, 8)}[move]

    def resized(t: torch.Tensor) -> torch.Tensor:
        if move == "down":
            return (t[..., ::2, ::2] + t[..., 1::2, ::2] + t[..., ::2, 1::2] + t[..., 1::2, 1::2]) / 4
        return t.repeat_interleave(2, -1).repeat_interleave(2, -2) if move == "up" else t

    y = block.conv1(resized(F.silu(block.norm1(h))))
    injected = (e @ block.embed.weight.T + block.embed.bias)[:, :, None, None]
    scale, shift = (injected[:, :12], injected[:, 12:]) if scale_shift else (0, 0)
    y = block.norm2(y + (0 if scale_shift else injected)) * (1 + scale) + shift
    want = (block.skip(resized(h)) + block.conv2(F.silu(y))) / 1.5
    torch.testing.assert_close(block(h, e, size), want, rtol=1e-12, atol=1e-12)


def test_modulated_norm_has_the_plain_gradients() -> None:
    norm = nn.GroupNorm(3, 6).double()
    wake(norm)
    h = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    m = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    scale, shift = m[:, :, None, None].chunk(2, 1)
    weights = torch.randn_like(h)
    leaves = [h, m, norm.weight, norm.bias]
    want = torch.autograd.grad(((norm(h) * (1 + scale) + shift) * weights).sum(), leaves)
    got = torch.autograd.grad((modulated_norm(norm, h, m) * weights).sum(), leaves)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_a_fresh_block_is_its_skip() -> None:
    block = ResBlock(CONFIG, 8, 8)
    h = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(h, torch.randn(1, 16)), h)


def test_odd_sizes_are_halved_upwards_and_cropped_back() -> None:
    h = torch.arange(15.0).view(1, 1, 3, 5)
    half = halve(h)
    assert half.shape[-2:] == (2, 3)
    assert half[0, 0, 1, 2] == 14 and half[0, 0, 0, 2] == (4 + 9) / 2
    assert torch.equal(double(half, (3, 5))[0, 0, 2], torch.tensor([10.5, 10.5, 12.5, 12.5, 14.0]))


@pytest.mark.parametrize(("flip", "shift"), [(True, 0.0), (False, 1.0)])
def test_sinusoid(flip: bool, shift: float) -> None:
    t = torch.tensor([0.0, 3.7, -900.0], dtype=torch.float64)
    got = Sinusoid(6, 100.0, flip, shift)(t)
    for row, value in enumerate(t.tolist()):
        angles = [value * 100.0 ** (-i / (3 - shift)) for i in range(3)]
        sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
        want = cosines + sines if flip else sines + cosines
        torch.testing.assert_close(got[row], torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-10)


def test_fourier_is_a_shift_invariant_kernel() -> None:
    torch.manual_seed(0)
    features = Fourier(4096, 0.02).double()
    t = torch.tensor([0.0, 5.0, 40.0], dtype=torch.float64)
    kernel = features(t) @ features(t).T / 2048
    want = torch.exp(-((t[:, None] - t) ** 2) * (2 * math.pi * 0.02) ** 2 / 2)  # of a normal density
    torch.testing.assert_close(kernel, want, rtol=0, atol=0.05)
    assert Fourier(5, 1.0)(torch.zeros(1)).shape == (1, 5)
    assert Sinusoid(5)(torch.zeros(1)).shape == (1, 5)


def test_pooling_sees_the_real_tokens_alone() -> None:
    pool = AttentionPool(8, 6, 2)
    tokens = torch.randn(2, 5, 8)
    mask = torch.arange(5) < torch.tensor([[2], [5]])
    pooled = pool(tokens, mask)
    torch.testing.assert_close(pooled[:1], pool(tokens[:1, :2], mask[:1, :2]))
    assert not torch.allclose(pooled[:1], pool(tokens[:1], mask[1:]))


def test_groups_fall_to_a_divisor() -> None:
    block = ResBlock(UNetConfig(widths=(12,), blocks=(1,), depth=(0,), middle_depth=0, groups=8), 12, 12)
    assert block.norm1.num_groups == 4
