"""Few-step distillation: a student that draws in a few evaluations what a guided teacher draws in many."""

from guided.tune.distilling.run import Step, distill, prepared
from guided.tune.distilling.settings import Settings

__all__ = ["Settings", "Step", "distill", "prepared"]
