"""The radial spectrum: fields of known power, noise on top of them, and the shift that a larger picture wants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guided import path
from guided.analyze import spectrum

F64 = torch.float64


def field(n: int, height: int, width: int, slope: float, seed: int = 0) -> Tensor:
    """Gaussian fields whose orthonormal Fourier coefficients have the power f^-slope, f in cycles per shorter side."""
    g = torch.Generator().manual_seed(seed)
    white = torch.fft.fft2(torch.randn(n, 3, height, width, generator=g, dtype=F64), norm="ortho")
    rows, columns = (torch.fft.fftfreq(side, dtype=F64) * min(height, width) for side in (height, width))
    f = torch.hypot(rows[:, None], columns).clamp_min(1.0)
    return torch.fft.ifft2(white * f ** (-slope / 2), norm="ortho").real


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("shape", [(64, 64), (32, 48)])
def test_a_power_law_is_found_with_its_slope_and_its_size(slope: float, shape: tuple[int, int]) -> None:
    found = spectrum(0.3 * field(200, *shape, slope))
    assert torch.equal(found.frequency, torch.arange(1, min(shape) // 2 + 1, dtype=F64))
    kept = found.frequency >= 3  # below, a ring one cycle wide holds powers that differ
    fitted = torch.linalg.lstsq(
        torch.stack([found.frequency[kept].log(), torch.ones(int(kept.sum()), dtype=F64)], 1),
        found.power[kept].log()[:, None],
    ).solution
    assert float(fitted[0]) == pytest.approx(-slope, abs=0.05)
    expected = 0.09 * found.frequency**-slope
    assert torch.allclose(found.power[kept], expected[kept], rtol=0.1)


def test_white_noise_has_its_variance_everywhere_and_drowns_what_is_weaker() -> None:
    """The spectrum of x at a noise level, measured, is the one foretold; where it drowns, half of it is noise."""
    images = 0.5 * field(300, 32, 32, 2.0)
    found = spectrum(images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    levels = torch.tensor([0.02, 0.1, 0.7])
    for level, foretold in zip(levels.tolist(), found.noisy(levels), strict=True):
        assert torch.allclose(spectrum(images + level * noise).power, foretold, rtol=0.05)
    band = 7
    half = found.noisy(found.drowned[band : band + 1])[0, band]
    assert float(half) == pytest.approx(2 * float(found.power[band]), rel=1e-6)
    assert torch.allclose(spectrum(0.25 * noise).drowned, torch.full((16,), 0.25, dtype=F64), rtol=0.05)


@pytest.mark.parametrize("slope", [2.0, 3.0])
def test_upsampling_by_repetition_suggests_a_shift_of_2(slope: float) -> None:
    small = field(50, 32, 32, slope)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = spectrum(large).shift(spectrum(small))
    assert found == pytest.approx(2.0, rel=0.02)
    assert spectrum(small).shift(spectrum(large)) == pytest.approx(0.5, rel=0.02)
    assert spectrum(large.repeat_interleave(2, 2).repeat_interleave(2, 3)).shift(spectrum(small)) == pytest.approx(
        4.0, rel=0.02
    )
    # On the path with this shift the larger picture meets, at each step, the noise that the small one met.
    plain, shifted = path.flow(9, 0.01, 50.0), path.flow(9, 0.01 * found, 50.0 * found, shift=found)
    assert torch.allclose(shifted, found * plain, rtol=1e-9)


def test_contrast_shifts_too_and_detail_of_its_own_does_not() -> None:
    small = field(50, 32, 32, 2.0)
    assert spectrum(0.5 * small).shift(spectrum(small)) == pytest.approx(0.5)
    white = torch.randn(50, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=F64)
    assert spectrum(white).shift(spectrum(white[..., :32, :32])) == pytest.approx(1.0, rel=0.02)


def test_other_shapes_are_refused() -> None:
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 2, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="floating-point images"):
            spectrum(wrong)
