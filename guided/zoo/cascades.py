"""DeepFloyd IF's stages, each a folder of diffusers', as one `Cascade`."""

from __future__ import annotations

import pathlib

from guided.cascade import Cascade
from guided.zoo import pipeline


def is_published(place: pathlib.Path) -> bool:
    """Whether a folder holds nothing but folders of pipelines, two or more: the stages of a cascade by their names."""
    return not (place / pipeline.INDEX).is_file() and len(_stages(place)) > 1


def _stages(place: pathlib.Path) -> list[pathlib.Path]:
    return sorted(part for part in place.iterdir() if (part / pipeline.INDEX).is_file()) if place.is_dir() else []


def open_published(place: pathlib.Path) -> Cascade:
    """The cascade of a folder's pipelines, in the order of their names: stage_1, stage_2, stage_3.

    Raises ValueError where one cannot be opened, or does not fit.
    """
    stages = _stages(place)
    try:
        models = [pipeline.open_pipeline(stage) for stage in stages]
        return Cascade(models, name=place.name, folders=[stage.name for stage in stages])
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
