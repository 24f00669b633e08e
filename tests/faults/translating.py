"""Faults in tasks, in training on them, in translating and upscaling, in cascades and their doctor."""

from __future__ import annotations

from tests.faults.fault import Fault

D, T, C = "tests/degrade", "tests/tasks", "tests/cascade/test_cascade.py"
TRANSLATING = [
    Fault(
        "translate: the hole and the rest swapped",
        "guided/degrade/holes.py",
        "return torch.where(hole, torch.nan, x0), ~hole",
        "return torch.where(hole, torch.nan, x0), hole",
        f"{D}/test_tasks.py::test_a_seed_decides_and_what_is_known_is_the_picture_itself",
    ),
    Fault(
        "translate: the level that is told is not the one that was put on",
        "guided/degrade/translation.py",
        'fields["aug"] = level',
        'fields["aug"] = level * 0.5',
        f"{D}/test_translation.py::test_the_network_is_told_the_noise_that_was_put_on",
    ),
    Fault(
        "translate: the label of the task is off by one",
        "guided/degrade/translation.py",
        'fields["label"] = torch.tensor(tasks)',
        'fields["label"] = torch.tensor(tasks) - 1',
        f"{T}/test_translating.py::test_the_network_is_shown_the_photo_and_told_the_task",
    ),
    Fault(
        "translate: guidance drops the task too",
        "guided/degrade/translation.py",
        'return SEMANTIC - {"label"} if self.several else SEMANTIC',
        "return SEMANTIC",
        f"{D}/test_translation.py::test_words_stay_and_the_null_keeps_picture_and_task",
    ),
    Fault(
        "translate: the condition is made before the mirror",
        "guided/train/batch.py",
        "values = shown.float() / 127.5 - 1",
        "values = shown.flip(-1).float() / 127.5 - 1",
        "tests/train/test_translate.py::test_the_network_is_shown_what_the_tasks_make_of_its_own_picture",
    ),
    Fault(
        "translate: pairs with windows of their own",
        "guided/data/pairing.py",
        "return torch.cat([pictures.cut(i, window, shape) for pictures in (targets, partners)])",
        "return torch.cat([targets.cut(i, window, shape), partners.piece(i, share, down, 0)])",
        "tests/train/test_translate.py::test_pairs_share_window_and_mirror",
    ),
    Fault(
        "translate: what is known is not put back",
        "guided/tasks/translating.py",
        "guide=editing.joined(found.guide, project(Known(known[None]), x0))",
        "guide=found.guide",
        f"{T}/test_translating.py::test_what_is_known_is_known_at_every_step",
    ),
    Fault(
        "translate: corners enlarged from the wrong places",
        "guided/data/resize.py",
        "place = (np.arange(new) + 0.5) * old / new - 0.5",
        "place = np.arange(new) * old / new",
        f"{D}/test_tasks.py::test_enlarging_is_pillows_cubic_within",
    ),
    Fault(
        "upscale: exact without the last projections",
        "guided/degrade/scale.py",
        "return moved((low + high) / 2)",
        "return x.clamp(-1, 1)",
        f"{D}/test_tasks.py::test_consistent_pictures_have_the_means_they_should_and_stay_in_range",
    ),
    Fault(
        "upscale: the network is not told the level",
        "guided/tasks/upscaling.py",
        "[number] * count, [float(level)] * count",
        "[number] * count, [0.0] * count",
        f"{T}/test_upscaling.py::test_the_network_is_shown_the_photo_enlarged_and_told_the_level",
    ),
    Fault(
        "upscale: squares of pixels come back in another order",
        "guided/nn/unet.py",
        "out = F.pixel_shuffle(out, self.config.patch)",
        "out = F.pixel_shuffle(out.flip(1), self.config.patch)",
        "tests/nn/test_unet.py::test_squares_of_pixels_come_back_to_their_places",
    ),
    Fault(
        "around: the picture is not taken off first",
        "guided/denoiser.py",
        "super().forward(x - middle, sigma, *conds)",
        "super().forward(x, sigma, *conds)",
        "tests/test_denoiser.py::test_around_a_picture_the_difference_is_denoised",
    ),
    Fault(
        "cascade: both stages draw the same noise",
        "guided/cascade/cascade.py",
        'stream=f"x/stage{number}"',
        'stream="x"',
        f"{C}::test_stages_have_noise_of_their_own_and_pictures_that_of_their_seed",
    ),
    Fault(
        "cascade: the manifest's hash is not looked at",
        "guided/cascade/cascade.py",
        "if stage.hash != entry.sha256:",
        "if False:",
        f"{C}::test_a_stage_that_was_trained_again_is_noticed",
    ),
    Fault(
        "cascade: the mask stops at the first stage",
        "guided/cascade/editing.py",
        "known = editing.held(model, edit, stage, x0)",
        "known = None",
        f"{C}::test_the_later_stages_know_what_is_kept",
    ),
    Fault(
        "translate: a partner of any shape will do",
        "guided/data/pairing.py",
        "if not alike((height, width), (other, across)):",
        "if False:",
        "tests/train/test_translate.py::test_a_partner_of_another_shape_is_no_partner",
    ),
    Fault(
        "translate: the lines stay on what is drawn from them",
        "guided/tasks/translating.py",
        "anew=not task.keeps_detail",
        "anew=False",
        f"{T}/test_translating.py::test_lines_and_pairs_leave_nothing_of_themselves_in_what_is_drawn",
    ),
    Fault(
        "cascade: what a stage has drawn is handed on as if it were a photo",
        "guided/cascade/enlarging.py",
        "level = cascade.levels[number - 1] if number > 1 else 0.0",
        "level = 0.0",
        f"{C}::test_enlarging_stages_hear_the_level_of_what_was_drawn_and_have_noise_of_their_own",
    ),
    Fault(
        "doctor: the mean colour of one channel alone",
        "guided/evaluate/doctor.py",
        "for c, part in enumerate(difference.T)",
        "for c, part in enumerate(difference.T[:1])",
        "tests/evaluate/test_doctor.py::test_a_colour_that_is_off_is_named",
    ),
    Fault(
        "doctor: the wrong kernel suits it better",
        "guided/evaluate/taught.py",
        "best = min(((float(loss(*way).mean()), way) for way in ways)",
        "best = max(((float(loss(*way).mean()), way) for way in ways)",
        "tests/evaluate/test_doctor.py::test_a_kernel_that_it_never_learnt_is_named",
    ),
]
