"""Operators against the dense matrices they stand for, scipy's blur, and what adjoint and pseudo-inverse mean."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from guided.codec import Pixels
from guided.operators import LUMA, Blur, BoxDown, Decoded, Grey, Mask, Matrix, Operator, conjugate_gradient

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Bare(Operator):
    """Another operator with all that it knows taken away, but for what an operator must bring."""

    def __init__(self, inner: Operator) -> None:
        self.inner = inner

    def __call__(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(y)


class Linear:
    """A codec whose decoder is a matrix onto pictures (3, 4, 6), with its pseudo-inverse as the encoder."""

    limit = None

    def __init__(self) -> None:
        self.matrix = draw(72, 20, seed=9) / 4

    def decode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.T).reshape(-1, 3, 4, 6)

    def encode(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.matrix.pinverse().T).reshape(-1, 5, 2, 2)


IMAGE = (3, 4, 6)
KNOWN = draw(4, 6, seed=3) > 0
LOW_RANK = draw(7, 3, seed=4) @ draw(3, 72, seed=5) / 8
CASES: dict[str, tuple[Operator, tuple[int, ...]]] = {
    "mask": (Mask(KNOWN), IMAGE),
    "mask per channel": (Mask(draw(*IMAGE, seed=3) > 0), IMAGE),
    "box-down": (BoxDown(2), IMAGE),
    "grey": (Grey(), IMAGE),
    "luma": (Grey(LUMA), IMAGE),
    "blur": (Blur(0.6, threshold=0.0), IMAGE),
    "blur, odd": (Blur(0.5, threshold=0.0), (1, 5, 7)),
    "circular blur": (Blur(0.6, reflect=False, threshold=0.0), IMAGE),
    "circular blur, odd": (Blur(0.6, reflect=False, threshold=0.0), (2, 5, 3)),
    "matrix": (Matrix(draw(5, 72, seed=2) / 8, IMAGE), IMAGE),
    "tall matrix": (Matrix(draw(9, 4, seed=2)), (4,)),
    "matrix of low rank": (Matrix(LOW_RANK, IMAGE), IMAGE),
    "bare matrix": (Bare(Matrix(draw(5, 72, seed=2) / 8, IMAGE)), IMAGE),
    "bare box-down": (Bare(BoxDown(2)), IMAGE),
    "decoded": (Decoded(Mask(KNOWN), Linear()).at(draw(2, 5, 2, 2)), (5, 2, 2)),
}
ALL = pytest.mark.parametrize(("operator", "shape"), CASES.values(), ids=CASES)


def dense(function, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear function of images of this shape, column by column (two alike fill a batch)."""
    columns = [
        function(e.reshape(1, *shape).expand(2, *shape))[0].flatten() for e in torch.eye(shape.numel(), dtype=F64)
    ]
    return torch.stack(columns, 1)


def of(operator: Operator, shape: tuple[int, ...]) -> tuple[Tensor, torch.Size]:
    """The operator's matrix and the shape of its measurement."""
    return dense(operator, torch.Size(shape)), operator(torch.zeros(2, *shape, dtype=F64)).shape[1:]


@ALL
def test_adjoint_moves_a_to_the_other_side(operator: Operator, shape: tuple[int, ...]) -> None:
    x = draw(2, *shape)
    y = draw(*operator(x).shape, seed=1)
    assert operator.adjoint(y).shape == x.shape
    left, right = (operator(x) * y).flatten(1).sum(1), (x * operator.adjoint(y)).flatten(1).sum(1)
    assert torch.allclose(left, right, atol=1e-12)


@ALL
def test_pinv_meets_the_four_conditions_of_moore_and_penrose(operator: Operator, shape: tuple[int, ...]) -> None:
    A, measured = of(operator, shape)
    P = dense(operator.pinv, measured)
    assert torch.allclose(A @ P @ A, A, atol=1e-9)
    assert torch.allclose(P @ A @ P, P, atol=1e-9)
    assert torch.allclose(A @ P, (A @ P).T, atol=1e-9)
    assert torch.allclose(P @ A, (P @ A).T, atol=1e-9)


@ALL
def test_solve_is_the_dense_solution_image_by_image(operator: Operator, shape: tuple[int, ...]) -> None:
    A, measured = of(operator, shape)
    v, r2, sigma_y = draw(2, *measured, seed=6), torch.tensor([0.3, 5.0], dtype=F64), 0.2
    found = operator.solve(v, r2, sigma_y)
    for i in range(2):
        expected = torch.linalg.solve(r2[i] * A @ A.T + sigma_y**2 * torch.eye(len(A), dtype=F64), v[i].flatten())
        assert torch.allclose(found[i].flatten(), expected, rtol=1e-9, atol=1e-9)
        assert torch.allclose(operator.solve(v, float(r2[i]), sigma_y)[i], found[i], atol=1e-9)
        assert torch.allclose(operator.solve(v, r2[i], sigma_y)[i], found[i], atol=1e-9)


CLOSED = {name: case for name, case in CASES.items() if "bare" not in name and name != "decoded"}


