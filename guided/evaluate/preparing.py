"""How other people's networks want their pictures: resized, cropped and normalised as they were trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Triple = tuple[float, float, float]
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preparation:
    """Pictures uint8 (N, 1 or 3, H, W) -> float32 (N, 3, h, w), by Pillow and then (x / 255 - mean) / std.

    size: (h, w) that the network sees. shortest: the shorter side is brought to this first, and the middle is cut out;
    None: both sides are brought to `size`, whatever becomes of the proportions. even: where the middle lies between two
    pixels, it is cut at the even one, as torchvision does, and not at the first, as transformers does.
    """

    size: tuple[int, int]
    shortest: int | None
    filter: Image.Resampling
    mean: Triple
    std: Triple
    even: bool = False

    def __post_init__(self) -> None:
        if self.shortest is not None and self.shortest < max(self.size):
            raise ValueError(
                f"pictures of {self.size[1]} x {self.size[0]} cannot be cut from ones whose shorter side is "
                f"{self.shortest}; expected a crop no larger than what is resized"
            )

    def __call__(self, pictures: Tensor) -> Tensor:
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
            raise TypeError(f"pictures are uint8 (N, 1 or 3, H, W), got {pictures.dtype} {tuple(pictures.shape)}")
        arrays = pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        seen = torch.from_numpy(np.stack([self._one(np.ascontiguousarray(array)) for array in arrays]))
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (self.mean, self.std))
        return (seen.permute(0, 3, 1, 2).float() / 255 - mean) / std

    def _one(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        picture = Image.fromarray(array)
        (width, height), target = picture.size, self.size[::-1]
        if self.shortest is not None:
            short = min(width, height)
            target = (int(self.shortest * width / short), int(self.shortest * height / short))
        if picture.size != target:
            picture = picture.resize(target, self.filter)
        spare = (picture.height - self.size[0], picture.width - self.size[1])
        top, left = (round(each / 2) if self.even else each // 2 for each in spare)
        return np.asarray(picture.crop((left, top, left + self.size[1], top + self.size[0])))

    def __str__(self) -> str:
        """As a report names it: "224 x 224 px of 256 at the shorter side, bicubic, mean ..., std ..."."""
        first = "" if self.shortest in (None, *self.size) else f" of {self.shortest} at the shorter side"
        squashed = ", proportions lost" if self.shortest is None else ""
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        height, width = self.size
        return f"{width} x {height} px{first}, {self.filter.name.lower()}{squashed}, mean {mean}, std {std}"


def of_transformers(folder: Path, kind: str, side: int | None) -> Preparation:
    """What the folder's preprocessor_config.json (or processor_config.json) asks for.

    kind, side: the model's type and its pictures' side in pixels; a CLIP without such a file is prepared as CLIP is.
    Raises ValueError where the file is missing for others, or asks for what is not known here.
    """
    places = (folder / "preprocessor_config.json", folder / "processor_config.json")
    place = next((path for path in places if path.is_file()), None)
    if place is None:
        if kind != "clip" or side is None:
            raise ValueError(f"{folder}: expected {places[0].name} in it, which says how it takes its pictures")
        return Preparation((side, side), side, Image.Resampling.BICUBIC, CLIP_MEAN, CLIP_STD)
    try:
        found = json.loads(place.read_text())
        return _parsed(found.get("image_processor", found))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{place}: asks for a preparation of pictures that is not known here ({error})") from None


def _parsed(found: Mapping[str, Any]) -> Preparation:
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if not found.get(name, True):
            raise ValueError(f"{name} is false")
    if abs(255 * found.get("rescale_factor", 1 / 255) - 1) > 1e-6 or found.get("crop_pct") or found.get("do_pad"):
        raise ValueError("a rescale_factor other than 1/255, crop_pct or do_pad")
    size = found["size"]
    size = {"shortest_edge": size} if isinstance(size, int) else size
    shortest = size.get("shortest_edge")
    sides = (shortest, shortest) if shortest is not None else (size["height"], size["width"])
    if found.get("do_center_crop"):
        crop = found["crop_size"]
        cut = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
        if shortest is None and cut != sides:
            raise ValueError(f"a crop of {cut} from {sides}")
        sides = cut
    elif shortest is not None and "crop_size" not in found and found.get("do_center_crop") is None:
        raise ValueError("the shorter side alone is given, and no crop: pictures of many sizes")
    mean, std = (tuple(float(value) for value in found[name]) for name in ("image_mean", "image_std"))
    return _checked(sides, shortest, Image.Resampling(found["resample"]), mean, std)


def of_open_clip(found: Mapping[str, Any], size: int | tuple[int, int]) -> Preparation:
    """What open_clip's preprocess_cfg asks for, by default as CLIP does; raises ValueError where it is not known."""
    mode, name = found.get("resize_mode") or "shortest", found.get("interpolation") or "bicubic"
    sides = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if mode not in ("shortest", "squash") or (mode == "shortest" and sides[0] != sides[1]):
        raise ValueError(
            f"open_clip: resize_mode {mode!r} to {sides} is not known here; squash, or shortest to a square"
        )
    mean, std = tuple(found.get("mean") or CLIP_MEAN), tuple(found.get("std") or CLIP_STD)
    # open_clip takes "random" for a training augmentation, and bicubic for it where pictures are judged.
    filter = Image.Resampling.BILINEAR if name == "bilinear" else Image.Resampling.BICUBIC
    return _checked(sides, sides[0] if mode == "shortest" else None, filter, mean, std, even=True)


def of_timm(found: Mapping[str, Any]) -> Preparation:
    """What timm's data config (`timm.data.resolve_model_data_config`) asks for where pictures are judged.

    Raises ValueError where it asks for what is not known here: other than 3 channels, a middle cut out of a squashed
    picture, added borders.
    """
    channels, height, width = found["input_size"]
    mode, share, name = found.get("crop_mode") or "center", found.get("crop_pct") or 1.0, str(found["interpolation"])
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    square, whole = height == width, share == 1
    if channels != 3 or name not in filters or mode not in ("center", "squash") or not (square or whole):
        raise ValueError(
            f"timm: {channels} channels, {width} x {height} px, {name}, crop {mode!r} of {share:g} is not known here"
        )
    if mode == "squash" or not square:
        if not (mode == "squash" and whole):
            raise ValueError(f"timm: a crop {mode!r} of {share:g} to {width} x {height} px is not known here")
        return _checked((height, width), None, filters[name], tuple(found["mean"]), tuple(found["std"]))
    shortest = math.floor(height / share)
    return _checked((height, width), shortest, filters[name], tuple(found["mean"]), tuple(found["std"]), even=True)


def _checked(
    sides: tuple[int, int], shortest: int | None, filter: Image.Resampling, mean: Any, std: Any, *, even: bool = False
) -> Preparation:
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"expected the mean and std of 3 channels, got {mean} and {std}")
    return Preparation((int(sides[0]), int(sides[1])), shortest, filter, mean, std, even)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of each row of a (N, F) with that of b, (N,) float64."""
    return F.cosine_similarity(a.double(), b.double(), dim=1)
