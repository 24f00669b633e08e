"""One network, several tasks: teach it to undo what is done to pictures, then give it a spoilt one.

A task is a function from a picture to what is left of it. Training pairs, the pixels that are known, the trivial answer
and the figures all follow from it; `guided.degrade` has ten, and a recipe names them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import guided
from guided.evaluate import Options, evaluate

RECIPE = {
    "name": "restorer",
    "data": {"path": "shapes", "size": 32, "condition": "none"},
    "translate": {"tasks": ["inpaint", "jpeg(5, 20)", "colourise"]},
    "model": {"preset": "local", "widths": [32, 64, 128], "groups": 8},
    "denoiser": {"around": True, "sigma_data": 0.2, "lo": 0.005, "hi": 10},
    "noise": {"mean": -1.5, "std": 1.5},
    "train": {"images": 24_000, "optimizer": "muon", "lr": 2e-3, "drop": 0.0, "precision": "bf16"},
}


def main(out: str = "runs/restorer", n: int = 200, **changes: Any) -> dict[str, float]:
    """Train, restore a picture, and judge every task; returns the gain in PSNR over the trivial answer, in dB."""
    overrides = {"out": out, **{name.replace("__", "."): value for name, value in changes.items()}}
    for step in guided.fit(RECIPE, overrides):
        print(f"\r{step.images} images, loss {step.loss:.3f}", end="", file=sys.stderr)
    model = step.model

    photo = np.full((32, 32, 3), 200, np.uint8)
    photo[8:24, 8:24] = (220, 40, 40)
    filled = model.translate(photo, task="inpaint", mask=(10, 10, 20, 20), steps=8)
    assert np.array_equal(filled.arrays[0][:10], photo[:10]), "what is kept is kept bit for bit"

    report = evaluate(model, "shapes", Options(n=n, steps=8))
    return {f.at: f.value - f.beside["baseline"] for f in report.figures if f.name.startswith("PSNR")}


if __name__ == "__main__":
    for task, gain in main().items():
        print(f"{task}: {gain:+.1f} dB")
