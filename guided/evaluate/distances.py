"""Distances between two sets of pictures in a feature space: Frechet, kernel; precision and recall; coverage, density.

The second set is the reference and stays as it is; intervals say what another set of as many pictures of the first law
would give. Each distance depends on the number of pictures, so it is printed with it, and beside it the same distance
between real pictures that were kept apart and the reference (the floor).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guided.evaluate.features import batches
from guided.evaluate.figures import DRAWS, Figure, bootstrap, reach, share, wilson

LEAST = 50
"""Pictures that the kernel distance and the shares need in each set."""
MOST = 20_000
WIDE = 256
"""Features above which the interval of FD is not found by resampling: each draw takes F^3 operations."""
CHUNK = 1024


def frechet(
    features: Tensor,
    reference: Tensor,
    *,
    floor: Tensor | None = None,
    at: str = "",
    draws: int = DRAWS,
    groups: Sequence[int] | None = None,
) -> Figure:
    """The Frechet distance of two Gaussians fitted to features (N, F) and reference (M, F); floor: (K, F) real ones.

    |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) in float64 (Dowson & Landau 1982; Heusel et al. 2017). It is biased
    upwards, the more the fewer pictures; compare it at equal n alone. Raises ValueError below 2 F pictures a set:
    fewer leave the covariances too uncertain for the distance to mean anything. The interval is the bootstrap's; above
    256 features, where that would take hours, the normal one of the distance's influence function (Hampel 1974).
    groups: of each row, where rows are windows of fewer pictures, see `figures.bootstrap`.
    """
    dim = features.shape[1]
    _check("FD", features, reference, 2 * dim, f"twice the {dim} features")
    x, mean, cov = features.double(), *_moments(reference.double())
    root = _root(cov)
    value = float(_frechet(*_moments(x), mean, cov, root))

    def statistic(weights: Tensor) -> Tensor:
        return torch.stack([_frechet(*_moments(x, row), mean, cov, root) for row in weights])

    if dim > WIDE:
        around = reach(_influence(x, mean, root), groups)
        low, high = value - around, value + around
    else:
        low, high = bootstrap(statistic, len(x), draws, centre=value, groups=groups)
    beside = {}
    if floor is not None and len(floor) >= 2 * dim:
        same = floor[: len(x)].double()
        beside[f"floor (n = {len(same)})"] = float(_frechet(*_moments(same), mean, cov, root))
    return Figure("FD", value, max(low, 0.0), high, len(x), at, beside)


def farther(features: Tensor, other: Tensor, reference: Tensor, *, at: str = "") -> Figure:
    """How much larger the Frechet distance of features (N, F) is than that of other (N, F), both from reference (M, F).

    Row i of both is the same picture made in two ways. What the two sets share then falls out, and the difference is
    far surer than either distance. The interval is the normal one of the difference of their influence functions.
    Raises ValueError as `frechet` does, and for sets that are no pairs.
    """
    if features.shape != other.shape:
        raise ValueError(f"FD: pairs are as many on both sides, got {len(features)} and {len(other)}")
    dim = features.shape[1]
    _check("FD", features, reference, 2 * dim, f"twice the {dim} features")
    _, cov = _moments(reference.double())
    mean, root = reference.double().mean(0), _root(cov)
    one, two = (float(_frechet(*_moments(x.double()), mean, cov, root)) for x in (features, other))
    moved = _influence(features.double(), mean, root) - _influence(other.double(), mean, root)
    around = reach(moved)
    return Figure("FD, difference", one - two, one - two - around, one - two + around, len(features), at)


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


def _influence(x: Tensor, other: Tensor, root: Tensor) -> Tensor:
    """(N,): N times how fast the distance of x (N, F) grows with the weight of each row; on average 0.

    root: of the other covariance B. The slope of tr (B^(1/2) A B^(1/2))^(1/2) by A is half of the matrix that carries
    one Gaussian to the other, T = B^(1/2) (B^(1/2) A B^(1/2))^(-1/2) B^(1/2).
    """
    mean, cov = _moments(x)
    inner = root @ cov @ root
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    # Features that never change have no slope, and rounding must not make them one.
    inverse = torch.where(values > 1e-12 * values.max(), values.clamp_min(1e-300).rsqrt(), 0.0)
    slope = torch.eye(len(cov), dtype=cov.dtype) - root @ (vectors * inverse) @ vectors.T @ root
    off = x - mean
    unbiased = len(x) / (len(x) - 1)
    grown: Tensor = 2 * off @ (mean - other) + unbiased * ((off @ slope) * off).sum(1) - (slope * cov).sum()
    return grown


def kernel(
    features: Tensor,
    reference: Tensor,
    *,
    floor: Tensor | None = None,
    at: str = "",
    draws: int = DRAWS,
    groups: Sequence[int] | None = None,
) -> Figure:
    """The kernel distance: the unbiased squared MMD with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018, KID).

    features (N, F), reference (M, F), floor (K, F); groups: as in `frechet`. It does not depend on n on average and may
    fall below 0. Raises ValueError for fewer than 50 pictures a set, or more than 20,000.
    """
    _check("KID", features, reference, LEAST, f"{LEAST}")
    x, y = features.double(), reference.double()
    inside = _within(y, torch.ones(1, len(y), dtype=torch.float64))[0]
    across = _between(x, y)
    value = float(_mmd(x, across, inside, torch.ones(1, len(x), dtype=torch.float64))[0])
    low, high = bootstrap(lambda weights: _mmd(x, across, inside, weights), len(x), draws, centre=value, groups=groups)
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
    reference is cut to N rows. The interval is the jackknife's over the pictures. Raises ValueError for fewer than 50
    pictures a set, and for more than 20,000.
    """
    _check("coverage", features, reference, LEAST, f"{LEAST}")
    kept = _thinned(reference, len(features)).double()
    met, only = _reach(kept, features.double(), _radii(kept, k))
    value = float(met.double().mean())
    beside = {}
    if floor is not None and len(floor) >= LEAST:
        some = _thinned(floor, len(features)).double()
        fair = _thinned(reference, len(some)).double()
        beside[f"real (n = {len(some)})"] = float(_reach(fair, some, _radii(fair, k))[0].double().mean())
    low, high = _jackknife(value, value - only / len(kept), len(kept))
    return Figure("coverage", value, low, high, len(features), at, beside, percent=True)


