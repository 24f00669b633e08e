"""Fixtures that every test may use: the devices at hand and the real pictures."""

from __future__ import annotations

import os
import pathlib

import pytest
import torch

from guided._compat import ensure_torchvision

ensure_torchvision()
if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker: threads that wait for each other on shared cores cost far more than they bring.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = pathlib.Path(__file__).resolve().parent.parent
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each device present on this machine, in turn."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of a test is kept in the user's cache, nor found there."""
    os.environ["GUIDED_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real pictures: `$GUIDED_TEST_DATA`, else `../shared/data` beside the project."""
    folder = pathlib.Path(os.environ.get("GUIDED_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the test pictures: set GUIDED_TEST_DATA to their folder (looked in {folder})")
    return folder
