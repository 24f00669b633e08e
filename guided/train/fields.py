"""Typed values of a recipe: true is not 1, nan is no number, and every refusal says what was expected."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

ELSEWHERE = {"learning_rate": "lr", "steps": "images", "iterations": "images", "gradient_clipping": "clip"}
ELSEWHERE |= {"ema_decay": "ema", "mixed_precision": "precision", "image_size": "size", "resolution": "size"}
ELSEWHERE |= {"kind": "preset", "seeds": "seed", "output_dir": "out", "num_workers": "workers", "guidance": "w"}
"""What other trainers call our keys."""

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


def _field(check: Callable[[Any], Any]) -> BeforeValidator:
    return BeforeValidator(check)


def whole(low: int | None = None, high: int | None = None) -> BeforeValidator:
    """A whole number; 1e5 is one, true and "8" are not."""
    bounds = _bounds(low, high)

    def check(value: Any) -> int:
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        if not isinstance(number, int) or isinstance(number, bool) or not _within(number, low, high):
            raise ValueError(f"expected a whole number{bounds}")
        return number

    return _field(check)


def number(low: float | None = None, high: float | None = None, above: float | None = None) -> BeforeValidator:
    """A finite number within bounds; `above` is a bound it must exceed."""
    bounds = _bounds(low, high) if above is None else f" > {above:g}" + _bounds(None, high)

    def check(value: Any) -> float:
        fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fine or not _within(value, low, high) or (above is not None and value <= above):
            raise ValueError(f"expected a number{bounds}")
        return float(value)

    return _field(check)


def one_of(*names: str) -> BeforeValidator:
    """One of these words; the refusal offers the nearest."""

    def check(value: Any) -> str:
        if value in names and isinstance(value, str):
            return value
        raise ValueError(f"expected one of {', '.join(names)}{meant(value, names)}")

    return _field(check)


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("expected text")
    return value


text = _field(_text)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


truth = _field(_truth)


def truth_or(word: str) -> BeforeValidator:
    """True, false, or one word that is a third way."""

    def check(value: Any) -> bool | str:
        if isinstance(value, bool) or value == word:
            return value  # type: ignore[no-any-return]
        raise ValueError(f"expected true, false or {word}")

    return _field(check)


def sequence(least: int = 0) -> BeforeValidator:
    """A list of at least so many entries, as a tuple."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) < least:
            raise ValueError("expected a list" + (f" of at least {least}" if least else ""))
        return tuple(value)

    return _field(check)


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    return f" >= {low:g}" if low is not None else f" <= {high:g}" if high is not None else ""


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def meant(value: object, names: Sequence[str]) -> str:
    """`; did you mean "x"?` where a known name is near, or one that others use for the same; else nothing."""
    others = {other: name for other, name in ELSEWHERE.items() if name in names}
    near = difflib.get_close_matches(str(value), [*names, *others], 1, 0.6)
    return f'; did you mean "{others.get(near[0], near[0])}"?' if near else ""


def checked(kind: type[M], values: Mapping[str, Any], where: str) -> M:
    """The model of `kind` from plain values; ValueError listing every fault as `where: section.key: expected ...`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_line(kind, item, where) for item in error.errors(include_url=False))
        raise ValueError("\n".join(lines)) from None


def _line(kind: type[BaseModel], error: Mapping[str, Any], where: str) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    place = f"{where}: {key}" if key else where
    if error["type"] == "extra_forbidden":
        known = _known(kind, path[:-1])
        near = meant(path[-1], known) or f"; known here: {', '.join(known)}"
        return f"{place}: unknown key{near}"
    if error["type"] == "missing":
        return f"{place}: missing; this key has no default"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place}: expected a section of keys, got {shown(error['input'])}"
    expected = str(error["msg"]).removeprefix("Value error, ")
    head, _, tail = expected.partition(";")
    if not head.startswith("expected"):
        return f"{place}: {expected}"
    return f"{place}: {head}, got {shown(error['input'])}" + (f";{tail}" if tail else "")


def _known(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    for name in path:
        field = kind.model_fields.get(name)
        inner = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        kinds = [part for part in inner if isinstance(part, type) and issubclass(part, BaseModel)]
        if not kinds:
            return []
        kind = kinds[0]
    return list(kind.model_fields)


def shown(value: object) -> str:
    """A value as a recipe would write it, at most 60 characters."""
    try:
        out = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        out = repr(value)
    return out if len(out) <= 60 else out[:57] + "..."
