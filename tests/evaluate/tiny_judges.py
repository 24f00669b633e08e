"""Judges of random weights in the files that their publishers have, and the `lpips` package as it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from guided._compat import ensure_torchvision

HEADS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def timm_folder(folder: Path, *, legacy: bool = False, seed: int = 0, **asked: object) -> Path:
    """A tiny ViT with 7 classes as timm writes it for the hub; `asked` changes how it takes pictures."""
    ensure_torchvision()
    import timm
    from safetensors.torch import save_file

    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **size)
    settings = {
        **{"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"},
        **{"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3], "num_classes": 7, "first_conv": "patch_embed.proj"},
        **{"classifier": "head", "fixed_input_size": True, **asked},
    }
    said = {"architecture": "vit_tiny_patch16_224", "num_classes": 7, "num_features": 24}
    folder.mkdir(parents=True)
    written = {**said, **settings} if legacy else {**said, "pretrained_cfg": settings, "model_args": size}
    (folder / "config.json").write_text(json.dumps(written))
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def inception() -> dict[str, Tensor]:
    """Weights of FID's Inception under its published names, such that the activations keep their size."""
    ensure_torchvision()
    from torchvision.models import Inception3

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names = Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
        return {name: _random(name, value) for name, value in names.items()}


def _random(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    if name.endswith("conv.weight"):
        return torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5
    if name.endswith(("bn.weight", "running_var")):
        return torch.rand(value.shape) + 0.5
    return 0.3 * torch.randn(value.shape)


def lpips_package(place: Path, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """A folder of packages with `lpips` in it, whose code must not be run; the weights of the channels in it."""
    folder = place / "lpips" / "weights" / "v0.1"
    folder.mkdir(parents=True)
    (place / "lpips" / "__init__.py").write_text("raise AssertionError('imported')\n")
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for name, widths in HEADS.items():
        found[name] = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1, generator=rng) for i, n in enumerate(widths)}
        torch.save(found[name], folder / f"{name}.pth")
    return found


def backbone(name: str) -> dict[str, Tensor]:
    """torchvision's AlexNet or the convolutions of its VGG16, at random."""
    ensure_torchvision()
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if name == "alex":
            made = models.alexnet(weights=None).state_dict()
            # The classifier is 200 MB of what is not read.
            return {key: value if key.startswith("f") else value.flatten()[:4].clone() for key, value in made.items()}
        layers = models.vgg.make_layers(models.vgg.cfgs["D"])
        return {f"features.{key}": value for key, value in layers.state_dict().items()}
