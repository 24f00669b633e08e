"""Tiny pictures, tiny recipes, and the bytes of a finished run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("round", "square")


def pictures(folder: Path, count: int = 20, size: int = 8) -> Path:
    """A folder of two classes of small pictures, the same ones every time."""
    draw = np.random.default_rng(0)
    for at in range(count):
        place = folder / CLASSES[at % 2]
        place.mkdir(parents=True, exist_ok=True)
        base = draw.integers(0, 256, 3) if at % 2 else draw.integers(100, 200, 3)
        array = np.clip(base + draw.integers(-30, 30, (size, size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(array).save(place / f"{at:02d}.png")
    return folder


def tiny(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A recipe with everything on: parts, both averages, the early snapshot, both dropouts, the learned weight."""
    values: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "out": str(out),
        "data": {"path": str(data), "size": 8, "condition": "class", "hold_out": {"share": 0.1, "pairs": 0}},
        "model": {"preset": "tiny-class", "widths": [8, 8], "head_width": 8, "dropout": 0.1},
        "loss": {"learned": True},
        "train": {
            "images": 120,
            "batch_size": 4,
            "accumulate": 2,
            "lr": 2e-3,
            "warmup": 24,
            "ema": [0.05, 0.1],
            "early": 0.2,
            "drop": 0.2,
            "save_every": 24,
            "preview_every": 0,
            "held_every": 60,
            "tensorboard": False,
        },
        "sample": {"steps": 2},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values.setdefault(section, {})[name] = value
        else:
            values[section] = value
    return values


def digest(out: Path) -> dict[str, str]:
    """The checksum of every file of a finished run but its record, by its path within the run."""
    files = sorted(file for file in out.rglob("*") if file.is_file() and file.name != "run.json")
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
