"""Networks: one U-Net, its encoder half as a classifier, their config, and presets."""

from guided.nn.classifier import EncoderUNet
from guided.nn.config import UNetConfig
from guided.nn.presets import PRESETS, preset
from guided.nn.unet import UNet

__all__ = ["PRESETS", "EncoderUNet", "UNet", "UNetConfig", "preset"]
