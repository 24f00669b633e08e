"""The whole network: every combination of its pieces runs, and what must not matter does not."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from guided import reuse
from guided.cond import Cond
from guided.nn import UNet, UNetConfig, native, preset
from tests.nn.tools import FULL, TEXT, awake, inputs

KINDS = ("self", "cross", "added", "transformer")
BODIES = list(itertools.product(("every", "level"), ("conv", "resblock", "plain"), (True, False), KINDS))


def body(skips: str, resample: str, scale_shift: bool, kind: str) -> UNetConfig:
    return replace(
        TEXT,
        widths=(8, 8, 16),
        blocks=(1, 2, 1),
        depth=(0, 1, 2),
        skips=skips,
        resample=resample,
        scale_shift=scale_shift,
        attention=kind,
        text_only=(False, kind in ("added", "transformer"), False),
        token_width=0 if kind == "self" else TEXT.token_width,
        token_norm=kind != "self",
    )


@pytest.mark.parametrize(("skips", "resample", "scale_shift", "kind"), BODIES)
def test_every_body_trains(skips: str, resample: str, scale_shift: bool, kind: str, device: str) -> None:
    config = body(skips, resample, scale_shift, kind)
    network = awake(config, device)
    for size, low in (((9, 7), False), ((5, 12), True)):
        x, t, cond = inputs(config, size, batch=2, device=device)
        network.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=low):
            y = network(x, t, cond)
        assert y.shape == x.shape
        y.float().square().mean().backward()
        for name, p in network.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), name
            assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("time", ["sinusoidal", "fourier"])
@pytest.mark.parametrize("act", ["silu", "gelu"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_embedding_trains(time: str, act: str, dropout: float) -> None:
    config = replace(FULL, time=time, act=act, dropout=dropout, cross_width=12, time_width=6)
    network = awake(config)
    x, t, cond = inputs(config, (6, 5))
    network(x, t, cond).square().sum().backward()
    null = Cond(label=torch.tensor([-1, 0, 1]), vector=torch.full((3, 5), torch.nan), aug=torch.full((3,), torch.nan))
    network(x, t, null).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in network.parameters())


def test_one_pixel_and_one_level() -> None:
    assert awake(TEXT)(torch.randn(1, 3, 1, 1), torch.zeros(()), Cond()).shape == (1, 3, 1, 1)
    config = UNetConfig(widths=(8,), blocks=(1,), depth=(0,), middle_blocks=0, groups=2)
    assert awake(config)(torch.randn(2, 3, 3, 5), torch.zeros(2), Cond()).shape == (2, 3, 3, 5)


def test_a_fresh_network_returns_zero() -> None:
    x, t, cond = inputs(FULL)
    assert torch.equal(UNet(FULL)(x, t, cond), torch.zeros(3, 6, 8, 8))


def test_scalar_and_batched_noise_levels_agree(device: str) -> None:
    network = awake(TEXT, device)
    x, _, cond = inputs(TEXT, device=device)
    level = torch.tensor(123.4, device=device)
    assert torch.equal(network(x, level, cond), network(x, level.expand(3), cond))


def test_state_survives_a_round_trip_bitwise(device: str) -> None:
    first, second = awake(FULL, device), awake(FULL, device, seed=1)
    x, t, cond = inputs(FULL, device=device)
    assert not torch.equal(first(x, t, cond), second(x, t, cond))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, t, cond), second(x, t, cond))


@torch.no_grad()
def test_a_sample_does_not_see_its_batch(device: str) -> None:
    network = awake(FULL, device)
    x, t, cond = inputs(FULL, (9, 8), batch=4, device=device)
    whole = network(x, t, cond)
    for i in range(4):
        alone = network(x[i : i + 1], t[i : i + 1], cond.index(slice(i, i + 1)))
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-5, atol=1e-5)
    back = torch.tensor([3, 2, 1, 0], device=device)
    torch.testing.assert_close(network(x[back], t[back], cond.index(back)), whole[back], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_gives_the_same_gradients(kind: str, device: str) -> None:
    config = replace(body("every", "resblock", True, kind), dropout=0.2)
    network = awake(config, device)
    x, t, cond = inputs(config, device=device)
    grads = []
    for on in (False, True):
        network.checkpointing = on
        network.zero_grad()
        torch.manual_seed(3)
        network(x, t, cond).square().sum().backward()
        grads.append([p.grad.clone() for p in network.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)


def test_checkpointing_keeps_less() -> None:
    config = preset("unet32-class", widths=(32, 64, 64), groups=8)
    network = awake(config)
    x, t, cond = inputs(config, (32, 32), batch=2)
    kept = []
    for on in (False, True):
        network.checkpointing = on
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda s, t=sizes: (t.append(s.numel()), s)[1], lambda s: s):
            network(x, t, cond)
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_bf16_weights_run(device: str) -> None:
    network = awake(FULL, device, torch.bfloat16)
    x, t, cond = inputs(FULL, device=device)
    low = network(x.bfloat16(), t, cond)
    assert low.dtype == torch.bfloat16
    high = network.float()(x, t, cond)
    assert (low.float() - high).norm() < 0.05 * high.norm()


def test_the_whole_is_one_graph(device: str) -> None:
    """No branch looks at a value: the tracer would break there."""
    torch.compiler.reset()  # graphs that other tests made count against the number of recompilations
    network = awake(FULL, device)
    x, t, cond = inputs(FULL, (9, 8), device=device)
    traced = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(x, t, cond), network(x, t, cond))


@pytest.mark.parametrize("kind", KINDS)
def test_stages_compile_one_by_one(kind: str, device: str) -> None:
    config = body("every", "conv", True, kind)
    network, staged = awake(config, device), awake(config, device)
    seen: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        seen.append(len(inputs))
        return graph.forward

    staged.compile_stages(backend=backend)
    x, t, cond = inputs(config, (9, 8), device=device)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), reuse.running():
            torch.testing.assert_close(staged(x, t, cond), network(x, t, cond), rtol=1e-4, atol=1e-5)
            if kind != "self":
                both = cond, cond.null()
                torch.testing.assert_close(staged(x, t, *both), network(x, t, *both), rtol=1e-4, atol=1e-5)
    stages = sum(type(module).__name__ == "Stage" for module in staged.modules())
    assert stages <= len(seen) <= 6 * stages
    torch.compiler.reset()


@pytest.mark.slow
def test_compiled_equals_eager(device: str) -> None:
    network = awake(FULL, device)
    x, t, cond = inputs(FULL, (9, 8), device=device)
    compiled = torch.compile(network, fullgraph=True)
    torch.testing.assert_close(compiled(x, t, cond), network(x, t, cond), rtol=1e-4, atol=1e-4)
    compiled(x, t, cond).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_it_learns(device: str) -> None:
    """Two constant pictures told apart by their text alone."""
    torch.manual_seed(0)
    network = UNet(TEXT).to(device)
    tokens, mask = torch.randn(2, 3, 8, device=device), torch.ones(2, 3, dtype=torch.bool, device=device)
    target = torch.tensor([-0.8, 0.8], device=device)[:, None, None, None].expand(2, 3, 8, 8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        noise = torch.randn(2, 3, 8, 8, device=device)
        loss = (network(noise, torch.zeros((), device=device), Cond(tokens=tokens, mask=mask)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@pytest.mark.parametrize("patch", [2, 4])
def test_squares_of_pixels_come_back_to_their_places(patch: int) -> None:
    """A network that only copies its entrance to its exit gives the picture again, at any size."""
    network = UNet(replace(preset("tiny-local"), patch=patch, widths=(3 * patch**2, 8), groups=1, image_channels=0))
    x = torch.randn(2, 3, 9, 10)
    seen = network._folded(x)
    assert seen.shape == (2, 3 * patch**2, -(-9 // patch), -(-10 // patch))
    identity = torch.zeros_like(network.conv_out.weight)
    for channel in range(len(identity)):
        identity[channel, channel, 1, 1] = 1
    network.conv_out.weight.data.copy_(identity)
    network.conv_out.bias.data.zero_()
    network._go_up = lambda *_: seen  # type: ignore[method-assign]
    network.norm_out = torch.nn.Identity()
    network.act, network.middle = torch.nn.Identity(), torch.nn.ModuleList()
    network._go_down = lambda h, *_: (h, [])  # type: ignore[method-assign]
    with torch.no_grad():
        assert torch.equal(network(x, torch.zeros(2), Cond()), x)


def test_a_local_network_sees_no_place_and_no_far_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shifted by whole squares, away from the border, the same comes out; that is what windows rely on."""
    monkeypatch.setattr(native, "library", lambda: None)
    config = replace(preset("tiny-local"), groups=1, scale_shift=False)
    network = awake(config)
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda h: h  # type: ignore[method-assign]  # it alone looks at the whole
    x, image = torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        whole = network(x, torch.zeros(1), Cond(image=image))
        part = network(x[..., 8:, 8:], torch.zeros(1), Cond(image=image[..., 8:, 8:]))
    assert torch.allclose(whole[..., 64:, 64:], part[..., 56:, 56:], atol=1e-5)
