"""Any data set of the `datasets` library: an object, a folder of `save_to_disk`, or a hub id."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guided.data.records import BadPicture, Record, describe, plain


class HubSource:
    """A map-style `datasets.Dataset`: its Image column undecoded, so that our own decoder reads every picture.

    Raises ValueError where no column holds pictures, or captions or labels are of another type.
    """

    def __init__(self, dataset: Any, caption_key: str = "text", label_key: str = "label", path: str = ""):
        features = dataset.features
        images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
        if not images:
            raise ValueError(f"{path or 'data set'}: no Image column among {', '.join(features)}")
        from datasets import Image

        self.dataset = dataset.cast_column(images[0], Image(decode=False))
        self._image = images[0]
        captions = self._column(caption_key, str, path)
        labels = self._column(label_key, int, path)
        self.classes = self._names(features.get(label_key), labels)
        wrong = [i for i, k in enumerate(labels) if k is not None and not 0 <= k < len(self.classes)]
        if wrong:
            raise ValueError(
                f"{path or 'data set'}: label {labels[wrong[0]]} in row {wrong[0] + 1} ({len(wrong)} such rows): "
                f"expected 0 to {len(self.classes) - 1}, or null"
            )
        self.records: Sequence[Record] = [
            Record(f"row {i + 1}", plain(text), label)
            for i, (text, label) in enumerate(zip(captions, labels, strict=True))
        ]
        self.skipped: tuple[tuple[str, str], ...] = ()
        self.summary = describe(
            "hub", path or "data set", self.records, self.classes, captioned=caption_key in features
        )

    def bytes(self, i: int) -> bytes:
        """The encoded picture of row i; raises BadPicture where there is none."""
        cell = self.dataset[i][self._image]
        if isinstance(cell, Mapping):
            if cell.get("bytes") is not None:
                return bytes(cell["bytes"])
            if cell.get("path"):
                try:
                    return Path(cell["path"]).read_bytes()
                except OSError as error:
                    raise BadPicture(f"row {i + 1}: {cell['path']}: {error.strerror}") from None
        raise BadPicture(f"row {i + 1}: its picture is null")

    def _column(self, key: str, kind: type, path: str) -> list[Any]:
        if key not in self.dataset.features:
            return [None] * len(self.dataset)
        values = list(self.dataset[key])
        for i, value in enumerate(values):
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                got = type(value).__name__
                raise ValueError(f"{path or 'data set'}: {key!r} in row {i + 1}: expected {kind.__name__}, got {got}")
        return values

    @staticmethod
    def _names(feature: Any, labels: Sequence[int | None]) -> tuple[str, ...]:
        names = getattr(feature, "names", None)
        if names:
            return tuple(names)
        known = [label for label in labels if label is not None]
        return tuple(str(i) for i in range(max(known) + 1)) if known and max(known) >= 0 else ()


def hub(dataset: Any, caption_key: str = "text", label_key: str = "label") -> HubSource:
    """Open a `datasets` data set (of several splits: train), one saved to disk, or one of the hub by its id."""
    path = ""
    if isinstance(dataset, str | os.PathLike):
        path = str(dataset)
        try:
            from datasets import load_dataset, load_from_disk
        except ImportError:
            raise ValueError(f"{path}: opening it needs datasets: pip install 'guided[train]'") from None
        dataset = load_from_disk(path) if os.path.isdir(path) else load_dataset(path)
    if isinstance(dataset, Mapping):
        dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()), None)
    if not hasattr(dataset, "cast_column") or not hasattr(dataset, "__len__"):
        raise ValueError(f"{path or 'data set'}: expected a map-style datasets.Dataset, got {type(dataset).__name__}")
    return HubSource(dataset, caption_key, label_key, path)
