"""Distances against closed forms, brute force and counting by hand; their intervals over repeated draws."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.linalg
import torch
from torch import Tensor

from guided.evaluate import distances
from guided.evaluate.distances import coverage, density, frechet, kernel, precision, recall
from guided.evaluate.figures import Figure


def draw(n: int, dim: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def exactly(mean: Tensor, cov: Tensor, n: int, seed: int) -> Tensor:
    """n samples whose own mean and covariance are the ones given."""
    x = draw(n, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(cov).T + mean


def test_fd_is_the_closed_form_of_two_gaussians() -> None:
    root = draw(4, 4, 0)
    a, b = root @ root.T + 0.3 * torch.eye(4), torch.diag(torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64))
    mean_a, mean_b = draw(1, 4, 1)[0], draw(1, 4, 2)[0]
    cross = torch.from_numpy(scipy.linalg.sqrtm((a @ b).numpy()).real)
    expected = float((mean_a - mean_b).square().sum() + (a + b - 2 * cross).trace())
    found = frechet(exactly(mean_a, a, 60, 3), exactly(mean_b, b, 80, 4), draws=20)
    assert found.value == pytest.approx(expected, rel=1e-9) and found.n == 60
    assert found.low < expected < found.high


def test_fd_of_equal_sets_is_0_also_where_the_covariance_is_singular() -> None:
    x = torch.cat([draw(100, 3, 0), torch.zeros(100, 2, dtype=torch.float64)], 1)
    assert abs(frechet(x, x, draws=5).value) < 1e-6


def test_kid_is_the_brute_force_formula() -> None:
    x, y = draw(60, 3, 0), draw(70, 3, 1, shift=0.2)

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    xx = sum(k(x[i], x[j]) for i in range(60) for j in range(60) if i != j) / (60 * 59)
    yy = sum(k(y[i], y[j]) for i in range(70) for j in range(70) if i != j) / (70 * 69)
    xy = sum(k(a, b) for a in x for b in y) / (60 * 70)
    assert kernel(x, y, draws=5).value == pytest.approx(xx + yy - 2 * xy, rel=1e-10)


def test_kid_is_unbiased() -> None:
    values = torch.tensor([kernel(draw(60, 4, 2 * s), draw(60, 4, 2 * s + 1), draws=2).value for s in range(200)])
    assert abs(float(values.mean())) < 3 * float(values.std()) / 200**0.5


@pytest.mark.parametrize("distance", [frechet, kernel])
def test_intervals_cover_the_mean_over_repeated_draws(distance: object) -> None:
    """The interval is for the distance's mean at this n: over fresh draws it must hold it about 95 times of 100."""
    reference = draw(500, 4, 0)
    figures: list[Figure] = [
        distance(draw(150, 4, s, shift=0.3), reference, draws=100)  # type: ignore[operator]
        for s in range(1, 101)
    ]
    truth = sum(figure.value for figure in figures) / len(figures)
    inside = sum(figure.low <= truth <= figure.high for figure in figures)
    assert 87 <= inside <= 100, inside
    widths = sum(figure.high - figure.low for figure in figures) / len(figures)
    values = torch.tensor([figure.value for figure in figures])
    assert widths == pytest.approx(2 * 1.96 * float(values.std()), rel=0.35)