def _reach(reference: Tensor, x: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) bool: the reference rows with a row of x within their radius; (N,): how many each row of x alone meets."""
    met, only = [], torch.zeros(len(x), dtype=torch.float64)
    for part, limit in zip(batches(reference, CHUNK), batches(radius, CHUNK), strict=True):
        near = torch.cdist(part, x) < limit[:, None]
        count = near.sum(1)
        met.append(count > 0)
        only += near[count == 1].double().sum(0)
    return torch.cat(met), only


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


def precision(features: Tensor, reference: Tensor, *, k: int = 3, floor: Tensor | None = None, at: str = "") -> Figure:
    """The share of pictures that lie within the k-th neighbour's distance of some reference picture.

    features (N, F), reference (M, F), floor (K, F) (Kynkaanniemi et al. 2019, eq. 1 and 2). It measures fidelity: a
    picture counts as soon as one neighbourhood holds it, so a single outlier among the reference ones admits many. Both
    sets are cut to min(N, M) rows, spread evenly, as both k-th distances shrink with n. The interval is Wilson's over
    the pictures. Raises ValueError for fewer than 50 pictures a set, and for more than 20,000.
    """
    _check("precision", features, reference, LEAST, f"{LEAST}")
    x, y = _even(features, reference)
    beside = {}
    if floor is not None and len(floor) >= LEAST:
        own, fair = _even(_thinned(floor, len(x)), reference)
        beside[f"real (n = {len(own)})"] = float(_inside(own, fair, k).double().mean())
    return share("precision", _inside(x, y, k), at, beside)


def _inside(x: Tensor, y: Tensor, k: int) -> Tensor:
    """(N,) bool: whether a row of x is no further from some row of y than that row's k-th nearest other row of y."""
    radius = _radii(y, k)
    return torch.cat([(torch.cdist(part, y) <= radius).any(1) for part in batches(x, CHUNK)])


