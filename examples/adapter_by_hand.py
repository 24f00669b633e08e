"""A LoRA without the trainer: put one on a network, learn in a plain loop, weigh it, merge it."""

from __future__ import annotations

import torch

import guided
from guided.cond import Cond
from guided.noise import Noise
from guided.tune import adapters


def main(base: str = "emoji", out: str = "runs/warm.safetensors", updates: int = 200, size: int = 32) -> list[float]:
    """Teach a model that everything is warmer; returns red less blue of what it draws with weights 0, 0.5 and 1.

    It learns without a prompt or a class, and is drawn so (w = 0).
    """
    model = guided.load(base)
    denoiser = model.denoiser
    weights = adapters.fresh(denoiser.network, rank=4, targets="convolutions")  # changes nothing until it is trained
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3)
    pictures = model.generate(n=8, **asked(model), steps=8, seed=100).tensor
    tint = torch.tensor([0.25, 0.0, -0.25])[:, None, None]
    for update in range(updates):
        sigma = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0], dtype=torch.float64)
        noise = Noise(range(8), "by hand")(update, pictures.shape[1:])
        x = pictures + tint + sigma.float()[:, None, None, None] * noise
        loss = (denoiser(x, sigma, Cond()) - pictures - tint).square().mean((1, 2, 3)) / sigma.float().square().clamp(1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()

    adapters.save(model, out, base=base)
    model = guided.load(base)
    adapters.inject(model, out, name="warm")
    warmth = []
    for weight in (0.0, 0.5, 1.0):
        adapters.reweight(model, {"warm": weight})
        drawn = model.generate(n=4, **asked(model), steps=8, w=0.0, seed=0).tensor
        warmth.append(float((drawn[:, 0] - drawn[:, 2]).mean()))
    adapters.merge(model)  # from here on an ordinary model
    return warmth


def asked(model: guided.Model) -> dict[str, object]:
    """A prompt or a class where the model wants one."""
    return {"prompts": "red apple"} if "text" in model.encoders else {"labels": 0} if model.classes else {}


if __name__ == "__main__":
    print("red less blue at weights 0, 0.5, 1:", ", ".join(f"{value:+.3f}" for value in main()))
