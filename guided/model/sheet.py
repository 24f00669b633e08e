"""A contact sheet: many pictures as one, with captions that can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = 96
"""Pictures with a shorter side than this are enlarged, pixel by pixel, by a whole factor."""
_MARGIN, _TEXT, _LINES = 6, 11, 3


def sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[str] = (),
    columns: int | None = None,
    heads: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Image.Image:
    """Lay pictures out row by row, each above its caption.

    heads: what stands above each column. rows: what stands left of each row. Captions are wrapped to the width of a
    picture, and cut after three lines. Raises ValueError without pictures, or with captions of another number.
    """
    if not pictures or (captions and len(captions) != len(pictures)):
        raise ValueError(f"a sheet takes pictures and as many captions, got {len(pictures)} and {len(captions)}")
    columns = columns or len(heads) or min(len(pictures), max(1, math.ceil(math.sqrt(len(pictures)))))
    font = ImageFont.load_default(_TEXT)
    shown = [_enlarged(picture) for picture in pictures]
    width, height = (max(sizes) for sizes in zip(*(picture.size for picture in shown), strict=True))
    texts = [wrapped(text, width, font) for text in captions]
    foot = (max((len(lines) for lines in texts), default=0)) * (_TEXT + 2)
    left = 2 * CELL if rows else 0
    top = (_TEXT + _MARGIN) if heads else 0
    step = (width + _MARGIN, height + foot + _MARGIN)
    lines = math.ceil(len(shown) / columns)
    page = Image.new("RGB", (left + columns * step[0] + _MARGIN, top + lines * step[1] + _MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for i, picture in enumerate(shown):
        x, y = left + _MARGIN + i % columns * step[0], top + _MARGIN + i // columns * step[1]
        page.paste(picture.convert("RGB"), (x, y))
        if texts:
            draw.multiline_text((x, y + height + 1), "\n".join(texts[i]), "black", font, spacing=2)
    for column, head in enumerate(heads):
        draw.text((left + _MARGIN + column * step[0], _MARGIN // 2), head, "black", font)
    for row, text in enumerate(rows):
        block = "\n".join(wrapped(text, left - _MARGIN, font))
        draw.multiline_text((_MARGIN, top + _MARGIN + row * step[1] + height // 3), block, "black", font, spacing=2)
    return page


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = math.ceil(CELL / min(picture.size))
    if factor == 1 or max(picture.size) * factor > 8 * CELL:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The text in lines no wider than `width` pixels; what needs more than three ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        for part in _parts(word, width, font):
            joined = f"{lines[-1]} {part}".strip()
            if lines[-1] and font.getlength(joined) > width:
                lines.append(part)
            else:
                lines[-1] = joined
    if len(lines) <= _LINES:
        return lines
    last = lines[_LINES - 1]
    while last and font.getlength(last + "...") > width:
        last = last[:-1]
    return [*lines[: _LINES - 1], last + "..."]


def _parts(word: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """A word wider than a line, cut into pieces that fit."""
    parts = [""]
    for letter in word:
        if parts[-1] and font.getlength(parts[-1] + letter) > width:
            parts.append("")
        parts[-1] += letter
    return parts
