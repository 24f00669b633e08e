"""The data that describes a U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

CHOICES = {
    "skips": ("every", "level"),
    "resample": ("conv", "resblock", "plain"),
    "attention": ("self", "cross", "added", "transformer"),
    "act": ("silu", "gelu"),
    "time": ("sinusoidal", "fourier"),
}


MAY_BE_ZERO = {"classes", "vector_width", "token_width", "image_channels", "pool_heads", "shift", "dropout"}
MAY_BE_ZERO |= {"depth", "middle_depth", "middle_blocks"}


@dataclass(frozen=True)
class UNetConfig:
    """Everything `UNet` needs to know, as plain data.

    Level 0 is the finest; `widths`, `blocks` and `depth` have one entry a level. Raises ValueError for values
    that cannot make a network.
    """

    in_channels: int = 3
    out_channels: int = 3  # twice the picture's for a learned variance

    # Body
    patch: int = 1  # squares of so many pixels become channels at the entrance, and pixels again at the exit
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (1, 1, 1)  # residual blocks a level going down; one number stands for all
    middle_blocks: int = 2  # attention of the middle stands after the first
    skips: str = "every"  # "every": each output is a skip, one block more a level up (ADM); "level": one skip a level
    resample: str = "conv"  # strided conv / nearest + conv; "resblock": ADM's; "plain": mean / nearest, no weights
    scale_shift: bool = True  # the embedding scales and shifts the second norm; False: it is added before it
    residual_scale: float = 1.0  # residual sums of ResBlocks are divided by this
    act: str = "silu"
    dropout: float = 0.0
    groups: int = 32  # of GroupNorm; reduced to a divisor where a width asks for it
    norm_eps: float = 1e-5

    # Attention
    attention: str = "self"  # "cross": self then cross; "added": text keys beside its own (IF); "transformer": SD
    depth: tuple[int, ...] = (0, 1, 1)  # attention blocks after each residual block of a level
    middle_depth: int = 1
    head_width: int = 64
    heads: int | None = None  # a fixed number of heads at every level, instead of a fixed head_width
    text_only: tuple[bool, ...] = ()  # levels where text takes the place of self-attention; (): none
    middle_text_only: bool = False
    context_norm: bool = False  # "added" only: GroupNorm on the text before its keys and values

    # Vector port: all summed into one embedding
    embed_width: int | None = None  # default 4 * widths[0]
    time: str = "sinusoidal"
    time_width: int | None = None  # default widths[0]
    max_period: float = 10_000.0
    flip: bool = True  # cosines first
    shift: float = 0.0  # subtracted from the number of frequencies in the exponent
    fourier_std: float = 0.02  # of the random frequencies, in cycles per unit of c_noise
    classes: int = 0
    vector_width: int = 0
    aug: bool = False
    aug_scale: float = 1000.0  # multiplies aug before its sinusoid: 1000 for levels in [0, 1], 1 for timesteps
    guidance: bool = False  # a distilled network is told the weight that it is to guide itself with

    # Sequence port
    token_width: int = 0  # 0: no text
    cross_width: int | None = None  # a linear map of the tokens to this width first; None: none
    token_norm: bool = False  # LayerNorm on the tokens, so that any encoder's arrive in unit size
    null_token: bool = True  # one learned token before every sequence
    pool_heads: int = 0  # attention-pooled text is added to the embedding; 0: not

    # Space port
    image_channels: int = 0
    presence: bool = False  # one channel more that says where the image is given
    coordinates: bool = False  # two channels more, x and y from -1 to 1: where a thing stands is then easily learnt

    def __post_init__(self) -> None:
        for name in ("widths", "blocks", "depth", "text_only"):
            value = getattr(self, name)
            if isinstance(value, int) and name != "widths":
                value = (value,) * len(self.widths)
            if not isinstance(value, Sequence):
                raise ValueError(f"{name}: expected one value a level, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        self._check_values()
        self._check_levels()
        self._check_text()
        if self.presence and not self.image_channels:
            raise ValueError("presence: needs image_channels > 0")

    def _check_values(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            low = 0 if field.name in MAY_BE_ZERO else 1
            expected = _expected(field.name, kind, low)
            if value is None and kind.endswith("None"):
                continue
            for one in value if kind.startswith("tuple") else (value,):
                _need(_fits(one, field.name, kind, low), field.name, expected, one)
        _need(self.dropout < 1, "dropout", "a number below 1", self.dropout)

    def _check_levels(self) -> None:
        count = len(self.widths)
        _need(count > 0, "widths", "at least one level", self.widths)
        for name in ("blocks", "depth", "text_only"):
            value = getattr(self, name)
            if name != "text_only" or value:
                _need(len(value) == count, name, f"{count} entries, one for each of widths", value)
        for width, depth in zip((*self.widths, self.widths[-1]), self.levels_and_middle, strict=True):
            if depth and width % (self.heads or self.head_width):
                name = "heads" if self.heads else "head_width"
                raise ValueError(f"{name}: {self.heads or self.head_width} does not divide the width {width}")

    def _check_text(self) -> None:
        if not self.token_width:
            for name in ("cross_width", "pool_heads", "context_norm"):
                _need(not getattr(self, name), name, "token_width > 0 beside it, the width of the text's tokens", 0)
            if self.attention in ("cross", "added") and any(self.levels_and_middle):
                raise ValueError(f"attention: {self.attention!r} reads text; give token_width or choose 'self'")
        elif not self.pool_heads and (self.attention == "self" or not any(self.levels_and_middle)):
            raise ValueError(
                "token_width: nothing reads the tokens; choose attention 'cross', 'added' or 'transformer' and a "
                "depth above 0 at some level, or pool_heads"
            )
        if self.pool_heads and self.token_width % self.pool_heads:
            raise ValueError(f"pool_heads: {self.pool_heads} does not divide token_width {self.token_width}")
        text_only = any(self.text_only) or self.middle_text_only
        if text_only and (self.attention not in ("added", "transformer") or not self.token_width):
            raise ValueError("text_only: needs text and attention 'added' or 'transformer'")
        if self.context_norm and self.attention != "added":
            raise ValueError("context_norm: needs attention 'added'")

    @property
    def levels_and_middle(self) -> tuple[int, ...]:
        """Attention blocks after a residual block of each level, and of the middle."""
        return (*self.depth, self.middle_depth if self.middle_blocks else 0)

    @property
    def embedding(self) -> int:
        """Width of the summed embedding."""
        return self.embed_width or 4 * self.widths[0]

    def reads_text_only(self, level: int) -> bool:
        """Whether the attention of a level has no keys but the text's."""
        return bool(self.text_only) and self.text_only[level]

    @property
    def context(self) -> int:
        """Width of the tokens as attention reads them; 0 without text."""
        return self.cross_width or self.token_width

    @property
    def accepts(self) -> frozenset[str]:
        """Fields of `Cond` that the network can see."""
        seen = {"label": self.classes, "tokens": self.token_width, "mask": self.token_width}
        seen |= {"vector": self.vector_width, "image": self.image_channels, "aug": self.aug}
        seen["guidance"] = self.guidance
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
        return cls(**values)


def _fits(value: object, name: str, kind: str, low: int) -> bool:
    if "bool" in kind or isinstance(value, bool):
        return "bool" in kind and isinstance(value, bool)
    if "int" in kind:
        return isinstance(value, int) and value >= low
    if "float" in kind:
        return isinstance(value, int | float) and (value > 0 or value == low == 0)
    return value in CHOICES[name]


def _expected(name: str, kind: str, low: int) -> str:
    if "bool" in kind:
        return "true or false"
    if "int" in kind:
        return f"a whole number >= {low}"
    if "float" in kind:
        return "a number above 0" if low else "a number >= 0"
    return "one of " + ", ".join(CHOICES[name])


def _need(good: bool, name: str, expected: str, got: object) -> None:
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")
