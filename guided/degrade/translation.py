"""What a network that changes pictures was taught: its tasks, and how the pictures it was shown were disturbed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided.cond import SEMANTIC, Cond
from guided.degrade.quality import gaussian
from guided.degrade.scale import Down
from guided.degrade.task import Pairs, Task, is_number, uniform, whole
from guided.degrade.words import parse
from guided.noise import Noise, generator


@dataclass(frozen=True)
class Augment:
    """Conditioning augmentation (Ho et al. 2022, Cascaded Diffusion Models, section 4): the network is told the level.

    kind: "noise", of a std, or "blur", of a std in pixels; most: the largest in training, drawn evenly from 0 on;
    level: what a cascade puts on what the stage before has drawn.
    """

    kind: str = "noise"
    most: float = 0.5
    level: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("noise", "blur"):
            raise ValueError(f"augment: expected noise or blur, got {self.kind!r:.80}")
        fine = is_number(self.most) and is_number(self.level)
        if not fine or not 0 < self.most <= 16 or not 0 <= self.level <= self.most:
            raise ValueError(
                f"augment: expected 0 <= level <= most <= 16, got level {self.level!r}, most {self.most!r}"
            )

    def __call__(self, image: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """image (B, C, H, W) disturbed at level (B,), 0: not at all; noise: unit, of the same shape."""
        if self.kind == "noise":
            return image + level.to(image)[:, None, None, None] * noise.to(image)
        return torch.stack(
            [gaussian(one, float(std)) if std > 0 else one for one, std in zip(image, level, strict=True)]
        )


@dataclass(frozen=True)
class Translation:
    """The tasks of one network, told apart by `Cond.label` where they are several; augment: None where it has none.

    Raises ValueError for tasks that do not go together.
    """

    tasks: tuple[Task, ...]
    augment: Augment | None = None

    def __post_init__(self) -> None:
        words = [repr(task) for task in self.tasks]
        if not words or len(set(words)) < len(words):
            raise ValueError(f"tasks: expected one or several different ones, got {words}")
        if any(isinstance(task, Pairs) for task in self.tasks) and len(words) > 1:
            raise ValueError("tasks: pairs come from folders, other tasks from pictures: train them apart")
        if sum(isinstance(task, Down) for task in self.tasks) > 1:
            raise ValueError(
                f"tasks: a network enlarges in one way: expected at most one of down and photo, got {words}"
            )
        if self.augment is not None and self.augment.kind == "blur" and any(task.holes for task in self.tasks):
            raise ValueError("augment: a picture with holes cannot be blurred; use noise")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Translation:
        """From a card: {"tasks": [words], "augment": {"kind", "most", "level"} or None}; ValueError."""
        tasks, augment = values.get("tasks"), values.get("augment")
        if set(values) - {"tasks", "augment"} or not isinstance(tasks, list):
            raise ValueError(f"translate: expected tasks and augment, got {values!r:.80}")
        if not isinstance(augment, Mapping | None):
            raise ValueError(f"translate.augment: expected kind, most and level, got {augment!r:.80}")
        try:
            disturbed = None if augment is None else Augment(**augment)
        except TypeError as error:
            raise ValueError(f"translate.augment: {error}") from None
        return cls(tuple(parse(str(word)) for word in tasks), disturbed)

    def card(self) -> dict[str, Any]:
        """What `of` reads."""
        augment = None if self.augment is None else dataclasses.asdict(self.augment)
        return {"tasks": [repr(task) for task in self.tasks], "augment": augment}

    @property
    def several(self) -> bool:
        """Whether `Cond.label` says which task it is."""
        return len(self.tasks) > 1

    @property
    def dropped(self) -> frozenset[str]:
        """What guidance takes away from its null: all but the picture, and the label where that names the task."""
        return SEMANTIC - {"label"} if self.several else SEMANTIC

    @property
    def presence(self) -> bool:
        """Whether the network has to see where its condition says nothing."""
        return any(task.holes for task in self.tasks)

    @property
    def down(self) -> Down | None:
        """The task that enlarges, None where there is none."""
        return next((task for task in self.tasks if isinstance(task, Down)), None)

    def taught(
        self, x0: Tensor, seeds: Sequence[int], cond: Cond, stream: str, task: int | None = None, disturb: bool = True
    ) -> tuple[Cond, list[Tensor | None]]:
        """The condition of pictures x0 (B, C, H, W) in training, one seed each, and where each is known, (1, H, W).

        stream: names the draws. task: of all of them; None: drawn. disturb: whether the augmentation is drawn too.
        """
        images, numbers, levels, known = [], [], [], []
        for picture, seed in zip(x0, seeds, strict=True):
            rng = generator(stream, seed, 0)
            numbers.append(whole(rng, 0, len(self.tasks) - 1) if task is None else task)
            levels.append(uniform(rng, 0, self.augment.most) if self.augment is not None and disturb else 0.0)
            image, there = self.tasks[numbers[-1]](picture, rng)
            images.append(image)
            known.append(there)
        return self.told(torch.stack(images), cond, numbers, levels, Noise(seeds, f"{stream}/augment")), known

    def told(self, images: Tensor, cond: Cond, tasks: Sequence[int], levels: Sequence[float], noise: Noise) -> Cond:
        """`cond` with the images (B, C, H, W), which task each is of, and their disturbance at these levels."""
        fields: dict[str, Tensor] = {}
        if self.several:
            fields["label"] = torch.tensor(tasks)
        if self.augment is not None:
            level = torch.tensor(levels, dtype=torch.float32)
            if any(levels):
                images = self.augment(images, level, noise(0, images.shape[1:]))
            fields["aug"] = level
        return dataclasses.replace(cond, image=images, **fields)
