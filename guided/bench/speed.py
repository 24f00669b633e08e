"""`guided bench unet`: forward, and forward and backward, of one network in both libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from guided.bench import machine, mine, timing, tuned
from guided.bench.cases import Case, Group, Made, Side, no_grad
from guided.bench.mine import Way
from guided.bench.networks import Inputs, Pair, Size, flat, gradients, inputs, run_theirs
from guided.bench.tuned import Setting

F32, BF16 = torch.float32, torch.bfloat16
EXACT = 2
"""Images that are computed in float64 too."""


def groups(size: Size, batches: Sequence[int], dtypes: Sequence[torch.dtype], device: str) -> list[Group]:
    """Every comparison of one size of network, by direction, dtype and batch."""
    pair = Pair(size, device)
    made = []
    for dtype in dtypes:
        made += [_forward(pair, batch, dtype) for batch in batches]
        made += [_backward(pair, batch, dtype) for batch in batches]
    return made


def flops(pair: Pair, batch: Inputs) -> float:
    """Of a forward, two for each multiplication with its addition, as torch counts the peer's network."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run_theirs(pair.peer, batch)
    return float(counter.get_total_flops())


def ours(pair: Pair, batch: Inputs, way: Way, autocast: torch.dtype | None, weights: torch.dtype = F32) -> Side:
    """Our forward without gradients."""
    words = [str(weights).removeprefix("torch.")]
    words += [f"autocast {str(autocast).removeprefix('torch.')}"] if autocast else []

    def make() -> Made:
        call, given = mine.forward(mine.network(pair, weights), autocast, way), batch.to(weights)
        return no_grad(lambda: call(given))

    return Side(way.value, ", ".join([*words, mine.described(way)]), make)


def theirs(name: str, pair: Pair, batch: Inputs, setting: Setting) -> Side:
    """diffusers' forward without gradients."""

    def make() -> Made:
        call, given = setting.prepared(pair), setting.laid(batch)
        return no_grad(lambda: call(given))

    return Side(name, str(setting), make)


def _forward(pair: Pair, count: int, dtype: torch.dtype) -> Group:
    batch, title = inputs(pair.size, count, pair.device), _title(pair, "forward", dtype)
    device = pair.device.partition(":")[0]
    autocast = dtype if dtype != F32 else None
    listed = [ours(pair, batch, way, autocast) for way in Way]

    def peers(name: str, settings: Sequence[Setting]) -> tuple[str, tuple[Side, ...]]:
        return name, tuple(theirs(name, pair, batch, setting) for setting in settings)

    short = str(dtype).removeprefix("torch.")
    against = [peers(f"diffusers {short} default", [tuned.default(dtype)])]
    against.append(peers(f"diffusers {short} best-tuned", tuned.best(device, dtype)))
    if dtype == F32:
        against.append(peers("diffusers float32 best-tuned, fp32_precision flag", tuned.best(device, dtype, True)))
    else:
        against.insert(0, peers("diffusers float32 default", [tuned.default()]))
        low = ours(pair, batch, Way.RUN, None, dtype)
        listed.append(Side(f"ours, {short} weights", low.setting, low.make))
    exact = functools.partial(pair.exact, batch.first(EXACT))
    return group(pair, _cases(title, count, listed, against), lambda: flops(pair, batch), dtype, exact)


def _backward(pair: Pair, count: int, dtype: torch.dtype) -> Group:
    batch, title = inputs(pair.size, count, pair.device), _title(pair, "forward and backward", dtype)
    along = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0)).to(pair.device)
    autocast = dtype if dtype != F32 else None
    word = "autocast" if autocast else "default"
    name = f"diffusers {str(dtype).removeprefix('torch.')} {word}"
    against = [(name, (_their_gradients(name, pair, batch, along, Setting(autocast=autocast)),))]
    if dtype == F32:
        flagged = f"{name}, fp32_precision flag"
        against.append((flagged, (_their_gradients(flagged, pair, batch, along, Setting(faster_matmul=True)),)))
    listed = [_our_gradients(pair, batch, along, autocast)]
    exact = functools.partial(pair.exact_gradients, batch, along) if count <= EXACT else None
    # A backward is two forwards: one product for the gradient of each factor.
    return group(pair, _cases(title, count, listed, against), lambda: 3 * flops(pair, batch), dtype, exact)


def group(
    pair: Pair,
    cases: tuple[Case, ...],
    work: Callable[[], float],
    dtype: torch.dtype,
    exact: Callable[[], Tensor] | None = None,
) -> Group:
    """Cases that are timed on the pair's device; work: FLOP of a run."""
    reach = functools.partial(machine.peak, pair.device, dtype)
    return Group(cases, exact, timing.clock(pair.device), "s", work, reach, tuned.forget)


def _our_gradients(pair: Pair, batch: Inputs, along: Tensor, autocast: torch.dtype | None) -> Side:
    def make() -> Made:
        network = pair.ours().requires_grad_(True).train()
        call = mine.forward(network, autocast)

        def run() -> None:
            _clear(network)
            call(batch).float().backward(along)  # type: ignore[no-untyped-call]

        def found() -> Tensor:
            run()
            return flat(gradients(network))

        return Made(run, found)

    words = "float32" + (f", autocast {str(autocast).removeprefix('torch.')}" if autocast else "")
    return Side("ours", words, make)


def _their_gradients(name: str, pair: Pair, batch: Inputs, along: Tensor, setting: Setting) -> Side:
    def make() -> Made:
        network = pair.copied().requires_grad_(True).train()
        call = setting.around(network)

        def run() -> None:
            _clear(network)
            call(batch).float().backward(along)  # type: ignore[no-untyped-call]

        def found() -> Tensor:
            run()
            return pair.flat(gradients(network))

        return Made(run, found)

    return Side(name, str(setting), make)


def _clear(network: torch.nn.Module) -> None:
    for weight in network.parameters():
        weight.grad = None


def _title(pair: Pair, what: str, dtype: torch.dtype) -> str:
    return f"unet {pair.size.name}, {what}, {str(dtype).removeprefix('torch.')}"


def _cases(
    title: str, count: int, listed: Sequence[Side], against: Sequence[tuple[str, tuple[Side, ...]]]
) -> tuple[Case, ...]:
    return tuple(
        Case(f"{title}, batch {count}: {side.name} / {name}", side, peers, f"{title}: {side.name} / {name}")
        for name, peers in against
        for side in listed
    )
