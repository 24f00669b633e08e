"""Networks that are taught to change pictures: what they are shown in training, and the model that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided import data, degrade, fit
from guided.cond import Cond
from guided.data.order import Order
from guided.degrade import Translation
from guided.model import Model
from guided.train import load_recipe, setup, watch
from guided.train.batch import Samples
from guided.train.levels import LogNormal
from tests.train import tools


def recipe(pictures: Path, out: Path, **changes: Any) -> dict[str, Any]:
    values = tools.tiny(
        pictures, out, model={"preset": "tiny-local"}, data__condition="none", loss={}, train__drop=0.0,
        train__images=48, translate={"tasks": ["down(4)"], "augment": {"most": 0.3}}, **changes
    )  # fmt: skip
    return values


def last(values: dict[str, Any]) -> Model:
    model = list(fit(values, device="cpu"))[-1].model
    assert isinstance(model, Model)
    return model


def test_a_run_gives_a_model_that_enlarges_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    pictures = tools.pictures(tmp_path / "pictures")
    whole = last(recipe(pictures, tmp_path / "whole", train__preview_every=24))
    assert whole.translation is not None and repr(whole.translation.down) == "down(4)"
    assert list((tmp_path / "whole" / "previews").glob("*.png"))
    run = fit(recipe(pictures, tmp_path / "cut"), device="cpu")
    for step in run:
        if step.saved is not None:
            run.close()  # type: ignore[attr-defined]
            break
    again = last(recipe(pictures, tmp_path / "cut"))
    assert again.hash == whole.hash
    small = np.full((3, 5, 3), 90, np.uint8)
    assert whole.upscale(small, steps=2)[0].size == (20, 12)


def test_training_with_workers_sees_the_same(tmp_path: Path) -> None:
    pictures = tools.pictures(tmp_path / "pictures")
    tasks = {"tasks": ["colourise", "inpaint", "jpeg"]}
    one = last(recipe(pictures, tmp_path / "one") | {"translate": tasks})
    two = recipe(pictures, tmp_path / "two") | {"translate": tasks}
    two["data"] = {**two["data"], "workers": 2}
    assert last(two).hash == one.hash
    assert one.denoiser.network.config.presence and one.denoiser.network.config.classes == 3  # type: ignore[union-attr]


def test_the_network_is_shown_what_the_tasks_make_of_its_own_picture(tmp_path: Path) -> None:
    source = data.open(tools.pictures(tmp_path / "pictures"))
    rows = tuple(range(len(source.records)))
    taught = Translation((degrade.Down(4),))
    samples = Samples(
        data.Pictures(source, 8), Order.uniform(rows, 0), rows, lambda _: Cond(), LogNormal(0, 1, 0.1, 10), 0,
        flip=True, translation=taught,
    )  # fmt: skip
    for counter in range(12):
        batch = samples[counter]
        x0 = batch.x0.float() / 127.5 - 1
        assert batch.cond.image is not None
        wanted = taught.tasks[0].condition(degrade.box(x0, 4))  # type: ignore[attr-defined]
        assert torch.equal(batch.cond.image, wanted), "of the window and the mirror that the network has to draw"


def test_a_window_at_its_own_scale_is_a_piece_of_the_picture(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    source = data.open(tmp_path)
    samples = Samples(
        data.Pictures(source, 8), Order.uniform((0,), 0), (0,), lambda _: Cond(), LogNormal(0, 1, 0.1, 10), 0, crop=0.0
    )
    places = set()
    for counter in range(20):
        piece = samples[counter].x0[0].permute(1, 2, 0).numpy()
        found = np.lib.stride_tricks.sliding_window_view(array, (8, 8, 3))[:, :, 0]
        hits = np.argwhere((found == piece).all((2, 3, 4)))
        assert len(hits) == 1
        places.add(tuple(hits[0]))
    assert len(places) > 15


def pair_folders(root: Path, names: tuple[str, ...] = ("a", "b", "c", "d", "e", "f"), size: int = 12) -> Path:
    """Targets of random colours; their partners are the negatives."""
    rng = np.random.default_rng(0)
    for name in names:
        array = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        for part, values, suffix in (("target", array, "png"), ("source", 255 - array, "bmp")):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / part / f"{name}.{suffix}")
    return root


def test_what_is_judged_is_seen_at_the_scale_that_is_learnt(tmp_path: Path) -> None:
    """Windows of the pictures' own scale: what is kept out stands for its middle one, and so does its partner."""
    root = pair_folders(tmp_path / "pairs", size=20)
    values = recipe(root, tmp_path / "run") | {"translate": {"tasks": ["pairs"]}}
    values["data"] = {**values["data"], "crop": 0.0}
    job = setup.prepare(load_recipe(values), torch.device("cpu"))
    wanted = torch.from_numpy(np.asarray(Image.open(root / "target" / "c.png"))[6:14, 6:14].copy()).permute(2, 0, 1)
    row = [record.name for record in job.source.records].index("c.png")
    found = watch.readable(job, row)
    assert found is not None and torch.equal(found, wanted)
    x0 = found[None].float() / 127.5 - 1
    image = job.shown([row], x0, Cond()).image
    assert image is not None and float((image + x0).abs().max()) < 1e-6, "the negative of the same window"


