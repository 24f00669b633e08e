"""Distances between two sets of pictures in a feature space: Frechet, kernel, coverage and density.

The second set is the reference and stays as it is; intervals are over resamplings of the first. Each distance depends
on the number of pictures, so it is printed with it, and beside it the same distance between real pictures that were
kept apart and the reference (the floor).
"""

from __future__ import annotations

import torch
from torch import Tensor

from guided.evaluate.features import batches
from guided.evaluate.figures import DRAWS, Figure, bootstrap, wilson

LEAST = 50
"""Pictures that the kernel distance and coverage need in each set."""
MOST = 20_000
CHUNK = 1024


def frechet(
    features: Tensor, reference: Tensor, *, floor: Tensor | None = None, at: str = "", draws: int = DRAWS
) -> Figure:
    """The Frechet distance of two Gaussians fitted to features (N, F) and reference (M, F); floor: (K, F) real ones.

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) in float64 (Dowson & Landau 1982; Heusel et al. 2017). It is biased
    upwards, the more the fewer pictures; compare it at equal n alone. Raises ValueError below 2 F pictures a set:
    fewer leave the covariances too uncertain for the distance to mean anything.
    """
    dim = features.shape[1]
    _check("FD", features, reference, 2 * dim, f"twice the {dim} features")
    x, mean, cov = features.double(), *_moments(reference.double())
    root = _root(cov)
    value = float(_frechet(*_moments(x), mean, cov, root))

    def statistic(weights: Tensor) -> Tensor:
        return torch.stack([_frechet(*_moments(x, row), mean, cov, root) for row in weights])

    low, high = bootstrap(statistic, len(x), draws, centre=value)
    beside = {}
    if floor is not None and len(floor) >= 2 * dim:
        same = floor[: len(x)].double()
        beside[f"floor (n = {len(same)})"] = float(_frechet(*_moments(same), mean, cov, root))
    return Figure("FD", value, max(low, 0.0), high, len(x), at, beside)


def _moments(x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean (F,) and unbiased covariance (F, F) of x (N, F), each row counted `weights` (N,) times."""
    if weights is None:
        return x.mean(0), torch.cov(x.T)
    n = weights.sum()
    mean = weights @ x / n
    off = x - mean
    return mean, (off.T * weights) @ off / (n - 1)


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a covariance; eigenvalues below 0 are rounding errors."""
    values, vectors = torch.linalg.eigh(cov)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def _frechet(mean: Tensor, cov: Tensor, other: Tensor, other_cov: Tensor, other_root: Tensor) -> Tensor:
    # tr (A B)^(1/2) = tr (B^(1/2) A B^(1/2))^(1/2), whose argument is symmetric: real eigenvalues, no matrix root.
    inner = other_root @ cov @ other_root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    distance: Tensor = (mean - other).square().sum() + cov.trace() + other_cov.trace() - 2 * cross
    return distance


def kernel(
    features: Tensor, reference: Tensor, *, floor: Tensor | None = None, at: str = "", draws: int = DRAWS
) -> Figure:
    """The kernel distance: the unbiased squared MMD with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018, KID).

    features (N, F), reference (M, F), floor (K, F). It does not depend on n on average and may fall below 0. Raises
    ValueError for fewer than 50 pictures a set, or more than 20,000.
    """
    _check("KID", features, reference, LEAST, f"{LEAST}")
    x, y = features.double(), reference.double()
    inside = _within(y, torch.ones(1, len(y), dtype=torch.float64))[0]
    across = _between(x, y)
    value = float(_mmd(x, across, inside, torch.ones(1, len(x), dtype=torch.float64))[0])
    low, high = bootstrap(lambda weights: _mmd(x, across, inside, weights), len(x), draws, centre=value)
    beside = {}
    if floor is not None and len(floor) >= LEAST:
        z = floor[: len(x)].double()
        even = torch.ones(1, len(z), dtype=torch.float64)
        beside[f"floor (n = {len(z)})"] = float(_mmd(z, _between(z, y), inside, even)[0])
    return Figure("KID", value, low, high, len(x), at, beside)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x: Tensor, weights: Tensor) -> Tensor:
    """(draws,): the mean kernel over pairs of different samples, each counted weights (draws, N) times.

    A sample that is drawn twice makes no pair with itself: its kernel would not be that of two pictures.
    """
    total = torch.zeros(len(weights), dtype=torch.float64)
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        block = _kernel(x[rows], x)
        block.diagonal(start).zero_()
        total += ((weights @ block.T) * weights[:, rows]).sum(1)
    return total / (weights.sum(1) ** 2 - weights.square().sum(1))


