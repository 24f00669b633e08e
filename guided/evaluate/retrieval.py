"""Whether pictures drawn from captions show them, judged by their nearest real pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.data import Record, Split, base_caption, tone
from guided.data.splitting import TONES, fraction
from guided.evaluate.features import Features, nearest
from guided.evaluate.figures import Figure, clustered, share
from guided.evaluate.tones import ToneJudge

GROUP = "group"
"""The column of a record's extra values that halves the captions."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Real pictures uint8 (N, C, H, W) with their records and their split."""

    pictures: Tensor
    records: Sequence[Record]
    split: Split

    def caption(self, row: int) -> str:
        """The caption of a record; ValueError where it has none."""
        caption = self.records[row].caption
        if caption is None:
            raise ValueError(f"{self.records[row].name}: has no caption")
        return caption

    def base(self, row: int) -> str:
        """Its base caption."""
        return base_caption(self.caption(row))

    @property
    def train(self) -> list[int]:
        """The training records that have a caption."""
        return [row for row in self.split.train if self.records[row].caption is not None]


def largest_group(records: Sequence[Record]) -> str | None:
    """The group with most records ("People & Body" of the emoji), None where records have no groups."""
    groups = Counter(record.extra[GROUP] for record in records if GROUP in record.extra)
    return groups.most_common(1)[0][0] if len(groups) > 1 else None


def training_rows(gallery: Gallery, n: int) -> list[int]:
    """n training records, the same for ever: those with the smallest hashes of their captions.

    Where records have groups, half of them are of the largest group and half of the others, in this order.
    """
    order = sorted(gallery.train, key=lambda row: fraction(f"judged:{gallery.caption(row)}"))
    group = largest_group([gallery.records[row] for row in order])
    if group is None:
        return order[:n]
    inside = [row for row in order if gallery.records[row].extra.get(GROUP) == group]
    outside = [row for row in order if gallery.records[row].extra.get(GROUP) != group]
    return inside[: n - n // 2] + outside[: n // 2]


def held_rows(gallery: Gallery, n: int) -> list[int]:
    """Up to n records of the base captions that were kept out, by hash: first one of every base, then more."""
    order = sorted(gallery.split.held_bases, key=lambda row: fraction(f"judged:{gallery.caption(row)}"))
    seen: Counter[str] = Counter()
    ranked = []
    for row in order:
        ranked.append((seen[gallery.base(row)], row))
        seen[gallery.base(row)] += 1
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])[:n]]


def of_training(features: Features, gallery: Gallery, drawn: Tensor, rows: Sequence[int], at: str = "") -> list[Figure]:
    """The share of drawn pictures whose nearest training picture has their base caption: all, each half, and exactly.

    drawn: uint8, one for each of the records `rows`. Chance beside: the nearest were any training picture.
    """
    train = gallery.train
    found = [train[i] for i in nearest(features(drawn), features(gallery.pictures[train])).tolist()]
    right = [gallery.base(a) == gallery.base(b) for a, b in zip(found, rows, strict=True)]
    often = Counter(gallery.base(row) for row in train)
    chances = [often[gallery.base(row)] / len(train) for row in rows]
    group = largest_group([gallery.records[row] for row in train])
    parts: dict[str, list[int]] = {"all": list(range(len(rows)))}
    if group is not None:
        inside = [i for i, row in enumerate(rows) if gallery.records[row].extra.get(GROUP) == group]
        parts |= {group: inside, f"not {group}": sorted(set(parts["all"]) - set(inside))}
    figures = [
        share(
            f"training captions, base right: {name}",
            [right[i] for i in part],
            at,
            {"chance": sum(chances[i] for i in part) / len(part)},
        )
        for name, part in parts.items()
        if part
    ]
    exact = [gallery.caption(a) == gallery.caption(b) for a, b in zip(found, rows, strict=True)]
    return [*figures, share("training captions, whole caption right: all", exact, at, {"chance": 1 / len(train)})]


