"""Faults in calibration."""

from __future__ import annotations

from tests.faults.fault import Fault

T = "tests/tune"
TUNING = [
    Fault(
        "errors of levels that rise",
        "guided/tune/schedule.py",
        "falls = ((h < i) | ((h == i) & (i == 0))) & (i < j)",
        "falls = (h <= i) & (i < j)",
        f"{T}/test_schedule.py::test_a_path_begins_with_nothing_to_remember",
    ),
    Fault(
        "a step leans the wrong way",
        "guided/tune/schedule.py",
        "(D_i, keep - 1 - lean), (D_h, lean)",
        "(D_i, keep - 1 + lean), (D_h, -lean)",
        f"{T}/test_schedule.py::test_errors_are_those_of_the_solvers_steps",
    ),
    Fault(
        "the path read off by one",
        "guided/tune/schedule.py",
        "chosen.append(h)",
        "chosen.append(i)",
        f"{T}/test_schedule.py::test_shortest_is_the_least_of_all_paths",
    ),
    Fault(
        "a worse trial is kept",
        "guided/tune/calibration.py",
        "if trial.error < best.error:",
        "if trial.error != best.error:",
        f"{T}/test_calibration.py::test_more_trials_are_never_worse_and_no_more_are_made_than_asked",
    ),
    Fault(
        "calibrated on the noise that is drawn",
        "guided/tune/model.py",
        ', stream="calibrate")',
        ")",
        f"{T}/test_model.py::test_its_noise_is_none_that_generate_draws",
    ),
    Fault(
        "a calibrated path at any weight",
        "guided/model/request.py",
        'and abs(w - found["w"]) <= NEAR',
        "",
        f"{T}/test_model.py::test_the_callers_choice_and_other_settings_go_before_it",
    ),
    Fault(
        "a calibrated path before the caller's solver",
        "guided/model/request.py",
        'if found is not None and (own or request.solver in (None, found["solver"])):',
        "if found is not None:",
        f"{T}/test_model.py::test_the_callers_choice_and_other_settings_go_before_it",
    ),
    Fault(
        "a fitted step is not held",
        "guided/solvers/fitted.py",
        "size.clamp(max=most) / size",
        "size / size",
        "tests/solvers/test_fitted.py::test_what_the_weights_add_to_an_image_is_held_to_the_limit_of_the_step",
    ),
    Fault(
        "fitted to where the reference was, not where it goes",
        "guided/tune/fitting.py",
        "reference.at(there)",
        "reference.at(here)",
        f"{T}/test_calibration.py::test_a_fitted_step_lands_as_near_to_the_reference_as_three_weights_can",
    ),
    Fault(
        "a fitted solver's older estimates change places",
        "guided/tune/fitting.py",
        "[D, *past][:REMEMBERED]",
        "[*past, D][-REMEMBERED:]",
        f"{T}/test_calibration.py::test_a_fitted_step_lands_as_near_to_the_reference_as_three_weights_can",
    ),
]
