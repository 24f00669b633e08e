"""Faults in editing photos."""

from __future__ import annotations

from tests.faults.fault import Fault

T = "tests/tasks"
TASKS = [
    Fault(
        "an edit's grid is Karras'",
        "guided/tasks/editing.py",
        "lambda n, lo, hi: paths.default(n, lo, hi, w))",
        "paths.karras)",
        f"{T}/test_editing.py::test_it_is_sdedit_written_out",
    ),
    Fault(
        "an edit starts from noise alone",
        "guided/tasks/editing.py",
        "x0=x0 if strength < 1 else None)\n\n\ndef joined",
        "x0=None)\n\n\ndef joined",
        f"{T}/test_editing.py::test_it_is_sdedit_written_out",
    ),
    Fault(
        "strength 1 keeps the photo under the noise",
        "guided/tasks/editing.py",
        "x0=x0 if strength < 1 else None)\n\n\ndef joined",
        "x0=x0)\n\n\ndef joined",
        f"{T}/test_editing.py::test_what_is_known_is_projected_at_every_step",
    ),
    Fault(
        "the mask upside down",
        "guided/tasks/editing.py",
        "edit.observe(Known(amount == 0), x0)",
        "edit.observe(Known(amount > 0), x0)",
        f"{T}/test_editing.py::test_what_is_known_is_projected_at_every_step",
    ),
    Fault(
        "no paste after the edit",
        "guided/tasks/stage.py",
        "free = np.ones(rounded.shape[:2], bool) if mask is None else mask[rows] > 0",
        "free = np.ones(rounded.shape[:2], bool)",
        f"{T}/test_editing.py::test_outside_the_mask_nothing_changes",
    ),
    Fault(
        "a photo's detail is lost",
        "guided/tasks/stage.py",
        "(detail if mask is None else",
        "(0 * detail if mask is None else",
        f"{T}/test_editing.py::test_without_a_mask_a_large_photo_keeps_its_detail",
    ),
    Fault(
        "a soft mask holds below its level",
        "guided/tasks/soft.py",
        "level.to(D.device) > self.levels",
        "level.to(D.device) < self.levels",
        f"{T}/test_editing.py::test_a_soft_mask_edits_each_pixel_at_its_share_of_the_strength",
    ),
    Fault(
        "RePaint without fresh noise",
        "guided/tasks/editing.py",
        "paths.ancestral(paths.resample(path, JUMP, edit.resample))",
        "paths.resample(path, JUMP, edit.resample)",
        f"{T}/test_editing.py::test_repaint_walks_the_path_again",
    ),
    Fault(
        "16 bits become 8",
        "guided/tasks/edited.py",
        'if photo.bits == 16 and photo.mode != "CMYK":',
        "if False:",
        f"{T}/test_photo.py::test_every_picture_row_of_the_bad_inputs_behaves",
    ),
    Fault(
        "the colour profile is dropped",
        "guided/tasks/edited.py",
        'self[index].save(out, "PNG", pnginfo=chunks, icc_profile=photo.profile)',
        'self[index].save(out, "PNG", pnginfo=chunks, icc_profile=None)',
        f"{T}/test_photo.py::test_the_profile_stays_and_metadata_does_not",
    ),
    Fault(
        "colours under alpha keep the background",
        "guided/tasks/stage.py",
        "back = photo.back(new[moved], alpha)",
        "back = photo.back(new[moved], None)",
        f"{T}/test_editing.py::test_colours_under_alpha_are_freed_of_the_background",
    ),
    Fault(
        "the seam of neighbours on one side",
        "guided/tasks/metrics.py",
        "across = np.diff(where[part].astype(np.int8), axis=axis) != 0",
        "across = np.diff(where[part].astype(np.int8), axis=axis) == 0",
        f"{T}/test_metrics.py::test_seam_counts_the_edge_alone",
    ),
    Fault(
        "SSIM with a border of black",
        "guided/tasks/metrics.py",
        "return np.where(index < n, index, 2 * n - 2 - index)",
        "return np.minimum(index, n - 1)",
        f"{T}/test_metrics.py::test_ssim_is_the_published_formula",
    ),
]
