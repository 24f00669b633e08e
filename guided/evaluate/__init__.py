"""Judging pictures and models: features, distances, accuracies, retrieval, likelihood bounds, and one report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guided.evaluate.accuracy import cas, class_accuracy, prompt_accuracy
    from guided.evaluate.classifier import cached_classifier, train_classifier
    from guided.evaluate.distances import coverage, density, frechet, kernel, precision, recall
    from guided.evaluate.features import Blur, Features, Thumbnail, nearest, self_retrieval
    from guided.evaluate.figures import Figure, share, wilson
    from guided.evaluate.likelihood import Bound, elbo
    from guided.evaluate.lpips import Lpips, open_lpips
    from guided.evaluate.network import Classifier
    from guided.evaluate.report import Options, Report, evaluate, is_model, places
    from guided.evaluate.spaces import open_space
    from guided.evaluate.strengths import strength_curve

# No module is named like a public name: importing it would put the module in its place.
_PLACES = {
    "Blur": "features",
    "Bound": "likelihood",
    "Classifier": "network",
    "Features": "features",
    "Figure": "figures",
    "Lpips": "lpips",
    "Options": "report",
    "Report": "report",
    "Thumbnail": "features",
    "cached_classifier": "classifier",
    "cas": "accuracy",
    "class_accuracy": "accuracy",
    "coverage": "distances",
    "density": "distances",
    "elbo": "likelihood",
    "evaluate": "report",
    "frechet": "distances",
    "is_model": "report",
    "kernel": "distances",
    "nearest": "features",
    "open_lpips": "lpips",
    "open_space": "spaces",
    "places": "report",
    "precision": "distances",
    "prompt_accuracy": "accuracy",
    "recall": "distances",
    "self_retrieval": "features",
    "share": "figures",
    "strength_curve": "strengths",
    "train_classifier": "classifier",
    "wilson": "figures",
}

__all__ = ["Blur", "Bound", "Classifier", "Features", "Figure", "Lpips", "Options", "Report", "Thumbnail"]
__all__ += ["cached_classifier", "open_lpips", "open_space", "places"]
__all__ += ["cas", "class_accuracy", "coverage", "density", "elbo", "evaluate", "frechet", "is_model", "kernel"]
__all__ += [
    "nearest",
    "precision",
    "prompt_accuracy",
    "recall",
    "self_retrieval",
    "share",
    "strength_curve",
    "train_classifier",
    "wilson",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"guided.evaluate.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_PLACES)
