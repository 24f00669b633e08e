"""Planted faults: one at a time, each must turn a named test red.

Run all:  python -m tests.faults      (some minutes; also `pytest -m slow tests/test_faults.py`)
Run some: python -m tests.faults noise EMA
Each fault is applied to a copy of the package, and only its own test is run against that copy.
"""

from __future__ import annotations

from tests.faults.adapters import ADAPTERS
from tests.faults.bench import BENCH
from tests.faults.core import CORE
from tests.faults.distilling import DISTILLING
from tests.faults.edits import EDITS
from tests.faults.fast import FASTS
from tests.faults.fault import ROOT, Fault, caught
from tests.faults.guide import GUIDE
from tests.faults.judging import JUDGING
from tests.faults.ode import ODE
from tests.faults.operators import OPERATORS
from tests.faults.perturbing import PERTURBING
from tests.faults.rooms import ROOMS
from tests.faults.solvers import SOLVERS
from tests.faults.speed import SPEEDS
from tests.faults.tasks import TASKS
from tests.faults.train import TRAIN
from tests.faults.translating import TRANSLATING
from tests.faults.tune import TUNE
from tests.faults.tuning import TUNING
from tests.faults.zoo import ZOO
from tests.faults.zoo_diffusers import ZOO_DIFFUSERS
from tests.faults.zoo_whole import ZOO_WHOLE

FAULTS = [*CORE, *TRAIN, *ROOMS, *GUIDE, *ODE, *OPERATORS, *PERTURBING, *SOLVERS, *BENCH, *TUNING, *TASKS]
FAULTS += [*EDITS, *JUDGING, *ZOO, *ZOO_DIFFUSERS, *ZOO_WHOLE, *TRANSLATING, *ADAPTERS, *TUNE, *DISTILLING, *SPEEDS]
FAULTS += FASTS

__all__ = ["FAULTS", "ROOT", "Fault", "caught"]
