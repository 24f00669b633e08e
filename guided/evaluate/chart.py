"""A report as one picture: each figure with its interval and what it is held against, and how it was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from guided.evaluate.figures import Figure
from guided.model.sheet import wrapped

_WIDTH, _COLUMNS, _MARGIN, _GAP, _PAD = 1260, 3, 30, 18, 16
_CARD = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) // _COLUMNS
_FINE = 2
"""All is drawn so many times larger and then made small, for smooth edges."""
_INK, _MUTED, _LINE, _PAPER, _BACK = "#1f2933", "#66727f", "#dde3ea", "#ffffff", "#f4f6f9"
_VALUE, _INTERVAL = "#1b6ca8", "#a9cdea"
_REAL, _OTHERS = ("#3a7d44", "#a67c00"), ("#c8553d", "#8a4fa3")
"""Of what stands beside: what real pictures reach, and anything else."""
_SHOWN = (
    *("real pictures", "preprocessing of both", "pictures", "captions", "reference", "features", "nearest picture in"),
    *("perceptual distance", "LPIPS", "CLIPScore", "sources", "FD"),
)
"""The settings that say which pictures were held against each other, and how they were prepared."""
_HEADS = ("what was compared, and how it was prepared", "how it was drawn and measured")
_LOWER = ("FD", "KID", "perceptual", "LPIPS", "ELBO", "network evaluations", "as near to training")
_ZERO = "0 is best"
_HIGHER = ("CLIP", "PSNR", "consistency PSNR")
_HEAD, _ROW, _MIDDLE, _FOOT, _LEGEND = 54, 42, 28, 24, 17
_Block = list[tuple[str, list[str]]]
_HALF = (_WIDTH - 2 * _MARGIN - _GAP) // 2
_Placing = Callable[[float], float]


def better(figure: Figure) -> str:
    """Which values of a figure are the good ones, in words; empty where nothing can be said."""
    for start, told in (("colour error", _ZERO), ("density", "1 is as real"), ("saturation", "as real is best")):
        if figure.name.startswith(start):
            return told
    if figure.name.startswith(_LOWER):
        return "lower is better"
    return "higher is better" if figure.percent or figure.name.startswith(_HIGHER) else ""


def ends(figures: Sequence[Figure]) -> tuple[float, float]:
    """The axis of the rows of one card: values, intervals and what stands beside, with room; shares stay in [0, 1]."""
    numbers = [n for f in figures for n in (f.value, f.low, f.high, *f.beside.values()) if math.isfinite(n)]
    numbers += [0.0] if figures and better(figures[0]) == _ZERO else []
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    left, right = low - room, high + room
    if low >= 0 and left < 0.35 * right:  # a distance is read from 0 on, unless that would hide all differences
        left = 0.0
    if all(f.percent for f in figures):
        left, right = max(left, 0.0), min(right, 1.0)
    return left, right


def ticks(low: float, high: float) -> list[float]:
    """Round numbers of an axis, three to seven of them."""
    raw = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= raw * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class _Page:
    """A page in fine pixels, drawn on in plain ones."""

    picture: Image.Image
    fonts: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = field(default_factory=dict)

    @property
    def pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.picture)

    def font(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """The font at a size in plain pixels, as it is drawn."""
        if size not in self.fonts:
            self.fonts[size] = ImageFont.load_default(_FINE * size)
        return self.fonts[size]

    def text(self, x: float, y: float, words: str, size: int, colour: str, anchor: str = "la") -> float:
        """Write a line; its width."""
        font = self.font(size)
        self.pen.text((_FINE * x, _FINE * y), words, colour, font, anchor=anchor)
        return font.getlength(words) / _FINE

    def fitted(self, words: str, size: int, width: float) -> str:
        """The words, cut in the middle to a width: the ends of paths and settings say most."""
        font = self.font(size)
        if font.getlength(words) <= _FINE * width:
            return words
        keep = len(words)
        while keep > 2 and font.getlength(_cut(words, keep)) > _FINE * width:
            keep -= 1
        return _cut(words, keep)

    def lines(self, words: str, size: int, width: float) -> list[str]:
        """The words in at most three lines of a width."""
        return wrapped(words, int(_FINE * width), self.font(size))

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        self.pen.line([(_FINE * x, _FINE * y) for x, y in points], colour, round(_FINE * width))

    def box(
        self, area: tuple[float, float, float, float], colour: str, edge: str | None = None, radius: int = 0
    ) -> None:
        self.pen.rounded_rectangle([_FINE * value for value in area], _FINE * radius, colour, edge, _FINE // 2)

    def dot(self, x: float, y: float, radius: float, colour: str, edge: str = _PAPER) -> None:
        area = [_FINE * value for value in (x - radius, y - radius, x + radius, y + radius)]
        self.pen.ellipse(area, colour, edge, _FINE)


def _cut(words: str, keep: int) -> str:
    return f"{words[: keep - keep // 2]}...{words[len(words) - keep // 2 :]}"


def chart(subject: str, against: str, settings: Mapping[str, str], figures: Sequence[Figure]) -> Image.Image:
    """The picture of a report, 1260 pixels wide: what was judged and how it was prepared, and a card a figure.

    A card has a row for each way (guidance weight, guide, task): the value, its 95 % interval as a bar, and marks for
    the floor, the baseline or whatever else stands beside.
    """
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.name, []).append(figure)
    cards = list(groups.values())
    page = _Page(Image.new("RGB", (1, 1)))  # to measure words with
    told = [_block(page, settings, shown) for shown in (True, False)]
    top = 96 + max(_tall(block) for block in told) + _GAP
    heights = [max(map(_height, cards[i : i + _COLUMNS])) for i in range(0, len(cards), _COLUMNS)]
    height = top + sum(h + _GAP for h in heights) + _MARGIN - _GAP
    page = _Page(Image.new("RGB", (_FINE * _WIDTH, _FINE * height), _BACK), page.fonts)
    room = _WIDTH - 2 * _MARGIN
    page.text(_MARGIN, 24, page.fitted(subject, 26, room), 26, _INK)
    page.text(_MARGIN, 60, page.fitted(f"judged against {against}", 15, room), 15, _MUTED)
    for block, x, head in zip(told, (_MARGIN, _WIDTH // 2 + _GAP // 2), _HEADS, strict=True):
        _write_block(page, block, x, 96, head, max(map(_tall, told)))
    y = top
    for i, tall in enumerate(heights):
        for column, card in enumerate(cards[i * _COLUMNS : (i + 1) * _COLUMNS]):
            _draw_card(page, card, _MARGIN + column * (_CARD + _GAP), y, tall)
        y += tall + _GAP
    return page.picture.reduce(_FINE)


def _block(page: _Page, settings: Mapping[str, str], shown: bool) -> _Block:
    """The settings of one half of the head, those that say how pictures were prepared or the others, in lines."""
    return [
        (name, page.lines(text, 12, _HALF - 2 * _PAD - 118))
        for name, text in settings.items()
        if (name in _SHOWN) == shown
    ]


def _tall(block: _Block) -> int:
    return 2 * _PAD + 20 + sum(16 * len(lines) + 5 for _, lines in block)


def _write_block(page: _Page, block: _Block, x: float, y: float, head: str, tall: int) -> None:
    page.box((x, y, x + _HALF, y + tall), _PAPER, _LINE, 8)
    page.text(x + _PAD, y + _PAD - 2, head, 13, _VALUE)
    row = y + _PAD + 22
    for name, lines in block:
        page.text(x + _PAD, row, page.fitted(name, 12, 110), 12, _MUTED)
        for line in lines:
            page.text(x + _PAD + 118, row, line, 12, _INK)
            row += 16
        row += 5


def _height(card: Sequence[Figure]) -> int:
    return _HEAD + _ROW * len(card) + _FOOT + _LEGEND * len(_beside(card)) + _PAD


def _beside(card: Sequence[Figure]) -> dict[str, str]:
    """What stands beside the figures of a card, by name, and its colour."""
    names = list(dict.fromkeys(name for figure in card for name in figure.beside))
    reached = [name for name in names if name.startswith("floor") or "real" in name or name in ("judge", "exact")]
    others = [name for name in names if name not in reached]
    colours = {name: _REAL[i % len(_REAL)] for i, name in enumerate(reached)}
    colours |= {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    return {name: colours[name] for name in names}


def _draw_card(page: _Page, card: Sequence[Figure], x: float, y: float, tall: int) -> None:
    """One figure at all of its settings: value and interval a row, marks beside, an axis, the names of the marks."""
    page.box((x, y, x + _CARD, y + tall), _PAPER, _LINE, 8)
    left, right = x + _PAD, x + _CARD - _PAD
    numbers = sorted({figure.n for figure in card})
    told = [better(card[0]), "n = " + " .. ".join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))]
    page.text(left, y + 12, page.fitted(card[0].name, 15, right - left), 15, _INK)
    page.text(left, y + 31, ", ".join(part for part in told if part), 11, _MUTED)
    low, high = ends(card)

    def place(value: float) -> float:
        return left + 6 + (value - low) / (high - low) * (right - left - 12)

    bottom = y + _HEAD + _ROW * len(card)
    for tick in ticks(low, high):
        for i in range(len(card)):  # only where the marks are: a line through the numbers would not be read
            middle = y + _HEAD + _ROW * i + _MIDDLE
            page.line([(place(tick), middle - 9), (place(tick), middle + 9)], _LINE)
        page.text(place(tick), bottom + 5, f"{100 * tick:g} %" if card[0].percent else f"{tick:g}", 10, _MUTED, "ma")
    colours = _beside(card)
    for i, figure in enumerate(card):
        _draw_row(page, figure, colours, (left, right, y + _HEAD + _ROW * i), place)
    row = bottom + _FOOT
    for name, colour in colours.items():
        values = [figure.beside[name] for figure in card if name in figure.beside]
        text = " .. ".join(dict.fromkeys(card[0].text(value) for value in (min(values), max(values))))
        page.line([(left + 4, row + 1), (left + 4, row + 13)], colour, 3)
        page.text(left + 14, row, page.fitted(f"{name}: {text}", 12, right - left - 14), 12, _INK)
        row += _LEGEND


def _draw_row(
    page: _Page, figure: Figure, colours: Mapping[str, str], area: tuple[float, float, float], place: _Placing
) -> None:
    left, right, y = area
    interval = "" if math.isnan(figure.low) else f"  [{figure.text(figure.low)}, {figure.text(figure.high)}]"
    wide = page.text(right, y + 2, interval, 11, _MUTED, "ra") if interval else 0.0
    wide += page.text(right - wide, y, figure.text(figure.value), 13, _VALUE, "ra")
    page.text(left, y, page.fitted(figure.at, 12, right - left - wide - 10), 12, _INK)
    middle = y + _MIDDLE
    if not math.isnan(figure.low):
        start = place(figure.low)
        page.box((start, middle - 4, max(place(figure.high), start + 1), middle + 4), _INTERVAL, radius=3)
    for name, value in figure.beside.items():
        if math.isfinite(value):
            page.line([(place(value), middle - 9), (place(value), middle + 9)], colours[name], 3)
    if math.isfinite(figure.value):
        page.dot(place(figure.value), middle, 5, _VALUE)
