"""The same network in both libraries: outputs, gradients, loops and steps agree; and what the commands print."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from guided.bench import cases, looping, machine, memory, mine, networks, overhead, speed, training, tuned
from guided.bench.cases import Group
from guided.bench.networks import Pair, inputs, run_theirs, sized
from guided.bench.record import Log, Record
from guided.bench.tuned import Setting

pytest.importorskip("diffusers")
F32, BF16 = torch.float32, torch.bfloat16
TINY = networks.SIZES["tiny"]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair(TINY)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's best settings without torch.compile, which takes a minute."""
    best = tuned.best
    monkeypatch.setattr(tuned, "best", lambda *a, **k: [s for s in best(*a, **k) if s.compiled is None])


def rows(groups: Sequence[Group], rounds: int = 2) -> dict[str, Record]:
    return {row.name: row for row in cases.measure(groups, rounds, "test", machine.here("cpu"), Log())}


def test_no_weight_is_as_it_was_made_and_both_networks_have_the_same(pair: Pair) -> None:
    for name, weight in pair.peer.named_parameters():
        assert float(weight.std(correction=0)) > 0, name
    ours = sum(weight.numel() for weight in pair.ours().parameters())
    assert ours == sum(weight.numel() for weight in pair.peer.parameters())
    again, other = Pair(TINY), Pair(TINY, seed=1)
    for a, b, c in zip(pair.peer.parameters(), again.peer.parameters(), other.peer.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_default_size_is_the_one_of_the_published_comparisons() -> None:
    found = networks.theirs(sized("pixel64"))
    assert abs(sum(weight.numel() for weight in found.parameters()) / 35.2e6 - 1) < 0.005
    with pytest.raises(ValueError, match="pixel64, sd15, tiny"):
        sized("huge")


@pytest.mark.parametrize(
    "setting",
    [tuned.default(), tuned.best("cpu")[0], tuned.best("cpu", faster_matmul=True)[0]],
    ids=str,
)
def test_outputs_agree_and_the_pairs_network_stays_as_it_is(pair: Pair, setting: Setting) -> None:
    batch = inputs(TINY, 2)
    truth = pair.exact(batch)
    before = run_theirs(pair.peer, batch)
    with torch.no_grad():
        found = setting.prepared(pair)(setting.laid(batch))
        ours = [mine.forward(mine.network(pair), None, way)(batch) for way in mine.Way]
    assert cases.apart(found, truth) < 1e-5
    assert all(cases.apart(one, truth) < 1e-5 for one in ours)
    assert torch.equal(before, run_theirs(pair.peer, batch)) and float(truth.std()) > 0.05
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_the_flags_hold_within_a_call_and_no_longer() -> None:
    seen = []
    with pytest.raises(RuntimeError), tuned.matmul("cpu"):
        seen.append((torch.backends.mkldnn.matmul.fp32_precision, torch.backends.mkldnn.conv.fp32_precision))
        raise RuntimeError
    assert seen == [("bf16", "bf16")]
    assert torch.backends.mkldnn.matmul.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == "none"


@pytest.mark.slow
@pytest.mark.parametrize("flag", [False, True])
def test_freezing_takes_effect(pair: Pair, flag: bool) -> None:
    """A frozen network's weights lie packed for oneDNN, which the compiled code calls by name."""
    from torch._inductor.utils import run_and_get_code

    setting, batch = tuned.best("cpu", F32, flag)[-1], inputs(TINY, 2)
    forward = setting.prepared(pair)
    with torch.no_grad():
        found, code = run_and_get_code(lambda: forward(setting.laid(batch)))
    assert "_frozen_param" in "".join(code) and "mkldnn._convolution_pointwise" in "".join(code)
    assert cases.apart(found, pair.exact(batch)) < 1e-5
    tuned.forget()


def test_settings_say_what_they_are_and_the_best_are_more_than_one() -> None:
    assert str(tuned.default()) == "float32, eager NCHW" and str(tuned.default(BF16)) == "bfloat16, eager NCHW"
    assert str(Setting(autocast=BF16)) == "float32, autocast bfloat16, eager NCHW"
    compiled = tuned.best("cpu", F32, True)[1]
    assert str(compiled) == "float32, channels_last, fuse_qkv_projections, torch.compile(freezing), fp32_precision flag"
    for device in ("cpu", "cuda"):
        assert len({str(one) for one in tuned.best(device)}) == len(tuned.best(device)) > 1
    assert "max_autotune" in str(tuned.best("cuda")[-1]) and "cudagraphs" in str(tuned.best("cuda")[-1])


@pytest.mark.usefixtures("eager")
def test_forward_and_backward_rows_are_there_and_right() -> None:
    found = rows(speed.groups(TINY, [1, 2], [F32, BF16], "cpu"))
    for batch in (1, 2):
        for peer in ("default", "best-tuned", "best-tuned, fp32_precision flag"):
            for way in mine.Way:
                row = found[f"unet tiny, forward, float32, batch {batch}: {way.value} / diffusers float32 {peer}"]
                assert row.ours_error is not None and row.ours_error < 1e-5
                assert row.peer_error is not None and row.peer_error < 1e-5
                assert row.low <= row.ratio <= row.high and row.ours > 0 and row.flops and row.flops > 1e7
        for peer in ("float32 default", "bfloat16 default", "bfloat16 best-tuned"):
            for ours in ("ours", "ours, uncached", "ours, bfloat16 weights"):
                row = found[f"unet tiny, forward, bfloat16, batch {batch}: {ours} / diffusers {peer}"]
                # bfloat16 has 8 bits, and float32 does not look like it.
                assert row.ours_error is not None and 5e-4 < row.ours_error < 0.05
                assert row.peer_error is not None and (row.peer_error < 1e-5) == (peer == "float32 default")
    title = "unet tiny, forward and backward"
    for dtype, peer, bound in (("float32", "default", 1e-5), ("bfloat16", "autocast", 0.1)):
        row = found[f"{title}, {dtype}, batch 2: ours / diffusers {dtype} {peer}"]
        assert row.ours_error is not None and row.peer_error is not None
        assert row.ours_error < bound and row.peer_error < bound
        assert found[f"{title}, {dtype}: ours / diffusers {dtype} {peer}, geometric mean over batches"].ratio > 0
    # A forward of the same network costs a third of a forward and backward, by the count of products.
    one = found["unet tiny, forward, float32, batch 2: ours / diffusers float32 default"].flops
    assert one and found[f"{title}, float32, batch 2: ours / diffusers float32 default"].flops == 3 * one


def test_gradients_are_those_of_the_same_weights(pair: Pair) -> None:
    """Each of our parameters' gradients beside the peer's own in float64, brought into our order by the zoo."""
    batch, along = inputs(TINY, 2), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    exact = pair.exact_gradients(batch, along)
    network = pair.ours().requires_grad_(True)
    mine.forward(network)(batch).backward(along)
    ours = networks.flat(networks.gradients(network))
    assert len(ours) == len(exact) and cases.apart(ours, exact.double()) < 1e-5
    # By a finite difference of the loss, in float64, along the gradient itself.
    at = pair._exact()
    for step, name in (
        (1e-6, "conv_in.weight"),
        (1e-6, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
    ):
        weight = dict(at.named_parameters())[name]
        kept = weight.detach().clone()
        aim = torch.randn(kept.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                weight.copy_(kept + sign * step * aim)
                ends.append(float((run_theirs(at, batch.to(torch.float64)) * along).sum()))
            weight.copy_(kept)
        zero = {n: torch.zeros_like(w) for n, w in at.named_parameters()}
        place = pair.flat(zero | {name: aim}).double()
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float((place * exact).sum()), rel=1e-4)


@pytest.mark.usefixtures("eager")
def test_loops_end_at_the_same_picture_and_an_interval_covers_its_share() -> None:
    found = rows(looping.groups(TINY, [1], "cpu", 10))
    title = "sample tiny, 10 Euler steps, guidance 5, float32, batch 1"
    names = ("default", "best-tuned", "best-tuned, fp32_precision flag")
    for peer in names:
        row = found[f"{title}: ours / diffusers float32 {peer}"]
        assert row.ours_error is not None and row.ours_error < 1e-4
        assert row.peer_error is not None and row.peer_error < 1e-4
    part = found[f"{title}: ours, guided in 40% of the steps / ours, guided in every step"]
    # Four of ten steps take two calls, and six take one.
    assert part.ours_share and part.peer_share
    assert part.ours_share / part.peer_share == pytest.approx(0.7 * part.peer / part.ours)
    assert part.ours_error is None and part.ratio > 0 and ".during(" in part.ours_setting
    levels = looping.path(25)
    lo, hi = looping.interval(levels)
    assert int(((levels[:-1] > lo) & (levels[:-1] <= hi)).sum()) == 10
    assert levels.dtype == torch.float64 and len(levels) == 26 and float(levels[-1]) == 0


def test_a_loop_by_ddim_ends_where_euler_does(pair: Pair) -> None:
    """DDIM in its own frame is Euler in ours (Song et al. 2021): another scheduler, the same picture."""
    batch = inputs(TINY, 2)
    null = inputs(TINY, 3).tokens[:1].expand_as(batch.tokens)
    forward = tuned.default().prepared(pair)
    top = looping.path(10)[0]
    scaled = dataclasses.replace(batch, x=batch.x * float(top * (1 + top**2).rsqrt()))
    with torch.no_grad():
        euler = looping.pipeline(forward, batch, null, 10, "EulerDiscreteScheduler")
        # Its steps are as far apart as Euler's only where their number divides a thousand.
        ddim = looping.pipeline(forward, scaled, null, 10, "DDIMScheduler")
    assert cases.apart(ddim, euler.double()) < 1e-4


def test_training_steps_have_the_same_losses(pair: Pair) -> None:
    batch, noise = inputs(TINY, 2), training.noise(pair, 2)
    ours, theirs = training.our_step(pair, 2), training.their_step(pair, training.Theirs(fused=True))
    plain = training.their_step(pair, training.Theirs())
    first, second, third = ours.run(batch, noise), theirs.run(batch, noise), plain.run(batch, noise)
    assert first == pytest.approx(second, rel=1e-5) and second == pytest.approx(third, rel=1e-6)
    assert 0.5 < first < 5
    # What was learnt is alike too (other betas and other epsilon of AdamW aside): the loss falls in both.
    for _ in range(3):
        later = ours.run(batch, noise), theirs.run(batch, noise)
    assert all(loss < first for loss in later) and later[0] == pytest.approx(later[1], rel=0.05)
    for modes in ((True, True),):
        saved = (
            training.our_step(pair, 2, None, modes[0]),
            training.their_step(pair, training.Theirs(checkpointing=True)),
        )
        assert [step.run(batch, noise) for step in saved] == pytest.approx([first, first], rel=1e-5)


def test_training_rows_are_there() -> None:
    timed = [g for g in training.groups(TINY, [1], [F32, BF16], "cpu") if g.unit == "s"]
    found = rows(timed)
    for dtype in ("float32", "autocast bfloat16"):
        for ours, peer in (
            ("ours", "diffusers script's defaults"),
            ("ours", "diffusers best-tuned"),
            ("ours, checkpointed", "diffusers checkpointed, best-tuned"),
        ):
            assert found[f"train tiny, {dtype}, batch 1: {ours} / {peer}"].ratio > 0


def test_allocated_memory_is_counted_to_the_byte() -> None:
    def run() -> None:
        kept = torch.empty(1000)
        for _ in range(3):
            passing = torch.empty(500)
            del passing
        del kept

    # The allocator rounds up to its own pieces.
    assert 6000 <= memory.allocated(run) <= 6000 + 2 * 64


def test_a_peak_of_memory_is_what_a_block_holds() -> None:
    try:
        memory.need("cpu")
    except cases.Absent:
        pytest.skip("no /proc")
    with memory.Peak("cpu") as found:
        torch.ones(10_000_000).sum()
    assert 38e6 < found.bytes < 48e6
    with memory.Peak("cpu") as none:
        torch.ones(1000).sum()
    assert none.bytes < 4e6


def test_memory_is_measured_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def process(words: list[str]) -> int:
        asked.append(words)
        return {"ours": 3, "ours, checkpointed": 2}.get(words[3], 4) * 1_000_000

    monkeypatch.setattr(memory, "asked", process)
    found = rows([memory.group("tiny", 2, "cpu")], rounds=30)
    row = found[
        "train tiny, memory added by a step (tensors allocated), float32, batch 2: ours, checkpointed / diffusers"
    ]
    assert (row.ours, row.peer, row.ratio, row.unit, row.rounds) == (2e6, 4e6, 2.0, "B", 3)
    assert (
        len(asked) == 5 * 3
        and asked[0][1:3] == ["-m", "guided.bench.memory"]
        and asked[0][4:] == ["tiny", "2", "cpu", "allocated"]
    )


@pytest.mark.slow
def test_a_process_of_its_own_says_what_a_step_adds() -> None:
    found = {
        name: memory.asked(
            [memory.sys.executable, "-m", "guided.bench.memory", name, "pixel64", "4", "cpu", "allocated"]
        )
        for name in ("diffusers", "diffusers, checkpointed", "ours")
    }
    # 35 million gradients in float32 are 141 MB, and what is kept for the backward at least as much again.
    assert found["diffusers"] > 1.3 * found["diffusers, checkpointed"] > 1.3 * 141e6 and found["ours"] > 282e6


def test_overhead_is_a_slope_that_does_not_see_what_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: now[0])

    def loop(steps: int) -> torch.Tensor:
        now[0] += 0.003 + 1e-4 * steps
        return torch.zeros(())

    assert overhead.slope(loop) == pytest.approx(1e-4, rel=1e-9)


def test_overhead_rows_and_their_loops_go_where_they_should() -> None:
    (group,) = overhead.groups("cpu")
    found = rows([group])
    title = "overhead a step (slope from 20 to 60 steps), batch 1 of 4x64x64"
    for name in overhead.SOLVERS:
        for peer in ("diffusers' fastest scheduler", *(f"diffusers {k}" for k in overhead.SCHEDULERS), "by hand"):
            row = found[f"{title}: ours, {name} / {peer}"]
            assert 1e-9 <= row.ours < 0.1 and row.ratio > 0
    assert len(found[f"{title}: ours, euler / diffusers' fastest scheduler"].tried) == 4


def test_loops_around_a_fixed_noise_end_where_its_line_does() -> None:
    """A network that always returns the same noise e moves x along it, by any solver: to x - hi e, from hi to 0."""
    shown = overhead._inputs(1, "cpu")
    a, b = overhead._out(shown).double().chunk(2)
    start, hi = shown.x.double() * looping.PUBLISHED.hi, looping.PUBLISHED.hi
    # Which of the two halves is the condition's is each library's own affair; diffusers' pipelines put it second.
    ends = [start - hi * (first + looping.W * (second - first)) for first, second in ((a, b), (b, a))]
    with torch.no_grad():
        assert cases.apart(overhead.by_hand(shown)(30), ends[0]) < 1e-5
        null = torch.zeros_like(shown.tokens)
        euler = looping.pipeline(lambda batch: torch.cat([a, b]).float(), shown, null, 25, "EulerDiscreteScheduler")
        assert cases.apart(euler, ends[0]) < 1e-4
        for solver in overhead.SOLVERS.values():
            found = overhead.our_loop(shown, solver)(30)
            assert min(cases.apart(found, end) for end in ends) < 1e-4
