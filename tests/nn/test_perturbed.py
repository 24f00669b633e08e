"""Perturbed attention against float64 formulas, in every kind of block and in whole networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guided.nn import PRESETS, UNet, UNetConfig
from guided.nn.attend import attend_changed, blurred
from guided.nn.attention import AddedBlock, Context, SelfBlock, SelfCrossBlock, Transformer, attention_blocks
from guided.perturbation import Perturbation, applied
from tests.nn.test_unet import KINDS, body
from tests.nn.tools import awake, inputs, wake

SIZE = (4, 6)
CHANGES = [
    *(Perturbation(kind, layers="a") for kind in ("identity", "blur", "skip")),
    *(Perturbation("blur", sigma, "a") for sigma in (0.6, 1.0, 3.0, 40.0)),
]
BLOCKS: dict[str, type[nn.Module]] = {
    "self": SelfBlock,
    "cross": SelfCrossBlock,
    "added": AddedBlock,
    "transformer": Transformer,
}


def mirrored_blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """(..., H, W) convolved with exp(-(i^2 + j^2) / (2 sigma^2)), edges mirrored, by the direct double sum."""
    if sigma == math.inf:
        return np.broadcast_to(picture.mean((-2, -1), keepdims=True), picture.shape)
    reach = math.ceil(7 * sigma)
    wide = np.pad(picture, [(0, 0)] * (picture.ndim - 2) + [(reach, reach)] * 2, mode="symmetric")
    out, total = np.zeros_like(picture), 0.0
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    h, w = picture.shape[-2:]
    rows = sum(weight[i] * wide[..., i : i + h, :] for i in range(2 * reach + 1))
    out = sum(weight[j] * rows[..., j : j + w] for j in range(2 * reach + 1))
    total = weight.sum() ** 2
    return np.asarray(out / total)


def mixed(q: Tensor, k: Tensor, v: Tensor, change: Perturbation | None, bias: Tensor | None = None) -> Tensor:
    """Attention by its map: q (B, h, N, d), k, v (B, h, T + N, d), the picture's N keys last."""
    n = q.shape[2]
    if change is not None and change.kind == "blur":
        grid = q.transpose(2, 3).reshape(*q.shape[:2], -1, *SIZE).numpy()
        q = torch.tensor(mirrored_blur(grid, change.sigma)).flatten(-2).transpose(2, 3)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])
    weights = (scores if bias is None else scores + bias).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    if change is not None and change.kind == "identity":
        picture = torch.eye(n, dtype=q.dtype) * weights[..., -n:].sum(-1, keepdim=True)
        weights = torch.cat((weights[..., :-n], picture), -1)
    return torch.einsum("bhnm,bhmd->bhnd", weights, v)


