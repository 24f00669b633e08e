"""Faults in adapters."""

from __future__ import annotations

from tests.faults.fault import Fault

A = "tests/tune/adapters"
G = "guided/tune/adapters"
ADAPTERS = [
    Fault(
        "adapters: the parts of a joined layer share their ranks",
        f"{G}/lowrank.py",
        "column += part.rank",
        "column += 0",
        f"{A}/test_lowrank.py::test_a_joined_change_is_that_of_each_part",
    ),
    Fault(
        "adapters: every part of a layer is written as its first",
        f"{G}/lowrank.py",
        "whole.part(slice(i * rows, (i + 1) * rows))",
        "whole.part(slice(0, rows))",
        f"{A}/test_lowrank.py::test_a_joined_change_is_that_of_each_part",
    ),
    Fault(
        "adapters: DoRA divides by the norm of the weights alone",
        f"{G}/lowrank.py",
        "row_norms(base + change.scale * change.product())",
        "row_norms(base)",
        f"{A}/test_lowrank.py::test_weighed_changes_add",
    ),
    Fault(
        "adapters: what was frozen before stays as peft left it",
        f"{G}/surgery.py",
        "value.requires_grad_(now.frozen.get(name, False))",
        "value.requires_grad_(True)",
        f"{A}/test_surgery.py::test_on_and_off_leaves_no_trace",
    ),
    Fault(
        "adapters: peft draws from everyone's random numbers",
        f"{G}/surgery.py",
        "with torch.random.fork_rng(devices=[]):",
        "with torch.enable_grad():",
        f"{A}/test_surgery.py::test_a_fresh_one_changes_nothing_and_is_trained_alone",
    ),
    Fault(
        "adapters: a fresh one is the same for every seed",
        f"{G}/fresh.py",
        'f"{seed} {place}"',
        'f"{place}"',
        f"{A}/test_surgery.py::test_a_fresh_one_changes_nothing_and_is_trained_alone",
    ),
    Fault(
        "adapters: alpha of a file is not believed",
        f"{G}/keys.py",
        "scale = 1.0 if alpha is None else alpha / rank",
        "scale = 1.0",
        f"{A}/test_reading.py::test_scales_of_files",
    ),
    Fault(
        "adapters: peft's patterns of alpha are passed over",
        f"{G}/reading.py",
        "            found = value\n            break\n",
        "            break\n",
        f"{A}/test_folder.py::test_peft_writes_and_ours_reads_its_patterns",
    ),
    Fault(
        "adapters: NaN is put on a model",
        f"{G}/keys.py",
        "if not bool(value.float().isfinite().all()):",
        "if False:",
        f"{A}/test_reading.py::test_a_bad_key_is_named",
    ),
    Fault(
        "adapters: an adapter goes on any base of the same shapes",
        f"{G}/keeping.py",
        'if said.get("sha256") not in (None, model.hash):',
        "if False:",
        f"{A}/test_folder.py::test_a_base_that_moved_or_is_another",
    ),
    Fault(
        "adapters: a damaged adapter is not noticed",
        f"{G}/folder.py",
        "if found != digest:",
        "if False:",
        f"{A}/test_folder.py::test_a_damaged_folder_is_refused",
    ),
    Fault(
        "adapters: a model is saved without the adapter on it",
        "guided/model/model.py",
        'self.plain("save")',
        "pass",
        f"{A}/test_folder.py::test_what_is_there_is_not_written_over",
    ),
    Fault(
        "adapters: pictures do not say which drew them",
        "guided/model/drawing.py",
        '"adapters": model.worn() or None,',
        '"adapters": None,',
        f"{A}/test_folder.py::test_an_adapter_opens_with_its_base",
    ),
    Fault(
        "adapters: the printed command forgets a weight",
        "guided/cli/again.py",
        'found.append(entry["file"] if weight == 1 else f"{entry[\'file\']}:{weight}")',
        'found.append(entry["file"])',
        "tests/cli/test_adapters.py::test_the_printed_command_draws_it_again",
    ),
    Fault(
        "adapters: the original layout's names are unknown",
        f"{G}/places.py",
        "tables.append(original.layout(network.config))",
        "pass",
        f"{A}/test_diffusers.py::test_kohyas_names_of_the_original_layout",
    ),
    Fault(
        "adapters: a new word is taken for the end of the prompt",
        f"{G}/words.py",
        "tokenizer.eos_token_id if end == 2 else end",
        "end",
        f"{A}/test_words.py::test_the_end_of_a_prompt_is_its_end_whatever_the_new_words_number",
    ),
    Fault(
        "adapters: states with and without one share a cache",
        f"{G}/towers.py",
        "found.spec[TAG] = digest",
        "pass",
        f"{A}/test_words.py::test_a_word_is_read_as_diffusers_reads_it",
    ),
    Fault(
        "adapters: an encoder moved is opened anew",
        "guided/model/conditioning.py",
        "if self.changed:",
        "if False:",
        f"{A}/test_words.py::test_an_encoder_with_an_adapter_moves_with_it",
    ),
]
