"""Faults in the probability-flow ODE, the frames at the edge and the spectrum; each name begins with its room."""

from __future__ import annotations

from tests.faults.fault import Fault

TEST = "tests/test_ode.py"
FRAMES = "tests/test_frames.py"
ANALYZE = "tests/test_analyze.py"
ODE = [
    Fault(
        "ode: a start at 0 skips the first move",
        "guided/ode/along.py",
        "start = torch.clamp(there, max=lo) if here == 0 else here",
        "start = there if here == 0 else here",
        f"{TEST}::test_a_start_at_0_is_a_start_at_lo",
    ),
    Fault(
        "ode: a refinement adds the error it should take off",
        "guided/ode/along.py",
        "moved = found + (plain",
        "moved = found - (plain",
        f"{TEST}::test_the_round_trip_error_falls_with_the_order_and_each_refinement_adds_it_again",
    ),
    Fault(
        "ode: a refinement is kept whether it helps or not",
        "guided/ode/along.py",
        "_distance(again, x) < _distance(reached, x)",
        "_distance(again, x) >= 0",
        f"{TEST}::test_no_refinement_makes_a_round_trip_worse",
    ),
    Fault(
        "ode: one step size for the batch",
        "guided/ode/embedded.py",
        "error = torch.stack(errors).amax(0).sqrt() / tol",
        "error = torch.stack(errors).amax().expand(len(here)).sqrt() / tol",
        f"{TEST}::test_what_an_image_gets_is_free_of_its_batch",
    ),
    Fault(
        "ode: images that wait are counted",
        "guided/ode/embedded.py",
        "evaluations = evaluations + len(_STAGES) * live",
        "evaluations = evaluations + len(_STAGES)",
        f"{TEST}::test_what_an_image_gets_is_free_of_its_batch",
    ),
    Fault(
        "ode: a rejected step leaves its last slope behind",
        "guided/ode/embedded.py",
        "first = _chosen(taken, slopes[-1], first)",
        "first = slopes[-1]",
        f"{TEST}::test_adaptive_keeps_its_tolerance_on_a_gaussian",
    ),
    Fault(
        "ode: the frame's stretching is left out of the density",
        "guided/ode/density.py",
        "dim * (grown[:, 0] + (start.cos() / end.cos()).log())",
        "dim * grown[:, 0]",
        f"{TEST}::test_the_exact_density_of_a_mixture",
    ),
    Fault(
        "ode: the data's mean is left out of the density at hi",
        "guided/ode/density.py",
        "square = (x - D)",
        "square = x",
        f"{TEST}::test_a_gaussian_needs_no_high_noise",
    ),
    Fault(
        "ode: all probes are one",
        "guided/ode/density.py",
        "noise(i, shape) < 0",
        "noise(0, shape) < 0",
        f"{TEST}::test_hutchinsons_estimate_is_the_trace_on_average",
    ),
    Fault(
        "ode: BELM forgets that steps vary",
        "guided/ode/exact.py",
        "(rate + 1 / _angle(last, sigma)) * slope",
        "2 * rate * slope",
        f"{TEST}::test_belm_is_the_papers_recursion_in_the_angle",
    ),
    Fault(
        "ode: BELM's sums are rounded as they fall",
        "guided/ode/exact.py",
        "return (value * _GRID).round() / _GRID",
        "return value",
        f"{TEST}::test_belm_returns_to_the_image_in_every_parametrisation",
    ),
    Fault(
        "frames: sub-VP has VP's variance",
        "guided/frames.py",
        "return 2 * (area / 2).sinh()",
        "return area.expm1().sqrt()",
        f"{FRAMES}::test_euler_maruyama_paths_of_each_sde_have_the_frames_moments",
    ),
    Fault(
        "frames: the network sees x unscaled",
        "guided/frames.py",
        "return Coefficients(skip, out, self.frame.scale(sigma), self.frame.shown(sigma))",
        "return Coefficients(skip, out, torch.ones_like(sigma), self.frame.shown(sigma))",
        f"{FRAMES}::test_one_network_gives_one_image_under_all_frames",
    ),
    Fault(
        "frames: a score is taken for the common frame's",
        "guided/frames.py",
        "sigma**2 * a, a, self.frame",
        "sigma**2, a, self.frame",
        f"{FRAMES}::test_the_right_network_of_each_frame_is_the_oracle",
    ),
    Fault(
        "analyze: the shift is a ratio of powers",
        "guided/analyze.py",
        "reference.power[:n].sum()).sqrt())",
        "reference.power[:n].sum()))",
        f"{ANALYZE}::test_upsampling_by_repetition_suggests_a_shift_of_2",
    ),
    Fault(
        "analyze: the transform counts pixels twice",
        "guided/analyze.py",
        'norm="ortho"',
        'norm="backward"',
        f"{ANALYZE}::test_white_noise_has_its_variance_everywhere_and_drowns_what_is_weaker",
    ),
]
