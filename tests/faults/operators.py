"""Faults in operators and in the terms that observe with them."""

from __future__ import annotations

from tests.faults.fault import Fault

TESTS, OBSERVE = "tests/test_operators.py", "tests/guide/test_observe.py"
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
    Fault(
        "observation: the gradient is weighed by sigma, not its square",
        "guided/guide/observe.py",
        "return at.level**2 * at.vjp",
        "return at.level * at.vjp",
        f"{OBSERVE}::test_pigdm_and_mmps_are_bayes_rule_on_a_gaussian",
    ),
    Fault(
        "observation: PiGDM forgets how the data vary",
        "guided/guide/observe.py",
        "s2 * self.var / (s2 + self.var)",
        "s2",
        f"{OBSERVE}::test_pigdm_and_mmps_are_bayes_rule_on_a_gaussian",
    ),
    Fault(
        "observation: MMPS takes every pixel for as uncertain",
        "guided/guide/observe.py",
        "A(at.level**2 * at.vjp(A.adjoint(v)))",
        "A(at.level**2 * A.adjoint(v))",
        f"{OBSERVE}::test_mmps_is_bayes_rule_on_any_gaussian_and_pigdm_is_not",
    ),
    Fault(
        "observation: DPS takes its norm squared",
        "guided/guide/observe.py",
        "residual / length.clamp_min(torch.finfo(length.dtype).tiny)",
        "residual",
        f"{OBSERVE}::test_dps_is_the_published_algorithm",
    ),
    Fault(
        "observation: DPS in the units of the level it leaves",
        "guided/guide/observe.py",
        "(1 + t**2)).sqrt()",
        "(1 + s**2)).sqrt()",
        f"{OBSERVE}::test_dps_is_the_published_algorithm",
    ),
    Fault(
        "observation: projection adds what is missing",
        "guided/guide/observe.py",
        "return self.operator.project(D, self.y)",
        "return D + self.operator.pinv(self.operator.residual(D, self.y))",
        f"{OBSERVE}::test_known_pixels_end_as_the_bits_they_came_as",
    ),
    Fault(
        "observation: a codec is linearised where it does not stand",
        "guided/operators/decoded.py",
        "return Tangent(self, x.detach())",
        "return Tangent(self, torch.zeros_like(x))",
        f"{TESTS}::test_a_codec_is_linearised_where_it_stands",
    ),
]
