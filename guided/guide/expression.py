"""Guides written as text, `cfg(5).during(0.3, 5) >> rescale(0.7)`: parsed as an expression, never run as code."""

from __future__ import annotations

import ast
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from guided.cond import Cond
from guided.guide import contrast, shaping
from guided.guide.dial import dial
from guided.guide.guide import Guide
from guided.guide.term import Term

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        contrast.cfg,
        contrast.between,
        contrast.nested,
        contrast.compose,
        contrast.cfgpp,
        contrast.perturbed,
        contrast.perp_neg,
        dial,
        shaping.apg,
        shaping.clip,
        shaping.frequency,
        shaping.rescale,
        shaping.threshold,
    )
}
PROMPTED = {"cfg", "compose", "perp_neg"}
"""The functions in which a text is a prompt (in a set it names a field)."""

JOINS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.RShift: operator.rshift,
    ast.Mult: operator.mul,
}


def parse(
    text: str,
    names: Mapping[str, Callable[[], Any]] | None = None,
    prompt: Callable[[str], Cond] | None = None,
) -> Guide | Term:
    """The guide of an expression made of the functions of this room, `.during`, `+`, `*` and `>>`.

    names: what else may be named, each made when it is (as `early`, for `between(early, 2)`). prompt: the condition of
    a text, as in `cfg(5, negative="blurry")`. Raises ValueError for anything else, with the place and what is known.
    """
    reader = _Reader(text, names or {}, prompt)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (RecursionError, MemoryError):
        raise ValueError(f"guide {text[:40]!r}...: nested too deeply") from None
    except SyntaxError as error:
        raise ValueError(f"guide {text!r}: {error.msg} at character {error.offset}") from None
    found = reader.read(tree.body, prompted=False)
    if not isinstance(found, Guide | Term):
        raise ValueError(f'guide {text!r}: expected a guide such as "cfg(5) >> rescale(0.7)", got {found!r}')
    return found


class _Reader:
    def __init__(self, text: str, names: Mapping[str, Callable[[], Any]], prompt: Callable[[str], Cond] | None) -> None:
        self.text, self.names, self.prompt = text, names, prompt

    def fail(self, node: ast.expr, why: str) -> ValueError:
        return ValueError(f"guide {self.text!r}: {why}, at character {node.col_offset + 1}")

    def read(self, node: ast.expr, prompted: bool) -> Any:
        """The value of a part; `prompted` where a text is a prompt."""
        if isinstance(node, ast.Constant):
            return self._constant(node, prompted)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self.read(node.operand, False)
            if isinstance(inner, int | float):
                return -inner
        if isinstance(node, ast.Tuple):
            return tuple(self.read(part, prompted) for part in node.elts)
        if isinstance(node, ast.Set):
            return {self.read(part, False) for part in node.elts}
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.BinOp) and type(node.op) in JOINS:
            left, right = self.read(node.left, False), self.read(node.right, False)
            return self._run(node, lambda: JOINS[type(node.op)](left, right))
        if isinstance(node, ast.Call):
            return self._call(node)
        raise self.fail(node, f"{ast.unparse(node)!r} is no part of a guide (calls, .during, +, *, >> and numbers are)")

    def _constant(self, node: ast.Constant, prompted: bool) -> Any:
        known = node.value
        if isinstance(known, str) and prompted:
            if self.prompt is None:
                raise self.fail(node, f"the prompt {known!r} needs a model that reads text")
            return self.prompt(known)
        if isinstance(known, int | float | str) or known is None:
            return known
        raise self.fail(node, f"expected a number or a text, got {known!r}")

    def _name(self, node: ast.Name) -> Any:
        if node.id == "inf":
            return math.inf
        if node.id in self.names:
            return self.names[node.id]()
        known = ", ".join(sorted([*self.names, "inf"]))
        hint = f"; call it: {node.id}(...)" if node.id in FUNCTIONS else f"; known: {known}"
        raise self.fail(node, f"unknown name {node.id!r}{hint}")

    def _call(self, node: ast.Call) -> Any:
        if any(keyword.arg is None for keyword in node.keywords):
            raise self.fail(node, "** is no part of a guide")
        if isinstance(node.func, ast.Attribute) and node.func.attr == "during":
            term = self.read(node.func.value, False)
            if not isinstance(term, Term):
                raise self.fail(node, "only a term has .during(lo, hi), not a sum or a shaped guide")
            function, prompted = term.during, False
        elif isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            function, prompted = FUNCTIONS[node.func.id], node.func.id in PROMPTED
        else:
            known = ", ".join(sorted(FUNCTIONS))
            raise self.fail(node, f"unknown {ast.unparse(node.func)!r}; known: {known}")
        args = [self.read(part, prompted) for part in node.args]
        named = {str(keyword.arg): self.read(keyword.value, prompted) for keyword in node.keywords}
        return self._run(node, lambda: function(*args, **named))

    def _run(self, node: ast.expr, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (TypeError, ValueError) as error:
            raise self.fail(node, str(error)) from None


def signatures() -> list[str]:
    """How each function is called, for help texts."""
    return [f"{name}{inspect.signature(f)}" for name, f in FUNCTIONS.items()]
