"""Adapting a model to how it is used: the path and solver that serve it best, and students that draw in few steps."""

from guided.tune.calibration import Found, calibrate
from guided.tune.distilling import Settings, Step, distill
from guided.tune.model import calibrate_model

__all__ = ["Found", "Settings", "Step", "calibrate", "calibrate_model", "distill"]
