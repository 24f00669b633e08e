"""FID's own network: Inception of 2015-12-05, from the published file of its weights.

Szegedy et al. 2016 ("Rethinking the Inception Architecture"), with what TensorFlow's graph does otherwise: averages
that leave the padding out, and a maximum in the last block. The names of its parts are those of the published file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guided import _files, _safetensors
from guided.evaluate.towers import Towers, tensors_of

SIDE, CLASSES = 299, 1008
Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel]
"""A convolution of a branch: the end of its name, its channels out, its kernel; it keeps the size unless it shrinks."""


@dataclass(frozen=True)
class AsTensorFlow:
    """Pictures uint8 (N, 1 or 3, H, W) -> float32 (N, 3, 299, 299) by TensorFlow 1's bilinear rule, (x - 128) / 128.

    Pixel i of 299 is read at i H / 299, without a half pixel's shift and without smoothing, as FID is defined.
    """

    def __call__(self, pictures: Tensor) -> Tensor:
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
            raise TypeError(f"pictures are uint8 (N, 1 or 3, H, W), got {pictures.dtype} {tuple(pictures.shape)}")
        x = pictures.expand(-1, 3, -1, -1).float()
        for axis in (3, 2):
            x = _stretched(x, axis)
        return (x - 128) / 128

    def __str__(self) -> str:
        return f"{SIDE} x {SIDE} px, bilinear as TensorFlow 1 does it, proportions lost, (x - 128) / 128"


def _stretched(x: Tensor, axis: int) -> Tensor:
    length = x.shape[axis]
    place = torch.arange(SIDE, dtype=torch.float32) * torch.tensor(length / SIDE, dtype=torch.float32)
    low = place.long().clamp_max(length - 1)
    high = (low + 1).clamp_max(length - 1)
    shape = [1, 1, 1, 1]
    shape[axis] = SIDE
    first = x.index_select(axis, low)
    return first + (x.index_select(axis, high) - first) * (place - low).reshape(shape)


class Conv(nn.Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(self, channels: int, out: int, kernel: Kernel, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(channels, out, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """A block: branches beside each other, whose channels are put together, the last of them a pooled one.

    branches: by name, the layers of each in turn; where two ends of names differ in their letter alone ("_2a", "_2b"),
    both read the layer before. pool: "average", "maximum", or None, where the block halves the size: then the last
    layer of each branch strides, and the maximum is passed on as it is. pooled: the channels of the pooled branch.
    """

    def __init__(self, channels: int, branches: dict[str, Sequence[Layer]], pool: str | None, pooled: int = 0) -> None:
        super().__init__()
        self.pool, self.shrinks = pool, pool is None
        self.order: list[list[list[str]]] = []
        for name, layers in branches.items():
            steps: list[list[str]] = []
            width = channels
            for at, (end, out, kernel) in enumerate(layers):
                part = name + end
                if end.endswith("b"):  # it reads what the layer "a" beside it reads
                    steps[-1].append(part)
                    self.add_module(part, Conv(width, out, kernel))
                    continue
                last = self.shrinks and at == len(layers) - 1
                self.add_module(part, Conv(width, out, kernel, 2 if last else 1, padded=not last))
                steps.append([part])
                width = width if end.endswith("a") else out
            self.order.append(steps)
        if not self.shrinks:
            self.branch_pool = Conv(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for steps in self.order:
            y = x
            for parts in steps:
                y = torch.cat([self.get_submodule(part)(y) for part in parts], 1)
            found.append(y)
        if self.shrinks:
            found.append(F.max_pool2d(x, 3, 2))
        elif self.pool == "maximum":
            found.append(self.branch_pool(F.max_pool2d(x, 3, 1, 1)))
        else:
            found.append(self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
        return torch.cat(found, 1)


def _a(channels: int, pooled: int) -> Mixed:
    wide: list[Layer] = [("_1", 48, 1), ("_2", 64, 5)]
    twice: list[Layer] = [("_1", 64, 1), ("_2", 96, 3), ("_3", 96, 3)]
    return Mixed(channels, {"branch1x1": [("", 64, 1)], "branch5x5": wide, "branch3x3dbl": twice}, "average", pooled)


def _b(channels: int) -> Mixed:
    twice: list[Layer] = [("_1", 64, 1), ("_2", 96, 3), ("_3", 96, 3)]
    return Mixed(channels, {"branch3x3": [("", 384, 3)], "branch3x3dbl": twice}, None)


def _c(channels: int, n: int) -> Mixed:
    once: list[Layer] = [("_1", n, 1), ("_2", n, (1, 7)), ("_3", 192, (7, 1))]
    twice: list[Layer] = [("_1", n, 1), ("_2", n, (7, 1)), ("_3", n, (1, 7)), ("_4", n, (7, 1)), ("_5", 192, (1, 7))]
    return Mixed(channels, {"branch1x1": [("", 192, 1)], "branch7x7": once, "branch7x7dbl": twice}, "average", 192)


def _d(channels: int) -> Mixed:
    once: list[Layer] = [("_1", 192, 1), ("_2", 320, 3)]
    turned: list[Layer] = [("_1", 192, 1), ("_2", 192, (1, 7)), ("_3", 192, (7, 1)), ("_4", 192, 3)]
    return Mixed(channels, {"branch3x3": once, "branch7x7x3": turned}, None)


def _e(channels: int, pool: str) -> Mixed:
    once: list[Layer] = [("_1", 384, 1), ("_2a", 384, (1, 3)), ("_2b", 384, (3, 1))]
    twice: list[Layer] = [("_1", 448, 1), ("_2", 384, 3), ("_3a", 384, (1, 3)), ("_3b", 384, (3, 1))]
    return Mixed(channels, {"branch1x1": [("", 320, 1)], "branch3x3": once, "branch3x3dbl": twice}, pool, 192)


class Inception(nn.Module):
    """Prepared pictures (N, 3, 299, 299) -> (N, 2048), the pooled features that FID is taken in."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, padded=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_c(768, n) for n in (128, 160, 160, 192))
        self.Mixed_7a = _d(768)
        self.Mixed_7b, self.Mixed_7c = _e(1280, "average"), _e(2048, "maximum")

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