def of_pairs(features: Features, gallery: Gallery, drawn: Tensor, at: str = "") -> list[Figure]:
    """Tone and base of the pictures drawn for the held-out pairs of base and tone, `gallery.split.held_pairs`.

    The base is right where the nearest training picture has it. The tone is judged twice: by the picture's colours
    (`ToneJudge`, fitted to the training pictures, with its own accuracy on the pairs' real pictures beside), and as
    that of the nearest among the real pictures of its own base, its truth among them.
    """
    rows, train = list(gallery.split.held_pairs), gallery.train
    seen = features(drawn)
    found = [train[i] for i in nearest(seen, features(gallery.pictures[train])).tolist()]
    base = [gallery.base(a) == gallery.base(b) for a, b in zip(found, rows, strict=True)]
    asked = [tone(gallery.caption(row)) for row in rows]
    fitted = [row for row in train if tone(gallery.caption(row)) in (None, *TONES)]
    judge = ToneJudge(gallery.pictures[fitted], [tone(gallery.caption(row)) for row in fitted])
    by_colour = [a == b for a, b in zip(judge(drawn), asked, strict=True)]
    real = [a == b for a, b in zip(judge(gallery.pictures[rows]), asked, strict=True)]
    among, chance = _among_own_base(features, gallery, seen, rows)
    both = [a and b for a, b in zip(by_colour, base, strict=True)]
    return [
        share("held-out pairs, tone right: by colours", by_colour, at, {"real pictures": sum(real) / len(real)}),
        share("held-out pairs, tone right: nearest of its base", among, at, {"chance": chance}),
        share("held-out pairs, base right", base, at),
        share("held-out pairs, tone (by colours) and base right", both, at),
    ]


def _among_own_base(
    features: Features, gallery: Gallery, seen: Tensor, rows: Sequence[int]
) -> tuple[list[bool], float]:
    """Whether the nearest real picture of the same base has the tone asked for, and how often chance finds it."""
    pool = [*gallery.train, *gallery.split.held_pairs]
    members: dict[str, list[int]] = {}
    for row in pool:
        if tone(gallery.caption(row)) in (None, *TONES):
            members.setdefault(gallery.base(row), []).append(row)
    hits, chances = [], []
    for i, row in enumerate(rows):
        own = sorted(members[gallery.base(row)])
        best = own[int(nearest(seen[i : i + 1], features(gallery.pictures[own])))]
        hits.append(tone(gallery.caption(best)) == tone(gallery.caption(row)))
        chances.append(1 / len(own))
    return hits, sum(chances) / len(chances)


def of_held_bases(features: Features, gallery: Gallery, drawn: Tensor, rows: Sequence[int], at: str = "") -> Figure:
    """How often a picture drawn for a held-out base is nearer to its own truth than to a random held-out picture.

    The random one is of another base, every base as likely; the mean over all of them is taken in place of one draw.
    Chance is 50 %. The interval is over the bases. Raises ValueError with fewer than two of them.
    """
    held = list(gallery.split.held_bases)
    bases = [gallery.base(row) for row in held]
    if len(set(bases)) < 2:
        raise ValueError(f"the comparison of held-out bases needs at least two of them, got {len(set(bases))}")
    often = Counter(bases)
    distance = torch.cdist(features(drawn), features(gallery.pictures[held])).double()
    wins = []
    for i, row in enumerate(rows):
        own = distance[i, held.index(row)]
        other = torch.tensor([base != gallery.base(row) for base in bases])
        weight = torch.tensor([1 / often[base] for base in bases], dtype=torch.float64)[other]
        nearer = (own < distance[i, other]).double() + 0.5 * (own == distance[i, other]).double()
        wins.append(weight @ nearer / weight.sum())
    names = [gallery.base(row) for row in rows]
    title = "held-out bases, nearer to its truth than to another"
    return clustered(title, torch.stack(wins), names, at, {"chance": 0.5})
