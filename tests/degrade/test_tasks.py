"""Tasks against what they say they do: formulas written anew in float64, libraries, and properties of every hole."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guided import data, degrade
from guided.degrade import JPEG, Colourise, Deblur, Denoise, Down, Edges, Inpaint, Pairs, Photo, Task, Uncrop
from guided.degrade.quality import gaussian
from guided.noise import generator

EVERY: list[Task] = [
    Colourise(), Edges(), Inpaint(), Inpaint("centre", high=0.25), Uncrop(), JPEG(), Deblur(), Denoise(), Down(4),
    Down(2, "bicubic"), Photo(4), Photo(4, up="linear", strength=0.5), Pairs(),
]  # fmt: skip


def picture(seed: int = 0, size: tuple[int, int] = (32, 24), channels: int = 3) -> Tensor:
    """Smooth colours with an edge, and some noise, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    waves = [np.sin(0.3 * x + 0.2 * k * y + rng.uniform(0, 6)) for k in range(channels)]
    found = 0.5 * np.stack(waves) + 0.3 * (x > size[1] // 2) + rng.normal(0, 0.05, (channels, *size))
    return torch.from_numpy(found.clip(-1, 1).astype(np.float32))


@pytest.mark.parametrize("task", EVERY, ids=repr)
def test_a_seed_decides_and_what_is_known_is_the_picture_itself(task: Task) -> None:
    x0 = picture()
    one, known = task(x0, generator("t", 1, 0))
    same, _ = task(x0.clone(), generator("t", 1, 0))
    assert torch.equal(one.nan_to_num(9), same.nan_to_num(9)) and one.shape == x0.shape
    assert torch.equal(x0, picture()), "the picture that is given stays as it is"
    if known is not None:
        assert known.shape == (1, *x0.shape[1:])
        assert torch.equal(one.isnan(), ~known.expand_as(one))
        assert torch.equal(one[known.expand_as(one)], x0[known.expand_as(one)])
    assert task.holes == (known is not None)
    answer = task.baseline(one)
    assert bool(answer.isfinite().all()) and answer.shape == x0.shape
    assert torch.equal(degrade.parse(repr(task))(x0, generator("t", 1, 0))[0].nan_to_num(9), one.nan_to_num(9))


@pytest.mark.parametrize("task", [Inpaint(), Uncrop(), JPEG(), Deblur(), Denoise(), Photo(4)], ids=repr)
def test_another_seed_spoils_otherwise(task: Task) -> None:
    found = [task(picture(), generator("t", seed, 0))[0].nan_to_num(9) for seed in range(8)]
    assert len({one.numpy().tobytes() for one in found}) >= 6


def test_grey_is_the_luma_of_bt601() -> None:
    x0 = picture().double()
    grey, _ = Colourise()(x0, generator("t", 0, 0))
    wanted = 0.299 * x0[0] + 0.587 * x0[1] + 0.114 * x0[2]
    assert float((grey - wanted).abs().max()) < 1e-12
    assert torch.equal(Colourise().seen(x0), grey), "a picture in colours is made grey"
    assert float((Colourise().seen(grey) - grey).abs().max()) < 1e-12


def test_lines_are_dark_where_the_picture_changes() -> None:
    step = torch.full((3, 16, 16), -1.0)
    step[:, :, 8:] = 1.0
    lines, _ = Edges(blur=0)(step, generator("t", 0, 0))
    # Central differences over a step of 2 are 1 on both sides, four times the full darkness.
    assert bool((lines[:, :, 7:9] == -1).all())
    assert bool((lines[:, :, :7] == 1).all()) and bool((lines[:, :, 9:] == 1).all())


def test_holes_are_as_large_as_they_say() -> None:
    shares = [float((~known_of(Inpaint("free", 0.2, 0.4), seed)).double().mean()) for seed in range(40)]
    # The last stroke goes beyond the share that was drawn, by its own size at most.
    assert min(shares) >= 0.2 and max(shares) < 0.75 and 0.25 < sum(shares) / 40 < 0.5
    centre = known_of(Inpaint("centre", high=0.25), 0, (32, 32))[0]
    wanted = torch.ones(32, 32, dtype=torch.bool)
    wanted[8:24, 8:24] = False
    assert torch.equal(centre, wanted)


def known_of(task: Task, seed: int, size: tuple[int, int] = (64, 48)) -> Tensor:
    known = task(picture(size=size), generator("t", seed, 0))[1]
    assert known is not None
    return known


def test_what_is_uncropped_is_a_window_and_its_baseline_repeats_the_edge() -> None:
    forms = set()
    for seed in range(60):
        task, x0 = Uncrop(0.25, 0.5), picture(size=(40, 40))
        condition, known = task(x0, generator("t", seed, 0))
        assert known is not None
        rows, columns = (np.flatnonzero(known[0].any(1 - axis).numpy()) for axis in (0, 1))
        top, bottom, left, right = rows[0], 39 - rows[-1], columns[0], 39 - columns[-1]
        assert int(known.sum()) == len(rows) * len(columns)
        forms.add((top > 0, bottom > 0, left > 0, right > 0))
        assert 0.2 < 1 - float(known.double().mean()) < 0.55
        inner = x0[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].numpy()
        wanted = np.pad(inner, ((0, 0), (top, bottom), (left, right)), mode="edge")
        assert np.array_equal(task.baseline(condition).numpy(), wanted)
    assert len(forms) == 7


def test_the_mean_fills_a_hole_as_baseline() -> None:
    task, x0 = Inpaint(), picture()
    condition, known = task(x0, generator("t", 3, 0))
    assert known is not None
    filled = task.baseline(condition)
    for channel in range(3):
        mean = float(x0[channel][known[0]].double().mean())
        assert np.allclose(filled[channel][~known[0]].numpy(), mean, atol=1e-5)
    assert torch.equal(filled[known.expand_as(filled)], x0[known.expand_as(x0)])


def test_jpeg_is_pillows_and_gets_worse_with_its_quality() -> None:
    x0 = picture()
    levels = ((x0 + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=20)
    wanted = np.asarray(Image.open(file)).transpose(2, 0, 1) / 127.5 - 1
    found = JPEG(20, 20)(x0, generator("t", 0, 0))[0]
    assert float((found - torch.from_numpy(wanted)).abs().max()) < 1e-6
    errors = [float((JPEG(q, q)(x0, generator("t", 0, 0))[0] - x0).square().mean()) for q in (5, 20, 50, 95)]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        JPEG()(picture(channels=2), generator("t", 0, 0))


@pytest.mark.parametrize("std", [0.6, 1.0, 2.5])
def test_a_blur_is_a_gaussian_of_its_std(std: float) -> None:
    point = torch.zeros(1, 41, 41, dtype=torch.float64)
    point[0, 20, 20] = 1
    seen = gaussian(point, std)[0]
    places = torch.arange(41, dtype=torch.float64) - 20
    assert float(seen.sum()) == pytest.approx(1, abs=1e-9)
    # Sampled and cut at three std: the variance of the samples is near the Gaussian's.
    assert float((seen.sum(1) * places**2).sum()) == pytest.approx(std**2, rel=0.03)
    ratio = float(seen[20, 21] / seen[20, 20])
    assert ratio == pytest.approx(math.exp(-0.5 / std**2), rel=1e-9)
    flat = torch.full((2, 9, 7), 0.3, dtype=torch.float64)
    assert float((gaussian(flat, std) - 0.3).abs().max()) < 1e-12


def test_noise_has_the_std_that_was_drawn() -> None:
    grey = torch.zeros(3, 64, 64)
    found = Denoise(0.2, 0.2)(grey, generator("t", 0, 0))[0]
    assert float(found.std()) == pytest.approx(0.2, rel=0.03)
    assert float(Denoise(2, 2)(grey, generator("t", 0, 0))[0].abs().max()) == 1, "as a file clips it"


def test_made_small_by_squares_is_the_area_mean_of_the_data() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    small = degrade.box(torch.from_numpy(levels).permute(2, 0, 1).double(), 4)
    wanted = data.fit(levels, (8, 6), "area")
    assert float((small.permute(1, 2, 0) - torch.from_numpy(wanted)).abs().max()) <= 0.5 + 1e-9
    with pytest.raises(ValueError, match="30 x 24 is not divisible by 4"):
        degrade.box(torch.zeros(3, 30, 24), 4)


def test_enlarging_is_pillows_cubic_within() -> None:
    small = np.random.default_rng(1).normal(0, 0.5, (12, 10)).astype(np.float32)
    wanted = np.asarray(Image.fromarray(small).resize((40, 48), Image.Resampling.BICUBIC))
    found = degrade.enlarge(torch.from_numpy(small), (48, 40)).numpy()
    # At the border Pillow forgets the taps that are missing, we repeat the edge.
    assert np.abs(found - wanted)[8:-8, 8:-8].max() < 1e-5
    corner = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    linear = Down(2, up="linear").condition(corner)[0]
    rows = np.interp(np.linspace(0, 1, 4), [0, 1], [0, 2])
    assert np.allclose(linear.numpy(), rows[:, None] + np.linspace(0, 1, 4), atol=1e-6)
    assert Down(4, up="none").condition(corner) is corner


def test_a_photo_without_a_past_is_small_alone() -> None:
    x0 = picture()
    past, plain = Photo(4, strength=0)(x0, generator("t", 0, 0))[0], Down(4)(x0, generator("t", 0, 0))[0]
    assert float((past - plain).abs().max()) < 1e-6


def test_a_consistent_picture_is_the_nearest_one() -> None:
    """Against the projection by sorting, square by square in float64: clip(x + c) with the c whose mean is right."""
    rng = np.random.default_rng(0)
    x, small = rng.normal(0, 1, (3, 8, 8)), rng.uniform(-1, 1, (3, 2, 2)).round(1)
    small[0, 0] = (1, -1)
    found = degrade.consistent(torch.from_numpy(x), torch.from_numpy(small), 4).numpy()
    for place in np.ndindex(small.shape):
        rows, columns = (slice(4 * i, 4 * i + 4) for i in place[1:])
        square, wanted = x[place[0], rows, columns].ravel(), small[place]
        # The mean is linear between the shifts at which one pixel more is cut.
        bends = np.sort(np.concatenate([-1 - square, 1 - square]))
        means = np.array([np.clip(square + c, -1, 1).mean() for c in bends])
        nearest = np.clip(square + np.interp(wanted, means, bends), -1, 1)
        assert np.abs(found[place[0], rows, columns].ravel() - nearest).max() < 1e-7


def test_consistent_pictures_have_the_means_they_should_and_stay_in_range() -> None:
    small = degrade.box(picture(size=(32, 32)), 4).clamp(-1, 1)
    small[:, :2] = 1.0  # where there is no room
    wrong = torch.rand(1, 3, 32, 32, generator=generator("t", 0, 0)) * 3 - 1.5
    found = degrade.consistent(wrong, small[None], 4)
    assert float(found.abs().max()) <= 1
    assert float((degrade.box(found, 4) - small).abs().max()) < 1e-6, "also where all of a square has to be white"
    alone = degrade.consistent(torch.cat([wrong, 9 * wrong]), torch.stack([small, small]), 4)[:1]
    assert torch.equal(alone, found), "whatever is beside it"
    x0 = picture(size=(32, 32))
    assert float((degrade.consistent(x0, degrade.box(x0, 4), 4) - x0).abs().max()) < 1e-6, "nothing is missing there"


WRONG = {
    "colorize": "did you mean colourise",
    "jpeg(30, 5)": "expected 1 <= low <= high <= 95, got 30 and 5",
    "jpeg(": "was never closed",
    "jpeg(quality=3)": "unexpected keyword",
    "__import__('os')": "known are colourise",
    "jpeg(open('x'))": "malformed",
    "down(1)": "a whole factor from 2 to 64, got 1",
    "down(4, 'lanczos')": "one of area, bicubic, bilinear, nearest",
    "inpaint('star')": "free or centre",
    "inpaint(low=0)": "0.01 <= low",
    "photo(4, strength=2)": "a strength from 0 to 1",
    "edges(-1)": "0 <= blur <= 64",
    "edges(1e9)": "0 <= blur <= 64",
    "edges(0.5, 'x')": "got 0.5 and 'x'",
    "jpeg('a', 3)": "1 <= low <= high <= 95, got 'a' and 3",
    "jpeg(5.5, 20)": "expected whole qualities",
    "inpaint(high=None)": "0.1 and None",
    "photo(4, kernel='bicubic')": "its kernels are drawn",
    "photo(4, strength='x')": "a strength from 0 to 1, got 'x'",
    "1 + 1": "expected a word",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_task_is_told_what_is_known(text: str) -> None:
    with pytest.raises(ValueError, match=WRONG[text].replace("(", r"\(")):
        degrade.parse(text)


def test_a_word_finds_its_task() -> None:
    tasks = [Colourise(), JPEG(5, 30), Down(4), Down(2)]
    assert [degrade.named(word, tasks) for word in ("colourise", "jpeg", "jpeg(5, 30)", "down(2)")] == [0, 1, 1, 3]
    with pytest.raises(ValueError, match="is several of"):
        degrade.named("down", tasks)
    with pytest.raises(ValueError, match="is not one of what this model learnt: colourise"):
        degrade.named("deblur", tasks)
    for word, meant in (("colorize", "colourise"), ("JPEG", "jpeg"), ("jpg", "jpeg")):
        with pytest.raises(ValueError, match=f"did you mean {meant}"):
            degrade.named(word, tasks)
