"""Captioned scenes of coloured shapes: a seeded renderer, its captions, and an exact parser."""

from __future__ import annotations

from guided.data.shapes.parse import Seen, look, parse, score
from guided.data.shapes.render import render
from guided.data.shapes.scene import (
    COLOURS,
    NEW_COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Object,
    Scene,
    caption,
    read,
)
from guided.data.shapes.source import ShapesSource, held_pairs

__all__ = [
    "COLOURS",
    "NEW_COLOURS",
    "PLACES",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "Object",
    "Scene",
    "Seen",
    "ShapesSource",
]
__all__ += ["caption", "held_pairs", "look", "parse", "read", "render", "score"]
