"""What a set of images says about the noise levels it needs: the radial power spectrum, and where noise drowns it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The mean power of images at each radial frequency.

    frequency: (F,), 1, 2, ... cycles along the shorter side, up to its half in pixels. power: (F,) float64, the mean
    square of one coefficient of the orthonormal Fourier transform, so that white noise of std s has s^2 everywhere.
    """

    frequency: Tensor
    power: Tensor

    @property
    def drowned(self) -> Tensor:
        """(F,): the noise level sigma at which noise is as strong as each frequency of the images."""
        return self.power.sqrt()

    def noisy(self, sigma: Tensor) -> Tensor:
        """The spectrum of x = x0 + sigma n at noise levels (S,): (S, F)."""
        return self.power + sigma.to(self.power)[:, None] ** 2

    def shift(self, reference: Spectrum) -> float:
        """The factor by which noise levels that suit the reference are to be raised here: k of `path.flow(shift=k)`.

        By this factor noise must be stronger here to drown the same cycles a picture (Hoogeboom et al. 2023; Esser et
        al. 2024, eq. 23), over the frequencies that both have and mostly for the coarse ones, which hold most of the
        power and decide first.
        """
        n = min(len(self.power), len(reference.power))
        return float((self.power[:n].sum() / reference.power[:n].sum()).sqrt())


def spectrum(images: Tensor) -> Spectrum:
    """The radial power spectrum of images (B, C, H, W), over all of them and their channels; H, W at least 4.

    The mean of an image (frequency 0) is left out. Raises ValueError for other shapes.
    """
    if images.ndim != 4 or min(images.shape[2:]) < 4 or not images.is_floating_point():
        raise ValueError(
            "spectrum takes floating-point images (B, C, H, W) of at least 4 x 4, "
            f"got {tuple(images.shape)} {images.dtype}"
        )
    height, width = images.shape[2:]
    side = min(height, width)
    power = torch.fft.fft2(images.double(), norm="ortho").abs().square().mean((0, 1))
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64, device=images.device) * side for n in (height, width))
    ring = torch.hypot(rows[:, None], columns).round().long().clamp_max(side // 2 + 1).flatten()
    sums, counts = (
        torch.zeros(side // 2 + 2, dtype=torch.float64, device=images.device).index_add(0, ring, values)
        for values in (power.flatten(), torch.ones_like(power).flatten())
    )
    kept = slice(1, side // 2 + 1)
    frequency = torch.arange(1, side // 2 + 1, dtype=torch.float64, device=images.device)
    return Spectrum(frequency, sums[kept] / counts[kept])
