"""Adapting a model: to a person's own pictures, and to how it is used."""

from guided.tune.calibration import Found, calibrate
from guided.tune.choosing import Asked, recipe_for
from guided.tune.model import calibrate_model
from guided.tune.tuning import tune

__all__ = ["Asked", "Found", "calibrate", "calibrate_model", "recipe_for", "tune"]
