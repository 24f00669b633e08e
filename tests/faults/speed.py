"""Faults in what the bench says of speed and memory."""

from __future__ import annotations

from tests.faults.fault import Fault

TIMING, CASES, SPEED = (f"tests/bench/test_{name}.py" for name in ("timing", "cases", "speed"))
SPEEDS = [
    Fault(
        "bench of speed: ratios are upside down",
        "guided/bench/timing.py",
        "return [b / a for a, b in zip(mine, theirs, strict=True)]",
        "return [a / b for a, b in zip(mine, theirs, strict=True)]",
        f"{CASES}::test_a_peer_that_is_slowed_is_found_slower_by_the_factor",
    ),
    Fault(
        "bench of speed: every round in the same order",
        "guided/bench/timing.py",
        "for name in draw.sample(sorted(runs), len(runs)):",
        "for name in sorted(runs):",
        f"{TIMING}::test_every_round_holds_every_run_once_in_an_order_of_its_own",
    ),
    Fault(
        "bench of speed: an interval one rank too narrow",
        "guided/bench/timing.py",
        "rank = max(rank, 1)",
        "rank = max(rank, 1) + 1",
        f"{TIMING}::test_intervals_cover_the_true_median_as_often_as_they_say",
    ),
    Fault(
        "bench of speed: ratios of medians taken of different rounds",
        "guided/bench/cases.py",
        "by_round = timing.ratios(mine, theirs)",
        "by_round = timing.ratios(sorted(mine), sorted(theirs, reverse=True))",
        f"{CASES}::test_ratios_are_taken_within_a_round",
    ),
    Fault(
        "bench of speed: the dearest setting of the peer stands for it",
        "guided/bench/cases.py",
        "best = min(peers, key=",
        "best = max(peers, key=",
        f"{CASES}::test_ratios_are_peer_over_ours_and_the_cheapest_peer_counts",
    ),
    Fault(
        "bench of speed: a row of other settings is taken from the file",
        "guided/bench/cases.py",
        "return key([command, self.name, sides, rounds, machine.facts()])",
        "return key([command, self.name, rounds, machine.facts()])",
        f"{CASES}::test_what_the_file_has_is_not_measured_again",
    ),
    Fault(
        "bench of speed: what was cut off swallows the next row",
        "guided/bench/record.py",
        'lines.write(("\\n" if torn else "")',
        'lines.write((""  if torn else "")',
        f"{CASES}::test_what_the_file_has_is_not_measured_again",
    ),
    Fault(
        "bench of speed: the flag of a peer stays set",
        "guided/bench/tuned.py",
        "        for (place, name, _), value in zip(flags, before, strict=True):",
        "        for (place, name, value), _ in zip(flags, before, strict=True):",
        f"{SPEED}::test_the_flags_hold_within_a_call_and_no_longer",
    ),
    Fault(
        "bench of speed: the peer's weights are not frozen",
        "guided/bench/tuned.py",
        "with inductor.patch(dict(options)):",
        "with contextlib.nullcontext():",
        f"{SPEED}::test_freezing_takes_effect",
    ),
    Fault(
        "bench of speed: layers that begin as nothing stay so",
        "guided/bench/networks.py",
        "if float(parameter.detach().std(correction=0)) == 0:",
        "if False:",
        f"{SPEED}::test_no_weight_is_as_it_was_made_and_both_networks_have_the_same",
    ),
    Fault(
        "bench of speed: the peer guides without a weight",
        "guided/bench/looping.py",
        "without + w * (given - without), t, x",
        "given, t, x",
        f"{SPEED}::test_loops_end_at_the_same_picture_and_an_interval_covers_its_share",
    ),
    Fault(
        "bench of speed: an interval covers one step more",
        "guided/bench/looping.py",
        "return float(levels[first + count]), float(levels[first])",
        "return float(levels[first + count + 1]), float(levels[first])",
        f"{SPEED}::test_loops_end_at_the_same_picture_and_an_interval_covers_its_share",
    ),
    Fault(
        "bench of speed: what a loop does once is counted with its steps",
        "guided/bench/overhead.py",
        "(fastest[LONG] - fastest[SHORT]) / (LONG - SHORT)",
        "fastest[LONG] / LONG",
        f"{SPEED}::test_overhead_is_a_slope_that_does_not_see_what_is_done_once",
    ),
    Fault(
        "bench of memory: the peak of the whole process",
        "guided/_memory.py",
        'REFS.write_text("5")',
        "pass",
        f"{SPEED}::test_a_peak_of_memory_is_what_a_block_holds",
    ),
]
