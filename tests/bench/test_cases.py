"""Rows from cases: the cheapest peer counts, what is there is not measured again, what fails is left out and told."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time

import pytest
import torch
from torch import Tensor

from guided.bench import cases, machine, report
from guided.bench.cases import Absent, Case, Group, Made, Side
from guided.bench.record import Log, Record, latest, quantity, read

HERE = machine.Machine("a processor", 2, "2", "0", "0", "abc")


def side(name: str, cost: float, setting: str = "", calls: list[str] | None = None, off: float = 0.0) -> Side:
    """A side whose run costs so much by the meter `float`, and is off the truth by a share."""

    def make() -> Made:
        def run() -> float:
            if calls is not None:
                calls.append(name)
            return cost

        return Made(run, lambda: torch.ones(4) * (1 + off))

    return Side(name, setting or f"as {name}", make)


def cost(run: object) -> float:
    return float(run())  # type: ignore[operator]


def rows(groups: list[Group], log: Log | None = None, rounds: int = 8, told: list[str] | None = None) -> list[Record]:
    tell = (told if told is not None else []).append
    return list(cases.measure(groups, rounds, "unet", HERE, log or Log(), tell=tell))


def test_ratios_are_peer_over_ours_and_the_cheapest_peer_counts() -> None:
    a, b = side("peer", 6.0, "slow way"), side("peer", 4.0, "quick way", off=1e-3)
    found = rows([Group((Case("x: ours / peer", side("ours", 2.0), (a, b)),), lambda: torch.ones(4).double(), cost)])
    (row,) = found
    assert (row.ours, row.peer, row.ratio, row.low, row.high) == (2.0, 4.0, 2.0, 2.0, 2.0)
    assert row.peer_setting == "quick way" and len(row.tried) == 2 and "6 s" in row.tried[0]
    assert row.ours_error == 0 and row.peer_error == pytest.approx(1e-3, rel=1e-3)
    assert "best of 2 tried" in report.tried(row) and "slow way" in report.tried(row)


def test_ratios_are_taken_within_a_round() -> None:
    """Both cost ten times as much in every second round: the ratio is 2 in each of them."""
    counts = {"ours": 0, "peer": 0}

    def uneven(name: str, base: float) -> Side:
        def run() -> float:
            counts[name] += 1
            return base * (10.0 if counts[name] % 2 else 1.0)

        return Side(name, "", lambda: Made(run))

    (row,) = rows([Group((Case("x", uneven("ours", 1.0), (uneven("peer", 2.0),)),), None, cost)])
    assert (row.ratio, row.low, row.high) == (2.0, 2.0, 2.0)


def test_ours_beside_itself_is_near_1_within_an_interval_that_holds_1() -> None:
    x = torch.randn(200, 200)
    run = lambda: Made(lambda: x @ x)  # noqa: E731
    found = rows([Group((Case("x", Side("ours", "", run), (Side("ours again", "", run),)),))], rounds=40)
    assert 0.8 < found[0].ratio < 1.25 and found[0].low <= 1 <= found[0].high


def test_a_peer_that_is_slowed_is_found_slower_by_the_factor() -> None:
    sides = [Side(name, "", lambda t=t: Made(lambda: time.sleep(t))) for name, t in (("ours", 0.01), ("peer", 0.025))]
    (row,) = rows([Group((Case("x", sides[0], (sides[1],)),))], rounds=10)
    assert 2.1 < row.ratio < 2.7 and row.low > 1


def test_rows_of_a_family_have_a_geometric_mean_that_resumes_too(tmp_path: pathlib.Path) -> None:
    groups = [
        Group(
            (Case(f"f, batch {n}: ours / peer", side("ours", 1.0), (side("peer", by),), "f: ours / peer"),), None, cost
        )
        for n, by in ((1, 2.0), (8, 8.0))
    ]
    file = tmp_path / "rows.jsonl"
    found = rows(groups, Log(file))
    assert [row.ratio for row in found] == [2.0, 8.0, pytest.approx(4.0)]
    assert found[2].name == "f: ours / peer, geometric mean over batches" and found[2].ours == pytest.approx(1.0)
    assert rows(groups, Log(file)) == found
    assert "f: ours / peer, geometric mean over batches | 1 s | 4 s | 4.000" in report.results(read(file))


def test_what_the_file_has_is_not_measured_again(tmp_path: pathlib.Path) -> None:
    calls: list[str] = []
    file = tmp_path / "a" / "rows.jsonl"

    def group(setting: str = "as it comes") -> Group:
        peer = side("peer", 3.0, setting, calls)
        return Group(
            (Case("x", side("ours", 1.0, calls=calls), (peer,)), Case("y", side("ours", 2.0), (peer,))), None, cost
        )

    first = rows([group()], Log(file))
    count = len(calls)
    assert count > 0 and len(file.read_text().splitlines()) == 2
    assert rows([group()], Log(file)) == first and len(calls) == count
    # Other settings, other rounds, another machine, other code: each is another row.
    rows([group("tuned")], Log(file))
    assert len(calls) > count
    count = len(calls)
    rows([group()], Log(file), rounds=9)
    assert len(calls) > count
    count = len(calls)
    for field in ("device", "threads", "torch", "diffusers", "guided", "code"):
        other = dataclasses.replace(HERE, **{field: 7 if field == "threads" else "other"})
        assert group().cases[0].key("unet", 8, other) != group().cases[0].key("unet", 8, HERE)
    # A line cut off by a kill is measured again, and what comes after it is whole.
    lines = file.read_text().splitlines()
    file.write_text(lines[0] + "\n" + lines[1][:40])
    again = rows([group()], Log(file))
    assert len(calls) > count and [row.name for row in again] == ["x", "y"]
    assert {row.key for row in read(file)} >= {row.key for row in again}
    file.write_text("what is this\n")
    with pytest.raises(ValueError, match="no line"):
        Log(file)


def test_a_file_holds_a_row_as_soon_as_its_group_is_done(tmp_path: pathlib.Path) -> None:
    def stop() -> Made:
        raise KeyboardInterrupt

    file = tmp_path / "rows.jsonl"
    groups = [Group((Case(n, ours, (side("peer", 2.0),)),), None, cost)
              for n, ours in (("x", side("ours", 1.0)), ("y", Side("ours", "", stop)))]  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        rows(groups, Log(file))
    assert [json.loads(line)["name"] for line in file.read_text().splitlines()] == ["x"]


def test_a_peer_that_fails_is_told_and_ours_that_fails_is_an_error() -> None:
    def broken() -> Made:
        raise RuntimeError("no compiler")

    def absent() -> Made:
        raise Absent("no such mode")

    told: list[str] = []
    ours, good = side("ours", 1.0), side("peer", 2.0)
    group = Group(
        (
            Case("x", ours, (Side("peer", "compiled", broken), good)),
            Case("y", Side("ours, cheap", "cheap", absent), (good,)),
            Case("z", ours, (Side("peer", "compiled too", broken),)),
        ),
        None,
        cost,
    )
    (row,) = rows([group], told=told)
    assert row.name == "x" and row.ratio == 2.0 and len(row.tried) == 1
    assert any("no compiler" in text for text in told) and any("no such mode" in text for text in told)
    with pytest.raises(RuntimeError, match="no compiler"):
        rows([Group((Case("x", Side("ours", "", broken), (good,)),), None, cost)])


def test_only_picks_rows_and_says_what_there_is() -> None:
    group = Group((Case("one", side("ours", 1.0), (side("peer", 1.0),)), Case("two", side("ours", 1.0), ())))
    assert [case.name for g in cases.chosen([group], "tw") for case in g.cases] == ["two"]
    with pytest.raises(ValueError, match=r"(?s)--only x.*one.*two"):
        cases.chosen([group], "x")


def test_shares_of_the_peak_and_outputs_that_are_apart() -> None:
    group = Group(
        (Case("x", side("ours", 2.0), (side("peer", 4.0),)),), None, cost, flops=lambda: 30.0, peak=lambda: 60.0
    )
    (row,) = rows([group])
    assert (row.ours_share, row.peer_share, row.flops) == (0.25, 0.125, 30.0)
    half = dataclasses.replace(side("ours", 2.0), work=0.5)
    less = Group((Case("x", half, (side("peer", 4.0),)),), None, cost, flops=lambda: 30.0, peak=lambda: 60.0)
    assert rows([less])[0].ours_share == 0.125 == rows([less])[0].peer_share
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert cases.apart(torch.tensor([3.0, 4.5, 9.0]), truth) == pytest.approx(0.1)


def test_pages_and_quantities() -> None:
    assert [quantity(v, "s") for v in (2.5, 0.0123, 4.2e-5, 3e-9)] == ["2.5 s", "12.3 ms", "42 us", "3 ns"]
    assert [quantity(v, "B") for v in (4.97e8, 1234567890.0, 4096.0, 3.0)] == ["497 MB", "1235 MB", "4.1 kB", "3 B"]
    group = Group((Case("a | b", side("ours", 1.0), (side("peer", 2.0),)),), lambda: torch.ones(4).double(), cost)
    row = rows([group])[0]
    newer = dataclasses.replace(row, ours=0.5, key="other")
    page = report.results([row, newer])
    assert "a \\| b" in page and "0.5 s" not in page and "500 ms" in page and page.count("| a ") == 1
    assert "a processor, 2 threads; torch 2, diffusers 0, guided 0 (abc)" in page and row.date in page
    assert latest([row, newer]) == [newer]
    shown = report.text([row], HERE)
    assert "2.000 [2.000, 2.000]" in shown and "1 s / 2 s" in shown


def test_the_peak_is_no_less_than_a_product_reaches() -> None:
    def reached() -> float:
        a = torch.randn(512, 512)
        start = time.perf_counter()
        a @ a
        return 2 * 512**3 / (time.perf_counter() - start)

    found = machine.peak("cpu", torch.float32, 512)
    assert 1e8 < found < 1e15 and found > 0.3 * sorted(reached() for _ in range(20))[10]


def test_without_gradients_and_its_result_kept_apart() -> None:
    weight = torch.ones(2, requires_grad=True)
    held = torch.zeros(2)

    def run() -> Tensor:
        return held.add_(weight)

    made = cases.no_grad(run)
    assert made.found is not None
    first = made.found()
    made.run()
    assert not first.requires_grad and first.tolist() == [1.0, 1.0]
