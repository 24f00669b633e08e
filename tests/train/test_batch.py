"""Samples are functions of (seed, counter): whoever makes them, in whatever company."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided import data
from guided.cond import Cond
from guided.data.order import Order
from guided.train.batch import Parts, Samples, loader
from guided.train.levels import LogNormal
from tests.train.tools import pictures


class Everything:
    """A condition of every semantic kind that says which record it belongs to."""

    def __call__(self, rows: Sequence[int]) -> Cond:
        value = torch.tensor([float(row) for row in rows])
        tokens = value[:, None, None].expand(-1, 2, 3).clone()
        mask = torch.ones(len(rows), 2, dtype=torch.bool)
        return Cond(torch.tensor(list(rows)), tokens, mask, value[:, None].clone())


def samples(folder: Path, seed: int = 0, drop: float = 0.0, flip: bool = False, crop: float = 1.0) -> Samples:
    source = data.open(folder)
    rows = tuple(range(len(source.records)))
    law = LogNormal(-0.8, 1.2, 0.002, 80)
    return Samples(data.Pictures(source, 8), Order.uniform(rows, seed), rows, Everything(), law, seed, drop, flip, crop)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("made"))


def test_a_sample_is_the_same_in_any_company(made: Path) -> None:
    whole = samples(made, 5, 0.3, True).__getitems__(range(40))
    other = samples(made, 5, 0.3, True)
    for counter in (39, 0, 17):
        alone = other[counter]
        assert torch.equal(alone.x0[0], whole.x0[counter])
        assert torch.equal(alone.noise[0], whole.noise[counter])
        assert torch.equal(alone.sigma[0], whole.sigma[counter])
        assert alone.names[0] == whole.names[counter]
        assert alone.cond.label is not None and whole.cond.label is not None
        assert alone.cond.label[0] == whole.cond.label[counter]


def test_seeds_and_counters_share_no_noise(made: Path) -> None:
    one, two = samples(made, 1).__getitems__(range(64)), samples(made, 2).__getitems__(range(64))
    both = torch.cat([one.noise, two.noise]).flatten(1)
    near = both @ both.T / both.shape[1]
    assert float((near - torch.eye(len(near))).abs().max()) < 0.6
    assert abs(float(both.mean())) < 0.02 and abs(float(both.std()) - 1) < 0.02


def test_every_picture_comes_once_a_round(made: Path) -> None:
    names = samples(made).__getitems__(range(60)).names
    for begin in (0, 20, 40):
        assert len(set(names[begin : begin + 20])) == 20


def test_dropout_takes_the_whole_condition_of_its_share(made: Path) -> None:
    share, n = 0.25, 4000
    cond = samples(made, 0, share).__getitems__(range(n)).cond
    assert cond.label is not None and cond.mask is not None and cond.vector is not None
    gone = cond.label == -1
    assert torch.equal(gone, ~cond.mask.any(1)) and torch.equal(gone, cond.vector.isnan().all(1))
    assert not bool((cond.mask.any(1) != cond.mask.all(1)).any())
    assert abs(float(gone.double().mean()) - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert not bool((samples(made, 0, 0.0).__getitems__(range(64)).cond.label == -1).any())


def test_flip_mirrors_half(made: Path) -> None:
    n = 400
    plain, flipped = (samples(made, 0, 0, flip).__getitems__(range(n)).x0 for flip in (False, True))
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(1)
    assert bool((mirrored | (flipped == plain).flatten(1).all(1)).all())
    assert abs(int(mirrored.sum()) - n / 2) < 4 * (n / 4) ** 0.5


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2])
def test_parts_of_all_processes_make_the_batch(accumulate: int, count: int) -> None:
    made = [list(Parts(24, 60, 12, accumulate, rank, count)) for rank in range(count)]
    assert all(len(parts) == 3 * accumulate for parts in made)
    for batch in range(3):
        drawn = [c for parts in made for part in parts[batch * accumulate : (batch + 1) * accumulate] for c in part]
        assert sorted(drawn) == list(range(24 + 12 * batch, 36 + 12 * batch))


def test_workers_hand_over_the_same_bits(made: Path) -> None:
    parts = Parts(0, 24, 8, 2, 0, 1)
    plain, worked = (list(loader(samples(made, 7, 0.2), parts, workers, False, int)) for workers in (0, 2))
    assert [batch.counters for batch in plain] == [batch.counters for batch in worked] == [tuple(p) for p in parts]
    for a, b in zip(plain, worked, strict=True):
        assert torch.equal(a.x0, b.x0) and torch.equal(a.noise, b.noise) and torch.equal(a.sigma, b.sigma)


def test_pictures_span_minus_one_to_one(made: Path, device: str) -> None:
    batch = samples(made).__getitems__([0])
    batch.x0[:] = torch.tensor([0, 255], dtype=torch.uint8).repeat(batch.x0.numel() // 2).view(batch.x0.shape)
    moved = batch.to(torch.device(device), torch.float64)
    assert moved.x0.unique().tolist() == pytest.approx([-1, 1]) and moved.noise.dtype == torch.float64


def test_a_broken_picture_is_replaced_and_named(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(made, folder)
    (folder / "round" / "04.png").write_bytes(b"no picture")
    one, two = samples(folder), samples(folder)
    drawn = one.__getitems__(range(20))
    assert len(drawn.broken) == 1 and drawn.broken[0].name.endswith("04.png") and drawn.broken[0].reason
    fault = drawn.broken[0]
    assert drawn.names[fault.counter] == fault.instead != fault.name
    late = two.__getitems__(range(fault.counter, 20))
    assert torch.equal(late.x0, drawn.x0[fault.counter :]), "whatever was read before"


def ramp(folder: Path) -> Path:
    """One picture of 96 x 64, red its column and green its row, in levels."""
    rows, columns = np.mgrid[0:64, 0:96].astype(np.uint8)
    folder.mkdir()
    Image.fromarray(np.stack([columns, rows, 0 * rows], -1)).save(folder / "ramp.png")
    return folder


def test_crops_are_functions_of_the_counter(tmp_path: Path) -> None:
    place = ramp(tmp_path / "ramp")
    whole = samples(place, 3, crop=0.25).__getitems__(range(200)).x0.double()
    other = samples(place, 3, crop=0.25)
    assert all(torch.equal(other[counter].x0[0], whole[counter].to(torch.uint8)) for counter in (150, 3))
    # From what is seen in the first and last column the window follows: side, and where it lies.
    sides = (whole[:, 0, 0, -1] - whole[:, 0, 0, 0]) * 8 / 7
    lefts, tops = whole[:, 0, 0, 0] - sides / 16 + 0.5, whole[:, 1, 0, 0] - sides / 16 + 0.5
    assert 14 < float(sides.min()) < 19 and 60 < float(sides.max()) < 66
    assert abs(float(sides.log().mean()) - math.log(32)) < 0.1  # evenly in the logarithm, from 16 to 64
    assert float(lefts.min()) < 4 and float((lefts + sides).max()) > 92 and float((tops + sides).max()) > 60
    assert len({tuple(row) for row in torch.stack([sides, lefts, tops], 1).tolist()}) > 150


def test_a_crop_is_never_enlarged_where_the_picture_is_large_enough(tmp_path: Path) -> None:
    place = ramp(tmp_path / "ramp")
    found = samples(place, 3, crop=0.01).__getitems__(range(100)).x0.double()
    steps = found[:, 0, :, 1:] - found[:, 0, :, :-1]
    assert float(steps.mean((1, 2)).min()) > 0.95
