"""Adapting a model to how it is used: the path and solver that serve it best at a number of steps."""

from guided.tune.calibration import Found, calibrate
from guided.tune.model import calibrate_model

__all__ = ["Found", "calibrate", "calibrate_model"]
