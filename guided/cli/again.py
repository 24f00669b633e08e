"""From the record of a picture to the command that makes it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guided.cli.common import quoted


def command(record: Mapping[str, Any]) -> str | None:
    """The command line that draws the picture of a record; None where it was drawn in Python, as no command can."""
    if isinstance(record.get("asked"), Mapping):
        return _edit(record["asked"], record)
    if not isinstance(record.get("steps"), int) or "seed" not in record or "model" not in record:
        return None
    if "task" in record:  # made of another picture, which the record does not hold
        return None
    if "guide" in record and "w" not in record and "expression" not in record:
        return None
    from guided.solvers import NAMES, Fitted

    if record.get("solver") not in (*NAMES, Fitted.name):
        return None
    adapters = _adapters(record)
    if adapters is None:
        return None
    words = ["guided", "generate"]
    size = None if "stages" in record else record.get("size")  # a cascade's is not the one that is asked for
    options = {
        "--model": record["model"],
        "--lora": adapters,
        "--steps": record["steps"],
        "--w": None if "expression" in record else record.get("w"),
        "--guide": record.get("expression"),
        "--negative": record.get("negative"),
        "--size": f"{size[1]}x{size[0]}"
        if isinstance(size, list) and len(size) == 2 and "stages" not in record
        else None,
        "--solver": record["solver"],
        "--seed": record["seed"],
        "--device": record.get("device"),
        "--dtype": record.get("dtype"),
        "--label": record.get("class"),
    }
    words += _options(options)
    prompt = record.get("prompt")
    if prompt is not None:
        words += ["--", str(prompt)] if str(prompt).startswith("-") else [str(prompt)]
    return " ".join(quoted(str(word)) for word in words)


def _adapters(record: Mapping[str, Any]) -> list[str] | None:
    """The adapters that `--model` does not bring, or not in this weight; None where one came from no file."""
    found = []
    if any(stage.get("adapters") for stage in record.get("stages") or []):
        return None  # no command puts one on a stage
    for entry in record.get("adapters") or []:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
            return None
        weight = entry.get("weight", 1.0)
        if entry["file"] != record["model"] or weight != 1:
            found.append(entry["file"] if weight == 1 else f"{entry['file']}:{weight}")
    return found


def _options(options: Mapping[str, Any]) -> list[str]:
    """Options with their values. What begins with a dash would be read as another one, unless it is tied to its own."""
    words: list[str] = []
    single = [(name, one) for name, value in options.items() for one in (value if isinstance(value, list) else [value])]
    for name, value in single:
        if value is not None:
            words += [f"{name}={value}"] if str(value).startswith("-") else [name, str(value)]
    return words


def _edit(asked: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The command that made a picture of a photo, in the caller's words, on the machine's own terms."""
    flags = [name for name, value in asked.items() if value is True]
    rest = {f"--{name}": value for name, value in asked.items() if name not in ("task", "photo", "to", *flags)}
    rest |= {"--task": asked["to"]} if "to" in asked else {}
    machine = {"--device": record.get("device"), "--dtype": record.get("dtype")}
    words = ["guided", str(asked.get("task")), *_options({**rest, **machine, "--out": "again.png"})]
    words += [*(f"--{name}" for name in flags), "--", str(asked.get("photo"))]
    return " ".join(quoted(word) for word in words)


def remark(record: Mapping[str, Any]) -> str | None:
    """What a person should know who repeats it."""
    if "model" not in record:
        return "drawn with a model that was not opened from a folder: no command makes it again"
    if "task" in record and "asked" not in record:
        return f"made of another picture ({record['task']}): Model.edit and its kin make it again from that one"
    if command(record) is None:
        return "drawn in Python with a guide, a solver, a path or an adapter of its own: no command makes it again"
    batch = record.get("batch")
    if isinstance(batch, int) and batch > 1:
        return f"drawn in a batch of {batch}: alone, a few values may differ by one level of 255"
    return None
