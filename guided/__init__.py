"""guided: train and steer diffusion models.

A denoiser estimates the clean image. A guide turns a denoiser into another denoiser. A path is a list of noise levels.
A solver takes one step along it. Everything else is a composition of these.

Submodules load when they are first touched, so `import guided` is quick and reaches all of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = (
    *("cond", "noise", "path", "codec", "denoiser", "oracle", "solvers", "sampling", "guide", "nn", "text", "data"),
    *(
        "analyze",
        "cascade",
        "degrade",
        "frames",
        "ode",
        "operators",
        "perturbation",
        "tiles",
        "model",
        "tasks",
        "train",
        "tune",
        "evaluate",
        "zoo",
        "cli",
    ),
)
_NAMES = {
    "Cascade": "cascade",
    "Cond": "cond",
    "Denoiser": "denoiser",
    "FromVP": "denoiser",
    "Model": "model",
    "Noise": "noise",
    "Result": "model",
    "Tiled": "tiles",
    "fit": "train",
    "load": "zoo",
    "sample": "sampling",
    "trajectory": "sampling",
}
__all__ = sorted([*_ROOMS, *_NAMES])

if TYPE_CHECKING:
    from guided.cond import Cond as Cond
    from guided.denoiser import Denoiser as Denoiser
    from guided.denoiser import FromVP as FromVP
    from guided.noise import Noise as Noise
    from guided.sampling import sample as sample
    from guided.sampling import trajectory as trajectory
    from guided.tiles import Tiled as Tiled


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"guided.{_NAMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"guided.{name}")
    raise AttributeError(f"module 'guided' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
