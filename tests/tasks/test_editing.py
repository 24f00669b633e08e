"""Edits change what was asked and nothing else, in exactly as many steps as asked."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import guided
from guided import solvers
from guided.cond import Cond
from guided.denoiser import EDM, Denoiser
from guided.guide import pigdm
from guided.model import Model
from guided.noise import Noise
from guided.tasks import soft
from tests.model import build


def photo(seed: int, size: tuple[int, ...] = (16, 16, 3), dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, size, dtype=dtype, endpoint=True)


class Counting:
    """A network that counts its calls."""

    def __init__(self, model: Model) -> None:
        self.calls = 0
        model.denoiser.network.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.calls += 1


def test_strength_0_is_the_input_without_an_evaluation() -> None:
    model = build.words_model()
    counted = Counting(model)
    for dtype, channels in itertools.product((np.uint8, np.uint16), (1, 2, 3, 4)):
        given = photo(1, (19, 23, channels), dtype)
        found = model.edit(given, "cat", strength=0)
        assert np.array_equal(found.arrays[0], given) and found.arrays[0].dtype == dtype
        assert found.records[0]["nfe"] == 0 and found.records[0]["changed"] == 0
    assert counted.calls == 0


ROWS = {"weights": [[], [-0.2], [-0.3, 0.1], [0.1]], "limits": [0.0, 0.5, 0.5, 0.5]}


@pytest.mark.parametrize("solver", [None, {"solver": "dpmpp_2m"}, {"solver": "fitted", **ROWS}])
def test_strength_1_is_plain_generation_bit_for_bit(solver: dict[str, object] | None) -> None:
    kept = {"calibrated": {"4": {"w": 2.0, "levels": [20.0, 5.0, 1.0, 0.2, 0.0], **(solver or {})}}}
    for model, asked in (
        (build.words_model(card={**(kept if solver else {}), "mean": [0.2, -0.1, 0.3]}), {"prompts": "cat", "w": 2.0}),
        (build.class_model(), {"labels": "dog"}),
        (build.plain_model(), {}),
    ):
        plain = model.generate(**asked, n=2, seed=3)
        edited = model.edit(photo(0), **asked, n=2, seed=3, strength=1)
        assert torch.equal(edited.tensor, plain.tensor)
        assert np.array_equal(np.stack(edited.arrays), plain.arrays)
        assert edited.records[0]["path"] == plain.records[0]["path"]


def test_it_is_sdedit_written_out() -> None:
    model = build.words_model()
    given = photo(2)
    strength = 0.37
    level = strength / (1 - strength)
    path = guided.path.default(5, 0.02, level, 3.0)
    x0 = torch.from_numpy(given / 127.5 - 1).permute(2, 0, 1)[None].float()
    encoded = build.Words()(["cat"])
    x = x0 + level * Noise([7])(0, (3, 16, 16))
    denoise = guided.guide.cfg(3.0)(model.denoiser)
    want = guided.sample(denoise, x, path, Cond(tokens=encoded.tokens, mask=encoded.mask)).clamp(-1, 1)
    found = model.edit(given, "cat", strength=strength, steps=5, w=3, seed=7)
    torch.testing.assert_close(found.tensor, want, atol=1e-5, rtol=0)
    assert found.records[0]["path"] == path.tolist()


@pytest.mark.parametrize("solver", sorted(solvers.NAMES))
def test_n_steps_asked_are_n_steps_run(solver: str) -> None:
    model = build.plain_model()
    counted = Counting(model)
    for strength in (0.001, 0.3, 0.97, 1.0):
        counted.calls = 0
        record = model.edit(photo(0), strength=strength, steps=6, solver=solver).records[0]
        moves = torch.tensor(record["path"]).diff()
        assert len(moves) == 6 and bool((moves < 0).all()) and record["path"][-1] == 0
        want = 6 if solvers.by_name(solver).evaluations == 1 else 11
        assert counted.calls == record["nfe"] == want
        assert record["path"][0] == pytest.approx(20.0 if strength > 0.96 else strength / (1 - strength))


@pytest.mark.parametrize("solver", sorted(solvers.NAMES))
def test_the_faintest_strengths_leave_the_photo(solver: str) -> None:
    """Noise that no pixel can show moves none, down to the smallest number there is."""
    for strength in (1e-9, 1e-30, 5e-324):
        found = build.plain_model().edit(photo(0), strength=strength, steps=5, solver=solver)
        assert np.array_equal(found.arrays[0], photo(0)) and len(found.records[0]["path"]) == 6


def test_a_strength_may_be_a_number_of_numpy() -> None:
    model = build.plain_model()
    want = model.edit(photo(0), strength=0.5, steps=2).arrays[0]
    assert np.array_equal(model.edit(photo(0), strength=np.float32(0.5), steps=2).arrays[0], want)


def test_photos_transparent_at_different_places_are_not_filled_by_the_first_ones_mask() -> None:
    model, photos = build.plain_model(), [photo(1, (16, 16, 4)), photo(2, (16, 16, 4))]
    for given, rows in zip(photos, (slice(0, 5), slice(9, 16)), strict=True):
        given[..., 3] = 255
        given[rows, :, 3] = 0
    with pytest.raises(ValueError, match="one by one"):
        model.inpaint(photos, mask="alpha", steps=1)
    photos[1][..., 3] = photos[0][..., 3]
    found = model.inpaint(photos, mask="alpha", steps=1, seed=4)
    assert np.array_equal(found.arrays[1], model.inpaint(photos[1], mask="alpha", steps=1, seed=5).arrays[0])


@pytest.mark.parametrize("expand", [(1, 2, 3), (1.5, 0, 0, 0), 5, "1,2,3,4", (0, 0, 0, 0), (-1, 2, 0, 0)])
def test_what_cannot_be_added_is_said(expand: object) -> None:
    with pytest.raises(ValueError, match="expand: expected pixels to add"):
        build.plain_model().outpaint(photo(0), expand=expand)  # type: ignore[arg-type]


def test_a_picture_too_large_to_be_read_again_is_not_begun() -> None:
    with pytest.raises(ValueError, match=r"1000016 x 1000016 are 1,000,032 million pixels; .* at most 64 million"):
        build.plain_model().outpaint(photo(0), expand=(10**6, 10**6, 0, 0))


def test_the_distance_to_the_source_rises_with_strength() -> None:
    """On a Gaussian, where SDEdit by the exact flow is known: x0 keeps 1 / (1 + s^2 / c^2)^(1/2) of itself."""
    model = build.plain_model()
    model.denoiser = Denoiser(Gauss(0.4), EDM(), 0.002, 80.0).eval()
    given = np.full((16, 16, 3), 228, np.uint8)
    x0 = 228 / 127.5 - 1
    distances = []
    for strength in (0.05, 0.2, 0.4, 0.6, 0.8):
        level = strength / (1 - strength)
        found = model.edit(given, strength=strength, steps=40).tensor
        noise = Noise([0])(0, (3, 16, 16))
        want = (x0 + level * noise) / math.sqrt(1 + (level / 0.4) ** 2)
        assert float((found - want.clamp(-1, 1)).abs().max()) < 0.02
        distances.append(float((found - x0).square().mean()))
    assert distances == sorted(distances)


class Gauss(torch.nn.Module):
    """The network of the exact denoiser of N(0, std^2) under EDM's preconditioning with sigma_data 0.5."""

    accepts = frozenset[str]()

    def __init__(self, std: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(std), requires_grad=False)
        self.config = build.network("tiny").config

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, cond: Cond) -> torch.Tensor:
        sigma = (c_noise / 250).exp().to(x).reshape(-1, 1, 1, 1)
        total = sigma**2 + 0.25
        D = self.weight**2 / (self.weight**2 + sigma**2) * x * total.sqrt()
        return (D - 0.25 / total * x * total.sqrt()) / (sigma * 0.5 * total.rsqrt())


