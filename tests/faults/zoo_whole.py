"""Faults in opening and writing whole single files."""

from __future__ import annotations

from tests.faults.fault import Fault

WHOLE = "tests/zoo/test_whole.py"
SAME, BACK = f"{WHOLE}::test_a_file_is_the_model_that_its_folder_is", f"{WHOLE}::test_it_comes_out_as_it_went_in"
ZOO_WHOLE = [
    Fault(
        "a file's decoder counts its levels from the coarsest",
        "guided/zoo/ldm_names.py",
        "level = count - 1 - i  # the file",
        "level = i  # the file",
        SAME,
    ),
    Fault(
        "rows of query, key and value of a file's text encoder in another order",
        "guided/zoo/ldm_names.py",
        'self_attn.{part}_proj.{end}" for part in "qkv")',
        'self_attn.{part}_proj.{end}" for part in "kqv")',
        SAME,
    ),
    Fault(
        "SD 2 hears the last layer of its text encoder",
        "guided/zoo/whole.py",
        "layers if xl else layers - 1",
        "layers",
        f"{WHOLE}::test_sd_2_reads_what_its_own_text_encoder_says",
    ),
    Fault(
        "a projection of pooled text is not transposed",
        "guided/zoo/ldm_names.py",
        'yield Pair("text_projection", ("text_projection.weight",), Transposed())',
        'yield Pair("text_projection", ("text_projection.weight",))',
        BACK,
    ),
    Fault(
        "SD 2 assumed to predict the noise",
        "guided/zoo/whole_open.py",
        "target: Parametrization = V() if",
        "target: Parametrization = Eps() if",
        f"{WHOLE}::test_what_no_tensor_says_is_assumed_said_and_overridden",
    ),
    Fault(
        "what else was in a file is lost on the way",
        "guided/model/towers.py",
        "for file in (*found.weights, *rest, *_small(found.folder)):",
        "for file in (*found.weights, *_small(found.folder)):",
        BACK,
    ),
    Fault(
        "SDXL's latents in the scale of Stable Diffusion 1",
        "guided/zoo/whole_open.py",
        "usual = 0.13025 if xl",
        "usual = 0.18215 if xl",
        SAME,
    ),
]
