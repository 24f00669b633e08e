"""What an adapter is, in words, for `guided inspect`."""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from guided._safetensors import Header
from guided.tune.adapters import folder, keys
from guided.tune.adapters.adapter import Adapter
from guided.tune.adapters.reading import read


def of_folder(place: pathlib.Path) -> dict[str, Any]:
    """Facts of an adapter's folder, all of it checked; raises as `read`."""
    adapter = read(place)
    base = dict(adapter.base or {})
    facts = {
        "folder": str(place),
        "kind": f"adapter {adapter.name!r}: {adapter.method}",
        "base": base.get("source"),
        "base's weights": base.get("sha256"),
        **counted(adapter),
        "sha256": adapter.sha256,
        "card": dict(adapter.card) or None,
        "checksums": "right" if (place / folder.MANIFEST).is_file() else None,
    }
    return {name: value for name, value in facts.items() if value not in (None, {}, "")}


def counted(adapter: Adapter) -> dict[str, Any]:
    """How many layers of which part an adapter changes, in which ranks, and its new words."""
    ranks: Mapping[str, Any] = {
        part: dict(sorted(Counter(change.rank for change in changes.values()).items()))
        for part, changes in adapter.layers.items()
    }
    told = {
        part: f"{sum(found.values())} layers, rank {', '.join(map(str, found))}"
        for part, found in ranks.items()
        if found
    }
    words = {word: {part: len(rows) for part, rows in vectors.items()} for word, vectors in adapter.words.items()}
    return {"changes": told, "words": words, "parameters": f"{adapter.parameters:,}"}


def of_keys(header: Header) -> dict[str, Any]:
    """What the keys of a file say: whether it is a LoRA's, and of which parts."""
    try:
        found = Counter(keys.parse(name).part for name in header.tensors if ".lora" in name or "lora_" in name)
    except ValueError:
        return {}
    if not found:
        return {}
    dora = any("dora_scale" in name or "magnitude" in name for name in header.tensors)
    told = {part: f"{count} tensors" for part, count in sorted(found.items())}
    return {"adapter": "DoRA" if dora else "LoRA", "changes": told}
