"""Embedded colour profiles to sRGB."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from guided.data.records import BadPicture


def to_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """An 8-bit picture as L or RGB in sRGB, through its embedded profile where it has a usable one."""
    profile = image.info.get("icc_profile")
    if image.mode == "1":
        image = image.convert("L")
    if profile and image.mode in ("L", "RGB", "CMYK"):
        converted = _through(image, profile, notes)
        if converted is not None:
            return converted
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
        return image.convert("RGB")
    raise BadPicture(f"pictures of the kind {image.mode!r} are not supported")


def _through(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image | None:
    """The picture converted by its profile; None where the profile is damaged or of another space."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip()
        if image.mode == "RGB" and "srgb" in name.lower():
            return image
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(
            image, source, target, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
        )
    except Exception:
        notes.append("its colour profile is damaged or of another colour space: ignored")
        return None
    if converted is not None:
        notes.append(f"converted from the colour profile {name!r} to sRGB")
    return converted
