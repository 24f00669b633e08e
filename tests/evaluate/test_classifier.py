"""The judge learns, repeats itself, comes back from the disk, and refuses what does not fit."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch
from torch import Tensor

from guided.data.shapes import ShapesSource
from guided.evaluate.accuracy import cas, class_accuracy, prompt_accuracy
from guided.evaluate.classifier import Schedule, augmented, cached_classifier, train_classifier
from guided.evaluate.network import CARD, WEIGHTS, Classifier, ClassifierConfig

NAMES = ("flat", "striped", "dotted")
QUICK = Schedule(epochs=8, batch=32, shift=1)
SMALL = ClassifierConfig(3, widths=(8, 16), features=8, size=(16, 16))


def trivial(n: int, seed: int) -> tuple[Tensor, list[int]]:
    """Three textures in random colours."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=rng)
    pictures = torch.randint(0, 256, (n, 3, 1, 1), generator=rng).expand(n, 3, 16, 16).clone()
    row, column = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    masks = torch.stack([torch.zeros(16, 16).bool(), row % 4 < 2, (row % 4 < 2) & (column % 4 < 2)])
    pictures = torch.where(masks[labels][:, None], 255 - pictures, pictures)
    return pictures.to(torch.uint8), labels.tolist()


@pytest.fixture(scope="module")
def judge() -> Classifier:
    return train_classifier(*trivial(480, 0), NAMES, QUICK, test=trivial(100, 1), config=SMALL, card={"data": "toy"})


def test_it_learns_a_trivial_set_on_every_device(device: str) -> None:
    judge = train_classifier(
        *trivial(480, 0), NAMES, QUICK, test=trivial(100, 1), config=SMALL, card={"data": "toy"}, device=device
    )
    assert judge.card["test"]["value"] >= 0.95 and judge.card["images"] == 480 and judge.card["data"] == "toy"
    assert class_accuracy(judge, *trivial(100, 2)).value >= 0.95
    assert class_accuracy(judge, *trivial(100, 2)).beside == {"chance": pytest.approx(1 / 3)}


