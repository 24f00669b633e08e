"""Faults in the figures, in what they are held against, and in how published networks see pictures."""

from __future__ import annotations

from tests.faults.fault import Fault

E = "tests/evaluate"
DISTANCES = "guided/evaluate/distances.py"
JUDGING = [
    Fault(
        "precision in the neighbourhoods of what was drawn",
        DISTANCES,
        'share("precision", _inside(x, y, k), at, beside)',
        'share("precision", _inside(y, x, k), at, beside)',
        f"{E}/test_distances.py::test_precision_and_recall_by_counting",
    ),
    Fault(
        "precision and recall of sets of unequal size",
        DISTANCES,
        "n = min(len(x), len(y))",
        "n = max(len(x), len(y))",
        f"{E}/test_distances.py::test_both_sets_are_cut_to_as_many",
    ),
    Fault(
        "the jackknife forgets that neighbourhoods grow",
        DISTANCES,
        "| (regained > 0)",
        "",
        f"{E}/test_distances.py::test_the_jackknife_leaves_out_each_picture_in_turn",
    ),
    Fault(
        "rows that share neighbours count as independent",
        DISTANCES,
        "alike = min(max(alike, 1.0), n)",
        "alike = n",
        f"{E}/test_truth.py::test_intervals_hold_the_truth",
    ),
    Fault(
        "FD's intervals keep the bias of resampling",
        DISTANCES,
        "low, high = bootstrap(statistic, len(x), draws, centre=value)",
        "low, high = bootstrap(statistic, len(x), draws)",
        f"{E}/test_truth.py::test_intervals_hold_the_truth",
    ),
    Fault(
        "a slope of FD that forgets the mean",
        DISTANCES,
        "2 * off @ (mean - other) + ",
        "",
        f"{E}/test_truth.py::test_the_influence_of_a_picture_is_the_slope_by_its_weight",
    ),
    Fault(
        "FD without the whole cross term",
        DISTANCES,
        "- 2 * cross",
        "- 1.99 * cross",
        f"{E}/test_truth.py::test_figures_are_those_of_independent_formulas",
    ),
    Fault(
        "KID with gamma 1",
        DISTANCES,
        "(x @ y.T / x.shape[1] + 1) ** 3",
        "(x @ y.T + 1) ** 3",
        f"{E}/test_truth.py::test_figures_are_those_of_independent_formulas",
    ),
    Fault(
        "CAS tested on what it was taught",
        "guided/evaluate/accuracy.py",
        "class_accuracy(learnt, *test, at",
        "class_accuracy(learnt, pictures, labels, at",
        f"{E}/test_classifier.py::test_cas_is_what_the_pictures_teach",
    ),
    Fault(
        "CAS tested on what the judge was taught",
        "guided/evaluate/measures.py",
        "set(real.split.held_bases) & set(split.held_bases)",
        "set(real.split.held_bases)",
        f"{E}/test_report.py::test_a_model_of_classes_with_a_classifier_of_its_own",
    ),
    Fault(
        "CLIPScore of negative cosines",
        "guided/evaluate/towers.py",
        "WEIGHT * found.clamp_min(0)",
        "WEIGHT * found",
        f"{E}/test_towers.py::test_clip_score_is_that_of_transformers_itself",
    ),
    Fault(
        "CLIP sees pictures squashed, not cropped",
        "guided/evaluate/preparing.py",
        "if self.shortest is not None:\n            short",
        "if False:\n            short",
        f"{E}/test_towers.py::test_clip_score_is_that_of_transformers_itself",
    ),
    Fault(
        "a vision model without its pooler is pooled at random",
        "guided/evaluate/towers.py",
        "pooled = None if unpooled else",
        "pooled =",
        f"{E}/test_towers.py::test_features_of_vision_models",
    ),
    Fault(
        "every second fresh picture is called memorised",
        "guided/evaluate/memory.py",
        "RANK = 0.01",
        "RANK = 0.5",
        f"{E}/test_memory.py::test_every_copy_is_flagged_and_fresh_pictures_are_not",
    ),
    Fault(
        "the nearest training picture is another one",
        "guided/evaluate/memory.py",
        "rows = torch.tensor(taught.rows)[row]",
        "rows = row",
        f"{E}/test_memory.py::test_the_nearest_is_looked_for_by_brute_force",
    ),
    Fault(
        "the least suspicious come first",
        "guided/evaluate/memory.py",
        "distance.argsort(stable=True)",
        "distance.argsort(stable=True, descending=True)",
        f"{E}/test_memory.py::test_the_sheet_shows_each_beside_its_nearest",
    ),
]
