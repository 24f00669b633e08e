"""`Cascade`: independent models as one, each enlarging what the one before has drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from guided.cascade import manifest
from guided.cascade.manifest import Entry
from guided.guide import Guide, Term
from guided.model import Model, Progress, Request, Result, drawing
from guided.model.request import Plan, Size, label, plan
from guided.solvers import Solver
from guided.tasks import upscaling

if TYPE_CHECKING:
    from guided.tasks.edited import Edited
    from guided.tasks.masks import Mask
    from guided.tasks.photo import Source


class Cascade:
    """Stages that were trained apart: the first draws, each other enlarges (Ho et al. 2022, arXiv 2106.15282).

    levels: of the conditioning augmentation that each enlarging stage puts on what it is given; None: what its card
    says. Every stage has noise of its own. Raises ValueError where the stages do not fit.
    """

    def __init__(
        self,
        stages: Sequence[Model],
        levels: Sequence[float | None] | None = None,
        *,
        name: str = "cascade",
        source: str | None = None,
        folders: Sequence[str] | None = None,
    ) -> None:
        self.stages = tuple(stages)
        manifest.fitting(self.stages)
        given = [None] * (len(stages) - 1) if levels is None else list(levels)
        if len(given) != len(stages) - 1:
            raise ValueError(f"levels: expected one for each enlarging stage, {len(stages) - 1}, got {len(given)}")
        self.levels = tuple(_level(stage, level) for stage, level in zip(self.stages[1:], given, strict=True))
        self.name, self.source = name, source
        self.folders = tuple(folders or (f"stage{i}" for i in range(1, len(stages) + 1)))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Cascade:
        """Open the folder of a cascade: `cascade.json` and a model's folder for each stage.

        Raises FileNotFoundError, or ValueError where a stage is damaged, is not the one of the manifest, or does not
        fit the others.
        """
        place = pathlib.Path(folder)
        name, entries = manifest.read(place)
        stages = [Model.open(place / entry.folder) for entry in entries]
        for entry, stage in zip(entries, stages, strict=True):
            if stage.hash != entry.sha256:
                raise ValueError(
                    f"{place / entry.folder}: its weights are not those that the manifest proves to fit; if it was "
                    "trained again, join the stages anew (guided cascade join)"
                )
        levels = [entry.level for entry in entries[1:]]
        return cls(stages, levels, name=name, source=os.fspath(folder), folders=[entry.folder for entry in entries])

    def save(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> pathlib.Path:
        """Write every stage to its folder, then the manifest; raises as `Model.save`."""
        place = pathlib.Path(folder)
        entries = []
        for stage, name, level in zip(self.stages, self.folders, (None, *self.levels), strict=True):
            stage.save(place / name, dtype)
            entries.append(Entry(name, Model.open(place / name).hash, level))
        manifest.write(place, self.name, self.stages, entries)
        return place

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of the pictures of every stage."""
        return manifest.sizes(self.stages)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures of the last stage."""
        return self.sizes[-1]

    @property
    def hash(self) -> str:
        """SHA-256 of the stages' hashes."""
        return hashlib.sha256("".join(stage.hash for stage in self.stages).encode()).hexdigest()

    def to(self, device: torch.device | str) -> Cascade:
        """Move all stages to a device, in place."""
        for stage in self.stages:
            stage.to(device)
        return self

    def compute_in(self, dtype: torch.dtype | None) -> Cascade:
        """Compute in a dtype by autocast; None: in the weights' own."""
        for stage in self.stages:
            stage.compute_in(dtype)
        return self

    def generate(
        self,
        prompts: str | Sequence[str] | None = None,
        n: int = 1,
        *,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        guide: Guide | Term | str | None = None,
        w: float | None = None,
        negative: str | int | None = None,
        size: Size | None = None,
        solver: Solver | str | None = None,
        path: Tensor | None = None,
        later: Sequence[Request] = (),
        seed: int = 0,
        batch: int | None = None,
    ) -> Result:
        """Draw n pictures of each prompt or class, at the last stage's size; see `Model.generate`.

        steps, guide, w, negative, size, solver and path are the first stage's. later: the same of the others, in order,
        each as a `Request` without words; what is not given is its card's own.
        """
        request = Request(prompts, n, labels, steps, guide, w, negative, size, solver, path, seed, batch)
        result = None
        for progress in self.drawing(request, later):
            result = progress.result
        assert result is not None
        return result

    def drawing(self, request: Request, later: Sequence[Request] = ()) -> Iterator[Progress]:
        """`generate` as a generator; the last value holds the result. Everything is checked before the first."""
        if len(later) >= len(self.stages):
            raise ValueError(
                f"later: {self.name} has {len(self.stages) - 1} enlarging stages, got {len(later)} requests"
            )
        first = plan(self.stages[0], request)
        count = len(first.images)
        blank = torch.zeros(count, upscaling.channels_of(self.stages[0]), *first.size)
        for number in range(1, len(self.stages)):
            blank = blank.new_zeros(*blank.shape[:2], *self.enlarging(number, blank, request, later).size)
        return self._moves(request, later, drawing.run(self.stages[0], first))

    def _moves(self, request: Request, later: Sequence[Request], moves: Iterator[Progress]) -> Iterator[Progress]:
        last: Progress | None = None
        for number, stage in enumerate(self.stages):
            if number:
                assert last is not None and last.result is not None
                before, moves = last, drawing.run(stage, self.enlarging(number, last.result.tensor, request, later))
            for last in moves:
                if last.result is None:
                    share = (number + last.done / last.total) / len(self.stages)
                    yield Progress(round(1000 * share), 1000, last.images)
            if number:
                assert last is not None and last.result is not None and before.result is not None
                pairs = zip(before.result.records, last.result.records, strict=True)
                records = [self.record(a, b, self.levels[number - 1]) for a, b in pairs]
                last = dataclasses.replace(last, result=Result(last.result.tensor, records))
        assert last is not None and last.result is not None
        yield Progress(1000, 1000, len(last.result), last.result)

    def enlarging(self, number: int, small: Tensor, request: Request, later: Sequence[Request] = ()) -> Plan:
        """The plan of stage `number` for what the one before has drawn: it hears the words, if it hears any."""
        stage = self.stages[number]
        prompts = request.prompts if "text" in stage.encoders else None
        labels = self._classes(request.labels) if stage.classes else None
        n = len(small) if prompts is None and labels is None else request.n
        own = later[number - 1] if number <= len(later) else Request()
        asked = dataclasses.replace(
            own, prompts=prompts, labels=labels, n=n, seed=request.seed, batch=own.batch or request.batch
        )
        return upscaling.planned(stage, small, asked, level=self.levels[number - 1], stream=f"x/stage{number}")

    def _classes(self, labels: str | int | Sequence[str | int] | None) -> list[str | int] | None:
        """The names of the first stage's classes that are asked for: another stage may count its own otherwise."""
        if labels is None:
            return None
        first = self.stages[0]
        asked = [labels] if isinstance(labels, str | int) else labels
        return [first.classes[label(first, one)] for one in asked]

    def record(self, before: dict[str, Any] | None, after: dict[str, Any], level: float) -> dict[str, Any]:
        """How a picture was made, stage by stage: after one stage more, which was given it at this level."""
        kept = ("name", "steps", "solver", "path", "nfe", "w", "guide", "seed", "size", "model_sha256", "adapters")

        def own(record: dict[str, Any]) -> dict[str, Any]:
            return {name: record[name] for name in kept if name in record}

        stages = [] if before is None else [*(before.get("stages") or [own(before)])]
        stages.append(own(after) | ({"level": level} if level else {}))
        said = {"name": self.name, "model": self.source, "model_sha256": self.hash, "size": after["size"]}
        said |= {"nfe": sum(stage["nfe"] for stage in stages), "stages": stages}
        return {**(before or after), **said}

    def edit(
        self,
        photo: Source,
        prompts: str | Sequence[str] | None = None,
        *,
        strength: float = 0.6,
        mask: Mask | None = None,
        n: int = 1,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        guide: Guide | Term | str | None = None,
        w: float | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> Edited:
        """Edit a photo through all stages: each begins from the photo at its own size; see `Model.edit`.

        The mask reaches every stage, and what is black in it comes back bit for bit.
        """
        from guided.cascade import editing

        request = Request(prompts, n, labels, steps, guide, w, seed=seed, batch=batch)
        result = None
        for progress in editing.run(self, photo, request, strength, mask):
            result = progress.result
        return cast("Edited", result)

    def upscale(
        self, photo: Source | Sequence[Source], *, exact: bool = False, seed: int = 0, batch: int | None = None
    ) -> Edited:
        """Make a photo larger by all enlarging stages in turn; see `Model.upscale`.

        A stage that is given what another has drawn puts its level of augmentation on it; the photo stays as it is.
        """
        from guided.cascade import enlarging

        result = None
        for progress in enlarging.run(self, photo, Request(seed=seed, batch=batch), exact):
            result = progress.result
        return cast("Edited", result)


def _level(stage: Model, level: float | None) -> float:
    taught = stage.translation
    assert taught is not None
    if taught.augment is None:
        if level:
            raise ValueError(f"levels: {stage.name} was trained without augmentation")
        return 0.0
    found = taught.augment.level if level is None else float(level)
    if not 0 <= found <= taught.augment.most:
        raise ValueError(f"levels: {stage.name} was trained with levels from 0 to {taught.augment.most:g}, got {found}")
    return found
