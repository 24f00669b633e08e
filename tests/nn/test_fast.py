"""The fast ways of the layers give the numbers of the plain ones, and give way to them where they are not to be had."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from guided import reuse
from guided.cond import Cond
from guided.nn import EncoderUNet, UNet, UNetConfig, layers, native, norms, onednn, preset, recompute
from guided.perturbation import Perturbation, applied
from tests.nn.tools import FULL, TEXT, awake, inputs

F64 = torch.float64
needs_kernels = pytest.mark.skipif(native.library() is None, reason="no C++ compiler here")


@pytest.fixture(params=["in a run", "by itself"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with reuse.running() if request.param == "in a run" else reuse.within(None):
        yield request.param


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def truth(module: nn.Module, *inputs: Tensor) -> Tensor:
    return copy.deepcopy(module).double()(*(x.double() for x in inputs))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_maps(way: str, dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer, wide = layers.Linear(24, 40, bias=bias).to(dtype), layers.Linear(24, 64, bias=bias).to(dtype)
    most = 1e-6 if dtype == torch.float32 else 6e-3
    for shape in ((1, 24), (3, 7, 24), (2, 200, 24)):
        x, plus = torch.randn(shape).to(dtype), torch.randn(*shape[:-1], 40).to(dtype)
        assert error(layer(x), truth(layer, x)) < most
        assert error(layers.added(layer, x, plus), truth(layer, x) + plus.double()) < most
        value, gate = truth(wide, x).chunk(2, -1)
        assert error(layers.gated(wide, x), value * F.gelu(gate)) < 2 * most
    # A view that is not contiguous, as attention makes them.
    x = torch.randn(2, 24, 9).to(dtype).transpose(1, 2)
    assert error(layers.added(layer, x, torch.zeros(2, 9, 40, dtype=dtype)), truth(layer, x)) < most


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_convolutions(way: str, dtype: torch.dtype, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = layers.Conv2d(16, 24, kernel, stride=stride, padding=kernel // 2).to(dtype)
    most = 1e-6 if dtype == torch.float32 else 6e-3
    # In a run the weight is packed for the first size: any other gives its own numbers all the same.
    for shape in ((2, 16, 9, 12), (1, 16, 5, 5), (3, 16, 33, 2)):
        x = torch.randn(shape).to(dtype)
        wanted = truth(layer, x)
        assert error(layer(x), wanted) < most
        assert error(layers.added(layer, x, torch.ones_like(wanted, dtype=dtype)), wanted + 1) < most


@torch.no_grad()
def test_weights_are_packed_as_long_as_there_is_room() -> None:
    torch.manual_seed(0)
    many = [layers.Linear(64, 64) for _ in range(4)]
    x, run = torch.randn(5, 64), reuse.Run()
    run.room = 3 * many[0].weight.nbytes
    with reuse.within(run):
        for _ in range(2):
            assert all(error(layer(x), truth(layer, x)) < 1e-6 for layer in many)
    if onednn.beats_mkl():
        packed = [found[0].layout == torch._mkldnn for _, found in run.lasting.values()]
        assert packed == [True] * 3 + [False] and run.room == 0


@torch.no_grad()
def test_autocast_takes_the_same_way_in_its_dtype(way: str) -> None:
    torch.manual_seed(0)
    linear, conv = layers.Linear(24, 40), layers.Conv2d(16, 24, 3, padding=1)
    x, h = torch.randn(5, 24), torch.randn(2, 16, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(x), conv(h), layers.added(linear, x, torch.zeros(5, 40))
    assert all(y.dtype == torch.bfloat16 for y in found)
    for y, wanted in zip(found, (truth(linear, x), truth(conv, h), truth(linear, x)), strict=True):
        assert 1e-4 < error(y, wanted) < 1e-2


class Cases:
    """Norms with what stands around them, and the formula in float64."""

    kinds: ClassVar = list(itertools.product(("none", "add", "affine"), (None, nn.SiLU())))

    def __init__(self, kind: str, act: nn.Module | None, dtype: torch.dtype, grad: bool = False) -> None:
        torch.manual_seed(0)
        self.norm, self.act = nn.GroupNorm(4, 8), act
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.x = (torch.randn(3, 8, 7, 9) * 2 + 5).to(dtype).requires_grad_(grad)
        width = {"none": 0, "add": 8, "affine": 16}[kind]
        self.beside = {kind: torch.randn(3, width).to(dtype).requires_grad_(grad)} if width else {}
        self.inputs = [self.x, self.norm.weight, self.norm.bias, *self.beside.values()]

    def found(self) -> Tensor:
        return norms.norm_act(self.norm, self.x, self.act, **self.beside)

    def wanted(self, x: Tensor, weight: Tensor, bias: Tensor, beside: Tensor | None = None) -> Tensor:
        h = x + beside[..., None, None] if "add" in self.beside and beside is not None else x
        groups = h.view(len(h), 4, -1)
        mean, var = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, correction=0)
        y = ((groups - mean) / (var + self.norm.eps).sqrt()).view_as(h) * weight[:, None, None] + bias[:, None, None]
        if "affine" in self.beside and beside is not None:
            scale, shift = beside[..., None, None].chunk(2, 1)
            y = y * (1 + scale) + shift
        return y if self.act is None else y * torch.sigmoid(y)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "act"), Cases.kinds)
@pytest.mark.parametrize("kernels", [pytest.param(True, marks=needs_kernels), False])
def test_norms(
    kind: str, act: nn.Module | None, dtype: torch.dtype, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(native, "library", lambda: None)
    case = Cases(kind, act, dtype)
    if not kernels and dtype == torch.bfloat16:
        case.norm.to(dtype)
    assert error(case.found(), case.wanted(*(x.detach().double() for x in case.inputs))) < (
        1e-6 if dtype == torch.float32 else 2e-2
    )


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "act"), Cases.kinds)
def test_gradients_of_norms(kind: str, act: nn.Module | None, dtype: torch.dtype) -> None:
    case = Cases(kind, act, dtype, grad=True)
    y = case.found()
    assert type(y.grad_fn).__name__ == "NormActBackward"
    exact = [x.detach().double().requires_grad_() for x in case.inputs]
    up = torch.randn_like(y)
    found = torch.autograd.grad(y, case.inputs, up)
    wanted = torch.autograd.grad(case.wanted(*exact), exact, up.double())
    for mine, theirs, given in zip(found, wanted, case.inputs, strict=True):
        assert mine.dtype == given.dtype
        assert float((mine.double() - theirs).abs().max() / theirs.abs().max()) < (
            2e-6 if dtype == torch.float32 else 1e-2
        )


@needs_kernels
def test_gradients_of_gradients() -> None:
    """What a guide that differentiates through another's gradient needs."""
    case = Cases("affine", nn.SiLU(), torch.float32, grad=True)
    (first,) = torch.autograd.grad(case.found().square().sum(), case.x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), case.x)
    exact = [x.detach().double().requires_grad_() for x in case.inputs]
    (one,) = torch.autograd.grad(case.wanted(*exact).square().sum(), exact[0], create_graph=True)
    (two,) = torch.autograd.grad(one.square().sum(), exact[0])
    assert error(first, one.detach()) < 1e-5 and error(second, two) < 1e-4
    h = torch.randn(3, 16, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(layers.Gated.apply, h) and torch.autograd.gradgradcheck(layers.Gated.apply, h)


@needs_kernels
@torch.no_grad()
def test_a_mean_far_above_the_spread_costs_no_digits() -> None:
    x = 1000 + torch.randn(2, 64, 16, 16)
    norm = nn.GroupNorm(32, 64)
    wanted = F.group_norm(x.double(), 32)
    # float32 holds such numbers to 6e-5 of their spread; the kernel is to lose no more.
    assert error(norms.norm_act(norm, x), wanted) < 1e-4
    y = native.train_forward(x, native.Norm(32, norm.eps, False, norm.weight, norm.bias))[0]
    assert error(y, wanted) < 1e-4


@needs_kernels
@torch.no_grad()
def test_the_number_of_threads_changes_no_bit_and_nan_stays_nan() -> None:
    norm, act = nn.GroupNorm(32, 64), nn.SiLU()
    x = torch.randn(3, 64, 40, 40)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(norms.norm_act(norm, x, act))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    x[1, 5, 3, 3] = torch.nan
    y = norms.norm_act(norm, x, act)
    group = y[1, 4:6]
    assert group.isnan().all() and not y[0].isnan().any() and not y[2].isnan().any() and not y[1, 6:].isnan().any()


@needs_kernels
@torch.no_grad()
def test_an_image_is_the_same_in_any_batch() -> None:
    norm, act, x = nn.GroupNorm(32, 64), nn.SiLU(), torch.randn(5, 64, 24, 24)
    whole = norms.norm_act(norm, x, act)
    assert all(torch.equal(norms.norm_act(norm, x[i : i + 1], act)[0], whole[i]) for i in range(5))


def test_without_a_compiler_or_onednn_the_network_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = awake(FULL)
    x, t, cond = inputs(FULL)
    with torch.no_grad():
        fast = network(x, t, cond)
    network.zero_grad()
    network(x, t, cond).square().sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(onednn, "available", lambda: False)
    with torch.no_grad():
        plain = network(x, t, cond)
    network.zero_grad()
    network(x, t, cond).square().sum().backward()
    again = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    assert error(fast, plain.double()) < 2e-6 and error(gradient, again.double()) < 1e-5
    assert not torch.equal(fast, plain), "both went the same way"


def test_no_compiler_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path))
    for compiler, native_ in (("/nowhere/g++", "1"), ("false", "1"), ("g++", "0")):
        monkeypatch.setenv("CXX", compiler)
        monkeypatch.setenv("GUIDED_NATIVE", native_)
        native.library.cache_clear()
        assert native.library() is None
    monkeypatch.undo()
    native.library.cache_clear()