def random_mask(rng: np.random.Generator, size: tuple[int, int], hard: bool) -> np.ndarray:
    mask = np.zeros(size, np.float32)
    top, left = (int(rng.integers(0, n - 1)) for n in size)
    mask[top : int(rng.integers(top + 1, size[0] + 1)), left : int(rng.integers(left + 1, size[1] + 1))] = 1
    mask *= rng.random(size) < rng.choice([0.3, 1.0])
    return mask if hard else mask * rng.random(size).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_outside_the_mask_nothing_changes(dtype: type, channels: int) -> None:
    """1,000 random pictures and masks in all, at the model's size and others, hard and soft, by all editors."""
    model = build.plain_model()
    moved = 0
    for case in range(184 // 8):
        rng = np.random.default_rng([case, channels, np.dtype(dtype).itemsize])
        size = (16, 16) if case % 3 == 0 else (int(rng.integers(5, 70)), int(rng.integers(5, 70)))
        photos = [photo(100 * case + i, (*size, channels), dtype) for i in range(8)]
        mask = random_mask(rng, size, hard=case % 2 == 0)
        options = {"strength": float(rng.uniform(0.1, 1)), "steps": 1, "seed": case, "batch": 8}
        kept = mask == 0
        if not mask.any():
            continue
        if case % 4 < 2:
            found = model.edit(photos, mask=mask, **options)
        else:
            found = model.inpaint(photos, mask=mask, resample=1 + case % 2, **options)
        for before, after, record in zip(photos, found.arrays, found.records, strict=True):
            assert after.dtype == dtype and np.array_equal(after[kept], before[kept])
            assert record.get("changed_outside", 0) == 0 and record["psnr_outside"] is None
            moved += int((after[~kept] != before[~kept]).any())
    assert moved > 100


def test_all_editors_keep_what_is_outside_through_rounds() -> None:
    model = build.words_model()
    given = now = photo(4, (40, 30, 4))
    mask = np.zeros((40, 30), bool)
    mask[5:20, 8:22] = True
    editors = [
        lambda p: model.edit(p, "cat", mask=mask, strength=0.6, steps=2),
        lambda p: model.inpaint(p, "cat", mask=mask, steps=2),
        lambda p: model.inpaint(p, "cat", mask=mask, steps=4, resample=2),
        lambda p: model.inpaint(p, "cat", mask=mask, steps=2, observe=lambda A, y: pigdm(A, y, 0.05, 0.25)),
        lambda p: model.edit(p, "cat", mask=mask * 0.5, steps=2),
    ]
    for _ in range(2):
        for editor in editors:
            now = editor(now).arrays[0]
            assert np.array_equal(now[~mask], given[~mask])
    assert (now[mask] != given[mask]).any()


def test_what_is_known_is_projected_at_every_step() -> None:
    """Inside the mask the network is shown the known pixels as they are: an inpainting in pixels is `project`."""
    model = build.plain_model()
    given, mask = photo(5), np.zeros((16, 16), bool)
    mask[:, 8:] = True
    found = model.inpaint(given, mask=mask, steps=3, seed=2).tensor
    x0 = torch.from_numpy(given / 127.5 - 1).permute(2, 0, 1)[None].float()
    guide = guided.guide.project(guided.operators.Mask(torch.from_numpy(~mask)), x0)
    want = model.generate(steps=3, seed=2, guide=guide).tensor
    torch.testing.assert_close(found, want, atol=1e-6, rtol=0)


def test_repaint_walks_the_path_again() -> None:
    model = build.plain_model()
    counted = Counting(model)
    mask = np.ones((16, 16), bool)
    mask[:4] = False
    once = model.inpaint(photo(5), mask=mask, steps=7).records[0]
    counted.calls = 0
    record = model.inpaint(photo(5), mask=mask, steps=7, resample=3).records[0]
    grid = guided.path.default(7, 0.02, 20.0)
    assert record["path"] == guided.path.ancestral(guided.path.resample(grid, 3, 3)).tolist()
    assert counted.calls == record["nfe"] > 2 * once["nfe"]


def test_a_soft_mask_edits_each_pixel_at_its_share_of_the_strength() -> None:
    amount = torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 1, 4)
    level = soft.levels(amount, 0.8).flatten()
    assert level[:3].tolist() == pytest.approx([0.0, 0.25, 0.4 / 0.6]) and math.isinf(float(level[3]))
    held = soft.Held(torch.ones(1, 3, 1, 4), soft.levels(amount, 0.8))
    for sigma, known in ((3.0, [1, 1, 1, 0]), (0.5, [1, 1, 0, 0]), (0.1, [1, 0, 0, 0])):
        put = held.put(torch.zeros(1, 3, 1, 4), torch.tensor(sigma, dtype=torch.float64))
        assert put[0, 0, 0].tolist() == known
    model = build.plain_model()
    mask = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (16, 1))
    given = np.full((16, 16, 3), 128, np.uint8)
    found = model.edit([given] * 8, mask=mask, strength=0.9, steps=12, batch=8)
    moved = np.mean([np.abs(a.astype(float) - 128).mean((0, 2)) for a in found.arrays], 0)
    assert moved[0] == 0 and moved[1:5].mean() < moved[6:10].mean() < moved[12:].mean()


