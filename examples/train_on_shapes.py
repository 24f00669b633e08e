"""Train a small text-to-image model on rendered shapes and draw from it. No data to fetch, no text encoder but MiniLM.

python examples/train_on_shapes.py          # about 20 minutes on 2 CPU cores
"""

from __future__ import annotations

import guided


def main(out: str = "runs/shapes-example", **changes: object) -> guided.Result:
    """Train by the recipe (any `section__key=value` replaces its value) and draw four captions."""
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    model = None
    for step in guided.fit("recipes/shapes32.yaml", {**overrides, "out": out}):
        if step.saved or step.model:
            print(f"{step.images} of {step.total} images, loss {step.loss:.4f}, {step.images_per_second:.0f} a second")
        model = step.model
    prompts = ["a small red circle in the top left", "a large blue square in the center"]
    drawn = model.generate(prompts, n=2, w=3.0, seed=0)
    for path in drawn.save(f"{out}/drawn"):
        print(path)
    return drawn


if __name__ == "__main__":
    main()
