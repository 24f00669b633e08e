"""Faults in reading and writing published checkpoints."""

from __future__ import annotations

from tests.faults.fault import Fault

ORIGINAL, ADM, REFUSED = "tests/zoo/test_original.py", "tests/zoo/test_adm.py", "tests/zoo/test_refusals.py"
CONVERT = "tests/cli/test_convert.py"
PARITY = f"{ORIGINAL}::test_the_network_computes_what_was_published"
ZOO = [
    Fault(
        "ADM's older order of heads is read as the newer",
        "guided/zoo/original.py",
        "if self.options.heads_first:",
        "if False:",
        PARITY,
    ),
    Fault(
        "keys and values of the text change places",
        "guided/zoo/original.py",
        '(f"{theirs}.to_k.weight", f"{theirs}.to_v.weight")',
        '(f"{theirs}.to_v.weight", f"{theirs}.to_k.weight")',
        PARITY,
    ),
    Fault(
        "the class of nothing is written as a class",
        "guided/zoo/names.py",
        "return [whole[:-1].contiguous()]",
        "return [whole[1:].contiguous()]",
        f"{ORIGINAL}::test_what_goes_in_comes_out_bit_for_bit",
    ),
    Fault(
        "the network shares the caller's tensors",
        "guided/zoo/opening.py",
        "torch.float32, copy=True).contiguous() for name, value in read.items()}",
        "torch.float32).contiguous() for name, value in read.items()}",
        f"{ORIGINAL}::test_what_goes_in_comes_out_bit_for_bit",
    ),
    Fault(
        "ADM-128 with heads of width 64",
        "guided/zoo/families.py",
        "(2, 3, 4), classes=1000, heads=4), 128)",
        "(2, 3, 4), classes=1000), 128)",
        f"{ORIGINAL}::test_what_only_the_authors_can_say",
    ),
    Fault(
        "a tensor too many is dropped in silence",
        "guided/zoo/recognise.py",
        'blocks[block]["not expected"].append(rest)',
        "pass",
        f"{REFUSED}::test_a_network_that_is_not_whole_is_refused_by_its_block",
    ),
    Fault(
        "a config of another network is believed",
        "guided/zoo/recognise.py",
        "settings.check(found.config, found.linear)",
        "pass",
        f"{REFUSED}::test_a_config_of_another_network",
    ),
    Fault(
        "an index may name files elsewhere",
        "guided/zoo/weights.py",
        "or not _SHARD.fullmatch(part)",
        "or not part",
        f"{REFUSED}::test_an_index_names_its_siblings_alone",
    ),
    Fault(
        "a pickle may run code",
        "guided/zoo/_unpickle.py",
        "weights_only=True",
        "weights_only=False",
        f"{REFUSED}::test_hostile_pickles_run_nothing_even_when_asked_for",
    ),
    Fault(
        "a pickle is read unasked",
        "guided/zoo/weights.py",
        "        if not pickle:\n            _safetensors.refuse_pickle(file)\n",
        "",
        f"{REFUSED}::test_pickles_are_refused_unread_unless_asked_for",
    ),
    Fault(
        "the bounds of the learned variance change places",
        "guided/denoiser.py",
        "share * spread(high, x) + (1 - share) * spread(low, x)",
        "share * spread(low, x) + (1 - share) * spread(high, x)",
        f"{ADM}::test_ancestral_sampling_with_the_learned_variance_is_the_published_step",
    ),
    Fault(
        "the cosine schedule without its largest beta",
        "guided/frames.py",
        ".clamp(max=0.999)",
        ".clamp(max=0.9999)",
        f"{ADM}::test_the_published_noise_levels",
    ),
    Fault(
        "a card forgets the frame",
        "guided/model/card.py",
        "return plain if frame is None else frames.Framed(_frame(frame), plain)",
        "return plain",
        f"{ADM}::test_a_model_draws_saves_and_opens",
    ),
    Fault(
        "the dtypes a checkpoint came with are forgotten",
        "guided/zoo/export.py",
        "TORCH[others.get(name, dtype)]",
        "TORCH[dtype]",
        f"{CONVERT}::test_original_to_guided_to_original_is_the_same_file",
    ),
    Fault(
        "weights trained since are rounded to what they came in",
        "guided/zoo/export.py",
        "return cast if torch.equal(cast.to(value.dtype), value) else value",
        "return cast",
        f"{CONVERT}::test_what_was_trained_since_is_not_rounded_and_not_dropped",
    ),
    Fault(
        "one number of blocks for all levels is not understood",
        "guided/zoo/settings.py",
        "listed = listed * len(fact)",
        "listed = [fact[0]]",
        "tests/zoo/test_published_configs.py::test_the_authors_config_is_the_checkpoints",
    ),
]
