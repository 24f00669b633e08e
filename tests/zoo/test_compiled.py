"""Published networks of three kinds under guidance in an interval, compiled: the same pictures, fewer evaluations."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch

import guided
from guided.guide import cfg
from guided.model import Model
from tests.zoo import pipelines
from tests.zoo.adm import ADM
from tests.zoo.test_adm import written

LEVELS = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.0]
INSIDE = [s for s in LEVELS if 0.3 < s <= 3]
KINDS = ("adm", "sd-1.5", "if-i-m")


def opened(kind: str, folder: pathlib.Path) -> Model:
    if kind == "adm":
        found = guided.load(written(folder, ADM))
    else:
        pytest.importorskip("diffusers")
        found = guided.load(pipelines.saved(kind, folder / kind))
    assert isinstance(found, Model)
    return found


def drawn(model: Model, kind: str, guide: Any) -> torch.Tensor:
    said: dict[str, Any] = {"labels": [3]} if kind == "adm" else {"prompts": "a cat"}
    path = torch.tensor(LEVELS, dtype=torch.float64)
    return model.generate(**said, guide=guide, path=path, solver="euler", seed=4).tensor


def check(kind: str, folder: pathlib.Path, **how: Any) -> None:
    torch.compiler.reset()  # graphs that other tests made count against the number of recompilations
    model = opened(kind, folder)
    guide = cfg(3.0).during(0.3, 3.0)
    plain, always, want = (drawn(model, kind, given) for given in (cfg(1.0), cfg(3.0), guide))
    rows: list[int] = []
    model.denoiser.register_forward_hook(lambda _, __, D: rows.append(len(D)))
    model.denoiser.network.compile(fullgraph=True, **how)
    got = drawn(model, kind, guide)
    # Two branches inside the interval, one outside, and each is evaluated by the compiled network.
    assert sum(rows) == len(LEVELS) - 1 + len(INSIDE)
    assert (got - want).norm() < 1e-4 * want.norm()
    assert min(float((other - want).norm()) for other in (plain, always)) > 1e-3 * float(want.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_an_interval_on_a_network_that_is_one_graph(kind: str, tmp_path: pathlib.Path) -> None:
    check(kind, tmp_path, backend="eager")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a C++ compiler at work
@pytest.mark.parametrize("kind", KINDS)
def test_an_interval_on_a_compiled_network(kind: str, tmp_path: pathlib.Path) -> None:
    check(kind, tmp_path)
