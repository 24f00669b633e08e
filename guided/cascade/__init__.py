"""Cascades: a model that draws small pictures, and models that make them larger (Ho et al. 2022; Imagen)."""

from guided.cascade.cascade import Cascade
from guided.cascade.manifest import FORMAT, MANIFEST

__all__ = ["FORMAT", "MANIFEST", "Cascade"]
