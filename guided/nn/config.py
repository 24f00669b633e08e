"""The data that describes a U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

CHOICES = {
    "skips": ("every", "level"),
    "resample": ("conv", "resblock", "plain"),
    "attention": ("self", "cross", "added", "transformer"),
    "act": ("silu", "gelu"),
    "time": ("sinusoidal", "fourier"),
}


@dataclass(frozen=True)
class UNetConfig:
    """Everything `UNet` needs to know, as plain data.

    Level 0 is the finest; `widths`, `blocks` and `depth` have one entry a level. Raises ValueError for values
    that cannot make a network.
    """

    in_channels: int = 3
    out_channels: int = 3  # twice the picture's for a learned variance

    # Body
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (
        1,
        1,
        1,
    )  # residual blocks a level on the way down; one int stands for all levels
    middle_blocks: int = 2  # attention of the middle stands after the first
    skips: str = (
        "every"  # "every": each output is a skip, one block more a level up (ADM); "level": one skip a level
    )
    resample: str = (
        "conv"  # strided conv / nearest + conv; "resblock": ADM's; "plain": mean / nearest, no weights
    )
    scale_shift: bool = True  # the embedding scales and shifts the second norm; False: it is added before it
    residual_scale: float = 1.0  # residual sums of ResBlocks are divided by this
    act: str = "silu"
    dropout: float = 0.0
    groups: int = 32  # of GroupNorm; reduced to a divisor where a width asks for it
    norm_eps: float = 1e-5

    # Attention
    attention: str = (
        "self"  # "cross": self then cross; "added": text keys beside its own (IF); "transformer": SD
    )
    depth: tuple[int, ...] = (0, 1, 1)  # attention blocks after each residual block of a level
    middle_depth: int = 1
    head_width: int = 64
    heads: int | None = None  # a fixed number of heads at every level, instead of a fixed head_width
    text_only: tuple[bool, ...] = ()  # "added" only: levels whose keys are the text's alone
    context_norm: bool = False  # "added" only: GroupNorm on the text before its keys and values

    # Vector port: all summed into one embedding
    embed_width: int | None = None  # default 4 * widths[0]
    embed_act: bool = True  # the activation before each block's projection of the embedding
    time: str = "sinusoidal"
    time_width: int | None = None  # default widths[0]
    max_period: float = 10_000.0
    flip: bool = True  # cosines first
    shift: float = 0.0  # subtracted from the number of frequencies in the exponent
    fourier_std: float = 0.02  # of the random frequencies, in cycles per unit of c_noise
    classes: int = 0
    vector_width: int = 0
    aug: bool = False
    aug_scale: float = (
        1000.0  # multiplies aug before its sinusoid: 1000 for levels in [0, 1], 1 for timesteps
    )

    # Sequence port
    token_width: int = 0  # 0: no text
    cross_width: int | None = None  # a linear map of the tokens to this width first; None: none
    null_token: bool = True  # one learned token before every sequence
    pool_heads: int = 0  # attention-pooled text is added to the embedding; 0: not

    # Space port
    image_channels: int = 0
    presence: bool = False  # one channel more that says where the image is given

    def __post_init__(self) -> None:
        levels = len(self.widths)
        for name in ("blocks", "depth", "text_only"):
            value = getattr(self, name)
            if isinstance(value, int):
                value = (value,) * levels
            if name == "text_only" and not value:
                value = (False,) * levels
            object.__setattr__(self, name, tuple(value))
            if len(getattr(self, name)) != levels:
                raise ValueError(f"{name}: expected {levels} entries, one for each of widths, got {value}")
        object.__setattr__(self, "widths", tuple(self.widths))
        self._check()

    def _check(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("in_channels", "out_channels", "groups", "head_width"):
            _whole(name, getattr(self, name), 1)
        for name in (
            "classes",
            "vector_width",
            "token_width",
            "image_channels",
            "pool_heads",
            "middle_depth",
            "middle_blocks",
        ):
            _whole(name, getattr(self, name), 0)
        for name in ("heads", "embed_width", "time_width", "cross_width"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 1)
        for name, low in (("widths", 1), ("blocks", 1), ("depth", 0)):
            for value in getattr(self, name):
                _whole(name, value, low)
        if not self.widths:
            raise ValueError("widths: expected at least one level, got none")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {self.dropout}")
        for name in ("norm_eps", "residual_scale", "max_period", "fourier_std", "aug_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)!r}")
        self._check_together()

    def _check_together(self) -> None:
        depths = (*self.depth, self.middle_depth if self.middle_blocks else 0)
        for width, depth in zip((*self.widths, self.widths[-1]), depths, strict=True):
            if depth and width % (self.heads or self.head_width):
                name = "heads" if self.heads else "head_width"
                raise ValueError(f"{name}: {self.heads or self.head_width} does not divide the width {width}")
        if not self.token_width:
            for name in ("cross_width", "pool_heads", "context_norm"):
                if getattr(self, name):
                    raise ValueError(f"{name}: needs token_width > 0, the width of the text's tokens")
            if self.attention in ("cross", "added") and any(depths):
                raise ValueError(
                    f"attention: {self.attention!r} reads text; give token_width or choose 'self'"
                )
        elif self.attention == "self" and not self.pool_heads:
            raise ValueError(
                "attention: 'self' never reads the tokens of token_width; choose 'cross', 'added' or 'transformer'"
            )
        if self.pool_heads and self.token_width % self.pool_heads:
            raise ValueError(f"pool_heads: {self.pool_heads} does not divide token_width {self.token_width}")
        if self.presence and not self.image_channels:
            raise ValueError("presence: needs image_channels > 0")
        if self.attention != "added" and (any(self.text_only) or self.context_norm):
            raise ValueError("text_only and context_norm: need attention 'added'")

    @property
    def embedding(self) -> int:
        """Width of the summed embedding."""
        return self.embed_width or 4 * self.widths[0]

    @property
    def context(self) -> int:
        """Width of the tokens as attention reads them; 0 without text."""
        return self.cross_width or self.token_width

    @property
    def accepts(self) -> frozenset[str]:
        """Fields of `Cond` that the network can see."""
        seen = {
            "label": self.classes,
            "vector": self.vector_width,
            "aug": self.aug,
            "image": self.image_channels,
        }
        seen |= {"tokens": self.token_width, "mask": self.token_width}
        return frozenset(name for name, on in seen.items() if on)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """Make a config; raises ValueError for unknown keys or values out of range."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown keys {unknown} in a U-Net's config; known are {sorted(known)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _whole(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: expected a whole number >= {low}, got {value!r}")
