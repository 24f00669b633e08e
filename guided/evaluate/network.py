"""A small convolutional classifier, as a judge and as a feature space: its weights come from our own recipe alone."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guided import _files, _safetensors
from guided.evaluate.features import batches, unit

FORMAT = "guided-classifier/1"
WEIGHTS, CARD = "classifier.safetensors", "classifier.json"
_BATCH = 256


@dataclass(frozen=True)
class ClassifierConfig:
    """classes: their number. widths: channels of each stage; a stage halves the sides. features: the penultimate width.

    size: (H, W) of the pictures it was trained on; others are brought to it by area averaging or bilinearly.
    """

    classes: int
    channels: int = 3
    widths: tuple[int, ...] = (48, 96, 128)
    features: int = 64
    size: tuple[int, int] = (32, 32)

    def __post_init__(self) -> None:
        if self.classes < 2 or self.channels < 1 or not self.widths or min(*self.widths, self.features) < 1:
            raise ValueError(f"a classifier needs 2 classes or more, and positive widths, got {self}")


class _Residual(nn.Module):
    """x + conv(act(norm(conv(x)))): one residual block at constant width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _block(width, width)
        self.second = _block(width, width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.second(self.first(x))
        return found


def _block(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
    )


class Classifier(nn.Module):
    """Pictures -> classes; its penultimate layer is a feature space.

    Called on images (B, C, H, W) in [-1, 1] it gives logits (B, classes). `features(pictures)`, of uint8 pictures,
    gives (N, F) float32, so that a classifier serves wherever `Features` are asked for through `.space`.
    names: those of the classes; card: how it was trained and how well it does, JSON.
    """

    def __init__(self, config: ClassifierConfig, names: Sequence[str] = (), card: dict[str, Any] | None = None) -> None:
        super().__init__()
        if names and len(names) != config.classes:
            raise ValueError(f"a classifier of {config.classes} classes got {len(names)} names")
        self.config, self.names, self.card = config, tuple(names), dict(card or {})
        stages: list[nn.Module] = []
        width = config.channels
        for stage in config.widths:
            stages += [_block(width, stage, 2), _Residual(stage)]
            width = stage
        self.body = nn.Sequential(*stages)
        self.penultimate = nn.Sequential(nn.Linear(width, config.features), nn.ReLU())
        self.head = nn.Linear(config.features, config.classes)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> (B, F)."""
        if images.shape[1] != self.config.channels:
            raise ValueError(f"this classifier takes {self.config.channels} channels, got {images.shape[1]}")
        if tuple(images.shape[2:]) != tuple(self.config.size):
            smaller = images.shape[2] >= self.config.size[0] and images.shape[3] >= self.config.size[1]
            images = (
                F.adaptive_avg_pool2d(images, self.config.size)
                if smaller
                else F.interpolate(images, self.config.size, mode="bilinear", align_corners=False)
            )
        found: Tensor = self.penultimate(self.body(images).mean((2, 3)))
        return found

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(images))
        return logits

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Penultimate features (N, F) float32 of pictures uint8 (N, C, H, W), in float32 and evaluation mode."""
        return self._over(pictures, self.embed)

    @torch.no_grad()
    def predict(self, pictures: Tensor) -> Tensor:
        """Logits (N, classes) float32 of pictures uint8 (N, C, H, W)."""
        return self._over(pictures, self)

    def _over(self, pictures: Tensor, function: Any) -> Tensor:
        training = self.training
        device = self.head.weight.device
        self.eval()
        try:
            return torch.cat([function(unit(part).to(device)).float().cpu() for part in batches(pictures, _BATCH)])
        finally:
            self.train(training)

    @property
    def space(self) -> Space:
        """The penultimate layer as `Features`."""
        return Space(self)

    def save(self, folder: str | os.PathLike[str]) -> pathlib.Path:
        """Write `classifier.safetensors` and `classifier.json` to a folder, whole or not at all."""
        from safetensors.torch import save_file

        place = pathlib.Path(folder)
        with _files.folder(place) as aside:
            save_file({name: value.contiguous().cpu() for name, value in self.state_dict().items()}, aside / WEIGHTS)
            card = {"format": FORMAT, "config": dataclasses.asdict(self.config), "names": list(self.names)}
            card |= {"card": self.card, "sha256": _files.sha256(aside / WEIGHTS)}
            (aside / CARD).write_text(json.dumps(card, indent=1) + "\n")
        return place

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Classifier:
        """Open a folder that `save` wrote; raises FileNotFoundError, or ValueError where it is damaged."""
        from safetensors.torch import load_file

        place = pathlib.Path(folder)
        if not (place / CARD).is_file():
            raise FileNotFoundError(f"{place}: no {CARD} in it: not a classifier's folder")
        try:
            card = json.loads((place / CARD).read_text())
            if card["format"] != FORMAT:
                raise ValueError(f"format {card['format']!r}, expected {FORMAT!r}")
            values = card["config"]
            config = ClassifierConfig(**{**values, "widths": tuple(values["widths"]), "size": tuple(values["size"])})
            model = cls(config, card["names"], card["card"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place / CARD}: not the card of a classifier ({error})") from None
        _safetensors.header(place / WEIGHTS)
        if _files.sha256(place / WEIGHTS) != card.get("sha256"):
            raise ValueError(f"{place / WEIGHTS}: not as its card says: damaged, or replaced; train it again")
        model.load_state_dict(load_file(place / WEIGHTS))
        return model.eval()


@dataclass(frozen=True, eq=False)
class Space:
    """The penultimate layer of a classifier as `Features`."""

    classifier: Classifier

    @property
    def name(self) -> str:
        """Which classifier, by its card."""
        trained = self.classifier.card.get("data", "pictures")
        return f"{self.classifier.config.features} features of our classifier of {trained}"

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.classifier.features(pictures)