def test_without_a_mask_a_large_photo_keeps_its_detail() -> None:
    """out = photo + up(edit(down) - down): flat changes alone, where the grid of the model is coarser."""
    model = build.plain_model()
    given = photo(6, (64, 64, 3)) // 2 + 64
    found = model.edit(given, strength=0.1, steps=2)
    assert found.arrays[0].shape == given.shape and found.records[0]["size"] == [16, 16]
    difference = found.arrays[0].astype(float) - given
    inner = np.abs(np.diff(difference[8:-8, 8:-8], axis=1)).mean()
    assert 0 < inner < 0.2 * np.abs(np.diff(given.astype(float), axis=1)).mean()


def test_colours_under_alpha_are_freed_of_the_background() -> None:
    """What the model draws is what is seen on white: the stored colour is the one that gives it there."""
    model = build.plain_model()
    given = photo(8, (16, 16, 4))
    given[..., 3] = 200
    found = model.edit(given, strength=0.3, steps=2)
    stored = found.arrays[0].astype(float)
    seen = (stored[..., :3] * 200 + 255 * 55) / 255
    assert np.abs(seen - found.colours[0]).max() <= 0.51
    before = (given[..., :3].astype(float) * 200 + 255 * 55) / 255
    x0 = np.floor(before + 0.5).astype(np.uint8)
    flat = model.edit(x0, strength=0.3, steps=2).arrays[0].astype(float)
    reachable = (flat >= 55) & (flat <= 255)
    assert np.abs(seen - flat)[reachable].max() <= 1


