"""The figures of an edit, beside formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from guided.tasks import metrics, scaling

RNG = np.random.default_rng(0)
A = RNG.integers(0, 256, (21, 17, 3), np.uint8)
B = np.clip(A.astype(int) + RNG.integers(-20, 21, A.shape), 0, 255).astype(np.uint8)


def test_share_and_psnr() -> None:
    d = A.astype(float) - B
    assert metrics.changed(A, B) == pytest.approx((np.abs(d).max(-1) > 8).mean())
    assert metrics.psnr(A, B) == pytest.approx(10 * math.log10(255**2 / (d**2).mean()))
    half = np.zeros(A.shape[:2], bool)
    half[:, :5] = True
    assert metrics.psnr(A, B, half) == pytest.approx(10 * math.log10(255**2 / (d[:, :5] ** 2).mean()))
    assert metrics.psnr(A, A) == math.inf and metrics.changed(A, A) == 0
    deep = [array.astype(np.uint16) * 257 for array in (A, B)]
    assert metrics.psnr(*deep) == pytest.approx(metrics.psnr(A, B))


def test_ssim_is_the_published_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "STRIP", 40)  # in strips of two rows
    y = [array.astype(float) @ [0.299, 0.587, 0.114] for array in (A, B)]
    g = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    w = np.outer(g, g) / np.outer(g, g).sum()
    values = []
    p, q = (np.pad(array, 5, mode="reflect") for array in y)
    for i in range(21):
        for j in range(17):
            a, b = p[i : i + 11, j : j + 11], q[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb, ab = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append((2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert metrics.ssim(A, B) == pytest.approx(np.mean(values), abs=1e-9)
    assert metrics.ssim(A, A) == pytest.approx(1)


def test_seam_counts_the_edge_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "STRIP", 40)
    ramp = np.repeat(np.arange(0, 120, 10, dtype=np.uint8)[None, :, None], 12, 0).repeat(3, -1)
    mask = np.zeros((12, 12), bool)
    mask[:, 6:] = True
    raised = ramp + (mask[..., None] * 20).astype(np.uint8)
    assert metrics.seam(ramp, raised, mask) == pytest.approx(3.0)
    assert metrics.seam(ramp, ramp, mask) == 1 and metrics.seam(ramp, raised, np.ones_like(mask)) is None
    assert metrics.seam(ramp.swapaxes(0, 1), raised.swapaxes(0, 1), mask.T) == pytest.approx(3.0)


def test_scaling_keeps_means_and_flat_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "STRIP", 40)
    small = scaling.down(A[:20, :16], (5, 4))
    want = A[:20, :16].reshape(5, 4, 4, 4, 3).mean((1, 3))
    assert np.abs(small - want).max() < 1e-3
    flat = np.full((5, 4, 3), 7, np.float32)
    up = np.concatenate([scaling.Up(flat, (33, 29))(part) for part in scaling.strips(33, 29)])
    assert up.shape == (33, 29, 3) and np.abs(up - 7).max() < 1e-4
