"""What a planted fault is, and whether it is noticed."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Fault(NamedTuple):
    """In `file`, `old` (which must occur) becomes `new`; then `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


def caught(fault: Fault) -> bool:
    """Whether the fault's test fails once the fault is planted (and the fault could be planted at all)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for name in ("guided", "tests", "recipes", "examples"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
        (copy / "guided" / "assets").symlink_to(ROOT / "guided" / "assets")
        shutil.copy(ROOT / "pyproject.toml", copy)
        file = copy / fault.file
        text = file.read_text()
        if fault.old not in text:
            raise LookupError(f"{fault.name}: {fault.file} no longer holds {fault.old!r}")
        file.write_text(text.replace(fault.old, fault.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "", fault.test]
        data = os.environ.get("GUIDED_TEST_DATA", str(ROOT.parent / "shared" / "data"))
        env = {**os.environ, "GUIDED_TEST_DATA": data}
        return subprocess.run(command, cwd=copy, capture_output=True, env=env).returncode == 1
