"""The published families of the original layout: configs, and what no tensor says of them.

Values: the README of openai/guided-diffusion, the configs of CompVis/stable-diffusion, Stability-AI/stablediffusion and
Stability-AI/generative-models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from guided.denoiser import Eps, Parametrization, V
from guided.frames import DDPM
from guided.nn import UNetConfig
from guided.zoo.original import Options

EPS = Eps()
LINEAR, COSINE = DDPM(), DDPM("cosine")
LATENT = DDPM("scaled", 0.00085, 0.012)


@dataclass(frozen=True)
class Family:
    """A published network: what its tensors have in common, and what only its authors can say.

    size: (H, W) of what the network works on, pictures or latents. latent: whether these are latents of a VAE.
    """

    name: str
    config: UNetConfig
    options: Options
    size: tuple[int, int]
    schedule: DDPM = LINEAR
    predicts: Parametrization = EPS
    classifier: bool = False
    latent: bool = False


def _adm(
    width: int, multiples: Sequence[float], attention: Sequence[int], blocks: int = 2, **rest: int | float | None
) -> UNetConfig:
    """ADM: `attention` names the levels that have it."""
    plain = UNetConfig(
        out_channels=6,
        widths=tuple(int(width * m) for m in multiples),
        blocks=(blocks,) * len(multiples),
        resample="resblock",
        depth=tuple(int(level in attention) for level in range(len(multiples))),
        embed_width=4 * width,
        time_width=width,
    )
    return replace(plain, **rest)  # type: ignore[arg-type]


def _latent(
    width: int, multiples: Sequence[int], depth: Sequence[int], context: int, **rest: int | tuple[bool, ...] | None
) -> UNetConfig:
    """A U-Net of latents with spatial transformers; the middle is as deep as the deepest level by default."""
    plain = UNetConfig(
        in_channels=4,
        out_channels=4,
        widths=tuple(width * m for m in multiples),
        blocks=(2,) * len(multiples),
        scale_shift=False,
        attention="transformer",
        depth=tuple(depth),
        middle_depth=max(depth),
        token_width=context,
        null_token=False,
        embed_width=4 * width,
        time_width=width,
    )
    return replace(plain, **rest)  # type: ignore[arg-type]


_TO_64, _TO_128, _TO_256 = (1, 2, 3, 4), (1, 1, 2, 3, 4), (1, 1, 2, 2, 4, 4)
_TO_512 = (0.5, 1, 1, 2, 2, 4, 4)
_OLD, _NEW = Options(heads_first=True), Options()
_SD, _CONV = (320, (1, 2, 4, 4), (1, 1, 1, 0)), Options(linear=False)
_SD1 = _latent(*_SD, 768, heads=8)
_SD2 = _latent(*_SD, 1024)
_SDXL = _latent(320, (1, 2, 4), (0, 2, 10), 2048, vector_width=2816)


def _picture(name: str, config: UNetConfig, side: int, options: Options = _OLD, schedule: DDPM = LINEAR) -> Family:
    return Family(name, config, options, (side, side), schedule)


def _classifier(side: int, multiples: Sequence[float], attention: Sequence[int], blocks: int = 2) -> Family:
    config = _adm(128, multiples, attention, blocks, out_channels=1000)
    # It was trained on the noise of the model that it steers, which is cosine at 64 pixels alone.
    schedule = COSINE if side == 64 else LINEAR
    return Family(f"adm-classifier-{side}", config, _OLD, (side, side), schedule, classifier=True)


def _stable(
    name: str,
    config: UNetConfig,
    side: int = 64,
    options: Options = _NEW,
    schedule: DDPM = LATENT,
    predicts: Parametrization = EPS,
) -> Family:
    return Family(name, config, options, (side, side), schedule, predicts, latent=True)


FAMILIES = (
    _picture("adm-64", _adm(192, _TO_64, (1, 2, 3), 3, classes=1000, dropout=0.1), 64, _NEW, COSINE),
    _picture("adm-128", _adm(256, _TO_128, (2, 3, 4), classes=1000, heads=4), 128),
    _picture("adm-256", _adm(256, _TO_256, (3, 4, 5), classes=1000), 256),
    _picture("adm-256-unconditional", _adm(256, _TO_256, (3, 4, 5)), 256),  # LSUN's too
    _picture("adm-512", _adm(256, _TO_512, (4, 5, 6), classes=1000), 512),
    _picture("adm-512-unconditional", _adm(256, _TO_512, (4, 5, 6)), 512),
    _picture("adm-64-to-256", _adm(192, _TO_256, (3, 4, 5), classes=1000, heads=4, image_channels=3), 256),
    _picture("adm-128-to-512", _adm(192, _TO_256, (4, 5), classes=1000, image_channels=3), 512),
    _classifier(64, _TO_64, (1, 2, 3), 4),
    _classifier(128, _TO_128, (2, 3, 4)),
    _classifier(256, _TO_256, (3, 4, 5)),
    _classifier(512, _TO_512, (4, 5, 6)),
    _stable("sd-1", _SD1, options=_CONV),
    _stable("sd-1-inpainting", replace(_SD1, image_channels=5), options=_CONV),
    _stable("sd-2", _SD2, 96, predicts=V()),  # sd-2-base is the same network, trained to predict the noise
    _stable("sd-2-inpainting", replace(_SD2, image_channels=5)),
    _stable("sd-2-depth", replace(_SD2, image_channels=1)),
    _stable("sd-2-unclip-h", replace(_SD2, vector_width=2048), 96, predicts=V()),
    _stable("sd-2-unclip-l", replace(_SD2, vector_width=1536), 96, predicts=V()),
    _stable(
        "sd-x4-upscaler",
        _latent(
            *(256, (1, 2, 2, 4), (0, 1, 1, 1), 1024),
            heads=8,
            classes=1000,
            image_channels=3,
            text_only=(True, True, True, False),
        ),
        128,
        schedule=DDPM("scaled", 1e-4, 0.02),
        predicts=V(),
    ),
    _stable("sdxl-base", _SDXL, 128),
    _stable("sdxl-inpainting", replace(_SDXL, image_channels=5), 128),
    _stable("sdxl-refiner", _latent(384, (1, 2, 4, 4), (0, 4, 4, 0), 1280, vector_width=2560), 128),
    _stable("ldm-text", _latent(*_SD, 1280, heads=8), 32, _CONV),
    _stable(
        "ldm-imagenet-256",
        _latent(192, (1, 2, 3, 5), (0, 1, 1, 1), 512, heads=1, in_channels=3, out_channels=3),
        *(64, _CONV, DDPM("scaled", 0.0015, 0.0195)),
    ),
)
