"""Faults in the core: denoisers, paths, noise, sampling, cfg."""

from __future__ import annotations

from tests.faults.fault import Fault

CFG = "tests/guide/test_cfg.py"
CORE = [
    Fault(
        "noise of an up-move has the wrong sign of variance",
        "guided/sampling.py",
        "sigmas[move + 1] ** 2 - sigmas[move] ** 2",
        "sigmas[move + 1] ** 2 + sigmas[move] ** 2",
        "tests/test_sampling.py::test_euler_on_an_ancestral_path_is_the_ddpm_posterior",
    ),
    Fault(
        "every move draws the same noise",
        "guided/sampling.py",
        "noise(move + 1,",
        "noise(1,",
        "tests/test_sampling.py::test_final_moments_on_every_path",
    ),
    Fault(
        "noise index off by one",
        "guided/sampling.py",
        "noise(move + 1,",
        "noise(move,",
        "tests/test_sampling.py::test_euler_on_an_ancestral_path_is_the_ddpm_posterior",
    ),
    Fault(
        "seeds shared in a batch",
        "guided/noise.py",
        "generator=generator(self.stream, seed, index)",
        "generator=generator(self.stream, self.seeds[0], index)",
        "tests/test_noise.py::test_an_image_has_the_same_bits_alone_or_in_any_batch",
    ),
    Fault(
        "streams are not told apart",
        "guided/noise.py",
        'return Noise(self.seeds, f"{self.stream}/{name}")',
        "return Noise(self.seeds, self.stream)",
        "tests/test_noise.py::test_streams_seeds_and_indices_do_not_meet",
    ),
    Fault(
        "the null drops the image too",
        "guided/cond.py",
        'SEMANTIC = frozenset({"label", "tokens", "vector"})',
        'SEMANTIC = frozenset({"label", "tokens", "vector", "image"})',
        f"{CFG}::test_image_conditions_survive_the_null_unless_named",
    ),
    Fault(
        "mask inverted where tokens are dropped",
        "guided/cond.py",
        "new[name] = value & ~gone",
        "new[name] = value & gone",
        "tests/test_cond.py::test_drop_declares_each_field_absent_where_asked_and_nowhere_else",
    ),
    Fault(
        "dropout never applied to labels",
        "guided/cond.py",
        "new[name] = value.masked_fill(gone, -1)",
        "new[name] = value",
        "tests/test_cond.py::test_drop_declares_each_field_absent_where_asked_and_nowhere_else",
    ),
    Fault(
        "sigma off by one along the path",
        "guided/sampling.py",
        "numbers, sigmas = path.tolist(), rows(path)",
        "numbers, sigmas = path.tolist(), rows(path[:1]) + rows(path[:-1])",
        "tests/solvers/test_formulas.py::test_eab_in_the_data",
    ),
    Fault(
        "state survives a return to the last level",
        "guided/sampling.py",
        "if here >= lowest:",
        "if here > 1e9 * lowest:",
        "tests/test_sampling.py::test_state_belongs_to_the_caller",
    ),
    Fault(
        "a resumed run draws from the start",
        "guided/sampling.py",
        "for move in range(start, len(path) - 1):",
        "for move in range(len(path) - 1 - start):",
        "tests/test_sampling.py::test_a_run_resumed_at_any_move_ends_in_the_same_bits",
    ),
    Fault(
        "v has the wrong sign",
        "guided/denoiser.py",
        "return Coefficients(scale**2, -sigma * scale, scale, _level(sigma))",
        "return Coefficients(scale**2, sigma * scale, scale, _level(sigma))",
        "tests/test_denoiser.py::test_the_right_network_in_each_parametrisation_is_the_oracle",
    ),
    Fault(
        "EDM forgets sigma_data in its output scale",
        "guided/denoiser.py",
        "sigma * self.sigma_data * total.rsqrt()",
        "sigma * total.rsqrt()",
        "tests/test_denoiser.py::test_edm_gives_the_network_unit_input_and_target",
    ),
    Fault(
        "the network sees levels it was never trained on",
        "guided/denoiser.py",
        "levels.clamp(lo, hi)",
        "levels",
        "tests/test_denoiser.py::test_the_network_sees_the_level_clamped_and_the_affine_part_does_not",
    ),
    Fault(
        "discrete timestep off by one",
        "guided/denoiser.py",
        "return above - 1 + (target - low)",
        "return above + (target - low)",
        "tests/test_denoiser.py::test_a_discrete_time_network_is_wrapped_at_its_own_levels",
    ),
    Fault(
        "ancestral noise has eta where eta squared belongs",
        "guided/path.py",
        "1 - eta**2 * (1",
        "1 - eta * (1",
        "tests/test_path.py::test_ancestral_keeps_the_variance_of_every_level",
    ),
    Fault(
        "a strength slices the grid",
        "guided/path.py",
        "return grid(n, lo if start > lo else start / 2, start)",
        "return grid(n, lo, hi)[max(0, int(n * (1 - strength))) :]",
        "tests/test_path.py::test_a_strength_always_means_n_steps_and_starts_where_it_says",
    ),
]
