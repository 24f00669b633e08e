"""What is perturbed, where and for how long: in this thread, in this block, and never in silence."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import guided
from guided.cond import Cond
from guided.denoiser import EDM, Denoiser
from guided.nn import UNetConfig
from guided.perturbation import Perturbation, active, applied
from tests.nn.tools import FULL, TEXT, awake, inputs

IDENTITY, BLUR, SKIP = Perturbation("identity"), Perturbation("blur"), Perturbation("skip")


def test_a_perturbation_is_a_value() -> None:
    assert guided.perturbation.Perturbation is Perturbation
    assert Perturbation("skip", layers=["up", "middle"]) == Perturbation("skip", layers=("up", "middle"))
    assert Perturbation("skip", layers="middle").layers == ("middle",)
    assert len({IDENTITY, BLUR, SKIP, Perturbation("blur", 2), Perturbation("blur", 2.0), Perturbation("blur")}) == 4
    with pytest.raises(AttributeError):
        IDENTITY.kind = "skip"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "sigma", "layers", "message"),
    [
        ("zero", math.inf, None, "expected one of identity, blur, skip, got 'zero'"),
        ("blur", 0.0, None, "a number > 0 or inf; got 0.0 for 'blur'"),
        ("blur", math.nan, None, "got nan"),
        ("identity", 2.0, None, "got 2.0 for 'identity'"),
        ("skip", math.inf, (), "layers is empty"),
    ],
)
def test_what_is_refused(kind: str, sigma: float, layers: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Perturbation(kind, sigma, layers)


def test_it_holds_in_the_block_and_no_longer() -> None:
    assert active() is None
    with applied(IDENTITY):
        assert active() is IDENTITY
        with applied(None):
            assert active() is None
        with applied(SKIP):
            assert active() is SKIP
        assert active() is IDENTITY
    assert active() is None
    with pytest.raises(KeyError), applied(BLUR):
        raise KeyError
    assert active() is None


def test_a_block_without_effect_is_an_error() -> None:
    class Plain(torch.nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
            return x

    x = torch.zeros(1, 3, 8, 8)
    denoise = Denoiser(Plain(), EDM())
    with (
        pytest.raises(ValueError, match=r"kind='identity'.*nothing that was called can be perturbed"),
        applied(IDENTITY),
    ):
        denoise(x, torch.tensor(1.0), Cond())
    # An inner block's network says nothing of the outer one.
    with pytest.raises(ValueError, match="kind='skip'"), applied(SKIP), applied(IDENTITY):
        active()


def test_a_network_without_self_attention_is_an_error() -> None:
    bare = awake(UNetConfig(widths=(8,), blocks=(1,), depth=(0,), middle_blocks=0, groups=2))
    assert bare.attention_layers() == ()
    with pytest.raises(ValueError, match="this network has no self-attention that could be perturbed"), applied(BLUR):
        bare(torch.zeros(1, 3, 4, 4), torch.zeros(()), Cond())
    network = awake(TEXT)
    x, t, cond = inputs(TEXT)
    with (
        pytest.raises(
            ValueError, match=r"no self-attention is called 'middl' here; there are .*middle\.0\.attention\.0"
        ),
        applied(Perturbation("skip", layers=("up", "middl"))),
    ):
        network(x, t, cond)


@torch.no_grad()
def test_it_reaches_the_network_through_a_denoiser_and_leaves_no_trace() -> None:
    network = awake(FULL)
    denoise = Denoiser(network, EDM())
    x, _, cond = inputs(FULL)
    x = x[:, :3]
    sigma = torch.tensor(0.7)
    network.conv_out = torch.nn.Conv2d(8, 3, 1)
    before = denoise(x, sigma, cond)
    for change in (IDENTITY, BLUR, Perturbation("blur", 1.0), SKIP):
        with applied(change):
            assert (denoise(x, sigma, cond) - before).abs().max() > 1e-4
        assert torch.equal(denoise(x, sigma, cond), before)
        with applied(change):
            active()
            with applied(None):
                assert torch.equal(denoise(x, sigma, cond), before)


@torch.no_grad()
def test_eight_threads_never_see_each_others() -> None:
    network = awake(TEXT)
    x, t, cond = inputs(TEXT, batch=1)
    changes = [None, IDENTITY, None, BLUR, Perturbation("blur", 1.5), SKIP, None, Perturbation("skip", layers="down")]

    def found(change: Perturbation | None) -> Tensor:
        with torch.no_grad(), applied(change):  # both belong to the thread
            return network(x, t, cond)

    alone = [found(change) for change in changes]
    assert len({y.numpy().tobytes() for y in alone}) == 6
    together = threading.Barrier(len(changes))

    def many(which: int) -> bool:
        together.wait()
        order = [changes[which]] * 10 + [None, changes[which]] * 5
        return all(torch.equal(found(c), alone[changes.index(c)]) for c in order)

    with applied(IDENTITY), ThreadPoolExecutor(len(changes)) as pool:
        assert all(pool.map(many, range(len(changes))))
        active()


@pytest.mark.parametrize("way", ["function", pytest.param("method", marks=pytest.mark.slow)])
def test_a_compiled_network_hears_it_too(way: str) -> None:
    """The worst that could happen: the graph of the first call, unperturbed, answers for all later ones."""
    config = UNetConfig(widths=(8,), blocks=(1,), depth=(0,), middle_blocks=1, head_width=8, groups=2)
    network, x, t = awake(config), torch.randn(2, 3, 5, 4), torch.zeros(2)
    changes = [None, IDENTITY, Perturbation("blur", 2.0), None, IDENTITY]
    wanted = []
    for change in changes:
        with applied(change):
            wanted.append(network(x, t, Cond()))
    torch.compiler.reset()
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, example: object) -> object:
        graphs.append(graph)
        return graph.forward

    if way == "method":
        network.compile(fullgraph=True, backend=backend)
    compiled = network if way == "method" else torch.compile(network, fullgraph=True, backend=backend)

    def check() -> None:
        torch.testing.assert_close(compiled(x, t, Cond()), wanted[0])
        for change, want in zip(changes, wanted, strict=True):
            with applied(change):
                torch.testing.assert_close(compiled(x, t, Cond()), want)

    # The graphs are made in a thread that has known no perturbation yet.
    with ThreadPoolExecutor(1) as pool, applied(IDENTITY):
        pool.submit(check).result()
        active()
    check()
    assert len(graphs) == 3, "one for each perturbation, in whatever thread"
