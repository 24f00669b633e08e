"""The rows for a person: a table in a terminal, and RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence

from guided.bench.machine import Machine
from guided.bench.record import Record, latest, means, quantity
from guided.bench.timing import INTERVAL

_ABOUT = {
    "unet": "One call of the network. The weights of both are the same; errors are relative to float64.",
    "sample": "A whole text-to-image loop, from noise to the last x; errors are relative to the loop in float64.",
    "train": "A whole training step: loss, gradients, clipping, AdamW, EMA; and the memory that a step adds.",
    "overhead": "Time outside the network for each step, with classifier-free guidance and a network of no cost.",
    "scaling": "Growth with batch, size, length of text and steps.",
}


def text(records: Sequence[Record], machine: Machine) -> str:
    """The rows under one another, at most 120 columns wide, each with what was tried of the peer."""
    lines = [str(machine), f"ratio: peer / ours, above 1 ours costs less; in brackets {INTERVAL}", ""]
    said = ""
    for record in records:
        lines.append(record.name)
        sides = f"{quantity(record.ours, record.unit)} / {quantity(record.peer, record.unit)}"
        notes = [*_errors(record), *_shares(record)]
        lines.append(
            f"    {record.ratio:6.3f} [{record.low:.3f}, {record.high:.3f}]   {sides}   {'; '.join(notes)}".rstrip()
        )
        if tried(record) != said:
            said = tried(record)
            lines.append(f"    peer: {said}")
    return "\n".join(lines)


def tried(record: Record) -> str:
    """The peer's setting, and those that it won against."""
    count = len(record.tried)
    return record.peer_setting + (f" (best of {count} tried: {' | '.join(record.tried)})" if count > 1 else "")


def _errors(record: Record) -> list[str]:
    if record.ours_error is None or record.peer_error is None:
        return []
    return [f"error {record.ours_error:.1e} / {record.peer_error:.1e}"]


def _shares(record: Record) -> list[str]:
    if record.ours_share is None or record.peer_share is None:
        return []
    return [f"{record.ours_share:.0%} / {record.peer_share:.0%} of peak"]


def results(records: Sequence[Record]) -> str:
    """The last row of each name as a page of Markdown, by machine and command."""
    rows = latest(records)
    rows += means(rows)
    lines = ["# What `guided bench` measured", ""]
    lines += [
        "`ratio` is peer / ours: above 1, ours costs less. Rounds are interleaved, each in a random order; times are",
        f"medians, a ratio is the median of the ratios of each round, in brackets {INTERVAL}.",
        "`error` is |y - y64| / |y64|, ours / peer's, y64 the same in float64. `peak`: the share of the fastest matrix",
        "product measured in the same run. Make this page anew: `guided bench unet --out rows.jsonl` (and `sample`,",
        "`train`, `overhead`), then `guided bench report rows.jsonl --out RESULTS.md`.",
    ]
    for facts in _distinct([row.machine for row in rows]):
        here = [row for row in rows if row.machine == facts]
        dates = sorted({row.date for row in here if row.date})
        lines += ["", f"## {Machine(**facts)}", "", f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."]  # type: ignore[arg-type]
        for command in dict.fromkeys(row.command for row in here):
            lines += ["", f"### {command}", "", _ABOUT.get(command, ""), ""]
            lines += ["| | ours | peer | ratio | error | peak | rounds | how ours ran | how the peer ran |"]
            lines += ["|---|---|---|---|---|---|---|---|---|"]
            lines += [_line(row) for row in here if row.command == command]
    return "\n".join(lines) + "\n"


def _line(row: Record) -> str:
    cells = [
        row.name,
        quantity(row.ours, row.unit),
        quantity(row.peer, row.unit),
        f"{row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}]",
        "".join(_errors(row)).removeprefix("error "),
        "".join(_shares(row)).removesuffix(" of peak"),
        str(row.rounds),
        row.ours_setting,
        tried(row),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _distinct(values: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
