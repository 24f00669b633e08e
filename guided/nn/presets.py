"""U-Nets by name."""

from __future__ import annotations

from dataclasses import replace

from guided.nn.config import UNetConfig

TOKENS = 384  # width of MiniLM's token states, the default text

# 32 px is sized for training on a CPU: one residual block a level and one skip, no convolution between levels (at the
# finest it would cost as much as a block), at least four channels a group. 7.8 million weights are 15.6 MB in bf16.
BASE32 = UNetConfig(
    widths=(64, 128, 256),
    skips="level",
    resample="plain",
    middle_blocks=1,
    depth=(0, 1, 1),
    head_width=32,
    groups=16,
    embed_width=192,
)
SHAPES = replace(BASE32, widths=(32, 64, 192), groups=8, embed_width=128)

# One that is Stable Diffusion's network too: diffusers opens it as its UNet2DConditionModel. It is told no places, but
# finds them from the zeros around the picture; a fourth level pays for the skips and convolutions that it must have.
PORTABLE = UNetConfig(
    widths=(16, 32, 64, 128),
    blocks=(1, 1, 1, 1),
    attention="transformer",
    depth=(0, 0, 1, 1),
    head_width=32,
    groups=4,
    embed_width=128,
    token_width=TOKENS,
    null_token=False,
)

# From 64 px the networks are ADM's, sized for one GPU.
BASE64 = UNetConfig(widths=(64, 128, 256, 384), blocks=(2, 2, 2, 2), resample="resblock", depth=(0, 1, 1, 1), groups=16)
BASE128 = replace(BASE64, widths=(128, 128, 256, 384, 512), blocks=(2,) * 5, depth=(0, 0, 1, 1, 1), groups=32)
BASE256 = replace(BASE128, widths=(128, 128, 256, 256, 512, 512), blocks=(2,) * 6, depth=(0, 0, 0, 1, 1, 1))

# Networks that are shown a picture: convolutions alone, on squares of pixels folded into channels, for any size and any
# window (the efficient U-Net of Saharia et al. 2022, Imagen, appendix B, works at half size from the start likewise).
LOCAL = replace(BASE32, patch=2, widths=(64, 128, 192), depth=(0, 0, 0), middle_depth=0, image_channels=3)
LARGE = replace(LOCAL, widths=(128, 256, 512, 512), blocks=(2, 2, 4, 4), depth=(0,) * 4, groups=32, middle_blocks=2)

TINY = UNetConfig(
    widths=(8, 16),
    blocks=(1, 1),
    skips="level",
    middle_blocks=1,
    depth=(0, 1),
    head_width=8,
    groups=4,
    embed_width=16,
)


def _text(config: UNetConfig, width: int = TOKENS) -> UNetConfig:
    # A caption is the same at every pixel: what it asks for in one place needs to know the place.
    return replace(config, attention="cross", token_width=width, token_norm=True, coordinates=True)


PRESETS = {
    "tiny": TINY,
    "tiny-text": _text(TINY, 8),
    "tiny-class": replace(TINY, classes=4),
    "local": LOCAL,
    "local-large": LARGE,
    "tiny-local": replace(TINY, patch=2, depth=(0, 0), middle_depth=0, image_channels=3),
    "unet32-text": _text(BASE32),
    "unet32-class": replace(BASE32, classes=10),
    "unet32-shapes": _text(SHAPES),
    "unet32-diffusers": PORTABLE,
    "unet64-text": _text(BASE64),
    "unet64-class": replace(BASE64, classes=1000),
    "unet128-text": _text(BASE128),
    "unet128-class": replace(BASE128, classes=1000),
    "unet256-text": _text(BASE256),
    "unet256-class": replace(BASE256, classes=1000),
}


def preset(name: str, **changes: object) -> UNetConfig:
    """The config of a preset, some of its fields changed; raises ValueError for an unknown name or field."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return UNetConfig.from_dict(PRESETS[name].to_dict() | changes)
