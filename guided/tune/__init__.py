"""Adapting a model: to a person's own pictures, to how it is used, and to few steps."""

from guided.tune.calibration import Found, calibrate
from guided.tune.choosing import Asked, recipe_for
from guided.tune.distilling import Settings, Step, distill
from guided.tune.model import calibrate_model
from guided.tune.tuning import tune

__all__ = ["Asked", "Found", "Settings", "Step", "calibrate", "calibrate_model", "distill", "recipe_for", "tune"]
