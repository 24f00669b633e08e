"""The noisy classifier's network against ADM's arithmetic in float64, and its published sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guided.cond import Cond
from guided.nn import EncoderUNet, UNetConfig, preset
from tests.nn.test_parity_adm import ADM, CONFIG, Names
from tests.nn.tools import wake

SMALL = replace(CONFIG, classes=0, out_channels=7)


class ADMClassifier(ADM):
    """ADM's encoder with attention pooling, with its published key names; the pool splits q, k, v before the heads."""

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        half = self.names.config.widths[0] // 2
        angles = t.double()[:, None] * 10000 ** (-torch.arange(half).double() / half)
        emb = self.linear("time_embed.0", torch.cat((angles.cos(), angles.sin()), 1))
        emb = self.linear("time_embed.2", F.silu(emb))
        h = self.conv("input_blocks.0.0", x, padding=1)
        for pair in [pair for parts in self.names.down for pair in parts] + self.names.middle:
            h = self.part(pair, h, emb)
        h = F.silu(self.norm("out.0", h)).flatten(2)
        h = torch.cat((h.mean(2, keepdim=True), h), 2) + self.w["out.2.positional_embedding"]
        qkv = torch.einsum("oci,bcn->bon", self.w["out.2.qkv_proj.weight"], h) + self.w["out.2.qkv_proj.bias"][:, None]
        d = self.names.config.head_width
        q, k, v = qkv.unflatten(1, (3, -1, d)).unbind(1)
        weights = torch.einsum("bhdn,bhdm->bhnm", q, k).div(math.sqrt(d)).softmax(-1)
        pooled = torch.einsum("bhnm,bhdm->bhdn", weights, v).flatten(1, 2)
        out = torch.einsum("oci,bcn->bon", self.w["out.2.c_proj.weight"], pooled) + self.w["out.2.c_proj.bias"][:, None]
        return out[:, :, 0]


def published(names: Names, state: dict[str, Tensor], heads_first: bool) -> dict[str, Tensor]:
    """Our weights under ADM's keys and shapes."""
    block = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embed": "emb_layers.1", "norm2": "out_layers.0"}
    block |= {"conv2": "out_layers.3", "skip": "skip_connection"}
    block |= {"norm": "norm", "self_attention.qkv": "qkv", "self_attention.out": "proj_out"}
    edges = {"time_embed.0": "vector.time.inner", "time_embed.2": "vector.time.outer", "out.0": "norm_out"}
    edges |= {"input_blocks.0.0": "conv_in", "out.2.qkv_proj": "pool.qkv", "out.2.c_proj": "pool.proj"}
    pairs = list(edges.items())
    for their, our in [p for parts in (*names.down, names.middle) for p in parts]:
        pairs += [(f"{their}.{b}", f"{our}.{a}") for a, b in block.items()]
    result = {"out.2.positional_embedding": state["pool.position"].T}
    for their, our in pairs:
        for end in ("weight", "bias"):
            if f"{our}.{end}" in state:
                value = state[f"{our}.{end}"]
                if their.endswith(".qkv") and heads_first:
                    value = value.unflatten(0, (3, -1, names.config.head_width)).transpose(0, 1).flatten(0, 2)
                result[f"{their}.{end}"] = value[..., None] if their.startswith("out.2") and end == "weight" else value
    assert len(result) == len(state)
    return result


@torch.no_grad()
@pytest.mark.parametrize("heads_first", [True, False])
def test_the_published_arithmetic(heads_first: bool) -> None:
    torch.manual_seed(0)
    ours = EncoderUNet(SMALL, (8, 12)).double()
    for p in ours.parameters():
        p.copy_(torch.randn_like(p) * 0.3)
    names = Names(SMALL)
    theirs = ADMClassifier(published(names, dict(ours.state_dict()), heads_first), names, heads_first)
    x, t = torch.randn(2, 3, 8, 12, dtype=torch.float64), torch.tensor([999.0, 4.0])
    want = theirs(x, t)
    got = ours(x, t, Cond())
    assert got.shape == (2, 7)
    assert (got - want).norm() < 1e-12 * want.norm()
    assert (ours(x, t.flip(0)) - want).norm() > 1e-3 * want.norm(), "the noise level matters"


@pytest.mark.parametrize(
    ("size", "factors", "blocks", "attention", "millions"),
    [
        (64, (1, 2, 3, 4), 4, (0, 1, 1, 1), 65),
        (128, (1, 1, 2, 3, 4), 2, (0, 0, 1, 1, 1), 43),
        (256, (1, 1, 2, 2, 4, 4), 2, (0, 0, 0, 1, 1, 1), 54),
        (512, (0.5, 1, 1, 2, 2, 4, 4), 2, (0, 0, 0, 0, 1, 1, 1), 54),
    ],
)
def test_the_published_sizes(
    size: int, factors: tuple[float, ...], blocks: int, attention: tuple[int, ...], millions: int
) -> None:
    """Dhariwal and Nichol 2021, the table of classifiers in the appendix."""
    config = UNetConfig(
        out_channels=1000,
        widths=tuple(int(128 * f) for f in factors),
        blocks=(blocks,) * len(factors),
        resample="resblock",
        depth=attention,
        time_width=128,
        embed_width=512,
    )
    with torch.device("meta"):
        network = EncoderUNet(config, (size, size))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions
    state = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    assert state["pool.position"] == ((size >> (len(factors) - 1)) ** 2 + 1, int(128 * factors[-1]))
    assert not any(name.startswith("up") or "label" in name for name in state)


def test_every_weight_is_trained_with_checkpointing_or_without() -> None:
    config = preset("tiny-class", classes=0, out_channels=4, dropout=0.2)
    torch.manual_seed(0)
    network = EncoderUNet(config, (9, 6))
    wake(network)
    x, t = torch.randn(2, 3, 9, 6), torch.tensor([-400.0, 300.0])
    grads = []
    for on in (False, True):
        network.checkpointing = on
        network.zero_grad()
        torch.manual_seed(3)
        network(x, t).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        grads.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="reads the picture alone, this config also label"):
        EncoderUNet(preset("tiny-class"), (8, 8))
    with pytest.raises(ValueError, match=r"reads pictures of \(8, 8\), got \(8, 9\)"):
        EncoderUNet(preset("tiny"), (8, 8))(torch.zeros(1, 3, 8, 9), torch.zeros(()))


def test_places_of_pixels_can_be_given() -> None:
    network = EncoderUNet(preset("tiny", coordinates=True, out_channels=4), (8, 8))
    assert network(torch.zeros(2, 3, 8, 8), torch.zeros(())).shape == (2, 4)