def test_pairs_share_window_and_mirror(tmp_path: Path) -> None:
    root = pair_folders(tmp_path / "pairs")
    values = recipe(root, tmp_path / "run") | {"translate": {"tasks": ["pairs"]}}
    values["data"] = {**values["data"], "crop": 0.3, "flip": True}
    job = setup.prepare(load_recipe(values), torch.device("cpu"))
    for counter in range(16):
        batch = job.samples[counter]
        assert batch.x0.shape == (1, 3, 8, 8) == batch.noise.shape and batch.cond.image is not None
        negative = -(batch.x0.float() / 127.5 - 1)
        # Averages over a window are rounded to a level each on their own.
        assert float((batch.cond.image - negative).abs().max()) <= 1.01 / 127.5
    model = last(values)
    assert model.translation is not None and repr(model.translation.tasks[0]) == "pairs"
    photo = np.full((9, 7, 3), 50, np.uint8)
    assert model.translate(photo, steps=2)[0].size == (7, 9)


def ramps(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3): red says how far right a pixel lies, green how far down."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(float)
    return np.stack([(x + 0.5) / size[1], (y + 0.5) / size[0], 0 * x], -1) * 255


def ramp_pairs(root: Path, target: tuple[int, int], source: tuple[int, int]) -> Path:
    for part, size in (("target", target), ("source", source)):
        (root / part).mkdir(parents=True)
        for name in "abcd":
            Image.fromarray(ramps(size).round().astype(np.uint8)).save(root / part / f"{name}.png")
    return root


