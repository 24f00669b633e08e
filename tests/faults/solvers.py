"""Faults in the solvers and in sampling."""

from __future__ import annotations

from tests.faults.fault import Fault

DATA, NOISE, WEIGHTS = (f"guided/solvers/{name}.py" for name in ("data_form", "noise_form", "weights"))
ONE, SHARED = "guided/solvers/onestep.py", "guided/solvers/base.py"
ORDERS, FORMULAS, RULES = (f"tests/solvers/test_{name}.py" for name in ("orders", "formulas", "rules"))
SAMPLING = "tests/test_sampling.py"
SOLVERS = [
    Fault(
        "multistep ignores the level after an up-move",
        DATA,
        "math.log(here / (there if forget else after))",
        "math.log(here / there)",
        f"{ORDERS}::test_weak_order_on_noisy_paths",
    ),
    Fault(
        "2M's second-order term halved",
        DATA,
        "return (1.0, 0.5)[:count]",
        "return (1.0, 0.25)[:count]",
        f"{ORDERS}::test_order_of_convergence",
    ),
    Fault(
        "3M's third-order term is Taylor's, not the published one",
        DATA,
        "return one, first, second / 2",
        "return one, first, second",
        f"{FORMULAS}::test_dpmpp_multistep",
    ),
    Fault(
        "older values enter with the wrong sign",
        DATA,
        "torch.add(out, other.D - D, alpha=weight)",
        "torch.add(out, other.D - D, alpha=-weight)",
        f"{FORMULAS}::test_eab_in_the_data",
    ),
    Fault(
        "the data form uses one value less than its order",
        DATA,
        "used = (Seen(here, D), *seen)[: self.order]",
        "used = (Seen(here, D), *seen)[: max(1, self.order - 1)]",
        f"{ORDERS}::test_order_of_convergence",
    ),
    Fault(
        "the noise form uses one value less than its order",
        NOISE,
        "seen[: self.order - 1]",
        "seen[: max(0, self.order - 2)]",
        f"{ORDERS}::test_order_of_convergence",
    ),
    Fault(
        "the corrector is never applied",
        DATA,
        "if memory and memory.predicted:",
        "if memory and not memory.predicted and memory.predicted:",
        f"{ORDERS}::test_order_of_convergence",
    ),
    Fault(
        "the corrector leaves the new evaluation out",
        DATA,
        "nodes = [1.0, *(",
        "nodes = [-1.0, *(",
        f"{FORMULAS}::test_unipc",
    ),
    Fault(
        "a corrector of an order too low",
        DATA,
        "return self.order + 1",
        "return self.order",
        f"{FORMULAS}::test_unipc",
    ),
    Fault(
        "D at 0 is extrapolated away from 0",
        SHARED,
        "return D + weight",
        "return D - weight",
        f"{FORMULAS}::test_the_step_to_0_extrapolates_d_as_a_parabola_in_sigma",
    ),
    Fault(
        "D at 0 is extrapolated as a line in sigma",
        SHARED,
        "sigma**2 / (before.sigma**2 - sigma**2)",
        "sigma / (before.sigma - sigma)",
        f"{FORMULAS}::test_the_step_to_0_extrapolates_d_as_a_parabola_in_sigma",
    ),
    Fault(
        "after fresh noise D is extrapolated to 0 all the same",
        DATA,
        "and memory is not None and not memory.noisy",
        "and memory is not None",
        f"{RULES}::test_after_fresh_noise_a_step_to_0_is_d_itself",
    ),
    Fault(
        "the noise form keeps its history over fresh noise",
        NOISE,
        "if after == there else None",
        "if after < here else None",
        f"{RULES}::test_what_is_remembered_when_the_path_rises",
    ),
    Fault(
        "the data form keeps its history where the path returns",
        DATA,
        "None if forget else History",
        "History",
        f"{RULES}::test_what_is_remembered_when_the_path_rises",
    ),
    Fault(
        "the history ahead is taken for the one behind",
        SHARED,
        "if past.sigma != sigma and (past.sigma < sigma) == rising]",
        "]",
        f"{RULES}::test_an_integration_that_turns_round_comes_back",
    ),
    Fault(
        "the noise form weighs its step as the data form does",
        NOISE,
        "weights.exponential(-move, len(nodes) + 1)",
        "weights.exponential(move, len(nodes) + 1)",
        f"{FORMULAS}::test_eab_in_the_noise_and_lms",
    ),
    Fault(
        "the interpolating polynomial misses one node",
        WEIGHTS,
        "if i != j:",
        "if i > j:",
        f"{FORMULAS}::test_eab_in_the_data",
    ),
    Fault(
        "Heun takes its second slope at the old level",
        ONE,
        "again = denoise(guess, next_sigma, cond)",
        "again = denoise(guess, sigma, cond)",
        f"{ORDERS}::test_order_of_convergence",
    ),
    Fault(
        "the middle of a step is taken in sigma",
        ONE,
        "middle = torch.sqrt(sigma * next_sigma)",
        "middle = (sigma + next_sigma) / 2",
        f"{FORMULAS}::test_one_step_methods",
    ),
    Fault(
        "a learned variance is asked for on every path that rises",
        "guided/sampling.py",
        "and math.isclose(here * there, level**2, rel_tol=1e-6)",
        "",
        f"{SAMPLING}::test_a_learned_variance_is_for_ddpms_steps_alone",
    ),
    Fault(
        "the learned std is asked for at the level below",
        "guided/sampling.py",
        "posterior(x, sigmas[move], level, cond)",
        "posterior(x, sigmas[move], sigmas[move + 1], cond)",
        f"{SAMPLING}::test_a_learned_variance_makes_the_published_posterior_step",
    ),
    Fault(
        "a learned variance leaves the solver as it is",
        "guided/sampling.py",
        "walk = solvers.euler if posterior else step",
        "walk = step",
        f"{SAMPLING}::test_a_learned_variance_makes_the_published_posterior_step",
    ),
    Fault(
        "a Langevin step of half the size",
        "guided/path.py",
        "level * (1 - 2 * snr**2)",
        "level * (1 - snr**2)",
        f"{SAMPLING}::test_a_langevin_corrector_is_the_published_step",
    ),
]
