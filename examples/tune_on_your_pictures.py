"""Teach a model a word from a few pictures, see what it cost, and draw with the adapter, or without.

What a model knew is held in place by pictures it drew itself: on them the target is what it says already. Checks along
the way measure what it forgets, keep the best state within a budget, and end the run when it has learnt what it can.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from PIL import Image, ImageDraw

import guided
from guided.tune import Asked, adapters, tune

COLOURS = [(230, 60, 60), (250, 180, 40), (60, 160, 80), (50, 110, 220), (150, 80, 190), (240, 120, 180)]


def some_pictures(folder: pathlib.Path) -> pathlib.Path:
    """Six flags of a country that no model knows, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, colour in enumerate(COLOURS):
        picture = Image.new("RGB", (64, 64), "white")
        draw = ImageDraw.Draw(picture)
        draw.rectangle((4, 14, 60, 50), fill=colour, outline="black")
        draw.line((4, 14, 60, 50), fill="white", width=6)
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("flag: zubrowka")
    return folder


def main(base: str = "emoji", out: str = "runs/flags", prompt: str = "flag: zubrowka", **changes: Any) -> float:
    """Tune, draw, and take the adapter off again; returns what of its base it forgot, as a rise of the loss."""
    pictures = some_pictures(pathlib.Path(out) / "pictures")
    overrides = {name.replace("__", "."): value for name, value in changes.items()}
    for step in tune(base, pictures, out, method="lora", asked=Asked(budget=0.05), changes=overrides):
        print(f"\r{step.images} images, loss {step.loss:.3f}", end="", file=sys.stderr)
    tuned = step.model.card["tuned"]
    print(f"\nshort of {tuned['short']}: {tuned['why']}", file=sys.stderr)

    model = guided.load(out)  # an adapter names its base
    with_it = model.generate(prompt, n=4, seed=0)
    with_it.save(pathlib.Path(out) / "drawn")
    adapters.eject(model)
    assert model.hash == guided.load(base).hash, "the base is as it was, bit for bit"
    return next(check["forgotten"] for check in tuned["checks"] if check["images"] == tuned["chosen"])


if __name__ == "__main__":
    print(f"forgotten: {main():+.1%} (a rise of the loss on the base's own pictures)")
