"""The repair of torchvision: only where it is broken, and never silently wrong."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

from guided import _compat

ROOT = Path(__file__).resolve().parents[1]


def forget_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


def test_once_it_is_loaded_nothing_happens() -> None:
    pytest.importorskip("torchvision")
    assert _compat.ensure_torchvision() == "ok"


def test_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_torchvision(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert _compat.ensure_torchvision() == "absent"


def test_a_healthy_one_is_only_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_torchvision(monkeypatch)
    imported: list[str] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", lambda name: imported.append(name) or types.ModuleType(name))
    assert _compat.ensure_torchvision() == "ok" and imported == ["torchvision"]


def test_any_other_failure_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("CUDA driver is too old")

    forget_torchvision(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="too old"):
        _compat.ensure_torchvision()


IN_A_FRESH_PROCESS = """
from guided._compat import ensure_torchvision
first, second = ensure_torchvision(), ensure_torchvision()
assert (first, second) in {("ok", "ok"), ("repaired", "ok"), ("absent", "absent")}, (first, second)
from transformers import CLIPTextModel
if first == "repaired":
    import torch, torchvision
    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        print("refused", type(error).__name__)
    else:
        raise SystemExit("an operator without a body gave an answer")
"""


def test_in_a_fresh_process_transformers_loads_and_a_missing_operator_still_fails() -> None:
    pytest.importorskip("transformers")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
