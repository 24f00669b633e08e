"""Faults in what makes networks, loops and training steps fast, and must change no number."""

from __future__ import annotations

from tests.faults.fault import Fault

FAST, REUSE = "tests/nn/test_fast.py", "tests/test_reuse.py"
FASTS = [
    Fault(
        "fast: what was made of one object is taken for another's",
        "guided/reuse.py",
        "key = (kind, *map(id, held))",
        "key = (kind, len(held))",
        f"{REUSE}::test_it_is_found_once_in_a_run_and_every_time_outside",
    ),
    Fault(
        "fast: objects of a run die, and new ones take their place",
        "guided/reuse.py",
        "store[key] = (held, result)",
        "store[key] = ((), result)",
        f"{REUSE}::test_objects_stay_alive_so_that_no_new_one_takes_their_place",
    ),
    Fault(
        "fast: text of one mask is taken for that of another",
        "guided/nn/ports.py",
        "reuse.once(kind, (self, cond.tokens, cond.mask),",
        "reuse.once(kind, (self, cond.tokens),",
        f"{FAST}::test_several_conditions_are_as_one_by_one",
    ),
    Fault(
        "fast: value and gate change places",
        "guided/nn/onednn.py",
        "(value, value_bias), (gate, gate_bias) = reuse.once(",
        "(gate, gate_bias), (value, value_bias) = reuse.once(",
        f"{FAST}::test_linear_maps",
    ),
    Fault(
        "fast: an adapter in a layer's place is left out",
        "guided/nn/layers.py",
        "return layer(x, plus) if type(layer) in (Linear, Conv2d) else layer(x) + plus",
        "return getattr(layer, 'base', layer)(x, plus)",
        f"{FAST}::test_what_stands_in_a_layers_place_is_called_as_it_is",
    ),
    Fault(
        "fast: the embedding scales by scale, not by 1 + scale",
        "guided/nn/native.cpp",
        "double k = weight[c] * (gain ? 1.0 + gain[c] : 1.0);",
        "double k = weight[c] * (gain ? gain[c] : 1.0);",
        f"{FAST}::test_norms",
    ),
    Fault(
        "fast: sums of a norm about nothing",
        "guided/nn/native.cpp",
        "first[b * C + c] = load(x + b * P * C, c);",
        "first[b * C + c] = 0;",
        f"{FAST}::test_a_mean_far_above_the_spread_costs_no_digits",
    ),
    Fault(
        "fast: the slope of SiLU",
        "guided/nn/native.cpp",
        "d *= q * (1.0f + z * (1.0f - q));",
        "d *= q * (1.0f + z * q);",
        f"{FAST}::test_gradients_of_norms",
    ),
    Fault(
        "fast: the gradient of a norm's weight without the embedding",
        "guided/nn/norms.py",
        "dz, dz_normal = dz * gain, dz_normal * gain",
        "dz = dz * gain",
        f"{FAST}::test_gradients_of_norms",
    ),
    Fault(
        "fast: sums by as many pieces as there are threads",
        "guided/nn/native.cpp",
        "int64_t piece = PIECE / C > 0 ? PIECE / C : 1,",
        "int64_t piece = (P + threads - 1) / threads,",
        f"{FAST}::test_the_number_of_threads_changes_no_bit_and_nan_stays_nan",
    ),
    Fault(
        "fast: pictures under several conditions side by side",
        "guided/nn/attention.py",
        "torch.cat([x] * (rows // len(x)))",
        "x.repeat_interleave(rows // len(x), 0)",
        f"{FAST}::test_several_conditions_are_as_one_by_one",
    ),
    Fault(
        "fast: a class is taken for the same where the text differs",
        "guided/nn/unet.py",
        "if len(conds) > 1 and self._differ_in_text(conds):",
        "if len(conds) > 1:",
        f"{FAST}::test_several_conditions_that_differ_in_more_than_text",
    ),
    Fault(
        "fast: what is made again lacks its activation",
        "guided/nn/norms.py",
        "return recompute.known(y, lambda: _forward(*kept, *settings)[0])",
        "return recompute.known(y, lambda: _forward(*kept, *settings[:2], False)[0])",
        f"{FAST}::test_every_checkpointing_gives_the_same_gradient",
    ),
    Fault(
        "fast: cheap checkpointing keeps all",
        "guided/nn/recompute.py",
        "return recipes.get(_key(kept), kept)",
        "return kept",
        f"{FAST}::test_cheap_checkpointing_keeps_no_activation",
    ),
    Fault(
        "fast: a guide weighs its branches the wrong way round",
        "guided/guide/guide.py",
        "return torch.lerp(found[0], found[1], second)",
        "return torch.lerp(found[0], found[1], first)",
        "tests/guide/test_formulas.py",
    ),
    Fault(
        "fast: a series of differences without its first node",
        "guided/solvers/weights.py",
        "average / (u * math.prod(apart))",
        "average / math.prod(apart)",
        "tests/solvers/test_adams.py::test_it_predicts_and_corrects_with_the_integrals_of_the_polynomial",
    ),
]
