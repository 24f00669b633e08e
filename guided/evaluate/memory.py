"""Whether a model draws its training pictures again: the nearest of them, and how near real pictures come to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from guided.evaluate.features import Features, batches
from guided.evaluate.figures import Figure, share
from guided.evaluate.material import Real
from guided.model.sheet import sheet

RANK = 0.01
"""The share of real pictures that come nearer to a training picture than the threshold."""
LEAST = 59
"""Held-out pictures it takes: then it is 95 % sure (1 - 0.95^59) that at most 5 % of all fresh pictures are as near as
the nearest of them (Wilks 1941)."""
SHOWN = 32
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Panel:
    """What was found: the figure; of each drawn picture its distance and its nearest training row; the threshold.

    order: the drawn pictures, the most suspicious (nearest to training) first. told: what was assumed.
    """

    figure: Figure
    distance: Tensor
    nearest: Tensor
    threshold: float
    order: list[int]
    told: str

    @property
    def flagged(self) -> Tensor:
        """(N,) bool: which drawn pictures are nearer to training than the threshold, or as near."""
        return self.distance <= self.threshold


def held_out(real: Real) -> tuple[int, ...]:
    """The rows that were kept out of training; raises ValueError where they are too few, before any long work."""
    held = real.split.held_bases
    if len(held) < LEAST:
        raise ValueError(
            f"memory: needs at least {LEAST} real pictures that were kept out of training, got {len(held)}; "
            "give all of the data, or train with a larger data.hold_out share"
        )
    return held


def memorised(space: Features, drawn: Tensor, real: Real, at: str = "") -> Panel:
    """The share of drawn pictures that are as near to a training picture as the nearest 1 % of held-out real ones.

    drawn: uint8 (N, C, H, W). The distance is Euclidean in the feature space, to every training picture; the threshold
    is the 1st percentile of the same distances of the pictures that were kept out (the data-copying question of Meehan
    et al. 2020, asked of each picture). Beside stands the share of the held-out ones themselves: above 1 % where
    they are few, or many of them are in training too. A picture may be near for being plain: look at the sheet. Raises
    ValueError for fewer than 59 held-out pictures, which leave it open whether fresh ones would pass.
    """
    features, own, taught = space(drawn), space(real.read(held_out(real))[0]), _training(space, real)
    distance, row = _nearest(features, taught.features)
    fresh, _ = _nearest(own, taught.features)
    threshold = float(torch.quantile(fresh, RANK, interpolation="lower"))
    beside = {"real, held out": float((fresh <= threshold).double().mean())}
    figure = share("as near to training as the nearest 1 % of real ones", distance <= threshold, at, beside)
    told = (
        f"distances in {space.name}; nearest of {len(taught.rows)} training pictures; threshold {threshold:.4g} of "
        f"{len(fresh)} kept out, whose median is {float(fresh.median()):.4g}"
    )
    rows = torch.tensor(taught.rows)[row]
    return Panel(figure, distance, rows, threshold, distance.argsort(stable=True).tolist(), told)


@dataclass(frozen=True, eq=False)
class _Taught:
    features: Tensor
    rows: list[int]


def _training(space: Features, real: Real) -> _Taught:
    """The features of every training picture that can be read, a part of them in memory at a time."""
    found, rows = [], []
    for start in range(0, len(real.split.train), _CHUNK):
        try:
            read, kept = real.read(real.split.train[start : start + _CHUNK])
        except ValueError:
            continue  # none of this part can be read
        found.append(space(read))
        rows += kept
    return _Taught(torch.cat(found), rows)


def _nearest(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Of each query (N, F) the distance to the nearest row of the gallery (M, F), float64, and which it is."""
    row = torch.cat([torch.cdist(part, gallery).argmin(1) for part in batches(queries)])
    # Of the product that finds it, the distance is off by rounding: a copy would not lie at 0.
    return (queries.double() - gallery[row].double()).norm(dim=1), row


def contact(panel: Panel, drawn: Tensor, real: Real, asked: Sequence[str] = ()) -> Image.Image:
    """The most suspicious 32 drawn pictures (uint8 (N, C, H, W)), each left of its nearest training picture.

    asked: the caption or class of each drawn picture. Below the training picture stands the distance, in thresholds.
    """
    pictures, captions = [], []
    for i in panel.order[:SHOWN]:
        row = int(panel.nearest[i])
        ratio = float(panel.distance[i]) / panel.threshold if panel.threshold else float("inf")
        mark = f"{'NEAR, ' if bool(panel.flagged[i]) else ''}{ratio:.2f} of the threshold"
        pictures += [_image(drawn[i]), _image(real.read([row])[0][0])]
        captions += [asked[i] if asked else "drawn", f"{mark}: {real.records[row].name}"]
    columns = min(8, len(pictures))
    return sheet(pictures, captions, columns, heads=["drawn", "nearest"] * (columns // 2))


def _image(picture: Tensor) -> Image.Image:
    array = picture.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[-1] == 3 else array[..., 0])
