"""Adapters: LoRA, DoRA and new words, made, put on models, and read and written in the published forms.

peft's layers carry them; it is imported when the first one is put on a network.
"""

from guided.tune.adapters.adapter import Adapter
from guided.tune.adapters.converting import convert
from guided.tune.adapters.fresh import fresh, fresh_text, load_tensors, tensors
from guided.tune.adapters.keeping import apply, is_adapter, save, with_words
from guided.tune.adapters.lowrank import LowRank
from guided.tune.adapters.onto import adapter_of, eject, inject, merge, reweight
from guided.tune.adapters.reading import read
from guided.tune.adapters.towers import live, towers
from guided.tune.adapters.words import fresh_words

__all__ = [
    "Adapter",
    "LowRank",
    "adapter_of",
    "apply",
    "convert",
    "eject",
    "fresh",
    "fresh_text",
    "fresh_words",
    "inject",
    "is_adapter",
    "live",
    "load_tensors",
    "merge",
    "read",
    "reweight",
    "save",
    "tensors",
    "towers",
    "with_words",
]
