"""Faults in perturbed attention, and in classifiers of noisy pictures."""

from __future__ import annotations

from tests.faults.fault import Fault

P, N, T, M = "tests/test_perturbation.py", "tests/nn/test_perturbed.py", "tests/train/test_classifier.py", "tests/model"
PERTURBING = [
    Fault(
        "perturbation: leaks out of its block",
        "guided/perturbation.py",
        "        _here.call = before\n",
        "        pass\n",
        f"{P}::test_it_holds_in_the_block_and_no_longer",
    ),
    Fault(
        "perturbation: shared by all threads",
        "guided/perturbation.py",
        "class _Here(threading.local):",
        "class _Here:",
        f"{P}::test_eight_threads_never_see_each_others",
    ),
    Fault(
        "perturbation: a compiled network keeps its first graph",
        "guided/perturbation.py",
        "    def __init__(self) -> None:\n        self.call: _Call | None = None",
        "    call: _Call | None = None",
        f"{P}::test_a_compiled_network_hears_it_too",
    ),
    Fault(
        "perturbation: nothing heard it, nothing said",
        "guided/perturbation.py",
        "if call is not None and not call.heard:",
        "if False:",
        f"{P}::test_a_block_without_effect_is_an_error",
    ),
    Fault(
        "perturbation: identity gives the query",
        "guided/nn/attend.py",
        "        return v\n",
        "        return q\n",
        f"{N}::test_every_block_is_its_formula",
    ),
    Fault(
        "perturbation: identity forgets the text's share",
        "guided/nn/attend.py",
        "return told + share * own",
        "return told + own",
        f"{N}::test_every_block_is_its_formula",
    ),
    Fault(
        "perturbation: an infinite blur is none",
        "guided/nn/attend.py",
        "        return q.mean(2, keepdim=True)\n",
        "        return q\n",
        f"{N}::test_every_block_is_its_formula",
    ),
    Fault(
        "perturbation: blur of the transposed grid",
        "guided/nn/attend.py",
        "q.reshape(*q.shape[:2], *size, q.shape[3])).flatten(2, 3)",
        "q.reshape(*q.shape[:2], *size, q.shape[3])).transpose(2, 3).flatten(2, 3)",
        f"{N}::test_every_block_is_its_formula",
    ),
    Fault(
        "perturbation: edges of a blur fall away",
        "guided/nn/attend.py",
        "torch.stack((at[:, None] - at, at[:, None] + at + 1))",
        "torch.stack((at[:, None] - at,))",
        f"{N}::test_a_blur_keeps_the_mean_and_ends_there",
    ),
    Fault(
        "perturbation: the default is every layer",
        "guided/nn/unet.py",
        "layers=default_layers(known, len(self.config.widths))",
        "layers=known",
        f"{N}::test_layers_are_those_of_the_middle_or_those_that_are_named",
    ),
    Fault(
        "perturbation: the up way counted from the fine end",
        "guided/nn/unet.py",
        'f"up.{count - 1 - i}"',
        'f"up.{i}"',
        f"{N}::test_the_default_is_the_middle_else_the_coarsest_level_with_self_attention",
    ),
    Fault(
        "perturbation: every attention is perturbed",
        "guided/nn/attention.py",
        "picked = isinstance(change, Perturbation) and self.name in (change.layers or ())",
        "picked = isinstance(change, Perturbation)",
        f"{N}::test_every_block_is_its_formula",
    ),
    Fault(
        "classifier: ignores the noise level",
        "guided/nn/classifier.py",
        "self.act(self.vector(x, c_noise, nothing))",
        "self.act(self.vector(x, 0 * c_noise, nothing))",
        "tests/nn/test_classifier.py::test_the_published_arithmetic",
    ),
    Fault(
        "classifier: pools without the mean",
        "guided/nn/classifier.py",
        "attend(q[:, :, :1], k, v)",
        "attend(q[:, :, 1:2], k, v)",
        "tests/nn/test_classifier.py::test_the_published_arithmetic",
    ),
    Fault(
        "classifier: one of estimates reads the noisy picture",
        "guided/train/loss.py",
        "classifier(estimates(x, sigma))",
        "classifier(x)",
        f"{T}::test_one_of_estimates_points_through_the_denoiser_where_the_exact_one_does",
    ),
    Fault(
        "classifier: goes on with another model's estimates",
        "guided/train/estimates.py",
        'if facts is not None and facts["estimates"] != model.hash:',
        "if facts is not None and not model.hash:",
        f"{T}::test_one_of_estimates_learns_from_a_models_and_from_no_others",
    ),
    Fault(
        "classifier: sees x unscaled",
        "guided/model/classifier.py",
        "seen = (spread(scale, x) * x).to(weights.dtype)",
        "seen = x.to(weights.dtype)",
        f"{M}/test_classifier.py::test_the_network_sees_what_a_denoisers_would",
    ),
    Fault(
        "classifier: levels beyond its range",
        "guided/model/classifier.py",
        "sigma.clamp(self.lo, self.hi)",
        "sigma",
        f"{M}/test_classifier.py::test_the_network_sees_what_a_denoisers_would",
    ),
    Fault(
        "classifier: learns from clean pictures",
        "guided/train/loss.py",
        "classifier(torch.addcmul(x0, spread(sigma, x0), noise), sigma)",
        "classifier(x0, sigma)",
        f"{T}::test_cross_entropy_is_its_formula",
    ),
    Fault(
        "classifier: part of the classes is dropped in training",
        "guided/train/setup.py",
        'recipe.data.condition != "none" and recipe.task == "denoiser" else 0.0',
        'recipe.data.condition != "none" else 0.0',
        f"{T}::test_a_run_gives_a_classifier",
    ),
]
