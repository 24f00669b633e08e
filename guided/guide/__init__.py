"""Guidance is an algebra: terms add up to a guide, and a guide turns a denoiser into another denoiser."""

from guided.guide.contrast import Cfg, cfg
from guided.guide.guide import Guide, Guided, Term
from guided.guide.planner import Branch

__all__ = ["Branch", "Cfg", "Guide", "Guided", "Term", "cfg"]
