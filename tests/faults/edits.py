"""Faults in edits by inversion, in `faithful=`, in tiles, and in the commands that edit."""

from __future__ import annotations

from tests.faults.fault import Fault

T = "tests/tasks"
EDITS = [
    Fault(
        "edits: up as what is asked, not as what the photo shows",
        "guided/tasks/inversion.py",
        "solver, told = scene.plan.solver, scene.told(self.source, other)",
        "solver, told = scene.plan.solver, scene.cond",
        f"{T}/test_methods.py::test_inversion_moves_one_gaussian_onto_the_other",
    ),
    Fault(
        "edits: beside the photo's way the edit so far is not asked about",
        "guided/tasks/inversion.py",
        "self.asked.evaluate(x + E, sigma, cond, next_sigma, state)",
        "self.asked.evaluate(x, sigma, cond, next_sigma, state)",
        f"{T}/test_methods.py::test_guidance_leaves_an_exact_inversion_exact",
    ),
    Fault(
        "edits: DDPM's draws are drawn anew",
        "guided/tasks/replay.py",
        "return draws[index // 2 - 1]",
        "return torch.randn_like(draws[index // 2 - 1])",
        f"{T}/test_methods.py::test_ddpm_inversion_is_its_recursion",
    ),
    Fault(
        "edits: what the last step lacks is not added",
        "guided/tasks/replay.py",
        "yield x + draws[-1]",
        "yield x",
        f"{T}/test_methods.py::test_what_the_photo_shows_gives_the_photo",
    ),
    Fault(
        "edits: FlowEdit's asked picture without the edit so far",
        "guided/tasks/flow.py",
        "self.asked.evaluate(x + E, sigma",
        "self.asked.evaluate(x, sigma",
        f"{T}/test_methods.py::test_on_a_network_the_same_prompt_gives_the_photo_and_another_does_not",
    ),
    Fault(
        "edits: FlowEdit shows the source other noise",
        "guided/tasks/flow.py",
        "(D - self.shown(x, sigma, self.source))",
        "(D - self.shown(2 * x - self.x0, sigma, self.source))",
        f"{T}/test_methods.py::test_what_the_photo_shows_gives_the_photo",
    ),
    Fault(
        "edits: a swapped word keeps its own attention too",
        "guided/tasks/prompts.py",
        "return share, (share.sum(0) == 0).float(), weight",
        "return share, torch.ones(len(new)), weight",
        f"{T}/test_methods.py::test_words_are_matched_by_their_tokens",
    ),
    Fault(
        "edits: attention copied with its tokens transposed",
        "guided/nn/attend.py",
        "copy = source @ share[:, None]",
        "copy = source @ share[:, None].transpose(2, 3)",
        f"{T}/test_methods.py::test_copied_attention_is_its_formula",
    ),
    Fault(
        "edits: a soft mask is taken for a hard one",
        "guided/tasks/methods.py",
        "x0 + self.amount.to(x) * (x - x0)",
        "x0 + (self.amount > 0).to(x) * (x - x0)",
        f"{T}/test_methods.py::test_a_soft_mask_takes_its_share_of_the_change",
    ),
    Fault(
        "edits: the interpolation is a straight line",
        "guided/tasks/between.py",
        "if float(angle.sin()) < 1e-6:",
        "if True:",
        f"{T}/test_between.py::test_slerp_keeps_lengths_and_meets_its_ends",
    ),
    Fault(
        "faithful: the search runs away from its target",
        "guided/tasks/faithful.py",
        "side = 1 if miss >= 0 else -1",
        "side = -1 if miss >= 0 else 1",
        f"{T}/test_faithful.py::test_the_target_is_met_at_twice_the_cost",
    ),
    Fault(
        "faithful: the trials cost is not kept within the edit's",
        "guided/tasks/faithful.py",
        "if spent + few <= steps:",
        "if spent + few <= 2 * steps:\n                few = steps // 3\n",
        f"{T}/test_faithful.py::test_the_target_is_met_at_twice_the_cost",
    ),
    Fault(
        "tiles: windows fade from their very edge",
        "guided/tiles.py",
        "((inside - overlap / 4) / (overlap / 2)).clamp(0, 1)",
        "(inside / overlap).clamp(0, 1)",
        "tests/test_tiles.py::test_below_its_reach_tiles_are_the_whole_picture",
    ),
    Fault(
        "tiles: the condition is not cut with the picture",
        "guided/tiles.py",
        "cond.crop(place)",
        "cond.crop((slice(0, len(tall)), slice(0, len(wide))))",
        "tests/test_tiles.py::test_below_its_reach_tiles_are_the_whole_picture",
    ),
    Fault(
        "guided edit: a finished picture is made again",
        "guided/tasks/folder.py",
        "        if place is None:\n",
        "        if place is not None:\n",
        "tests/cli/test_edit.py::test_a_killed_folder_goes_on",
    ),
    Fault(
        "guided edit: other settings overwrite what is there",
        "guided/tasks/folder.py",
        "if before != now:",
        "if False:",
        "tests/cli/test_edit.py::test_nothing_is_overwritten",
    ),
    Fault(
        "guided edit: photos of a folder have seeds of their own",
        "guided/cli/edit.py",
        'None, said["solver"], None, said["seed"],',
        'None, said["solver"], None, said["seed"] + (job.root != job.target.parent),',
        "tests/cli/test_edit.py::test_a_folder_gives_a_folder",
    ),
    Fault(
        "crops: every crop of a picture is the same",
        "guided/train/batch.py",
        'self._chance(f"train/crop/{what}", [counter])',
        'self._chance(f"train/crop/{what}", [0])',
        "tests/train/test_batch.py::test_crops_are_functions_of_the_counter",
    ),
]