def heads(x: Tensor, parts: int, count: int) -> list[Tensor]:
    """(B, N, parts C) -> parts of (B, h, N, d), parts outermost."""
    b, n, c = x.shape
    return [p.reshape(b, n, count, -1).transpose(1, 2) for p in x.split(c // parts, 2)]


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def norm(module: nn.GroupNorm, h: Tensor) -> Tensor:
    """GroupNorm of (B, C, H, W) as a sequence (B, N, C)."""
    x = h.reshape(len(h), module.num_groups, -1)
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt()
    return x.view(*h.shape[:2], -1).transpose(1, 2) * module.weight + module.bias


def self_part(module: nn.Module, x: Tensor, change: Perturbation | None) -> Tensor:
    q, k, v = heads(module.qkv(x), 3, 2)
    return module.out(joined(mixed(q, k, v, change)))


def cross_part(module: nn.Module, x: Tensor, context: Context) -> Tensor:
    (q,), (k, v) = heads(module.q(x), 1, 2), heads(module.kv(context.tokens), 2, 2)
    return module.out(joined(mixed(q, k, v, None, context.bias)))


def picture(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(len(x), -1, *SIZE)


def of_self(block: SelfBlock, h: Tensor, context: Context, change: Perturbation | None) -> Tensor:
    return picture(self_part(block.self_attention, norm(block.norm, h), change))


def of_cross(block: SelfCrossBlock, h: Tensor, context: Context, change: Perturbation | None) -> Tensor:
    y = self_part(block.self_attention, norm(block.norm, h), change)
    x = h.flatten(2).transpose(1, 2) + y
    return picture(y + cross_part(block.cross_attention, block.cross_norm(x), context))


def of_added(block: AddedBlock, h: Tensor, context: Context, change: Perturbation | None) -> Tensor:
    q, k, v = heads(block.qkv(norm(block.norm, h)), 3, 2)
    text_k, text_v = heads(block.text_kv(context.tokens), 2, 2)
    bias = torch.cat((context.bias, torch.zeros(2, 1, 1, 24, dtype=h.dtype)), -1)
    return picture(block.out(joined(mixed(q, torch.cat((text_k, k), 2), torch.cat((text_v, v), 2), change, bias))))


def of_transformer(block: Transformer, h: Tensor, context: Context, change: Perturbation | None) -> Tensor:
    x = block.proj_in(norm(block.norm, h))
    for at, layer in enumerate(block.layers):
        mine = change if at == 1 else None
        if mine is not None and mine.kind == "skip":
            continue
        x = x + self_part(layer.self_attention, layer.norm1(x), mine)
        x = x + cross_part(layer.cross_attention, layer.norm2(x), context)
        value, gate = layer.mlp_in(layer.norm3(x)).chunk(2, -1)
        x = x + layer.mlp_out(value * gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2))))
    return picture(block.proj_out(x))


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "self": of_self,
    "cross": of_cross,
    "added": of_added,
    "transformer": of_transformer,
}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_block_is_its_formula(kind: str) -> None:
    text = 0 if kind == "self" else 6
    config = UNetConfig(widths=(8,), blocks=(1,), depth=(3,), head_width=4, groups=2, attention=kind, token_width=text)
    torch.manual_seed(0)
    block = attention_blocks(config, 8, 3, False)[0].double()
    wake(block)
    assert type(block) is BLOCKS[kind]
    (block.layers[1] if kind == "transformer" else block).name = "a"
    h, tokens = torch.randn(2, 8, *SIZE, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    bias = torch.tensor([[0, 0, -math.inf], [0.0, 0, 0]], dtype=torch.float64)[:, None, None]
    context = Context(tokens, bias, {})
    plain = h + FORMULAS[kind](block, h, context, None)
    torch.testing.assert_close(block(h, context), plain, rtol=1e-11, atol=1e-12)
    for change in CHANGES:
        left_out = change.kind == "skip" and kind != "transformer"
        want = h if left_out else h + FORMULAS[kind](block, h, context, change)
        torch.testing.assert_close(
            block(h, context, change), want, rtol=1e-7, atol=1e-8, msg=lambda m, c=change: f"{c} {m}"
        )
        assert (want - plain).abs().max() > 1e-3, change
        other = replace(change, layers="b")
        assert torch.equal(block(h, context, other), block(h, context)), "another layer's"


def test_a_blur_keeps_the_mean_and_ends_there() -> None:
    q = torch.randn(2, 3, 24, 4, dtype=torch.float64)
    mean = q.mean(2, keepdim=True)
    spread = [float((blurred(q, SIZE, s) - mean).square().mean()) for s in (0.3, 1.0, 2.0, 5.0, 20.0, math.inf)]
    assert spread == sorted(spread, reverse=True) and spread[-1] == 0 and spread[-2] < 1e-16
    for sigma in (0.3, 1.0, 2.0, 50.0):
        torch.testing.assert_close(blurred(q, SIZE, sigma).mean(2, keepdim=True), mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(blurred(q, SIZE, 1e-3), q)


@torch.no_grad()
@pytest.mark.parametrize("change", [Perturbation("identity"), Perturbation("blur"), Perturbation("blur", 1.5)])
@pytest.mark.parametrize("text", [0, 3])
def test_bf16_takes_the_same_way(change: Perturbation, text: int, device: str) -> None:
    """On a CPU bf16 goes through matmul and softmax."""
    q = torch.randn(2, 2, 24, 8, device=device).bfloat16()
    k, v = torch.randn(2, 2, 2, text + 24, 8, device=device).bfloat16()
    low = attend_changed(q, k, v, SIZE, change)
    assert low.dtype == torch.bfloat16 and low.shape == q.shape
    want = mixed(*(x.double().cpu() for x in (q, k, v)), change)
    torch.testing.assert_close(low.double().cpu(), want, rtol=0, atol=0.04)


def silenced(network: UNet, layers: list[str]) -> UNet:
    """The network with the residual branches of these blocks multiplied by zero."""
    for name in layers:
        for part, module in network.get_submodule(name).named_modules():
            if part.split(".")[-1] in ("out", "mlp_out"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
    return network


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_those_of_the_middle_or_those_that_are_named(kind: str, device: str) -> None:
    config = replace(body("every", "conv", True, kind), text_only=(False,) * 3)
    network = awake(config, device)
    x, t, cond = inputs(config, device=device)
    layers = network.attention_layers()
    blocks = 1 if kind == "transformer" else 2
    assert len(layers) == len(set(layers)) == 2 + 3 + 2 * (1 + 2) + 1
    assert list(layers) == sorted(layers, key=lambda name: ("down", "middle", "up").index(name.split(".")[0]))
    cases = {
        None: ["middle"],
        "up": ["up"],
        ("down.2", layers[-1]): ["down.2", layers[-1]],
        layers[:1]: list(layers[:1]),
    }
    for given, places in cases.items():
        inside = [name for name in layers if any(name == p or name.startswith(p + ".") for p in places)]
        assert inside and blocks
        with applied(Perturbation("skip", layers=given)):
            got = network(x, t, cond)
        want = silenced(awake(config, device), inside)(x, t, cond)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        assert (got - network(x, t, cond)).abs().max() > 1e-3


def test_the_default_is_the_middle_else_the_coarsest_level_with_self_attention() -> None:
    config = body("every", "conv", True, "added")
    cases = {
        "middle.0.attention.0": config,
        "down.2 up.0": replace(config, middle_depth=0),
        "down.2 up.0 ": replace(config, middle_text_only=True),
        "down.1 up.1": replace(config, middle_blocks=0, depth=(0, 1, 0), text_only=(False,) * 3),
        "down.0 up.2": replace(config, middle_depth=0, depth=(1, 1, 0)),
    }
    for places, case in cases.items():
        network = awake(case)
        x, t, cond = inputs(case)
        with torch.no_grad(), applied(Perturbation("skip")):
            got = network(x, t, cond)
        inside = [n for n in network.attention_layers() if n.startswith(tuple(places.split()))]
        with torch.no_grad():
            torch.testing.assert_close(got, silenced(awake(case), inside)(x, t, cond), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, config in PRESETS.items() if any(config.levels_and_middle)])
def test_every_preset_can_be_perturbed(name: str) -> None:
    with torch.device("meta"):
        network = UNet(PRESETS[name])
    assert any(layer.startswith("middle") for layer in network.attention_layers())


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_perturbed_sample_does_not_see_its_batch(kind: str) -> None:
    config = replace(body("level", "plain", True, kind), text_only=(False,) * 3)
    network = awake(config)
    x, t, cond = inputs(config, (9, 7))
    for change in (Perturbation("identity"), Perturbation("blur", 2.0), Perturbation("blur"), Perturbation("skip")):
        with applied(change):
            whole = network(x, t, cond)
            for i in range(3):
                alone = network(x[i : i + 1], t[i : i + 1], cond.index([i]))
                torch.testing.assert_close(alone[0], whole[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_remembers_it(kind: str, device: str) -> None:
    """The second forward runs in the backward pass, after the block, on a GPU in another thread."""
    config = body("every", "resblock", True, kind)
    network = awake(config, device)
    x, t, cond = inputs(config, device=device)
    x.requires_grad_()
    grads = []
    for change in (Perturbation("identity"), Perturbation("blur", 1.0), None):
        for on in (False, True):
            network.checkpointing = on
            with applied(change):
                y = network(x, t, cond)
            grads.append(torch.autograd.grad(y.square().sum(), x)[0])
    for at in (0, 2, 4):
        torch.testing.assert_close(grads[at], grads[at + 1], rtol=1e-5, atol=1e-6)
    assert (grads[0] - grads[4]).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.slow
def test_compiled_equals_eager_perturbed(device: str) -> None:
    config = body("level", "conv", True, "added")
    network = awake(config, device)
    x, t, cond = inputs(config, device=device)
    compiled = torch.compile(network, fullgraph=True)
    for change in (None, Perturbation("identity"), Perturbation("blur", 1.0), None):
        with applied(change):
            torch.testing.assert_close(compiled(x, t, cond), network(x, t, cond), rtol=1e-4, atol=1e-4)
