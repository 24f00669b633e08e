"""Tasks written as text, `jpeg(5, 30)`: parsed as an expression, never run as code."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence

from guided.degrade.chain import Photo
from guided.degrade.colour import Colourise, Edges
from guided.degrade.holes import Inpaint, Uncrop
from guided.degrade.quality import JPEG, Deblur, Denoise
from guided.degrade.scale import Down
from guided.degrade.task import Pairs, Task

TASKS: Mapping[str, type[Task]] = {
    "colourise": Colourise,
    "inpaint": Inpaint,
    "uncrop": Uncrop,
    "jpeg": JPEG,
    "deblur": Deblur,
    "denoise": Denoise,
    "down": Down,
    "photo": Photo,
    "edges": Edges,
    "pairs": Pairs,
}


def parse(text: str) -> Task:
    """The task of a word, with its numbers where it has some: `colourise`, `down(4)`, `inpaint("centre", high=0.25)`.

    Raises ValueError that says what is known.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        name = node.func if isinstance(node, ast.Call) else node
        if not isinstance(name, ast.Name):
            raise ValueError("expected a word such as colourise or jpeg(5, 30)")
        given = node.args if isinstance(node, ast.Call) else []
        named = node.keywords if isinstance(node, ast.Call) else []
        args = [ast.literal_eval(part) for part in given]
        settings = {str(part.arg): ast.literal_eval(part.value) for part in named}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"task {text!r:.80}: {getattr(error, 'msg', error)}") from None
    if name.id not in TASKS:
        raise ValueError(f"task {text!r:.80}: known are {', '.join(TASKS)}{_near(name.id, [*TASKS])}")
    try:
        return TASKS[name.id](*args, **settings)
    except TypeError as error:
        raise ValueError(f"task {text!r:.80}: {str(error).replace('__init__() ', '')}") from None


def named(word: str, tasks: Sequence[Task]) -> int:
    """Which of a network's tasks a word means, by its name, as `jpeg` for `jpeg(5, 30)`, or in full; ValueError."""
    words = [repr(task) for task in tasks]
    hits = [i for i, known in enumerate(words) if word in (known, known.partition("(")[0])]
    if len(hits) != 1:
        kind = "is not one of" if not hits else "is several of"
        hint = "" if hits else _near(word.lower(), [known.partition("(")[0] for known in words])
        raise ValueError(f"task: {word!r} {kind} what this model learnt: {', '.join(words)}{hint}")
    return hits[0]


def _near(word: str, known: Sequence[str]) -> str:
    """A hint at the known word that is nearest to a wrong one."""
    found = difflib.get_close_matches("colourise" if word == "colorize" else word, known, 1)
    return f"; did you mean {found[0]}?" if found else ""
