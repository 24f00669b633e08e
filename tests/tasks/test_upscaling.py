"""Photos made larger: exactly what was asked, in windows or whole, with little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from guided import degrade
from guided.codec import Pixels
from guided.degrade import Translation
from guided.denoiser import X0, Denoiser
from guided.model import Model
from tests.tasks.build_translating import LARGER, answering, larger
from tests.tasks.test_translating import photo


def test_the_network_is_shown_the_photo_enlarged_and_told_the_level() -> None:
    model, network = answering(LARGER)
    given = photo((5, 7))
    done = model.upscale(given)
    small = torch.from_numpy(given).permute(2, 0, 1)[None] / 127.5 - 1
    wanted = degrade.enlarge(small, (20, 28)).clamp(-1, 1)
    assert done[0].size == (28, 20) and float((done.tensor - wanted).abs().max()) < 1e-6
    assert {float(aug) for _, aug, _ in network.calls} == {0.0}  # type: ignore[arg-type]
    assert done.records[0]["scale"] == 4 and done.records[0]["task"] == "upscale"
    noisy = model.upscale(given, level=0.25, seed=3)
    assert {float(aug) for _, aug, _ in network.calls[3:]} == {0.25}  # type: ignore[arg-type]
    # Clipping at the ends of the range takes some of it.
    assert 0.1 < float((noisy.tensor - wanted).std()) < 0.25


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_any_divisor_of_a_power_of_the_factor(scale: int) -> None:
    model, network = answering(LARGER, steps=2)
    done = model.upscale(photo((4, 5)), scale=scale)
    assert done[0].size == (5 * scale, 4 * scale)
    assert len(network.calls) == 2 * (1 if scale <= 4 else 2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_mode_depth_and_alpha_stay(channels: int, depth: type) -> None:
    given = photo((6, 5), channels, depth=depth)
    done = larger().upscale(given, steps=2)
    assert done.arrays[0].shape == (24, 20, channels) and done.arrays[0].dtype == depth
    if channels in (2, 4):
        alpha = done.arrays[0][..., -1].astype(float)
        assert np.corrcoef(alpha[2::4, 2::4].ravel(), given[..., -1].ravel())[0, 1] > 0.8


def test_a_profile_and_a_palette_come_through() -> None:
    picture = Image.fromarray(photo((6, 6))).convert("P")
    assert larger().upscale(picture, steps=2)[0].mode == "RGB"


def test_exact_means_that_made_small_again_it_is_the_photo() -> None:
    model = larger()  # random weights: nothing but the constraint could bring this about
    given = photo((9, 6))
    done = model.upscale(given, exact=True, steps=3)
    again = degrade.box(done.tensor, 4)
    small = torch.from_numpy(given).permute(2, 0, 1)[None] / 127.5 - 1
    assert float(10 * torch.log10(4 / (again - small).square().mean())) > 50
    stored = degrade.box(torch.from_numpy(done.arrays[0]).permute(2, 0, 1).double(), 4)
    assert float((stored - torch.from_numpy(given).permute(2, 0, 1)).abs().max()) < 1
    free = degrade.box(model.upscale(given, steps=3).tensor, 4)
    assert float(10 * torch.log10(4 / (free - small).square().mean())) < 25


class Convolutions(torch.nn.Module):
    """A network without normalisation across space, of receptive radius 6."""

    accepts = frozenset({"image", "aug"})

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = torch.nn.ModuleList(torch.nn.Conv2d(a, b, 5, padding=2) for a, b in ((6, 8), (8, 8), (8, 3)))
            for weights in self.parameters():
                torch.nn.init.normal_(weights, std=0.15)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, cond: object) -> torch.Tensor:
        h = torch.cat([x, cond.image], 1)  # type: ignore[attr-defined]
        for layer in self.layers[:-1]:
            h = torch.nn.functional.silu(layer(h))
        return self.layers[-1](h)  # type: ignore[no-any-return]


def test_tiled_or_whole_is_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from guided.tasks import translating

    _, network = answering(LARGER)
    model = Model(
        Denoiser(Convolutions(network.config), X0(), 0.02, 20.0), Pixels(), {},
        {"size": [16, 16], "translate": LARGER.card(), "defaults": {"steps": 5}},
    )  # fmt: skip
    given = photo((60, 45))
    whole = model.upscale(given, seed=2)
    monkeypatch.setattr(translating, "WINDOW", 100)
    tiled = model.upscale(given, seed=2)
    difference = np.abs(whole.arrays[0].astype(int) - tiled.arrays[0].astype(int))
    # Windows of 100 overlap by 25, a quarter of which is never used: 6.25 pixels, more than the radius.
    assert difference.max() <= 1
    monkeypatch.setattr(translating, "WINDOW", 16)
    worse = np.abs(whole.arrays[0].astype(int) - model.upscale(given, seed=2).arrays[0].astype(int))
    assert worse.max() > 1, "windows that overlap by less than the radius show"


def test_several_photos_get_what_each_would_alone() -> None:
    model = larger()
    one, two = photo((5, 5), seed=1), photo((5, 5), seed=2)
    both = model.upscale([one, two], steps=2, seed=8, level=0.2)
    assert np.array_equal(both.arrays[1], model.upscale(two, steps=2, seed=9, level=0.2).arrays[0])


def test_blur_is_an_augmentation_as_well() -> None:
    taught = Translation((degrade.Down(4),), degrade.Augment("blur", 4.0, 1.0))
    model, _ = answering(taught)
    given = photo((5, 5))
    sharp, blurred = (model.upscale(given, level=level).tensor for level in (0.0, 3.0))
    assert float(blurred.std()) < 0.7 * float(sharp.std())


def test_a_network_of_several_tasks_enlarges_too() -> None:
    taught = Translation((degrade.JPEG(), degrade.Down(4)))
    model, network = answering(taught)
    given = photo((5, 7))
    small = torch.from_numpy(given).permute(2, 0, 1)[None] / 127.5 - 1
    wanted = degrade.enlarge(small, (20, 28)).clamp(-1, 1)
    assert float((model.upscale(given).tensor - wanted).abs().max()) < 1e-6
    assert {int(label) for _, _, label in network.calls} == {1}  # type: ignore[arg-type]
    given = photo((16, 16))
    assert np.array_equal(model.translate(given, task="jpeg").arrays[0], given)
    assert int(network.calls[-1][2]) == 0  # type: ignore[arg-type]


def test_a_long_photo_is_enlarged_beyond_what_is_drawn_at_once() -> None:
    model, _ = answering(LARGER, steps=1)
    assert model.upscale(photo((2, 2100)))[0].size == (8400, 8)


def test_every_pass_has_noise_of_its_own() -> None:
    model, network = answering(LARGER, steps=1)
    seen: list[torch.Tensor] = []
    plain = network.forward
    network.forward = lambda x, c, cond: (seen.append(x), plain(x, c, cond))[1]  # type: ignore[method-assign]
    model.upscale(photo((3, 3)), scale=16)
    first, second = (part.flatten()[: seen[0].numel()] for part in seen)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.2


def test_photos_that_differ_or_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="the list of photos is empty"):
        larger().upscale([])
    with pytest.raises(ValueError, match="got 5 x 4 RGB of 8 bits and 5 x 4 RGBA of 8 bits"):
        larger().upscale([photo((4, 5)), photo((4, 5), channels=4)])


def test_a_photos_past_is_nothing_to_be_exact_about() -> None:
    model = larger(Translation((degrade.Photo(4),)))
    with pytest.raises(ValueError, match="not made small by means"):
        model.upscale(photo((4, 4)), exact=True)