@pytest.mark.parametrize(("operator", "shape"), CLOSED.values(), ids=CLOSED)
def test_without_noise_solve_is_the_pseudo_inverse(operator: Operator, shape: tuple[int, ...]) -> None:
    A, measured = of(operator, shape)
    v = draw(2, *measured, seed=6)
    expected = v.flatten(1) @ torch.linalg.pinv(1.7 * A @ A.T, rtol=1e-12).T
    assert torch.allclose(operator.solve(v, 1.7, 0.0).flatten(1), expected, rtol=1e-8, atol=1e-8)


@ALL
def test_projection_is_the_nearest_image_with_the_measurement(operator: Operator, shape: tuple[int, ...]) -> None:
    x, truth = draw(2, *shape), draw(2, *shape, seed=7)
    y = operator(truth)
    found = operator.project(x, y)
    assert torch.allclose(operator(found), y, atol=1e-9)
    # the change lies in the range of A^T: no shorter one would do
    change = (found - x).flatten(1)
    A = of(operator, shape)[0]
    assert torch.allclose(change @ (torch.linalg.pinv(A) @ A).T, change, atol=1e-9)


def test_known_pixels_are_bits_and_unknown_ones_are_never_read() -> None:
    x, y = draw(2, *IMAGE).float(), draw(2, *IMAGE, seed=1).float()
    y = torch.where(KNOWN, y, torch.nan)
    operator = Mask(KNOWN)
    assert torch.equal(operator.project(x, y), torch.where(KNOWN, y, x))
    assert not torch.equal((x + operator.pinv(operator.residual(x, y)))[..., KNOWN], y[..., KNOWN])
    assert torch.equal(operator.residual(x, y), torch.where(KNOWN, y - x, 0.0))
    assert operator.solve(operator.residual(x, y), 0.5, 0.0).isfinite().all()
    each = torch.stack([KNOWN, ~KNOWN])[:, None]
    assert torch.equal(Mask(each.int())(x)[1], Mask(~KNOWN)(x)[1])


def test_box_down_and_grey_are_means() -> None:
    x = draw(2, 3, 6, 9)
    assert torch.allclose(BoxDown(3)(x)[:, :, 1, 2], x[:, :, 3:6, 6:9].mean((-2, -1)))
    assert torch.allclose(Grey()(x)[:, 0], x.mean(1))
    assert torch.allclose(Grey(LUMA)(x)[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])


@pytest.mark.parametrize("std", [0.4, 1.0, 3.0])
@pytest.mark.parametrize(("reflect", "mode"), [(True, "reflect"), (False, "wrap")])
def test_blur_is_scipys(std: float, reflect: bool, mode: str) -> None:
    x = draw(1, 2, 9, 6)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, std, std), mode=mode, truncate=10)
    assert torch.allclose(Blur(std, reflect)(x), torch.from_numpy(expected), atol=1e-12)


def test_what_a_blur_destroys_is_not_made_up() -> None:
    operator, x = Blur(1.2, threshold=0.02), draw(1, 1, 8, 8)
    A, P = of(operator, (1, 8, 8))[0], dense(operator.pinv, torch.Size((1, 8, 8)))
    assert torch.linalg.matrix_norm(P, 2) <= 1 / 0.02
    assert torch.linalg.matrix_norm(A @ P @ A - A, 2) <= 0.02
    assert torch.allclose(P @ A @ P, P, atol=1e-9)
    lost = torch.linalg.svdvals(A) <= 0.02
    assert 0 < lost.sum() < 64
    assert torch.linalg.matrix_rank(P) == 64 - lost.sum()
    power = torch.linalg.pinv(A @ A.T, atol=0.02**2)
    assert torch.allclose(operator.solve(x, 1.0, 0.0).flatten(), power @ x.flatten(), atol=1e-7)


def test_a_codec_is_linearised_where_it_stands() -> None:
    class Bent:
        limit = None

        def decode(self, x: Tensor) -> Tensor:
            return torch.tanh(x) + 0.1 * x.flip(-1) ** 2

        def encode(self, images: Tensor) -> Tensor:
            return images

    operator, x = Decoded(BoxDown(2), Bent()), draw(2, 1, 4, 4)
    A = operator.at(x)
    for i in range(2):
        J = torch.autograd.functional.jacobian(lambda one: operator(one[None])[0], x[i]).reshape(4, 16)
        assert torch.allclose(A(draw(2, 1, 4, 4, seed=1))[i].flatten(), J @ draw(2, 1, 4, 4, seed=1)[i].flatten())
        assert torch.allclose(A.adjoint(draw(2, 1, 2, 2))[i].flatten(), J.T @ draw(2, 1, 2, 2)[i].flatten())
        v = draw(2, 1, 2, 2)[i].flatten()
        expected = torch.linalg.solve(0.5 * J @ J.T + 0.01 * torch.eye(4, dtype=F64), v)
        assert torch.allclose(A.solve(draw(2, 1, 2, 2), 0.5, 0.1)[i].flatten(), expected)
    with torch.no_grad():
        assert A.adjoint(draw(2, 1, 2, 2)).shape == x.shape
    with pytest.raises(TypeError, match=r"at\(x\)"):
        operator.adjoint(draw(2, 1, 2, 2))
    plain = Decoded(Mask(KNOWN), Pixels())
    x, y = draw(2, *IMAGE), draw(2, *IMAGE, seed=1)
    assert torch.equal(plain.project(x, y), Mask(KNOWN).project(x, y))
    assert torch.equal(plain.residual(x, y), Mask(KNOWN).residual(x, y))


