"""Train the judge: a small classifier, by the epoch, the same weights for the same seed on the same machine."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guided import _files
from guided.evaluate.features import batches, unit
from guided.evaluate.figures import share
from guided.evaluate.network import Classifier, ClassifierConfig
from guided.noise import generator, key

Watch = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Schedule:
    """How a classifier is trained: SGD with Nesterov momentum, the rate rising over `warm` of the way, then falling.

    epochs: passes over the data, may be a fraction. flip: mirror half of the pictures (not where left and right mean
    something). shift: random shifts of up to so many pixels. bf16: autocast the network.
    """

    epochs: float = 12.0
    batch: int = 128
    rate: float = 0.1
    warm: float = 0.2
    decay: float = 5e-4
    smoothing: float = 0.1
    flip: bool = True
    shift: int = 2
    bf16: bool = True
    seed: int = 0


def train_classifier(
    pictures: Tensor,
    labels: Sequence[int],
    names: Sequence[str],
    schedule: Schedule | None = None,
    *,
    test: tuple[Tensor, Sequence[int]] | None = None,
    config: ClassifierConfig | None = None,
    card: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    watch: Watch | None = None,
) -> Classifier:
    """Train a classifier on pictures uint8 (N, C, H, W) and labels 0..K-1 with K names.

    test: pictures and labels kept apart, whose accuracy is written on its card. config: its shape; by default fitted
    to the pictures. card: what else its card is to say. device: where it is trained; it stays there. watch: called as
    (step, steps, loss) after every update.
    Raises ValueError where labels do not fit, FloatingPointError where the loss is not finite.
    """
    schedule = schedule or Schedule()
    target = torch.as_tensor(labels)
    if len(target) != len(pictures) or not len(target) or int(target.min()) < 0 or int(target.max()) >= len(names):
        raise ValueError(
            f"a classifier needs a label 0..{len(names) - 1} for each of its {len(pictures)} pictures, got "
            f"{len(target)} labels" + (f", {int(target.min())}..{int(target.max())}" if len(target) else "")
        )
    height, width = pictures.shape[2:]
    config = config or ClassifierConfig(len(names), pictures.shape[1], size=(height, width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("classifier", schedule.seed, 0) % 2**31)
        model = Classifier(config, names)
    _fit(model.to(device), pictures, target, schedule, watch)
    model.card = {**(card or {}), "images": len(pictures), "schedule": asdict(schedule)}
    if test is not None and len(test[0]):
        model.card["test"] = accuracy_of(model, *test).json()
    return model.eval()


def accuracy_of(model: Classifier, pictures: Tensor, labels: Sequence[int]) -> Any:
    """The share of pictures uint8 whose class is found, as a `Figure`."""
    return share("test accuracy", model.predict(pictures).argmax(1) == torch.as_tensor(labels))


def _fit(model: Classifier, pictures: Tensor, target: Tensor, schedule: Schedule, watch: Watch | None) -> None:
    device = model.head.weight.device
    steps = max(1, round(schedule.epochs * len(pictures) / schedule.batch))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=schedule.decay)
    loss_of = nn.CrossEntropyLoss(label_smoothing=schedule.smoothing)
    order = torch.empty(0, dtype=torch.int64)
    model.train()
    for step in range(steps):
        if len(order) < schedule.batch:
            # Every picture once an epoch; what is left of one goes before the next.
            rng = generator("classifier/order", schedule.seed, step)
            passes = 1 + schedule.batch // len(pictures)
            order = torch.cat([order, *(torch.randperm(len(pictures), generator=rng) for _ in range(passes))])
        rows, order = order[: schedule.batch], order[schedule.batch :]
        images = augmented(unit(pictures[rows]), schedule, generator("classifier/augment", schedule.seed, step))
        images, wanted = images.to(device), target[rows].to(device)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * _slope(step / steps, schedule.warm)
        with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bf16):
            logits = model(images)
        loss = loss_of(logits.float(), wanted)
        if not math.isfinite(now := float(loss.detach())):
            raise FloatingPointError(f"the classifier's loss is {now} at step {step}; lower the rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if watch is not None:
            watch(step + 1, steps, now)


def _slope(done: float, warm: float) -> float:
    """A triangle: from 0 up to 1 at `warm` of the way, down to 0 at the end."""
    return min((done + 1e-3) / max(warm, 1e-3), (1 - done) / max(1 - warm, 1e-3), 1.0)


def augmented(images: Tensor, schedule: Schedule, rng: torch.Generator) -> Tensor:
    """Images shifted by up to `shift` pixels (borders repeated), and mirrored half of the time if `flip`."""
    n, _, height, width = images.shape
    if schedule.flip:
        turned = torch.rand(n, generator=rng) < 0.5
        images = torch.where(turned[:, None, None, None], images.flip(3), images)
    if schedule.shift:
        by = torch.randint(-schedule.shift, schedule.shift + 1, (2, n), generator=rng)
        rows = (torch.arange(height) + by[0, :, None]).clamp(0, height - 1)
        columns = (torch.arange(width) + by[1, :, None]).clamp(0, width - 1)
        images = images[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images.contiguous()


def cache_folder() -> pathlib.Path:
    """Where trained classifiers are kept: `$GUIDED_CACHE` or ~/.cache/guided, in `classifiers`."""
    return _files.cache("classifiers")


def cached_classifier(
    pictures: Tensor,
    labels: Sequence[int],
    names: Sequence[str],
    schedule: Schedule | None = None,
    *,
    test: tuple[Tensor, Sequence[int]] | None = None,
    card: dict[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    watch: Watch | None = None,
) -> Classifier:
    """The classifier of these pictures, labels and schedule from the disk, or trained now and kept there."""
    schedule = schedule or Schedule()
    digest = hashlib.sha256()
    for part in batches(pictures, 4096):
        digest.update(part.contiguous().numpy().tobytes())
    shape = ClassifierConfig(len(names), pictures.shape[1], size=(pictures.shape[2], pictures.shape[3]))
    facts = [list(pictures.shape), [int(label) for label in labels], list(names), asdict(schedule), asdict(shape)]
    digest.update(json.dumps(facts).encode())
    place = pathlib.Path(folder or cache_folder()) / digest.hexdigest()[:24]
    if place.is_dir():
        try:
            return Classifier.open(place)
        except (ValueError, OSError):
            pass  # damaged: the new one takes its place
    model = train_classifier(
        pictures, labels, names, schedule, test=test, config=shape, card=card, device=device, watch=watch
    )
    model.save(place)
    return model