@pytest.mark.parametrize("distance", [frechet, kernel])
def test_windows_of_one_picture_are_resampled_with_it(distance: Any) -> None:
    """Repeated rows say nothing new, and by groups the interval does not narrow; in FD it is that of the rows alone."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 3, generator=rng) + 0.4, torch.randn(200, 3, generator=rng)
    twice, groups = x.repeat_interleave(3, 0), [i for i in range(60) for _ in range(3)]
    alone, grouped, apart = distance(x, y), distance(twice, y, groups=groups), distance(twice, y)
    width = [figure.high - figure.low for figure in (alone, grouped, apart)]
    assert width[1] > 0.95 * width[0] and width[2] < 0.85 * width[0]
    if distance is frechet:
        assert width[1] == pytest.approx(width[0], rel=0.1)
    assert distance(x, y, groups=list(range(60))) == alone


def test_coverage_by_counting() -> None:
    reference = torch.arange(60, dtype=torch.float64)[:, None]
    assert coverage(reference, reference, k=1).value == 1.0
    half = torch.cat([torch.arange(30, dtype=torch.float64)] * 2)[:, None]
    # A neighbour at 1: the first thirty are met, the thirty-first lies at distance 1 of the last, not nearer.
    assert coverage(half, reference, k=1).value == pytest.approx(0.5)
    assert density(half, reference, k=1).value == pytest.approx(1.0)
    assert coverage(reference + 1e6, reference, k=5).value == 0.0 and density(reference + 1e6, reference).value == 0.0


def test_coverage_of_one_law_is_what_naeem_et_al_derive() -> None:
    """1 - (N - 1) ... (N - k) / ((2 N - 1) ... (2 N - k)) for N draws each (eq. 12)."""
    n, k = 300, 5
    expected = 1.0
    for i in range(1, k + 1):
        expected *= (n - i) / (2 * n - i)
    found = [coverage(draw(n, 6, 2 * s), draw(n, 6, 2 * s + 1), k=k).value for s in range(10)]
    assert sum(found) / 10 == pytest.approx(1 - expected, abs=0.01)
    dense = [density(draw(n, 6, 2 * s), draw(n, 6, 2 * s + 1), k=k).value for s in range(10)]
    assert sum(dense) / 10 == pytest.approx(1, abs=0.06)


def test_precision_and_recall_by_counting() -> None:
    reference = torch.arange(60, dtype=torch.float64)[:, None]
    assert precision(reference, reference, k=1).value == recall(reference, reference, k=1).value == 1.0
    # Rows 40 to 99 against 0 to 59: up to 60 they are at most 1 from a reference row, whose neighbourhood is closed.
    assert precision(reference + 40, reference, k=1).value == pytest.approx(21 / 60)
    assert precision(reference + 40, reference, k=3).value == pytest.approx((21 + 2) / 60), "the last reaches to 3"
    assert precision(2 * reference, reference, k=1).value == pytest.approx(31 / 60), "0, 2, ..., 60"
    # The set is 0, 2, ..., 118, each reaching 2; the reference 59 ends within.
    assert recall(2 * reference, reference, k=1).value == 1.0
    assert recall(2 * reference + 30, reference, k=1).value == pytest.approx(32 / 60), "28 to 59 are reached"
    far = reference + 1e6
    assert precision(far, reference).value == recall(far, reference).value == 0.0


def test_recall_trusts_one_wild_picture_where_coverage_does_not() -> None:
    reference, collapsed = draw(100, 4, 0), draw(100, 4, 1, scale=0.05)
    wild = torch.cat([collapsed[:-1], torch.full((1, 4), 50.0, dtype=torch.float64)])
    assert recall(collapsed, reference).value == 0.0
    one = recall(wild, reference)
    assert one.value > 0.3 and one.low < 0.1 and one.high > 0.8, "its interval says that it hangs on one picture"
    assert coverage(wild, reference).value < 0.3
    assert precision(collapsed, reference).value == 1.0


def test_both_sets_are_cut_to_as_many() -> None:
    x, y = draw(200, 4, 0, shift=0.5), draw(100, 4, 1)
    for share in (precision, recall):
        few = share(x[torch.arange(100) * 2], y)
        assert share(x, y).value == few.value and share(x, y).n == 100
        assert share(y, x).value == share(y, x[torch.arange(100) * 2]).value


def test_the_jackknife_leaves_out_each_picture_in_turn() -> None:
    x, y = draw(60, 3, 1), draw(55, 3, 2, shift=0.5)
    each = [torch.cat([x[:i], x[i + 1 :]]) for i in range(60)]
    value, without = distances._recalled(x, y, 3)
    assert value == float(distances._inside(y, x, 3).double().mean())
    assert without.tolist() == [float(distances._inside(y, some, 3).double().mean()) for some in each]
    radius = distances._radii(y, 5)
    met, only = distances._reach(y, x, radius)
    assert (met.sum() - only).tolist() == [float(distances._reach(y, some, radius)[0].sum()) for some in each]


def test_a_collapsed_set_is_dense_and_covers_little() -> None:
    reference = draw(400, 4, 0)
    collapsed = draw(400, 4, 1, scale=0.1)
    assert density(collapsed, reference).value > 1.2
    assert coverage(collapsed, reference).value < 0.3


def test_floors_are_the_same_distance_of_real_pictures() -> None:
    x, y, z = draw(120, 4, 0, shift=1.0), draw(400, 4, 1), draw(90, 4, 2)
    assert frechet(x, y, floor=z, draws=5).beside == {"floor (n = 90)": frechet(z, y, draws=5).value}
    assert kernel(x, y, floor=z, draws=5).beside["floor (n = 90)"] == pytest.approx(kernel(z, y, draws=5).value)
    for share in (coverage, precision, recall):
        assert share(x, y, floor=z).beside == {"real (n = 90)": share(z, y).value}
    assert frechet(x, y, floor=z[:5], draws=5).beside == {}, "a floor of too few says nothing"


@pytest.mark.parametrize(
    ("distance", "least"),
    [(frechet, 128), (kernel, 50), (precision, 50), (recall, 50), (coverage, 50), (density, 50)],
)
def test_too_few_pictures_are_refused(distance: object, least: int) -> None:
    many, few = draw(200, 64, 0), draw(least - 1, 64, 1)
    for pair in ((few, many), (many, few)):
        with pytest.raises(ValueError, match=f"at least {least} pictures"):
            distance(*pair)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"expected features \(N, F\)"):
        distance(many, many[:, :3])  # type: ignore[operator]
    with pytest.raises(ValueError, match="at most 20000"):
        distance(many, torch.zeros(20_001, 64))  # type: ignore[operator]


def test_an_impossible_neighbour_is_refused() -> None:
    with pytest.raises(ValueError, match="neighbours"):
        coverage(draw(60, 2, 0), draw(60, 2, 1), k=60)


def test_a_difference_of_distances_is_covered_and_surer_than_both() -> None:
    """Pairs x and 1.1 x + 0.1 against N(0, I): |0.1|^2 F + F (1.1 - 1)^2, which the interval covers."""
    rng, F, n = torch.Generator().manual_seed(0), 4, 300
    reference = torch.randn(20_000, F, generator=rng, dtype=torch.float64)
    wanted = F * 0.1**2 + F * 0.1**2
    covered, widths = 0, []
    for _ in range(60):
        x = torch.randn(n, F, generator=rng, dtype=torch.float64)
        found = distances.farther(1.1 * x + 0.1, x, reference)
        covered += found.low <= wanted <= found.high
        widths.append(found.high - found.low)
    assert 53 <= covered <= 60, covered
    whole = distances.frechet(1.1 * x + 0.1, reference)
    assert sum(widths) / 60 < 0.9 * (whole.high - whole.low)
    same = distances.farther(x, x, reference)
    assert same.value == same.low == same.high == 0
    with pytest.raises(ValueError, match="pairs are as many"):
        distances.farther(x, x[1:], reference)
