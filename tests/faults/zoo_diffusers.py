"""Faults in what opens and writes the folders of diffusers."""

from __future__ import annotations

from tests.faults.fault import Fault

Z = "tests/zoo"
ZOO_DIFFUSERS = [
    Fault(
        "keys and values of text exchanged",
        "guided/zoo/diffusers_names.py",
        'yield from _joined(f"{ours}.kv", theirs, ("to_k", "to_v"), bias=False)',
        'yield from _joined(f"{ours}.kv", theirs, ("to_v", "to_k"), bias=False)',
        f"{Z}/test_diffusers_names.py::test_the_outputs_agree",
    ),
    Fault(
        "the number of heads taken for their width",
        "guided/zoo/diffusers_config.py",
        'return {"heads": values[0]}',
        'return {"head_width": values[0]}',
        f"{Z}/test_diffusers_names.py::test_the_outputs_agree",
    ),
    Fault(
        "a config without counterpart let through",
        "guided/zoo/diffusers_config.py",
        '"time_cond_proj_dim": (None,),',
        "",
        f"{Z}/test_diffusers_names.py::test_what_has_no_counterpart_is_refused_by_name",
    ),
    Fault(
        "scaled betas read as linear",
        "guided/zoo/pipeline.py",
        '"scaled_linear": "scaled"',
        '"scaled_linear": "linear"',
        f"{Z}/test_pipeline.py::test_the_same_noise_gives_the_same_picture",
    ),
    Fault(
        "the last states of SDXL's towers",
        "guided/zoo/pipeline.py",
        '{"layer": -2, "pooled": True}',
        '{"layer": -1, "pooled": True}',
        f"{Z}/test_pipeline.py::test_the_same_noise_gives_the_same_picture",
    ),
    Fault(
        "T5 attends to its padding",
        "guided/text/prompts.py",
        'given = {"attention_mask": mask.long()} if self.masked else {}',
        "given = {}",
        f"{Z}/test_pipeline.py::test_the_same_noise_gives_the_same_picture",
    ),
    Fault(
        "the null of SDXL is the empty prompt",
        "guided/zoo/pipeline.py",
        '"null": "zeros" if zeros else "empty"',
        '"null": "empty"',
        f"{Z}/test_pipeline.py::test_the_same_noise_gives_the_same_picture",
    ),
    Fault(
        "sizes of latents told as the picture's",
        "guided/model/edge.py",
        "height, length = (self.factor * side for side in x.shape[2:])",
        "height, length = x.shape[2:]",
        f"{Z}/test_pipeline.py::test_what_a_picture_of_another_size_is_told",
    ),
    Fault(
        "an upscaler's picture is not scaled",
        "guided/model/edge.py",
        "image = cond.image * self.low.scale(noise).to(cond.image)[:, None, None, None]",
        "image = cond.image",
        f"{Z}/test_pipeline.py::test_an_upscaler_is_shown_its_picture_with_the_level_of_its_noise",
    ),
    Fault(
        "latents decoded without their scale",
        "guided/model/autoencoder.py",
        "x / self.scale + self.shift",
        "x + self.shift",
        f"{Z}/test_pipeline.py::test_the_decoder_is_theirs",
    ),
    Fault(
        "an overflow of the decoder shown",
        "guided/model/autoencoder.py",
        "if bool(found.isfinite().all()):",
        "if True:",
        f"{Z}/test_pipeline.py::test_half_precision_that_overflows_is_decoded_again",
    ),
    Fault(
        "an index may name any file",
        "guided/_safetensors.py",
        "not _SIBLING.fullmatch(name)",
        "False",
        f"{Z}/test_corrupted.py",
    ),
    Fault(
        "unexpected tensors ignored",
        "guided/zoo/diffusers_names.py",
        "if name not in expected:",
        "if False:",
        f"{Z}/test_corrupted.py",
    ),
    Fault(
        "weights of 16 bits written in 32",
        "guided/zoo/diffusers_export.py",
        "exactly(value, parts.FLOATS[str(others.get(name, usual))])",
        "value",
        f"{Z}/test_diffusers_export.py::test_weights_of_16_bits_come_out_as_they_went_in",
    ),
    Fault(
        "what was trained since is rounded",
        "guided/zoo/diffusers_export.py",
        "exactly(value, parts.FLOATS[str(others.get(name, usual))])",
        "value.to(parts.FLOATS[str(others.get(name, usual))])",
        f"{Z}/test_diffusers_export.py::test_weights_of_16_bits_come_out_as_they_went_in",
    ),
    Fault(
        "what was learnt of absence lost on the way out",
        "guided/zoo/diffusers_export.py",
        "    if left:",
        "    if False:",
        f"{Z}/test_diffusers_export.py::test_what_has_been_learnt_of_absence_is_not_lost",
    ),
]
