"""Stable Diffusion with guidance in an interval of noise levels: fewer evaluations, and colours that do not burn out.

python examples/stable_diffusion_interval.py FOLDER "a lighthouse in a storm" [--compile]
FOLDER: a pipeline as diffusers saves it, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5.
"""

from __future__ import annotations

import sys

import guided
from guided.guide import cfg


def main(
    folder: str, prompt: str, out: str = "out", w: float = 7.5, steps: int = 30, seed: int = 0, compiled: bool = False
) -> dict[str, int]:
    """Draw the prompt with plain guidance and with guidance in an interval; how many evaluations each took."""
    model = guided.load(folder)
    if compiled:
        model.denoiser.network.compile()  # in place: guides and solvers go on as before
    counts: list[int] = []
    model.denoiser.register_forward_hook(lambda _, __, D: counts.append(len(D)))
    # Kynkaanniemi et al. 2024 (arXiv 2404.07724) found (0.28, 5.42] for SDXL. Guidance above it makes all pictures
    # alike, below it there is nothing left to decide: between them it may be stronger.
    guides = {"always": cfg(w), "interval": cfg(1.5 * w).during(0.28, 5.42)}
    found = {}
    for name, guide in guides.items():
        counts.clear()
        drawn = model.generate(prompt, guide=guide, steps=steps, seed=seed)
        drawn.save(out, f"{name}-")
        found[name] = sum(counts)
        print(f"{guide!r:40} {found[name]} evaluations")
    return found


if __name__ == "__main__":
    main(*[word for word in sys.argv[1:] if word != "--compile"], compiled="--compile" in sys.argv)
