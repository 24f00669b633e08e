"""Planted faults: one at a time, each must turn a named test red.

Run all:  python -m tests.faults      (some minutes; also `pytest -m slow tests/test_faults.py`)
Run some: python -m tests.faults noise ema
Each fault is applied to a copy of the package, and only its own test is run against that copy.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Fault(NamedTuple):
    """In `file`, `old` (which must occur) becomes `new`; then `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


CFG = "tests/guide/test_cfg.py"
FAULTS = [
    Fault(
        "noise of an up-move has the wrong sign of variance",
        "guided/sampling.py",
        "there**2 - here**2",
        "there**2 + here**2",
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
        "w becomes w + 1",
        "guided/guide/contrast.py",
        "[(w - 1.0, Branch()), (1.0 - w, other)]",
        "[(w, Branch()), (-w, other)]",
        f"{CFG}::test_it_is_the_formula_of_the_paper_in_one_batched_call",
    ),
    Fault(
        "null swapped with the condition",
        "guided/guide/contrast.py",
        "[(w - 1.0, Branch()), (1.0 - w, other)]",
        "[(1.0 - w, Branch()), (w - 1.0, other)]",
        f"{CFG}::test_it_is_the_formula_of_the_paper_in_one_batched_call",
    ),
    Fault(
        "interval gates the wrong way round",
        "guided/guide/guide.py",
        "(sigma > self.lo) & (sigma <= self.hi)",
        "(sigma <= self.lo) | (sigma > self.hi)",
        f"{CFG}::test_outside_its_interval_it_costs_one_evaluation_and_changes_nothing",
    ),
    Fault(
        "interval closed at the wrong end",
        "guided/guide/guide.py",
        "(sigma > self.lo) & (sigma <= self.hi)",
        "(sigma >= self.lo) & (sigma < self.hi)",
        f"{CFG}::test_outside_its_interval_it_costs_one_evaluation_and_changes_nothing",
    ),
    Fault(
        "a weight per image runs along the columns",
        "guided/guide/guide.py",
        "return spread(weight, x) if isinstance(weight, Tensor) and weight.ndim < 2 else weight",
        "return weight",
        f"{CFG}::test_a_weight_per_image_counts_images_even_where_the_picture_is_as_wide_as_the_batch",
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
        "multistep ignores the level after an up-move",
        "guided/solvers.py",
        "target = next_sigma if forget else level",
        "target = next_sigma",
        "tests/test_solvers.py::test_2m_keeps_second_order_on_noisy_paths",
    ),
    Fault(
        "second-order term halved",
        "guided/solvers.py",
        "(2 * math.log(float(before / sigma)))",
        "(4 * math.log(float(before / sigma)))",
        "tests/test_solvers.py::test_order_of_convergence",
    ),
    Fault(
        "Heun takes its second slope at the old level",
        "guided/solvers.py",
        "again = denoise(guess, next_sigma, cond)",
        "again = denoise(guess, sigma, cond)",
        "tests/test_solvers.py::test_order_of_convergence",
    ),
    Fault(
        "sigma off by one along the path",
        "guided/sampling.py",
        "here, there = path[move], path[move + 1]",
        "here, there = path[max(move - 1, 0)], path[move + 1]",
        "tests/test_solvers.py::test_order_of_convergence",
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
        "sigma.clamp(self.lo, self.hi)",
        "sigma",
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


def caught(fault: Fault) -> bool:
    """Whether the fault's test fails once the fault is planted (and the fault could be planted at all)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for name in ("guided", "tests", "recipes", "examples"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
        (copy / "guided" / "assets").symlink_to(ROOT / "guided" / "assets")
        shutil.copy(ROOT / "pyproject.toml", copy)
        file = copy / fault.file
        text = file.read_text()
        if fault.old not in text:
            raise LookupError(f"{fault.name}: {fault.file} no longer holds {fault.old!r}")
        file.write_text(text.replace(fault.old, fault.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "", fault.test]
        return subprocess.run(command, cwd=copy, capture_output=True).returncode == 1


def main(words: list[str]) -> int:
    """Plant each fault whose name holds one of the words (all without any); the number that went unnoticed."""
    missed = 0
    for fault in FAULTS:
        if words and not any(word in fault.name for word in words):
            continue
        found = caught(fault)
        missed += not found
        print(f"{'caught' if found else 'MISSED'}  {fault.name}  ({fault.test})", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
