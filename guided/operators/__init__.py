"""Operators: linear measurements y = A x0 + sigma_y m of an image, with adjoint, pseudo-inverse and what PiGDM solves.

Images are (B, *) and so are measurements, batch first; every operator acts per image, keeps x's dtype and device and is
differentiable. Those that are diagonal in a basis of their own are inverted there; others fall back to conjugate
gradients, so that `__call__` and `adjoint` are all that an operator has to bring.
"""

from guided.operators.decoded import Decoded, Tangent
from guided.operators.operator import Operator, conjugate_gradient
from guided.operators.pixels import LUMA, MEAN, BoxDown, Grey, Mask
from guided.operators.spectral import Blur, Matrix

__all__ = [
    "LUMA",
    "MEAN",
    "Blur",
    "BoxDown",
    "Decoded",
    "Grey",
    "Mask",
    "Matrix",
    "Operator",
    "Tangent",
    "conjugate_gradient",
]
