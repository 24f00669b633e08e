"""Frozen text encoders, and a cache of what they say."""

from __future__ import annotations

from guided.text.cache import TokenCache
from guided.text.encoder import Encoded, PromptCut, TextEncoder, open

__all__ = ["Encoded", "PromptCut", "TextEncoder", "TokenCache", "open"]
