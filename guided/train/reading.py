"""Reading recipes: YAML without its traps, TOML, and dotted overrides. Nothing in a file is ever run."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

LARGEST = 1 << 20
DEEPEST = 32

# YAML 1.2's core schema: 1e-4 is a number, `no` and 12:30 are text. (PyYAML follows 1.1, where it is the reverse.)
_SCALARS = (
    (re.compile(r"(?:null|Null|NULL|~|)\Z"), lambda text: None),
    (re.compile(r"(?:true|True|TRUE)\Z"), lambda text: True),
    (re.compile(r"(?:false|False|FALSE)\Z"), lambda text: False),
    (re.compile(r"[-+]?[0-9][0-9_]*\Z"), int),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(?:nan|NaN|NAN)\Z"), lambda text: float("nan")),
)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The sections of a recipe file; `.toml` by its ending, YAML otherwise.

    Raises FileNotFoundError, or ValueError naming file and line for what is empty, damaged, too deep, given twice,
    or asks for aliases or tags.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such recipe file")
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file}: larger than {LARGEST >> 20} MiB; this is no recipe")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not text in UTF-8 ({error.reason} at byte {error.start})") from None
    found = _toml(text, file) if file.suffix.lower() == ".toml" else parse(text, str(file))
    if not found:
        raise ValueError(f"{file}: the recipe is empty; expected sections such as data:, model: and train:")
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected sections such as data: and train:, got {type(found).__name__}")
    return found


def _toml(text: str, file: Path) -> Any:
    if max(map(len, re.findall(r"[\[{]+", text)), default=0) > DEEPEST:
        raise ValueError(f"{file}: nested more than {DEEPEST} levels deep")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: not sound TOML: {error}") from None


def parse(text: str, where: str = "recipe") -> Any:
    """A YAML document as plain dicts, lists and scalars; ValueError naming the line of what is not plain."""
    try:
        _check_events(text, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{where}{line}: not sound YAML: {problem}") from None
    return None if node is None else _value(node, where)


def _check_events(text: str, where: str) -> None:
    """Refuse in one pass, before anything is built, what could unfold, recurse or run."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = f"{where}:{event.start_mark.line + 1}"  # type: ignore[union-attr]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"{line}: anchors and aliases (& and *) are not read; write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            raise ValueError(f"{line}: the tag {tag!r} is refused; a recipe holds plain values only")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise ValueError(f"{line}: nested more than {DEEPEST} levels deep")


def _value(node: yaml.Node, where: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = f"{where}:{name_node.start_mark.line + 1}"
            if not isinstance(name_node, yaml.ScalarNode):
                raise ValueError(f"{line}: a key is plain text")
            if name_node.value in out:
                raise ValueError(f"{line}: the key {name_node.value!r} is given twice")
            out[name_node.value] = _value(value_node, where)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, where) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return node.value if node.style in ("'", '"', "|", ">") else scalar(node.value)


def scalar(text: str) -> Any:
    """An unquoted YAML 1.2 scalar: null, true, false, a number, or else text."""
    for pattern, make in _SCALARS:
        if pattern.match(text):
            return make(text)
    return text


def overridden(
    values: Mapping[str, Any], overrides: Mapping[str, Any] | Sequence[str], text_keys: frozenset[str]
) -> dict[str, Any]:
    """`values` with dotted keys replaced; overrides are a mapping or `section.key=value` strings.

    A string's value is read as YAML, except for the keys of `text_keys`, which take it as it stands.
    Raises ValueError for an override without `=` or through something that is no section.
    """
    out: dict[str, Any] = _copy(values)
    for key, value in _pairs(overrides, text_keys):
        *sections, last = key.split(".")
        place = out
        for section in sections:
            inner = place.setdefault(section, {})
            if inner is None:
                inner = place[section] = {}
            if not isinstance(inner, dict):
                raise ValueError(f"override {key}: {section!r} is no section but {inner!r}")
            place = inner
        place[last] = value
    return out


def _pairs(overrides: Mapping[str, Any] | Sequence[str], text_keys: frozenset[str]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return [(str(key), value) for key, value in overrides.items()]
    pairs: list[tuple[str, Any]] = []
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key.strip("-. "):
            raise ValueError(f"override {item!r}: expected section.key=value, as in train.images=20000")
        key = key.strip()
        plain = key in text_keys and value not in ("null", "~")
        pairs.append((key, value if plain else parse(value, f"override {key}")))
    return pairs


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value
