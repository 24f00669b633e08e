"""What is done to a network's attention during a call: made worse on purpose, or copied from one image to another.

Perturbed-attention guidance compares with the one, Prompt-to-Prompt edits by the other. The change lies beside the
call, not in it, so that no denoiser between the guide and the network has to pass it on; and it lies in the thread, so
that networks at work in other threads never see it.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

KINDS = ("identity", "blur", "skip")


@dataclass(frozen=True)
class Perturbation:
    """What is done to the self-attention of some layers of a network.

    kind: "identity" replaces the attention map by the identity, so that every pixel gives its own value (PAG,
    arXiv 2403.17377); "blur" blurs the queries over the picture by a Gaussian of std `sigma` > 0, in the layer's
    pixels, whose edges are mirrored; at infinity every query is their mean (SEG, arXiv 2408.00760); "skip" leaves out
    the block that holds the attention (skip-layer guidance). layers: names out of `UNet.attention_layers()`, or the
    beginning of some, as "middle" or "up.0". None: those of the middle, or where it has none, of the coarsest level
    that has any.
    Raises ValueError for another kind, for a sigma <= 0 or beside another kind than blur, and for empty layers.
    """

    kind: str
    sigma: float = math.inf
    layers: tuple[str, ...] | None = None

    def __init__(self, kind: str, sigma: float = math.inf, layers: str | Sequence[str] | None = None) -> None:
        if kind not in KINDS:
            raise ValueError(f"perturbation: expected one of {', '.join(KINDS)}, got {kind!r}")
        if not sigma > 0 or (kind != "blur" and sigma != math.inf):
            raise ValueError(f"perturbation: sigma is the std of a blur, a number > 0 or inf; got {sigma} for {kind!r}")
        if layers is not None:
            layers = (layers,) if isinstance(layers, str) else tuple(layers)
            if not layers:
                raise ValueError("perturbation: layers is empty: name some, or leave it out for the default")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "sigma", float(sigma))
        object.__setattr__(self, "layers", layers)


@dataclass(frozen=True, eq=False)
class Copied:
    """The second half of a batch attends where the first does (Prompt-to-Prompt, Hertz et al. 2022, arXiv 2208.01626).

    To token j of T a target's attention becomes weight[j] (sum_i share[i, j] source[i] + keep[j] own[j]), with share
    (B, T, T), keep (B, T), weight (B, T). own: whether the pictures' attention to themselves is the source's as well.
    """

    share: Tensor
    keep: Tensor
    weight: Tensor
    own: bool = False


Change = Perturbation | Copied


class _Call:
    """A change in force, and whether a network has asked for it."""

    def __init__(self, perturbation: Change) -> None:
        self.perturbation = perturbation
        self.heard = False


class _Here(threading.local):
    # Not a ContextVar: torch.compile cannot trace one, while it compares the attributes of a threading.local at every
    # call, provided that they are set on the instance, as here.
    def __init__(self) -> None:
        self.call: _Call | None = None


_here = _Here()


@contextlib.contextmanager
def applied(perturbation: Change | None) -> Iterator[None]:
    """Change the networks that are called in this block, in this thread; None: leave them as they are.

    Raises ValueError at the end of a block in which no network has asked for the perturbation: it had no effect.
    """
    before, call = _here.call, None if perturbation is None else _Call(perturbation)
    _here.call = call
    try:
        yield
    finally:
        _here.call = before
    if call is not None and not call.heard:
        raise ValueError(
            f"{perturbation}: nothing that was called can be perturbed; it takes a network with self-attention that "
            "asks for `perturbation.active()`, as guided's own U-Net does"
        )


def active() -> Change | None:
    """The change in force here, for the network that is called; asking is a promise to heed it."""
    call = _here.call
    if call is None:
        return None
    call.heard = True
    return call.perturbation