def open_inception(file: str, device: torch.device | str = "cpu", *, pickle: bool = False) -> Towers:
    """FID's network with the weights of pt_inception-2015-12-05-6726825d.pth, or of the same tensors as safetensors.

    pickle: read it though it is a pickle, in a process of its own that builds tensors alone. Raises FileNotFoundError
    without the file; ValueError for a pickle that was not asked for, and for weights of another network, such as
    torchvision's Inception, whose features are not those of FID.
    """
    path = Path(file).expanduser()
    name = f"inception:{path.name}"
    state = tensors_of(path, pickle)
    network = Inception()
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items() if not _counter(key)}
    expected["fc.weight"] = (CLASSES, 2048)
    found = {key: tuple(value.shape) for key, value in state.items() if not _counter(key) and key != "fc.bias"}
    wrong = _safetensors.compare(expected, found)
    if wrong is not None:
        other = " (torchvision's has 1000 classes, and its features are not FID's)" if "fc.weight" in found else ""
        raise ValueError(f"{path}: not the weights of FID's Inception{other}: {wrong}")
    network.load_state_dict({key: value.float() for key, value in state.items() if key in expected}, strict=False)
    place = torch.device(device)
    network = network.eval().requires_grad_(False).to(place)
    title = f"pooled features of {name} (weights {_files.checksum((path,))[:12]})"
    return Towers(title, AsTensorFlow(), network, None, None, place)


def _counter(name: str) -> bool:
    """Whether this counts batches of training: some files have it, and nothing here reads it."""
    return name.endswith(".num_batches_tracked")
