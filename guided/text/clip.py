"""How well a picture fits a text, by the two towers of an open_clip model: a function to guide with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from guided._compat import ensure_torchvision
from guided.cond import Cond
from guided.text._locate import Found, locate
from guided.text.encoder import checked


@dataclass(frozen=True, eq=False)
class ClipSimilarity:
    """See `clip_similarity`. text: (B or 1, d), unit vectors, row by row those of the images."""

    towers: nn.Module
    text: Tensor
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, D: Tensor, cond: Cond | None = None) -> Tensor:
        if D.shape[1] != len(self.mean):
            raise ValueError(f"CLIP sees pictures of {len(self.mean)} channels, got {D.shape[1]}; decode latents first")
        picture = F.interpolate((D.float() + 1) / 2, self.size, mode="bicubic", antialias=True, align_corners=False)
        mean, std = (picture.new_tensor(values).reshape(-1, 1, 1) for values in (self.mean, self.std))
        seen = F.normalize(self.towers.encode_image((picture - mean) / std), dim=-1)  # type: ignore[operator]
        cosine = (seen * self.text.to(seen)).sum(-1)
        return (self.towers.logit_scale.exp() * cosine).to(D.dtype)  # type: ignore[operator, union-attr, no-any-return]


def clip_similarity(spec: str, prompts: str | Sequence[str], device: str | torch.device = "cpu") -> ClipSimilarity:
    """The similarity of pictures to prompts under an open_clip model, for `gradient(..., reads="D")`.

    CLIP guidance (Nichol et al. 2021, arXiv 2112.10741, section 2.3), on the denoised estimate, so that any published
    CLIP will do. f(D, cond): D (B, 3, H, W) in [-1, 1] of any size -> the logits (B,), cosine times the model's
    temperature. spec: a folder or hub id of an open_clip model, or "open_clip:ARCH:FILE.safetensors"; prompts: one for
    all images, or one each. Raises FileNotFoundError, or ValueError where it is no open_clip model.
    """
    texts = checked([prompts] if isinstance(prompts, str) else list(prompts))
    ensure_torchvision()
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("CLIP guidance needs open_clip: pip install 'guided[text]'") from error
    found = locate(spec)
    if found.library != "open_clip":
        raise ValueError(f"{spec!r} is no open_clip model (open_clip_config.json); CLIP guidance needs both its towers")
    towers, preprocess = both_towers(open_clip, found)
    towers = towers.eval().requires_grad_(False).to(device)
    size = towers.visual.image_size
    name = found.arch or f"local-dir:{found.folder}"
    words = open_clip.get_tokenizer(name)(list(texts)).to(device)
    with torch.no_grad():
        text = F.normalize(towers.encode_text(words), dim=-1)
    mean = tuple(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(preprocess.get("std") or open_clip.OPENAI_DATASET_STD)
    return ClipSimilarity(towers, text, (size, size) if isinstance(size, int) else tuple(size), mean, std)


def both_towers(open_clip: Any, found: Found) -> tuple[Any, dict[str, Any]]:
    """Both towers with their weights, and what their pictures were prepared with."""
    preprocess: dict[str, Any] = {}
    if found.arch is None:
        preprocess = json.loads((found.folder / "open_clip_config.json").read_text()).get("preprocess_cfg") or {}
    name = found.arch or f"local-dir:{found.folder}"
    towers = open_clip.create_model(name, load_weights=False, pretrained_hf=False)
    try:
        towers.load_state_dict({key: value for path in found.weights for key, value in load_file(path).items()})
    except RuntimeError as error:
        raise ValueError(f"CLIP {found.name!r}: its weights do not fit its towers: {error}") from None
    return towers, preprocess