def recall(features: Tensor, reference: Tensor, *, k: int = 3, floor: Tensor | None = None, at: str = "") -> Figure:
    """The share of reference pictures that lie within the k-th neighbour's distance of some picture of the set.

    As `precision`, the two sets having changed places. It measures variety; the neighbourhoods are those of the set, so
    that one wild picture in it admits many reference ones, where `coverage` does not let it. The interval is the
    jackknife's over the pictures. Raises ValueError as `precision` does.
    """
    _check("recall", features, reference, LEAST, f"{LEAST}")
    x, y = _even(features, reference)
    value, without = _recalled(x, y, k)
    beside = {}
    if floor is not None and len(floor) >= LEAST:
        own, fair = _even(_thinned(floor, len(x)), reference)
        beside[f"real (n = {len(own)})"] = float(_inside(fair, own, k).double().mean())
    low, high = _jackknife(value, without, len(x))
    return Figure("recall", value, low, high, len(x), at, beside, percent=True)


def _recalled(x: Tensor, y: Tensor, k: int) -> tuple[float, Tensor]:
    """The share of rows of y inside a neighbourhood of x, and (N,) what it is without each row of x in turn."""
    found = [torch.cdist(part, x).topk(min(k + 2, len(x)), largest=False) for part in batches(x, CHUNK)]
    distance = torch.cat([part.values for part in found])
    radius = _radii(x, k)
    # Without one of its neighbours, a neighbourhood reaches to the one after the k-th; column 0 is the row itself.
    wider, neighbours = distance[:, min(k + 1, len(x) - 1)], torch.cat([part.indices for part in found])[:, 1 : k + 1]
    hits, without = 0.0, torch.zeros(len(x), dtype=torch.float64)
    for part in batches(y, CHUNK):
        away = torch.cdist(x, part)
        near = away <= radius[:, None]
        count = near.sum(0)
        hits += float((count > 0).sum())
        reached = (away <= wider[:, None]).to(torch.int32)
        regained = torch.zeros_like(reached)
        for column in neighbours.T:
            regained.index_add_(0, column, reached)
        without += ((count - near.long() > 0) | (regained > 0)).double().sum(1)
    return hits / len(y), without / len(y)


def _jackknife(value: float, without: Tensor, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n from what it is without each picture in turn (N,): Wilson's at its own error.

    The rows of the other set share their neighbours, so they are not independent and Wilson's interval over them would
    be too narrow. The jackknife's error is that over fresh pictures, on average never too small (Efron & Stein 1981);
    Wilson's interval is that of as many independent rows as have this error, at most n. It stays in [0, 1].
    """
    square = float((without - without.mean()).square().sum()) * (len(without) - 1) / len(without)
    alike = value * (1 - value) / square if square > 0 and 0 < value < 1 else n
    alike = min(max(alike, 1.0), n)
    return wilson(value * alike, alike)


def _even(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, of as many rows."""
    n = min(len(x), len(y))
    return _thinned(x, n).double(), _thinned(y, n).double()


def _radii(x: Tensor, k: int) -> Tensor:
    """(N,): the distance of each row to its k-th nearest other row."""
    if not 1 <= k < len(x):
        raise ValueError(f"k: expected 1 to {len(x) - 1} neighbours among {len(x)} pictures, got {k}")
    # The nearest of all is the row itself.
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, 1).values for part in batches(x, CHUNK)])


def _thinned(x: Tensor, n: int) -> Tensor:
    """At most n rows, spread evenly."""
    return x if len(x) <= n else x[torch.arange(n) * len(x) // n]


def enough(n: int, reference: int, dim: int) -> None:
    """Raise ValueError, before any long work, where there are too few pictures for all of the distances."""
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
