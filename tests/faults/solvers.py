"""Faults in the solvers and in sampling."""

from __future__ import annotations

from tests.faults.fault import Fault

SOLVERS = [
    Fault(
        "multistep ignores the level after an up-move",
        "guided/solvers/data_form.py",
        "math.log(here / (there if forget else after))",
        "math.log(here / there)",
        "tests/test_solvers.py::test_2m_keeps_second_order_on_noisy_paths",
    ),
    Fault(
        "2M's second-order term halved",
        "guided/solvers/data_form.py",
        "return [1.0, 0.5][:count]",
        "return [1.0, 0.25][:count]",
        "tests/test_solvers.py::test_order_of_convergence",
    ),
    Fault(
        "Heun takes its second slope at the old level",
        "guided/solvers/onestep.py",
        "again = denoise(guess, next_sigma, cond)",
        "again = denoise(guess, sigma, cond)",
        "tests/test_solvers.py::test_order_of_convergence",
    ),
]
