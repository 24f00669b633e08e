"""LPIPS: how far two pictures look from each other to a network of ImageNet, weighed as people judged pairs.

Zhang et al. 2018, eq. 1, version 0.1. The network is the user's file, torchvision's AlexNet or VGG16; the weights of
its channels lie in the `lpips` package, of which this one file is read and nothing is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from guided import _files, _safetensors
from guided.evaluate.features import batches, unit
from guided.evaluate.towers import tensors_of

_BATCH = 16
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and std on pictures in [-1, 1], to the digits that the paper's code has."""
_EPS = 1e-10


@dataclass(frozen=True)
class Backbone:
    """The convolutional part of one of torchvision's networks.

    layers: (place in `features`, channels in, out, kernel, stride, padding) of each convolution; a ReLU follows each.
    pools: places of the maxima, of `window` pixels at stride 2. taps: the convolutions whose ReLU is looked at.
    least: the smallest side in pixels that leaves something at every tap.
    """

    name: str
    file: str
    layers: tuple[tuple[int, int, int, int, int, int], ...]
    pools: tuple[int, ...]
    window: int
    taps: tuple[int, ...]
    least: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its tensors, by torchvision's names."""
        found: dict[str, tuple[int, ...]] = {}
        for place, channels, out, kernel, _, _ in self.layers:
            found |= {f"features.{place}.weight": (out, channels, kernel, kernel), f"features.{place}.bias": (out,)}
        return found

    def heads(self) -> dict[str, tuple[int, ...]]:
        """Of the channels' weights at each tap, by the package's names."""
        width = {place: out for place, _, out, _, _, _ in self.layers}
        return {f"lin{i}.model.1.weight": (1, width[tap], 1, 1) for i, tap in enumerate(self.taps)}

    def taken(self, x: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """What stands at the taps for pictures x (N, 3, H, W) that are normalised."""
        found = []
        for place, _, _, _, stride, padding in self.layers:
            if place - 1 in self.pools:
                x = F.max_pool2d(x, self.window, 2)
            x = F.conv2d(x, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"], stride, padding)
            x = x.relu()
            if place in self.taps:
                found.append(x)
        return found


def _plain(places: Sequence[int], widths: Sequence[int]) -> tuple[tuple[int, int, int, int, int, int], ...]:
    return tuple((p, i, o, 3, 1, 1) for p, i, o in zip(places, (3, *widths), widths, strict=False))


ALEX = Backbone(
    "alex",
    "alexnet-owt-7be5be79.pth",
    (
        (0, 3, 64, 11, 4, 2),
        (3, 64, 192, 5, 1, 2),
        (6, 192, 384, 3, 1, 1),
        (8, 384, 256, 3, 1, 1),
        (10, 256, 256, 3, 1, 1),
    ),
    (2, 5),
    3,
    (0, 3, 6, 8, 10),
    31,
)
VGG = Backbone(
    "vgg",
    "vgg16-397923af.pth",
    _plain(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    ),
    (4, 9, 16, 23),
    2,
    (2, 7, 14, 21, 28),
    16,
)


@dataclass(frozen=True, eq=False)
class Lpips:
    """Pictures and their truths, uint8 (N, 1 or 3, H, W), as they are, without resizing -> their distances (N,).

    weights: of the network and, as `lin0.model.1.weight` and so on, of its channels. Raises ValueError for pictures
    below 31 pixels (AlexNet; 16 of VGG16), of which the last layers would see nothing.
    """

    backbone: Backbone
    checksum: str
    weights: Mapping[str, Tensor]
    device: torch.device

    @property
    def name(self) -> str:
        """Which network, and how it is shown its pictures."""
        return f"LPIPS 0.1 of {self.backbone.name} (weights {self.checksum[:12]}), pictures as they are"

    def check(self, pictures: Tensor) -> None:
        """Raise ValueError where pictures (N, C, H, W) are too small for the network."""
        height, width = pictures.shape[-2:]
        if min(height, width) < self.backbone.least:
            raise ValueError(
                f"LPIPS of {self.backbone.name} takes pictures of {self.backbone.least} pixels a side or more, got "
                f"{width} x {height}"
            )

    @torch.no_grad()
    def __call__(self, pictures: Tensor, truth: Tensor) -> Tensor:
        if pictures.shape != truth.shape:
            raise ValueError(f"LPIPS takes pairs of one size, got {tuple(pictures.shape)} and {tuple(truth.shape)}")
        self.check(truth)
        pairs = zip(batches(pictures, _BATCH), batches(truth, _BATCH), strict=True)
        return torch.cat([self._part(a, b).cpu() for a, b in pairs])

    def _part(self, a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(len(a), device=self.device)
        for i, (x, y) in enumerate(zip(self._seen(a), self._seen(b), strict=True)):
            difference = (_direction(x) - _direction(y)).square()
            total += F.conv2d(difference, self.weights[f"lin{i}.model.1.weight"]).mean((1, 2, 3))
        return total

    def _seen(self, pictures: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(values, device=self.device)[:, None, None] for values in (_SHIFT, _SCALE))
        x = unit(pictures).to(self.device).expand(-1, 3, -1, -1)
        return self.backbone.taken((x - shift) / scale, self.weights)


def _direction(x: Tensor) -> Tensor:
    """Of each pixel (N, C, H, W), the direction of its channels."""
    unit_length: Tensor = x / (x.square().sum(1, keepdim=True).sqrt() + _EPS)
    return unit_length


def open_lpips(file: str, device: torch.device | str = "cpu", *, pickle: bool = False) -> Lpips:
    """LPIPS by the user's file of torchvision's AlexNet (alexnet-owt-7be5be79.pth) or VGG16 (vgg16-397923af.pth).

    pickle: read it though it is a pickle, in a process of its own that builds tensors alone; safetensors of the same
    names need no leave. Raises FileNotFoundError without the file, ImportError without the `lpips` package, ValueError
    for a pickle that was not asked for, and for weights of another network.
    """
    path = Path(file).expanduser()
    heads = _package()  # asked for before a large file is read
    state = tensors_of(path, pickle)
    first = state.get("features.0.weight")
    if first is None or tuple(first.shape) not in ((64, 3, 11, 11), (64, 3, 3, 3)):
        raise ValueError(f"{path}: not torchvision's AlexNet ({ALEX.file}) or VGG16 ({VGG.file})")
    backbone = ALEX if first.shape[-1] == 11 else VGG
    learnt = tensors_of(heads / f"{backbone.name}.pth", True)
    own = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    for place, shapes, found in ((path, backbone.shapes(), own), (heads, backbone.heads(), learnt)):
        wrong = _safetensors.compare(shapes, {name: tuple(value.shape) for name, value in found.items()})
        if wrong is not None:
            raise ValueError(f"{place}: not the weights LPIPS of {backbone.name} needs: {wrong}")
    where = torch.device(device)
    tensors = {name: value.float().to(where) for name, value in (own | learnt).items()}
    return Lpips(backbone, _files.checksum((path,)), tensors, where)


def _package() -> Path:
    """The folder of the channels' weights in the installed `lpips`, which is found without importing it."""
    found = importlib.util.find_spec("lpips")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        folder = Path(place) / "weights" / "v0.1"
        if folder.is_dir():
            return folder
    raise ImportError(
        "LPIPS needs the weights of its channels, which the lpips package holds: pip install --no-deps lpips"
    )