def test_what_stands_in_a_layers_place_is_called_as_it_is() -> None:
    class Twice(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.base(x)

    layer, x = layers.Linear(4, 8), torch.randn(3, 4)
    with torch.no_grad():
        assert torch.allclose(layers.added(Twice(layer), x, torch.ones(3, 8)), 2 * layer(x) + 1)
        value, gate = (2 * layer(x)).chunk(2, -1)
        assert torch.allclose(layers.gated(Twice(layer), x), value * F.gelu(gate), atol=1e-6)
    seen: list[int] = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        layers.added(layer, x, torch.ones(3, 8))
    assert seen == [1]


SEVERAL = [
    replace(TEXT, attention=kind, text_only=(False, kind in ("added", "transformer")), depth=(depth, 1))
    for kind in ("cross", "added", "transformer")
    for depth in (0, 1)
]


@torch.no_grad()
@pytest.mark.parametrize("config", SEVERAL, ids=lambda c: f"{c.attention}-{c.depth[0]}")
@pytest.mark.parametrize("change", [None, Perturbation("skip", layers="middle"), Perturbation("identity")])
def test_several_conditions_are_as_one_by_one(way: str, config: UNetConfig, change: Perturbation | None) -> None:
    network = awake(config)
    x, t, cond = inputs(config, batch=2)
    shorter = Cond(tokens=cond.tokens[:, :2], mask=cond.mask[:, :2])
    whole = Cond(tokens=cond.tokens, mask=cond.mask)
    conds = [whole, whole.null(), Cond(), shorter]
    if change is not None and not network.attention_layers():
        return
    with applied(change):
        together = network(x, t, *conds)
        alone = torch.cat([network(x, t, one) for one in conds])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_several_conditions_that_differ_in_more_than_text(way: str) -> None:
    network = awake(FULL)
    x, t, cond = inputs(FULL, batch=3)
    conds = [cond, cond.null(), replace(cond, image=None)]
    alone = torch.cat([network(x, t, one) for one in conds])
    torch.testing.assert_close(network(x, t, *conds), alone, rtol=1e-5, atol=1e-5)
    c_noise = torch.tensor([1.0, 20.0, 300.0])
    alone = torch.cat([network(x, c_noise, one) for one in conds])
    torch.testing.assert_close(network(x, c_noise, *conds), alone, rtol=1e-5, atol=1e-5)


def gradient_of(network: UNet, low: bool) -> tuple[Tensor, Tensor]:
    x, t, cond = inputs(network.config, batch=2)
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        y = network(x, t, cond)
    y.float().square().sum().backward()
    return y, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("kernels", [pytest.param(True, marks=needs_kernels), False])
def test_every_checkpointing_gives_the_same_gradient(low: bool, kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels:
        monkeypatch.setattr(native, "library", lambda: None)
    network = awake(replace(FULL, attention="transformer", dropout=0.0))
    y, plain = gradient_of(network, low)
    for mode in (True, "cheap"):
        network.checkpointing = mode
        again, found = gradient_of(network, low)
        assert torch.equal(again, y) and torch.equal(found, plain), mode


@pytest.mark.parametrize("mode", [True, "cheap"])
def test_a_classifiers_checkpointing_gives_the_same_gradient(mode: bool | str) -> None:
    config = UNetConfig(widths=(16, 16), blocks=(1, 1), depth=(0, 1), head_width=8, groups=4, out_channels=5)
    torch.manual_seed(0)
    network, x, t = EncoderUNet(config, (8, 8)), torch.randn(2, 3, 8, 8), torch.tensor([1.0, 200.0])
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    found = []
    for network.checkpointing in (False, mode):
        network.zero_grad()
        network(x, t).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.equal(found[0], found[1]) and found[0].norm() > 0


@needs_kernels
def test_cheap_checkpointing_keeps_no_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory lives as long as anything holds it, the graph among others."""
    seen: list[StorageWeakRef] = []
    kept = recompute.known

    def watched(y: Tensor, again: Callable[[], Tensor]) -> Tensor:
        seen.append(StorageWeakRef(y.untyped_storage()))
        return kept(y, again)

    monkeypatch.setattr(recompute, "known", watched)
    network = awake(preset("unet32-class", classes=3, widths=(16, 16, 16), head_width=8, groups=4))
    x, t, cond = torch.randn(2, 3, 16, 16), torch.zeros(2), Cond(label=torch.tensor([0, 1]))
    alive = {}
    for mode in (False, "cheap"):
        network.checkpointing = mode
        seen.clear()
        y = network(x, t, cond)
        alive[mode] = [not memory.expired() for memory in seen]
        y.sum().backward()
    assert len(alive[False]) == len(alive["cheap"]) == 20
    # Those before attention are copied into rows by it, and end in either mode.
    assert sum(alive[False]) >= 15 and not any(alive["cheap"])