def test_conjugate_gradients_treat_every_image_alone() -> None:
    root = draw(3, 8, 8)
    A = root @ root.mT + 0.1 * torch.eye(8, dtype=F64)
    b = draw(3, 8, seed=1) * torch.tensor([1.0, 1e-6, 0.0], dtype=F64)[:, None]
    apply = lambda rows: lambda x: (A[rows] @ x[..., None])[..., 0]  # noqa: E731
    whole = conjugate_gradient(apply(slice(3)), b)
    assert torch.allclose(whole[:2], torch.linalg.solve(A, b)[:2], rtol=1e-9, atol=1e-16)
    assert torch.equal(whole[2], torch.zeros(8, dtype=F64))
    for i in range(3):
        assert torch.allclose(conjugate_gradient(apply(slice(i, i + 1)), b[i : i + 1])[0], whole[i], rtol=1e-12, atol=0)
    # one step is the steepest descent from 0
    step = (b[0] @ b[0]) / (b[0] @ A[0] @ b[0])
    assert torch.allclose(conjugate_gradient(apply(slice(3)), b, iterations=1)[0], step * b[0])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", ["mask", "box-down", "luma", "blur", "circular blur", "matrix", "bare box-down"])
def test_dtype_and_device_are_those_of_the_image(name: str, dtype: torch.dtype, device: str) -> None:
    operator, shape = CASES[name]
    x = draw(2, *shape).to(device=device, dtype=dtype).requires_grad_()
    y = operator(x)
    r2 = torch.tensor([0.5, 2.0], dtype=F64)
    for found in (y, operator.adjoint(y), operator.pinv(y), operator.solve(y, r2, 0.1)):
        assert found.dtype == dtype and found.device.type == device
    kept = operator.project(x.detach(), y.detach().double().cpu())
    assert kept.dtype == dtype and kept.device.type == device
    y.square().sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, 2 * operator.adjoint(y).detach(), atol=1e-5)


def test_they_read_as_what_they_are() -> None:
    operators = [Mask(torch.eye(4)), BoxDown(4), Grey(), Grey(LUMA), Grey((0.0, 1.0)), Blur(1.5), Matrix(torch.eye(3))]
    assert list(map(repr, operators)) == [
        "Mask(4x4, 25% known)",
        "BoxDown(factor=4)",
        "Grey()",
        "Grey(LUMA)",
        "Grey((0.0, 1.0))",
        "Blur(std=1.5, reflect=True, threshold=0.01)",
        "Matrix(3x3)",
    ]
    assert repr(Decoded(BoxDown(2), Pixels())) == "Decoded(BoxDown(factor=2), Pixels)"
    assert repr(Decoded(BoxDown(2), Pixels()).at(torch.zeros(1))) == "Decoded(BoxDown(factor=2), Pixels).at(x)"


def test_what_does_not_fit_is_refused() -> None:
    x = draw(2, 3, 5, 6)
    with pytest.raises(ValueError, match=r"divisible by 4, got \(2, 3, 5, 6\)"):
        BoxDown(4)(x)
    with pytest.raises(ValueError, match=r"known \(4, 6\) does not fit images \(2, 3, 5, 6\)"):
        Mask(KNOWN)(x)
    with pytest.raises(ValueError, match="does not fit"):
        Mask(torch.ones(1, 2, 3, 5, 6))(x)
    with pytest.raises(ValueError, match="nothing between"):
        Mask(torch.full((5, 6), 0.5))
    with pytest.raises(ValueError, match=r"images \(B, 3, H, W\)"):
        Grey()(x[:, :2])
    with pytest.raises(ValueError, match="B, C, H, W"):
        Blur(1.0)(x[0])
    with pytest.raises(ValueError, match="positive"):
        Blur(0.0)
    with pytest.raises(ValueError, match="at least one weight"):
        Grey((0.0, 0.0))
    with pytest.raises(ValueError, match="factor"):
        BoxDown(0)
    with pytest.raises(ValueError, match="does not measure images"):
        Matrix(draw(2, 5), (2, 2))
    with pytest.raises(ValueError, match="needs images"):
        Matrix(draw(2, 4))(draw(2, 5))
    with pytest.raises(ValueError, match=r"y is \(3, 1, 5, 6\), but A x is \(2, 1, 5, 6\)"):
        Grey().residual(x, draw(3, 1, 5, 6))
    with pytest.raises(ValueError, match="y is"):
        Mask(torch.ones(5, 6)).project(x, x[..., :3])
    with pytest.raises(ValueError, match="sigma_y > 0"):
        Bare(Grey()).solve(draw(2, 1, 5, 6), 1.0, 0.0)
    assert Grey().residual(x, draw(1, 1, 5, 6)).shape == (2, 1, 5, 6)