def test_outpainting_keeps_the_photo_in_the_middle() -> None:
    model = build.words_model()
    for dtype, channels in ((np.uint8, 3), (np.uint16, 4), (np.uint8, 1)):
        given = photo(7, (20, 18, channels), dtype)
        found = model.outpaint(given, "cat", expand=(3, 0, 5, 2), steps=2)
        assert found.arrays[0].shape == (22, 26, channels)
        assert np.array_equal(found.arrays[0][:20, 3:21], given)
        record = found.records[0]
        assert record["task"] == "inpaint" and record["changed_inside"] > 0.5 and record["seam"] > 0
        assert channels != 4 or (found.arrays[0][20:, :, 3] == 65535).all()


def test_several_photos_and_prompts() -> None:
    model = build.words_model()
    photos = [photo(i) for i in range(3)]
    together = model.edit(photos, ["cat", "dog", "bird"], n=2, seed=5, steps=2)
    assert [r["prompt"] for r in together.records] == ["cat", "cat", "dog", "dog", "bird", "bird"]
    alone = model.edit(photos[2], "bird", seed=9, steps=2)
    assert np.array_equal(together.arrays[4], alone.arrays[0])
    one = model.edit(photos, "bird", seed=7, steps=2)
    assert np.array_equal(one.arrays[2], alone.arrays[0])
    several = model.edit(photos[2], ["cat", "bird"], seed=8, steps=2)
    assert np.array_equal(several.arrays[1], alone.arrays[0])
    assert len(model.variations(photos[0], n=3, steps=1)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 1.2}, "strength: expected a number from 0"),
        ({"strength": math.nan}, "strength: expected a number from 0"),
        ({"mask": np.ones((3, 4))}, "mask: 4 x 3 pixels, but the photo is 16 x 16"),
        ({"mask": np.full((16, 16), 1.5)}, "mask: expected bools"),
        ({"mask": (0, 0, 40, 4)}, "does not lie in the photo"),
        ({"mask": [(0, 0), (1, 1)]}, "three corners"),
        ({"mask": "alpha"}, "no alpha channel"),
        ({"photo": np.zeros((4, 4, 5), np.uint8)}, "1 to 4 channels"),
        ({"photo": np.zeros((4, 4), np.float32)}, "uint8 or uint16"),
        ({"photo": [photo(0), photo(0, (16, 17, 3))]}, "of one size"),
        ({"photo": []}, "list of photos is empty"),
        ({"photo": b"no picture"}, "picture"),
        ({"prompts": "cat"}, "unconditional"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(arguments: dict, message: str) -> None:
    model = build.plain_model()
    counted = Counting(model)
    with pytest.raises(ValueError, match=message):
        model.edit(**{"photo": photo(0), "prompts": None, **arguments})
    assert counted.calls == 0


def test_a_black_mask_is_said_and_changes_nothing() -> None:
    model = build.plain_model()
    with pytest.warns(UserWarning, match="nothing may change"):
        found = model.edit(photo(0), mask=np.zeros((16, 16), bool))
    assert np.array_equal(found.arrays[0], photo(0)) and found.records[0]["nfe"] == 0
