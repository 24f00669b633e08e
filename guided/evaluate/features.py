"""Feature spaces that are fixed before any training, and how well real pictures find themselves in them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from guided.evaluate.figures import Figure, share
from guided.noise import generator

CHUNK = 512


class Features(Protocol):
    """Pictures uint8 (N, C, H, W) -> features (N, F) float32; `name` says which, for reports."""

    @property
    def name(self) -> str: ...

    def __call__(self, pictures: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Blur:
    """The picture itself at `size` pixels by area averaging, values in [-1, 1]."""

    size: int = 16

    @property
    def name(self) -> str:
        return f"{self.size} px means"

    def __call__(self, pictures: Tensor) -> Tensor:
        return torch.cat([_means(part, self.size).flatten(1) for part in batches(unit(pictures))])


@dataclass(frozen=True)
class Thumbnail:
    """The picture at `size` pixels, freed of contrast: pattern and mean colour, together of length 1.

    The pattern is the thumbnail less its mean colour, divided by its length; the mean colour (in [-1, 1]) counts
    `colour` times. Plain means are drawn to flat, pale pictures: noise, and whatever is blurred or washed out, finds
    one of a few. Here every picture has the same length, and only the direction counts.
    """

    size: int = 16
    colour: float = 0.75

    @property
    def name(self) -> str:
        return f"{self.size} px pattern and {self.colour:g} mean colour, unit length"

    def __call__(self, pictures: Tensor) -> Tensor:
        return torch.cat([self._part(part) for part in batches(unit(pictures))])

    def _part(self, images: Tensor) -> Tensor:
        small = _means(images, self.size)
        mean = small.mean((2, 3))
        pattern = (small - mean[:, :, None, None]).flatten(1)
        # The floor keeps the rounding noise of an empty picture from counting as its pattern.
        length = pattern.norm(dim=1, keepdim=True).clamp_min(0.02 * pattern.shape[1] ** 0.5)
        return F.normalize(torch.cat([pattern / length, self.colour * mean], 1), dim=1)


@dataclass(frozen=True)
class Bands:
    """What stands where, how fine and how strong: colours and the energy of three bands of detail, in `cells`^2 places.

    A place has its mean colour (in [-1, 1]) and, of each octave from the finest on, ln(0.03 + mean |x - blur(x)|) over
    all channels, the blur being the mean of 2 x 2 (then 4 x 4, 8 x 8) pixels. So detail that is missing counts as much
    as detail that is too much, which plain means do not see; what stays below four levels of 255 hardly counts.
    """

    cells: int = 4

    @property
    def name(self) -> str:
        return f"colour and ln energy of 3 octaves of detail in {self.cells} x {self.cells} places"

    def __call__(self, pictures: Tensor) -> Tensor:
        return torch.cat([self._part(part) for part in batches(unit(pictures))])

    def _part(self, images: Tensor) -> Tensor:
        found, x = [_means(images, self.cells).flatten(1)], images
        for _ in range(3):
            coarse = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
            wide = coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : x.shape[-2], : x.shape[-1]]
            energy = _means((x - wide).abs().mean(1, keepdim=True), self.cells)
            found.append((energy + 0.03).log().flatten(1))
            x = coarse
        return torch.cat(found, 1)


def perceptual(space: Features, pictures: Tensor, truth: Tensor) -> Tensor:
    """How far each of pictures (N, C, H, W) uint8 looks from its truth: the mean square of a difference, (N,)."""
    return (space(pictures) - space(truth)).square().mean(1)


def batches(rows: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """The tensor in parts of at most `size` rows, at least one part."""
    for start in range(0, max(len(rows), 1), size):
        yield rows[start : start + size]


def unit(pictures: Tensor) -> Tensor:
    """uint8 (N, C, H, W), 0..255 -> float32 in [-1, 1]; raises TypeError for anything else."""
    if pictures.dtype != torch.uint8 or pictures.ndim != 4:
        raise TypeError(f"pictures are uint8 (N, C, H, W), got {pictures.dtype} {tuple(pictures.shape)}")
    return pictures.float() / 127.5 - 1


def levels(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] -> uint8, rounded to the nearest level."""
    return ((images.double() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).cpu()


def _means(images: Tensor, size: int) -> Tensor:
    return F.adaptive_avg_pool2d(images, size)


def nearest(queries: Tensor, gallery: Tensor) -> Tensor:
    """The row of the gallery (M, F) nearest to each query (N, F), (N,) int64; the first of equals."""
    if not len(gallery):
        raise ValueError("nearest: the gallery is empty")
    return torch.cat([torch.cdist(part, gallery).argmin(1) for part in batches(queries)])


def self_retrieval(features: Features, pictures: Tensor, noises: int = 1000) -> list[Figure]:
    """Whether a feature space can tell pictures (N, C, H, W) apart: changed a little, each must find itself.

    The figures: shifted by one pixel (the mean of four directions, borders repeated), after JPEG of quality 50; and of
    noise pictures (uniform and Gaussian, half each) the share whose nearest is the picture it was drawn for, and the
    largest share that one picture attracts.
    """
    gallery = features(pictures)
    own = torch.arange(len(pictures))
    padded = F.pad(pictures.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    height, width = pictures.shape[2:]
    shifted = [
        nearest(features(padded[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]), gallery) == own
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
    ]
    figures = [share("shifted by a pixel, finds itself", torch.cat(shifted))]
    figures.append(share("JPEG of quality 50, finds itself", nearest(features(jpeg(pictures, 50)), gallery) == own))
    found = nearest(features(noise_pictures(noises, pictures.shape[1:])), gallery)
    meant = torch.randint(len(pictures), (noises,), generator=generator("meant", 0, 0))
    figures.append(share("noise, finds the picture it was drawn for", found == meant))
    figures.append(share("noise, finds the one picture it finds most", found == torch.bincount(found).argmax()))
    return figures


def noise_pictures(n: int, shape: Sequence[int]) -> Tensor:
    """n pictures of noise (n, C, H, W) uint8: half uniform, half Gaussian of std 0.5, clipped."""
    rng = generator("noise pictures", 0, n)
    uniform = 2 * torch.rand(n - n // 2, *shape, generator=rng) - 1
    return levels(torch.cat([uniform, 0.5 * torch.randn(n // 2, *shape, generator=rng)]))


def jpeg(pictures: Tensor, quality: int) -> Tensor:
    """The pictures (N, 3 or 1, H, W) uint8 after JPEG compression."""
    out = []
    for array in pictures.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(buffer))
        out.append(torch.from_numpy(decoded.reshape(array.shape).copy()))
    return torch.stack(out).permute(0, 3, 1, 2)