@pytest.mark.parametrize("crop", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("source", [(64, 96), (32, 48), (20, 30), (128, 192)])
def test_a_partner_of_another_size_shows_the_same_part(crop: float, source: tuple[int, int], tmp_path: Path) -> None:
    values = recipe(ramp_pairs(tmp_path / "pairs", (64, 96), source), tmp_path / "run")
    values["data"] = {**values["data"], "crop": crop, "size": 16}
    job = setup.prepare(load_recipe(values | {"translate": {"tasks": ["pairs"]}}), torch.device("cpu"))
    for counter in range(24):
        batch = job.samples[counter]
        assert batch.cond.image is not None
        shown, drawn = (batch.cond.image + 1) * 127.5, batch.x0.float()
        # A pixel of the source, by which both edges of a window are rounded, and a level of each picture.
        most = 255 / np.array([[source[1]], [source[0]], [np.inf]]) + 2
        means = (shown - drawn).abs().mean((0, 2, 3)).numpy()
        assert (means <= most[:, 0]).all(), (counter, means)


def test_a_partner_of_another_shape_is_no_partner(tmp_path: Path) -> None:
    root = ramp_pairs(tmp_path / "pairs", (40, 60), (20, 30))
    Image.fromarray(ramps((40, 40)).astype(np.uint8)).save(root / "source" / "c.png")
    for crop in (0.0, 1.0):
        values = recipe(root, tmp_path / "run") | {"translate": {"tasks": ["pairs"]}}
        values["data"] = {**values["data"], "crop": crop, "hold_out": None}
        job = setup.prepare(load_recipe(values), torch.device("cpu"))
        faults = [fault for counter in range(12) for fault in job.samples[counter].broken]
        assert faults and {fault.name for fault in faults} == {"c.png"}
        assert "60 x 40 pixels, but 40 x 40 in source/" in faults[0].reason
    ramp_pairs(tmp_path / "none", (40, 60), (40, 40))
    values["data"] = {**values["data"], "path": str(tmp_path / "none")}
    job = setup.prepare(load_recipe(values), torch.device("cpu"))
    with pytest.raises(data.BadPicture, match=r"no sound picture is left in the training part; the first: .* 40 x 40"):
        job.samples[0]


def test_a_preview_falls_back_on_what_is_trained_on(tmp_path: Path) -> None:
    root = pair_folders(tmp_path / "pairs")
    values = recipe(root, tmp_path / "run", train__preview_every=24) | {"translate": {"tasks": ["pairs"]}}
    values["data"] = {**values["data"], "hold_out": {"share": 0.3, "pairs": 0}}
    job = setup.prepare(load_recipe(values), torch.device("cpu"))
    assert job.held
    for row in job.held:
        (root / "source" / job.source.records[row].name).with_suffix(".bmp").write_bytes(b"no picture")
    last(values)
    assert len(list((tmp_path / "run" / "previews").glob("*.png"))) == 2


def test_of_sizes_of_other_shapes_those_are_taken_that_can_be_spoilt(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, size in (("a", (40, 40)), ("b", (32, 48)), ("c", (28, 56))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    values = recipe(tmp_path, tmp_path / "run") | {"translate": {"tasks": ["down(8)"]}}
    values["data"] = {**values["data"], "size": 40, "aspects": True, "hold_out": None}
    job = setup.prepare(load_recipe(values), torch.device("cpu"))
    shapes = {tuple(job.samples[counter].x0.shape[2:]) for counter in range(60)}
    assert len(shapes) > 1 and all(side % 8 == 0 for shape in shapes for side in shape)


def test_pairs_find_their_partners_or_say_who_has_none(tmp_path: Path) -> None:
    root = pair_folders(tmp_path / "pairs")
    (root / "source" / "b.bmp").unlink()
    targets, sources = data.pairs(root)
    assert [record.name for record in targets.records] == ["a.png", "c.png", "d.png", "e.png", "f.png"]
    assert [record.name for record in sources.records] == ["a.bmp", "c.bmp", "d.bmp", "e.bmp", "f.bmp"]
    assert "1 picture without a partner left out: b" in targets.summary["notes"]
    (root / "source" / "a.png").write_bytes((root / "target" / "a.png").read_bytes())
    with pytest.raises(ValueError, match="have one name"):
        data.pairs(root)
    with pytest.raises(FileNotFoundError, match=r"source/ is not there"):
        data.pairs(root / "source")


def test_a_broken_partner_is_replaced_with_its_pair(tmp_path: Path) -> None:
    root = pair_folders(tmp_path / "pairs")
    (root / "source" / "c.bmp").write_bytes(b"no picture")
    values = recipe(root, tmp_path / "run") | {"translate": {"tasks": ["pairs"]}}
    job = setup.prepare(load_recipe(values), torch.device("cpu"))
    faults = [fault for counter in range(12) for fault in job.samples[counter].broken]
    assert faults and {fault.name for fault in faults} == {"c.png"}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"translate": {"tasks": []}}, "translate.tasks: expected a list of at least 1"),
    ({"translate": {"tasks": ["jpg"]}}, "known are colourise"),
    ({"translate": {"tasks": ["jpeg"], "augment": {"most": 0.1, "level": 0.2}}}, "level <= most"),
    ({"translate": {"tasks": ["jpeg", "colourise"]}, "data": {"condition": "class"}}, "data.condition=class needs"),
    ({"translate": {"tasks": ["pairs"]}, "data": {"aspects": True}}, "data.aspects: pairs are brought to one size"),
    ({"translate": {"tasks": ["pairs"]}, "data": {"path": "shapes"}}, "a folder with `source` and `target`"),
    ({"translate": {"tasks": ["jpeg"]}, "task": "classifier", "data": {"condition": "class"}}, "changes no pictures"),
    ({"translate": {"tasks": ["down(4)"]}, "data": {"size": 10}}, "not divisible by 4"),
    ({"translate": {"tasks": ["down(4, up='none')"]}}, "for networks of latents"),
    ({"translate": {"tasks": ["colourise"]}, "data": {"channels": 1}}, "have no colours to learn"),
    ({"translate": {"tasks": ["jpeg"]}, "model": {"image_channels": 1}}, "model.image_channels: 1 does not fit"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_a_wrong_recipe_is_told_before_the_work(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    values = recipe(tools.pictures(tmp_path / "pictures"), tmp_path / "run")
    for name, value in changes.items():
        values[name] = {**values[name], **value} if name in ("data", "model") else value
    with pytest.raises(ValueError, match=said):
        setup.prepare(load_recipe(values), torch.device("cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["sr-emoji", "palette-emoji", "palette-photos"])
def test_the_recipes_train_at_toy_size(name: str, tmp_path: Path) -> None:
    found = load_recipe(
        Path(__file__).resolve().parent.parent.parent / "recipes" / f"{name}.yaml",
        {
            "data.path": str(tools.pictures(tmp_path / "pictures", size=24)), "data.size": 16,
            "out": str(tmp_path / "run"), "model": {"preset": "tiny-local"}, "train.images": 32,
            "train.batch_size": 8, "train.save_every": 16, "train.preview_every": 0, "train.precision": "float32",
        },
    )  # fmt: skip
    model = list(fit(found, device="cpu"))[-1].model
    assert isinstance(model, Model) and model.translation is not None
    photo = np.full((16, 16, 3), 90, np.uint8)
    done = model.upscale(photo, steps=2) if name == "sr-emoji" else model.translate(photo, task="jpeg", steps=2)
    assert done[0].size == ((64, 64) if name == "sr-emoji" else (16, 16))


def test_two_recipes_of_one_folder_make_a_cascade(tmp_path: Path) -> None:
    """As the README has it: a first stage and sr-emoji, each a run of its own, joined by their folders."""
    from guided import Cascade
    from guided.cli import main

    pictures = tools.pictures(tmp_path / "pictures", size=32)
    last(tools.tiny(pictures, tmp_path / "base", train__images=24))
    larger = Path(__file__).resolve().parent.parent.parent / "recipes" / "sr-emoji.yaml"
    small = {"data.size": 16, "model": {"preset": "tiny-local"}, "train.images": 16, "train.batch_size": 8}
    small |= {"train.save_every": 8, "train.preview_every": 0, "train.precision": "float32"}
    list(fit(larger, {"data.path": str(pictures), "out": str(tmp_path / "up"), **small}, device="cpu"))
    assert main(["cascade", "join", str(tmp_path / "base"), str(tmp_path / "up"), "--out", str(tmp_path / "both")]) == 0
    both = Cascade.load(tmp_path / "both")
    assert both.sizes == [(8, 8), (32, 32)] and both.levels == (0.05,)
    assert both.generate(labels="round", steps=2)[0].size == (32, 32)


def test_a_preview_passes_over_what_cannot_be_read(tmp_path: Path) -> None:
    root = pair_folders(tmp_path / "pairs")
    for name in ("a", "c"):
        (root / "source" / f"{name}.bmp").write_bytes(b"no picture")
    values = recipe(root, tmp_path / "run", train__preview_every=24) | {"translate": {"tasks": ["pairs"]}}
    values["data"] = {**values["data"], "hold_out": None}
    last(values)
    assert len(list((tmp_path / "run" / "previews").glob("*.png"))) == 2
