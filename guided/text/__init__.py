"""Frozen text encoders, and a cache of what they say."""

from __future__ import annotations

from guided.text._locate import locate, tokenizer_folder
from guided.text.cache import TokenCache
from guided.text.encoder import Encoded, PromptCut, TextEncoder, open
from guided.text.prompts import PromptEncoder

__all__ = ["Encoded", "PromptCut", "PromptEncoder", "TextEncoder", "TokenCache", "locate", "open", "tokenizer_folder"]
