"""Faults in operators and in the terms that observe with them."""

from __future__ import annotations

from tests.faults.fault import Fault

TESTS = "tests/test_operators.py"
OPERATORS = [
    Fault(
        "operator: box-down's adjoint is its pseudo-inverse",
        "guided/operators/pixels.py",
        "return self.pinv(y) / self.factor**2",
        "return self.pinv(y)",
        f"{TESTS}::test_adjoint_moves_a_to_the_other_side",
    ),
    Fault(
        "operator: a mask is filled in by a sum",
        "guided/operators/pixels.py",
        "return torch.where(self._known(x), self.fitting(y, x), x)",
        "return x + self.pinv(self.fitting(y, x) - x)",
        f"{TESTS}::test_known_pixels_are_bits_and_unknown_ones_are_never_read",
    ),
    Fault(
        "operator: unknown pixels of a measurement are read",
        "guided/operators/pixels.py",
        "return self(self.fitting(y, x) - x)",
        "return self.fitting(y, x) - self(x)",
        f"{TESTS}::test_known_pixels_are_bits_and_unknown_ones_are_never_read",
    ),
    Fault(
        "operator: the mirror of a blur repeats instead",
        "guided/operators/spectral.py",
        "wide = torch.cat([wide, wide.flip(-1)], -1)",
        "wide = torch.cat([wide, wide], -1)",
        f"{TESTS}::test_blur_is_scipys",
    ),
    Fault(
        "operator: a blur's inverse has no threshold",
        "guided/operators/spectral.py",
        "torch.where(left > self.threshold, 1 / left",
        "torch.where(left > 0, 1 / left",
        f"{TESTS}::test_what_a_blur_destroys_is_not_made_up",
    ),
    Fault(
        "operator: solve takes the measurement's std for its variance",
        "guided/operators/operator.py",
        "per_image(r2, like) * power + sigma_y**2",
        "per_image(r2, like) * power + sigma_y",
        f"{TESTS}::test_solve_is_the_dense_solution_image_by_image",
    ),
    Fault(
        "operator: conjugate gradients share one step in a batch",
        "guided/operators/operator.py",
        "return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)",
        "return (a * b).sum()",
        f"{TESTS}::test_conjugate_gradients_treat_every_image_alone",
    ),
]
