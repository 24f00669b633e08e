"""Ten edits in a row on one photo: what lies outside the masks never changes, by a single bit.

python examples/inpaint_ten_times.py [PHOTO]
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

import guided


def main(photo: str | None = None, rounds: int = 10, steps: int = 8) -> tuple[int, float]:
    """How many pixels outside all masks differ in the end, and how many inside, as a share."""
    model = guided.load("emoji")
    rng = np.random.default_rng(0)
    first = np.asarray(Image.open(photo)) if photo else rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    now, touched = first, np.zeros(first.shape[:2], bool)
    for seed in range(rounds):
        top, left = (int(rng.integers(0, side // 2)) for side in touched.shape)
        mask = np.zeros_like(touched)
        mask[top : top + 30, left : left + 40] = True
        now = model.inpaint(now, "red heart", mask=mask, seed=seed, steps=steps).arrays[0]
        touched |= mask
    moved = (now != first).any(-1)
    return int(moved[~touched].sum()), float(moved[touched].mean())


if __name__ == "__main__":
    outside, inside = main(*sys.argv[1:2])
    print(f"outside the masks {outside} pixels changed, inside {100 * inside:.1f} %")
