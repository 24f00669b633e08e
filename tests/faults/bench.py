"""Faults in what the bench says of guides."""

from __future__ import annotations

from tests.faults.fault import Fault

T = "tests/bench/test_guides.py"
BENCH = [
    Fault(
        "bench: calls are counted, not images",
        "guided/bench/steered.py",
        "self.rows[0] += len(x)",
        "self.rows[0] += 1",
        f"{T}::test_evaluations_are_counted_an_image",
    ),
    Fault(
        "bench: the weaker denoiser costs nothing",
        "guided/bench/guides.py",
        "weak=Counting(problem.weak, counter.rows)",
        "weak=problem.weak",
        f"{T}::test_evaluations_are_counted_an_image",
    ),
    Fault(
        "bench: a class is judged by all the data",
        "guided/bench/judged.py",
        "weights = weights * (data.classes == label)",
        "weights = weights * 1",
        f"{T}::test_quantiles_are_where_the_mixture_has_that_much_below",
    ),
    Fault(
        "bench: variance about the middle of the data",
        "guided/bench/judged.py",
        "(drawn - mean[:, None]).square().sum(2)",
        "drawn.square().sum(2)",
        f"{T}::test_images_of_classes_are_judged_as_was_derived_by_hand",
    ),
    Fault(
        "bench: the measurement's noise is forgotten",
        "guided/bench/steered.py",
        "self.data.posterior(x, sigma, self.matrix, y, self.sigma_y)",
        "self.data.posterior(x, sigma, self.matrix, y, 0.1 * self.sigma_y)",
        f"{T}::test_observations_of_independent_gaussian_numbers_have_the_posteriors_moments",
    ),
    Fault(
        "bench: a blind model is told the class",
        "guided/bench/guides.py",
        "cond = Cond() if entry.blind else problem.cond",
        "cond = problem.cond",
        f"{T}::test_bayes_rule_is_the_conditional_model_along_the_whole_path",
    ),
    Fault(
        "bench: an interval holds what drawing again adds",
        "guided/bench/guides.py",
        "(drawn * ratio / drawn.mean()).quantile(",
        "drawn.quantile(",
        f"{T}::test_a_wrong_guide_of_the_users_is_told_apart_and_every_row_is_a_ratio_within_its_interval",
    ),
]
