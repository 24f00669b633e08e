"""Attention against float64 formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guided.nn.attend import attend, attend_bmm
from guided.nn.attention import Context, CrossAttention, SelfBlock
from guided.nn.config import UNetConfig
from tests.nn.tools import wake


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.einsum("bhnm,bhmd->bhnd", weights, v)


@pytest.mark.parametrize("masked", [False, True])
def test_both_ways_of_attending_are_the_formula(masked: bool, device: str) -> None:
    q = torch.randn(2, 3, 7, 4, device=device, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, 5, 4, device=device, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 1, 1]], device=device) > 0 if masked else None
    bias = None if mask is None else torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
    bias = None if bias is None else bias[:, None, None]
    for way in (attend, attend_bmm):
        torch.testing.assert_close(way(q, k, v, bias), plain(q, k, v, mask), rtol=1e-12, atol=1e-12)


def test_the_bf16_way_has_the_right_gradients() -> None:
    q, k, v = torch.randn(3, 2, 2, 16, 8).bfloat16().unbind()
    bias = torch.zeros(2, 1, 1, 16).masked_fill(torch.arange(16) > 9, -math.inf)
    grads = []
    for way in (attend, attend_bmm):
        leaves = [t.clone().double().requires_grad_() for t in (q, k, v)]
        way(*leaves, bias.double()).square().sum().backward()
        grads.append([t.grad for t in leaves])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-12)
    low = attend(q, k, v, bias)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.double(), attend(q.double(), k.double(), v.double(), bias), rtol=0, atol=0.03)


def test_adm_block_is_its_formula() -> None:
    config = UNetConfig(widths=(8,), blocks=(1,), depth=(1,), head_width=4, groups=2)
    block = SelfBlock(config, 8, 2).double()
    wake(block)
    h = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    got = block(h, None)
    groups = h.reshape(2, 2, -1)
    normed = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = normed.view(2, 8, 15) * block.norm.weight[:, None] + block.norm.bias[:, None]
    attention = block.self_attention
    qkv = torch.einsum("oc,bcn->bon", attention.qkv.weight, normed) + attention.qkv.bias[:, None]
    q, k, v = qkv.view(2, 3, 2, 4, 15).transpose(-1, -2).unbind(1)
    mixed = plain(q, k, v).transpose(-1, -2).reshape(2, 8, 15)
    out = torch.einsum("oc,bcn->bon", attention.out.weight, mixed) + attention.out.bias[:, None]
    torch.testing.assert_close(got, h + out.view_as(h), rtol=1e-12, atol=1e-12)


def test_cross_attention_is_its_formula() -> None:
    module = CrossAttention(8, 6, 2).double()
    x, tokens = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 4, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    bias = torch.zeros(2, 1, 1, 4, dtype=torch.float64).masked_fill(~mask[:, None, None], -math.inf)
    q = module.q(x).view(2, 5, 2, 4).transpose(1, 2)
    k, v = module.kv(tokens).chunk(2, -1)
    k, v = (t.reshape(2, 4, 2, 4).transpose(1, 2) for t in (k, v))
    want = module.out(plain(q, k, v, mask).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(module(x, Context(tokens, bias, {}), torch.zeros_like(x)), want, rtol=1e-12, atol=1e-12)
