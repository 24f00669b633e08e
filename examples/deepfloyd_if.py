"""DeepFloyd IF: the first stage draws 64 x 64 pixels, the second enlarges them.

python examples/deepfloyd_if.py FIRST SECOND "a blue bird on a branch" [--compile]
FIRST, SECOND: pipelines as diffusers saves them, or hub ids: DeepFloyd/IF-I-M-v1.0, DeepFloyd/IF-II-M-v1.0.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F

import guided
from guided.guide import cfg, threshold
from guided.model.conditioning import encode


def main(
    first: str, second: str, prompt: str, out: str = "out", steps: int = 40, seed: int = 0, compiled: bool = False
) -> torch.Tensor:
    """Draw a prompt in two stages; the large picture, (1, 3, H, W)."""
    base, large = guided.load(first), guided.load(second)
    if compiled:
        base.denoiser.network.compile()
        large.denoiser.network.compile()
    # Imagen's dynamic threshold keeps strong guidance within the range of pixels (arXiv 2205.11487, section 2.3).
    small = base.generate(prompt, steps=steps, guide=cfg(7) >> threshold(0.95), seed=seed)
    small.save(out, "small-")
    # The second stage reads the small picture with a little noise, and is told how much: so it mends what is wrong.
    height, width = large.size
    noise, level = guided.Noise([seed]).child("second stage"), 0.3
    image = F.interpolate(small.tensor, (height, width), mode="bilinear")
    image = image + level * noise.child("augmentation")(0, image.shape[1:])
    text = encode(large.encoders["text"], [prompt])
    cond = guided.Cond(tokens=text.tokens, mask=text.mask, image=image, aug=torch.tensor([level]))
    path = guided.path.default(steps, large.denoiser.lo, large.denoiser.hi, w=4)
    x = float(path[0]) * noise(0, image.shape[1:])
    enlarged = guided.sample((cfg(4) >> threshold(0.95))(large.denoiser), x, path, cond)
    guided.Result(enlarged, [{"prompt": prompt, "seed": seed, "first": small.records[0]}]).save(out, "large-")
    return enlarged


if __name__ == "__main__":
    main(*[word for word in sys.argv[1:] if word != "--compile"], compiled="--compile" in sys.argv)