def _between(x: Tensor, y: Tensor) -> Tensor:
    """(N,): the mean kernel of each sample with the other set."""
    return torch.cat([_kernel(part, y).mean(1) for part in batches(x, CHUNK)])


def _mmd(x: Tensor, across: Tensor, inside: Tensor, weights: Tensor) -> Tensor:
    return _within(x, weights) + inside - 2 * (weights @ across) / weights.sum(1)


def coverage(features: Tensor, reference: Tensor, *, k: int = 5, floor: Tensor | None = None, at: str = "") -> Figure:
    """The share of reference pictures with a picture of the set nearer than their k-th reference neighbour.

    features (N, F), reference (M, F), floor (K, F) (Naeem et al. 2020, eq. 10). It measures variety. At N = M two
    draws of one law reach 1 - 2^-k at most, 97 % for k = 5; fewer pictures than reference ones reach less, so the
    reference is cut to N rows. The interval is Wilson's over the reference pictures. Raises ValueError for fewer than
    50 pictures a set, and for more than 20,000.
    """
    _check("coverage", features, reference, LEAST, f"{LEAST}")
    kept = _thinned(reference, len(features)).double()
    radius = _radii(kept, k)
    hits = float((_reach(kept, features.double()) < radius).sum())
    beside = {}
    if floor is not None and len(floor) >= LEAST:
        some = _thinned(floor, len(features)).double()
        fair = _thinned(reference, len(some)).double()
        beside[f"real (n = {len(some)})"] = float((_reach(fair, some) < _radii(fair, k)).double().mean())
    low, high = wilson(hits, len(kept))
    return Figure("coverage", hits / len(kept), low, high, len(features), at, beside, percent=True)


def density(features: Tensor, reference: Tensor, *, k: int = 5, at: str = "", draws: int = DRAWS) -> Figure:
    """How many reference neighbourhoods a picture lies in, over k: near 1 for two draws of one law, 0 far away.

    features (N, F), reference (M, F) (Naeem et al. 2020, eq. 9). It measures fidelity; above 1 the set crowds where the
    reference is dense. Raises ValueError as `coverage` does.
    """
    _check("density", features, reference, LEAST, f"{LEAST}")
    kept = _thinned(reference, len(features)).double()
    radius = _radii(kept, k)
    inside = torch.cat(
        [(torch.cdist(part, kept) < radius).sum(1).double() / k for part in batches(features.double(), CHUNK)]
    )
    low, high = bootstrap(lambda weights: weights @ inside / weights.sum(1), len(inside), draws)
    return Figure("density", float(inside.mean()), low, high, len(inside), at)


def _radii(x: Tensor, k: int) -> Tensor:
    """(N,): the distance of each row to its k-th nearest other row."""
    if not 1 <= k < len(x):
        raise ValueError(f"k: expected 1 to {len(x) - 1} neighbours among {len(x)} pictures, got {k}")
    # The nearest of all is the row itself.
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, 1).values for part in batches(x, CHUNK)])


def _reach(reference: Tensor, x: Tensor) -> Tensor:
    """(M,): the distance of each reference row to the nearest row of x."""
    return torch.cat([torch.cdist(part, x).min(1).values for part in batches(reference, CHUNK)])


def _thinned(x: Tensor, n: int) -> Tensor:
    """At most n rows, spread evenly."""
    return x if len(x) <= n else x[torch.arange(n) * len(x) // n]


def enough(n: int, reference: int, dim: int) -> None:
    """Raise ValueError, before any long work, where there are too few pictures for all four distances."""
    least = max(LEAST, 2 * dim)
    if min(n, reference) < least:
        raise ValueError(
            f"distances need at least {least} pictures in each set (FD: twice the {dim} features), got {n} and "
            f"{reference} real ones; draw more (--n {least})"
        )


def _check(name: str, features: Tensor, reference: Tensor, least: int, why: str) -> None:
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{name}: expected features (N, F) and (M, F), got {tuple(features.shape)} and {tuple(reference.shape)}"
        )
    short = min(len(features), len(reference))
    if short < least:
        raise ValueError(f"{name}: needs at least {least} pictures in each set ({why}), got {short}; draw more of them")
    if max(len(features), len(reference)) > MOST:
        raise ValueError(
            f"{name}: at most {MOST} pictures a set are compared, got {max(len(features), len(reference))}"
        )
