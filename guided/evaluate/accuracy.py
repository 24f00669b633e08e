"""Whether pictures show what was asked for, by a classifier or exact parsing, and whether they teach it to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from guided.data.shapes import Scene, ShapesSource, read, score
from guided.evaluate.classifier import Schedule, Watch, train_classifier
from guided.evaluate.figures import Figure, share
from guided.evaluate.network import Classifier, ClassifierConfig


def class_accuracy(
    classifier: Classifier,
    pictures: Tensor,
    labels: Sequence[int],
    at: str = "",
    beside: dict[str, float] | None = None,
) -> Figure:
    """The share of pictures uint8 (N, C, H, W) that the classifier gives the class asked for; chance is beside."""
    if len(pictures) != len(labels):
        raise ValueError(f"class accuracy needs a label a picture, got {len(labels)} for {len(pictures)}")
    found = classifier.predict(pictures).argmax(1)
    return share(
        "class accuracy",
        found == torch.as_tensor(labels),
        at,
        {"chance": 1 / classifier.config.classes, **(beside or {})},
    )


def cas(
    pictures: Tensor,
    labels: Sequence[int],
    names: Sequence[str],
    test: tuple[Tensor, Sequence[int]],
    schedule: Schedule | None = None,
    *,
    at: str = "",
    beside: Mapping[str, float] | None = None,
    config: ClassifierConfig | None = None,
    device: torch.device | str = "cpu",
    watch: Watch | None = None,
) -> Figure:
    """The classification accuracy score (Ravuri & Vinyals 2019): what a classifier learns from drawn pictures alone.

    It is trained on pictures uint8 (N, C, H, W) with the labels they were drawn for, and tested on real ones it never
    saw. Classes that are confused, missing or all alike cost it accuracy, which the class accuracy of the drawn ones
    does not see. Hold it against the same of as many real pictures. The interval is Wilson's over the test pictures.
    Raises ValueError without test pictures, and what `train_classifier` raises.
    """
    if not len(test[0]):
        raise ValueError("CAS: no real pictures were kept out to test on; split the data with a hold_out share")
    learnt = train_classifier(pictures, labels, names, schedule, config=config, device=device, watch=watch)
    return replace(class_accuracy(learnt, *test, at, dict(beside or {})), name="CAS")


def prompt_accuracy(pictures: Tensor, captions: Sequence[str], at: str = "") -> list[Figure]:
    """Which attributes of their captions pictures of shapes show, by the exact parser: each, some together, all.

    pictures: uint8 (N, 3, H, W). Beside each figure stands chance: the same captions scored on renders of as many
    other scenes. Raises ValueError for a caption that describes no scene.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"prompt accuracy needs a caption a picture, got {len(captions)} for {len(pictures)}")
    scenes = [read(caption) for caption in captions]
    found = _marks([picture.permute(1, 2, 0).numpy() for picture in pictures], scenes)
    others = ShapesSource(len(scenes), seed=1, objects=len(scenes[0].objects), hold_out=0.0)
    size = (pictures.shape[2], pictures.shape[3])
    chance = _marks([others.image(i, size) for i in range(len(scenes))], scenes)
    return [share(name, hits, at, {"chance": sum(chance[name]) / len(chance[name])}) for name, hits in found.items()]


def _marks(images: Sequence[object], scenes: Sequence[Scene]) -> dict[str, list[bool]]:
    rows = [score(image, scene) for image, scene in zip(images, scenes, strict=True)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    # A caption that leaves an attribute open says nothing about it.
    marks = {name: [row[name] for row in rows if name in row] for name in names}
    marks["colour and shape"] = [row["colour"] and row["shape"] for row in rows]
    marks["all of them"] = [all(row.values()) for row in rows]
    return marks
