"""The cascade doctor on stages whose faults are known, because their answers are written down here."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from guided import Cascade, Cond, degrade
from guided.codec import Pixels
from guided.degrade import Augment, Translation
from guided.denoiser import X0, Denoiser
from guided.evaluate.doctor import Doctor, examine
from guided.model import Model
from guided.nn import preset

AUGMENT = Augment("noise", 0.4, 0.0)


class Memory(nn.Module):
    """A network that knows every picture and finds the one it is shown: near perfect where it is shown as it learnt.

    taught: how its pictures were made small. lost: it takes another for the one it is shown. hears: whether it believes
    the level it is told. rough: how far its detail is off.
    """

    accepts = frozenset({"image", "aug", "label"})

    def __init__(
        self,
        pictures: Tensor,
        taught: degrade.Down,
        lost: bool,
        bias: float,
        hears: bool,
        worn: float = 0.0,
        rough: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = dataclasses.replace(preset("tiny-local"), aug=True)
        self.pictures, self.lost, self.bias, self.hears = pictures, lost, bias, hears
        self.shown = torch.stack([taught(one, torch.Generator().manual_seed(0))[0] for one in pictures])
        self.parameter = nn.Parameter(torch.zeros(1))
        self.labels: set[int] = set()
        self.worn, self.rough = worn, rough

    def forward(self, x: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        image = cond.image
        self.labels |= set() if cond.label is None else set(cond.label.tolist())
        if image.shape[-2:] != self.shown.shape[-2:]:
            return image.clone()
        distance = (image[:, None] - self.shown[None]).square().mean((2, 3, 4))
        found = self.pictures[(distance.argmin(1) + self.lost) % len(self.pictures)]
        # Shown otherwise than it learnt, it is the further off; noise it was told of does not count.
        expected = cond.aug.square() if self.hears and cond.aug is not None else torch.zeros(len(image))
        off = (distance.min(1).values - expected).clamp_min(0).sqrt()[:, None, None, None]
        answer = found + off * torch.sign(found - image)
        answer[:, 0] += self.bias
        answer[..., ::2] += self.rough
        answer[..., 1::2] -= self.rough
        if self.worn and cond.aug is not None:
            answer = answer * (1 + self.worn * cond.aug[:, None, None, None])
        return answer


class Drawer(nn.Module):
    """A first stage that denoises by the nearest picture it knows."""

    accepts = frozenset({"label"})

    def __init__(self, pictures: Tensor, good: bool, bias: float) -> None:
        super().__init__()
        self.config = dataclasses.replace(preset("tiny-class"), classes=len(pictures))
        self.pictures, self.good, self.bias = pictures, good, bias
        self.parameter = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        if not self.good:
            return torch.zeros_like(x)
        assert cond.label is not None
        found = self.pictures[cond.label.clamp_min(0)].clone()
        found[:, 2] += self.bias
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Class folders of one picture each: patterns at 32 px."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(48):
        coarse = rng.uniform(40, 215, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        fine = rng.uniform(-40, 40, (32, 32, 3))
        (root / f"{i:02d}").mkdir()
        Image.fromarray((coarse + fine).clip(0, 255).astype(np.uint8)).save(root / f"{i:02d}" / "p.png")
    return root


def built(folder: pathlib.Path, **how: Any) -> Cascade:
    files = sorted(folder.rglob("*.png"))
    large = torch.stack([torch.from_numpy(np.asarray(Image.open(f))).permute(2, 0, 1) / 127.5 - 1 for f in files])
    task = how.get("task", degrade.Down(4))
    tasks = how.get("tasks", (task,))
    first = Drawer(degrade.box(large, 4), how.get("good", True), how.get("first", 0.0))
    second = Memory(
        large,
        how.get("taught", task),
        how.get("lost", False),
        how.get("second", 0.0),
        how.get("hears", True),
        how.get("worn", 0.0),
        how.get("rough", 0.0),
    )
    data = {"recipe": {"data": {"path": "x", "condition": "class", "hold_out": None}}}
    names = [f"{i:02d}" for i in range(48)]
    base = Model(
        Denoiser(first, X0(), 0.02, 10.0), Pixels(), {},
        {"name": "base", "size": [8, 8], "classes": names, "defaults": {"steps": 2, "w": 1.0}, **data},
    )  # fmt: skip
    taught = Translation(tasks, AUGMENT).card()
    second.config = dataclasses.replace(second.config, classes=len(tasks) if len(tasks) > 1 else 0)
    up = Model(
        Denoiser(second, X0(), 0.02, 10.0), Pixels(), {},
        {"name": "up", "size": [32, 32], "defaults": {"steps": 2}, "translate": taught},
    )  # fmt: skip
    return Cascade([base, up], [how.get("level", 0.0)])


def kinds(cascade: Cascade, folder: pathlib.Path) -> list[tuple[int, str]]:
    found = examine(cascade, str(folder), Doctor(n=48, batch=48))
    return [(finding.stage, finding.kind) for finding in found.findings]


def test_a_sound_cascade_is_called_sound(folder: pathlib.Path) -> None:
    found = examine(built(folder), str(folder), Doctor(n=48, batch=48))
    assert found.sound and found.json()["sound"] and found.levels == (0.0,)
    assert {figure.at for figure in found.figures} >= {"real", "generated, level 0 (declared)"}
    assert all(figure.value < 0.1 for figure in found.figures[:2]), "it knows the pictures by heart"
    assert any("of the loss" in line for line in found.advice)


def test_a_stage_that_learnt_nothing_is_named(folder: pathlib.Path) -> None:
    assert (1, "under-trained") in kinds(built(folder, good=False), folder)
    assert (2, "under-trained") in kinds(built(folder, lost=True), folder)


def test_a_stage_whose_detail_is_that_of_a_filter_is_named(folder: pathlib.Path) -> None:
    """Its guess is far better than plain enlarging, but what little noise hides it finds no better than a filter."""
    assert kinds(built(folder, rough=0.09), folder) == [(2, "under-trained")]
    found = examine(built(folder, rough=0.09), str(folder), Doctor(n=48, batch=48)).findings[0].evidence
    assert "at sigma 0.1" in found and "of a linear filter's" in found
    assert kinds(built(folder, rough=0.04), folder) == []


def test_a_colour_that_is_off_is_named(folder: pathlib.Path) -> None:
    assert (1, "colour bias") in kinds(built(folder, first=0.15), folder)
    found = examine(built(folder, first=0.15), str(folder), Doctor(n=48, batch=48))
    assert "channel 2 by +0.1" in found.findings[0].evidence
    assert (2, "colour bias") in kinds(built(folder, second=0.05), folder)


@pytest.mark.parametrize(
    "taught", [degrade.Down(4, "nearest"), degrade.Down(4, up="linear"), degrade.Down(4, "bilinear")]
)
def test_a_kernel_that_it_never_learnt_is_named(folder: pathlib.Path, taught: degrade.Down) -> None:
    found = examine(built(folder, taught=taught), str(folder), Doctor(n=48, batch=48))
    named = [finding for finding in found.findings if finding.kind == "wrong kernel"]
    assert len(named) == 1 and named[0].stage == 2 and f"it was taught {taught!r}" in named[0].remedy


def test_a_stage_that_does_not_hear_its_level_is_named(folder: pathlib.Path) -> None:
    assert (2, "augmentation not learnt") in kinds(built(folder, hears=False), folder)


def test_a_stage_taught_on_photos_pasts_is_judged_by_those(folder: pathlib.Path) -> None:
    """Its pairs have no one kernel: it is called neither under-trained nor of another one."""
    task = degrade.Photo(4, strength=0.3)
    cascade = built(folder, task=task)
    assert not {kind for _, kind in kinds(cascade, folder)} & {"under-trained", "wrong kernel"}


def test_a_stage_of_several_tasks_is_told_which_it_is(folder: pathlib.Path) -> None:
    cascade = built(folder, tasks=(degrade.JPEG(), degrade.Down(4)))
    assert examine(cascade, str(folder), Doctor(n=48, batch=48)).sound
    assert cascade.stages[1].denoiser.network.labels == {1}  # type: ignore[union-attr]


def test_pictures_smaller_than_a_stage_draws_are_no_measure(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for file in folder.rglob("*.png"):
        (tmp_path / file.parent.name).mkdir()
        Image.open(file).resize((8, 8), Image.Resampling.BOX).save(tmp_path / file.parent.name / "p.png")
    with pytest.raises(ValueError, match=r"smaller than stage 2 draws them .one has 8 x 8 pixels, it draws 32 x 32"):
        examine(built(folder), str(tmp_path), Doctor(n=48, batch=48))


def test_a_level_that_wears_the_pictures_is_named(folder: pathlib.Path) -> None:
    """The stage hears its level, but draws the worse for it: told by the same pictures at two levels."""
    found = examine(built(folder, level=0.4, worn=0.25), str(folder), Doctor(n=48, batch=48))
    named = [finding for finding in found.findings if finding.kind == "wrong augmentation level"]
    assert len(named) == 1 and named[0].remedy == "join the stages with --level 0" and found.levels == (0.0,)


def test_too_few_pictures_are_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="at least 48 pictures, got 10"):
        Doctor(n=10)
    with pytest.raises(ValueError, match="60 pictures are asked for, there are 48"):
        examine(built(folder), str(folder), Doctor(n=60))
    for file in sorted(folder.rglob("*.png"))[:40]:
        (tmp_path / file.parent.name).mkdir()
        (tmp_path / file.parent.name / "p.png").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="there are 40: it needs at least 48"):
        examine(built(folder), str(tmp_path), Doctor(n=48))
