"""Repairs of other people's installs, made once and only where something is really broken."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any, Literal


def ensure_torchvision() -> Literal["absent", "ok", "repaired"]:
    """Make `import torchvision` work, so that transformers, diffusers, open_clip, timm and peft can load.

    A CPU build of torch beside the package index's torchvision (a CUDA build) cannot load torchvision's
    compiled operators; importing it fails with "operator torchvision::nms does not exist", and takes with it
    every library that imports it in passing. Where that happens, and only there, the two operators it asks for
    while it is imported are declared without a body: calling one still fails, and guided calls none.

    Call it right before importing one of those libraries; a torchvision that loads by itself is not touched.
    Returns "absent" (not installed), "ok" (loads, or has been repaired before) or "repaired".
    Raises whatever else the import of torchvision raises.
    """
    if "torchvision" in sys.modules:
        return "ok"
    if importlib.util.find_spec("torchvision") is None:
        return "absent"
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return "ok"
    import torch

    # The half-imported modules would be reused by the second attempt.
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    declared: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    module = importlib.import_module("torchvision")
    # The declarations vanish with the object that holds them, so it has to live as long as the module.
    setattr(module, "_guided_declared", declared)  # noqa: B010  (mypy knows no such attribute)
    return "repaired"
