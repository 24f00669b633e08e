"""Guidance is an algebra: terms add up to a guide, and a guide turns a denoiser into another denoiser."""

from guided.guide.contrast import (
    Cfg,
    between,
    cfg,
    cfgpp,
    compose,
    independent,
    nested,
    perp_neg,
    perturbed,
)
from guided.guide.dial import Dial, dial
from guided.guide.gradient import class_log_prob, gradient, tfg
from guided.guide.guide import Guide, Guided
from guided.guide.observe import dps, mmps, pigdm, project
from guided.guide.planner import Branch
from guided.guide.shaping import Shaping, apg, clip, frequency, rescale, threshold
from guided.guide.term import Contrast, Curve, Exact, Point, Push, Term

__all__ = [
    "Branch",
    "Cfg",
    "Contrast",
    "Curve",
    "Dial",
    "Exact",
    "Guide",
    "Guided",
    "Point",
    "Push",
    "Shaping",
    "Term",
    "apg",
    "between",
    "cfg",
    "cfgpp",
    "class_log_prob",
    "clip",
    "compose",
    "dial",
    "dps",
    "frequency",
    "gradient",
    "independent",
    "mmps",
    "nested",
    "perp_neg",
    "perturbed",
    "pigdm",
    "project",
    "rescale",
    "tfg",
    "threshold",
]
