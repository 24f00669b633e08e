"""Networks: one U-Net, its config, and presets."""

from guided.nn.config import UNetConfig
from guided.nn.presets import PRESETS, preset
from guided.nn.unet import UNet

__all__ = ["PRESETS", "UNet", "UNetConfig", "preset"]