def test_the_same_seed_gives_the_same_weights(judge: Classifier) -> None:
    short = Schedule(epochs=1, batch=32)
    a, b, c = (
        train_classifier(*trivial(96, 0), NAMES, schedule, config=SMALL).state_dict()
        for schedule in (short, short, Schedule(epochs=1, batch=32, seed=1))
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_saved_and_opened_it_says_the_same(judge: Classifier, tmp_path: pathlib.Path) -> None:
    judge.save(tmp_path / "judge")
    again = Classifier.open(tmp_path / "judge")
    pictures = trivial(20, 3)[0]
    assert torch.equal(again.features(pictures), judge.features(pictures))
    assert again.names == NAMES and again.card == judge.card and again.config == judge.config
    assert again.space.name == "8 features of our classifier of toy"
    assert again.space(pictures).shape == (20, 8)


def test_damaged_folders_are_refused(judge: Classifier, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a classifier"):
        Classifier.open(tmp_path)
    place = judge.save(tmp_path / "judge")
    data = bytearray((place / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (place / WEIGHTS).write_bytes(bytes(data))
    with pytest.raises(ValueError, match="not as its card says"):
        Classifier.open(place)
    card = json.loads((place / CARD).read_text())
    for wrong in ({**card, "format": "other"}, {**card, "config": {"classes": 1}}, {**card, "names": ["x"]}, []):
        (place / CARD).write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="not the card of a classifier"):
            Classifier.open(place)


def test_evaluation_leaves_the_mode_alone_and_is_per_picture(judge: Classifier) -> None:
    pictures = trivial(10, 4)[0]
    judge.train()
    whole = judge.predict(pictures)
    assert judge.training and torch.allclose(whole[3:4], judge.predict(pictures[3:4]), atol=1e-5)
    judge.eval()


def test_other_sizes_are_brought_to_its_own(judge: Classifier) -> None:
    pictures = trivial(6, 5)[0]
    doubled = pictures.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(judge.features(doubled), judge.features(pictures), atol=1e-4)
    assert judge.features(pictures[:, :, ::2, ::2]).shape == (6, 8)
    with pytest.raises(ValueError, match="takes 3 channels"):
        judge.features(pictures[:, :1])


def test_the_cache_trains_once_for_each_data_and_schedule(tmp_path: pathlib.Path) -> None:
    trained: list[int] = []

    def ask(n: int, epochs: float) -> Classifier:
        pictures, labels = trivial(n, 0)
        watch = lambda step, steps, loss: trained.append(step)  # noqa: E731
        return cached_classifier(
            pictures, labels, NAMES, Schedule(epochs=epochs, batch=32), folder=tmp_path, watch=watch
        )

    first = ask(32, 1)
    steps = len(trained)
    again = ask(32, 1)
    assert steps == 1 and len(trained) == 1 and torch.equal(first.head.weight, again.head.weight)
    ask(33, 1)
    ask(32, 2)
    assert len(trained) == 4
    for file in tmp_path.rglob(WEIGHTS):
        file.write_bytes(b"")
    ask(32, 1)
    assert len(trained) == 5, "a damaged one is trained again"


def test_augmentation_moves_and_mirrors_only() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(50, 1, 1, 1)
    moved = augmented(images, Schedule(shift=1), rng)
    known = set()
    for mirrored in (images[0, 0], images[0, 0].flip(1)):
        padded = torch.nn.functional.pad(mirrored[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
        known |= {tuple(padded[dy : dy + 8, dx : dx + 8].flatten().tolist()) for dy in range(3) for dx in range(3)}
    found = {tuple(image.flatten().tolist()) for image in moved}
    assert found <= known and len(found) > 10
    assert torch.equal(augmented(images, Schedule(shift=0, flip=False), rng), images)


def test_labels_that_do_not_fit_are_refused() -> None:
    pictures, labels = trivial(10, 0)
    for wrong in (labels[:-1], [3] * 10, [-1] * 10):
        with pytest.raises(ValueError, match=r"needs a label 0\.\.2"):
            train_classifier(pictures, wrong, NAMES, QUICK)
    with pytest.raises(ValueError, match="2 classes or more"):
        ClassifierConfig(1)
    with pytest.raises(ValueError, match="got 2 names"):
        Classifier(SMALL, ("a", "b"))


def test_a_loss_that_is_not_finite_stops() -> None:
    pictures, labels = trivial(64, 0)
    with pytest.raises(FloatingPointError, match="lower the rate"):
        train_classifier(pictures, labels, NAMES, Schedule(epochs=30, batch=32, rate=1e25, bf16=False), config=SMALL)


@pytest.mark.parametrize("objects", [1, 2])
def test_prompt_accuracy_of_true_renders_is_perfect_and_of_wrong_ones_is_chance(objects: int) -> None:
    source = ShapesSource(24, seed=5, objects=objects, held=True)
    captions = [str(record.caption) for record in source.records]
    pictures = torch.stack([torch.from_numpy(source.image(i, (64, 64))).permute(2, 0, 1) for i in range(24)])
    right = {figure.name: figure for figure in prompt_accuracy(pictures, captions)}
    assert all(figure.value == 1 for figure in right.values())
    assert set(right) >= {"colour", "shape", "colour and shape", "all of them"}
    wrong = {figure.name: figure for figure in prompt_accuracy(pictures.roll(1, 0), captions)}
    assert wrong["all of them"].value <= 0.1 and right["all of them"].beside["chance"] <= 0.1
    with pytest.raises(ValueError, match="a caption a picture"):
        prompt_accuracy(pictures, captions[:-1])


def test_class_accuracy_needs_a_label_a_picture(judge: Classifier) -> None:
    with pytest.raises(ValueError, match="a label a picture"):
        class_accuracy(judge, *(part[:3] if isinstance(part, Tensor) else part for part in trivial(5, 0)))  # type: ignore[arg-type]


def test_cas_is_what_the_pictures_teach() -> None:
    pictures, labels = trivial(480, 0)
    test = trivial(100, 1)
    taught = cas(pictures, labels, NAMES, test, QUICK, config=SMALL, at="w = 2", beside={"judge": 0.9})
    assert taught.name == "CAS" and taught.value >= 0.95 and taught.n == 100 and taught.at == "w = 2"
    assert taught.beside == {"chance": pytest.approx(1 / 3), "judge": 0.9}
    # Dots that were never drawn cannot be learnt, however right every picture is.
    kept = torch.tensor(labels) != 2
    lacking = cas(pictures[kept], [label for label in labels if label != 2], NAMES, test, QUICK, config=SMALL)
    assert lacking.value == pytest.approx(1 - sum(label == 2 for label in test[1]) / 100, abs=0.05)
    wrong = cas(pictures, [(label + 1) % 3 for label in labels], NAMES, test, QUICK, config=SMALL)
    assert wrong.value < 0.05
    with pytest.raises(ValueError, match="no real pictures were kept out"):
        cas(pictures, labels, NAMES, (pictures[:0], []), QUICK)
