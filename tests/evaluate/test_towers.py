"""Published networks as judges: the same numbers as their own libraries give, and refusals."""

from __future__ import annotations

import json
import pathlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guided._compat import ensure_torchvision
from guided.evaluate.preparing import CLIP_MEAN, CLIP_STD, Preparation, of_open_clip, of_transformers
from guided.evaluate.towers import clip_score, open_towers
from tests.text import tiny

CAPTIONS = ["a red circle", "two astronauts ride a horse on the moon", "", "word " * 100]


def drawn(n: int = 4, height: int = 40, width: int = 40, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=rng).to(torch.uint8)


def images(pictures: Tensor) -> list[Image.Image]:
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.clip_pair_folder(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("shape", [(40, 40), (20, 31), (32, 32), (50, 36)])
def test_clip_score_is_that_of_transformers_itself(clip: pathlib.Path, shape: tuple[int, int]) -> None:
    ensure_torchvision()
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    pictures = drawn(4, *shape)
    model = CLIPModel.from_pretrained(clip).eval()
    words = AutoTokenizer.from_pretrained(clip)(CAPTIONS, padding=True, truncation=True, return_tensors="pt")
    seen = CLIPImageProcessorPil.from_pretrained(clip)(images(pictures), return_tensors="pt")
    with torch.no_grad():
        out = model(**words, **seen)
        cosine = out.logits_per_image.diagonal() / model.logit_scale.exp()
    assert cosine.min() < -0.01 and cosine.max() > 0.01, "both signs are tried"
    score, plain = clip_score(open_towers(str(clip), captions=True), pictures, CAPTIONS)
    assert score.value == pytest.approx(float((2.5 * cosine.clamp_min(0)).mean()), abs=1e-5)
    assert plain.value == pytest.approx(float(cosine.mean()), abs=1e-5)
    turned = (out.image_embeds * out.text_embeds.roll(1, 0)).sum(1)
    assert plain.beside["next caption"] == pytest.approx(float(turned.mean()), abs=1e-5)
    features = open_towers(str(clip))(pictures)
    with torch.no_grad():
        own = model.get_image_features(**seen).pooler_output
    assert features.shape == (4, 24) and torch.allclose(features, own, atol=1e-5)


def test_a_picture_is_held_against_real_ones(clip: pathlib.Path) -> None:
    towers = open_towers(str(clip), captions=True)
    pictures, real = drawn(3), drawn(3, seed=1)
    score, plain = clip_score(towers, pictures, CAPTIONS[:3], "w = 2", real)
    assert (score.name, score.at, score.n) == ("CLIPScore", "w = 2", 3) and plain.name == "CLIP cosine"
    assert plain.beside["real"] == pytest.approx(clip_score(towers, real, CAPTIONS[:3])[1].value)
    heard, full = towers.read(CAPTIONS)
    assert heard.shape == (4, 24) and full == 1, "the hundred words fill all 77 tokens"
    with pytest.raises(ValueError, match="a picture a caption, got 3 for 2"):
        clip_score(towers, pictures, CAPTIONS[:2])


def test_both_towers_of_open_clip(tmp_path: pathlib.Path) -> None:
    ensure_torchvision()
    import open_clip

    folder = tiny.open_clip_folder(tmp_path / "open")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pictures = drawn()
    with torch.no_grad():
        seen = model.eval().encode_image(torch.stack([transform(picture) for picture in images(pictures)]))
        heard = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS))
    towers = open_towers(str(folder), captions=True)
    assert torch.allclose(towers(pictures), seen, atol=1e-5)
    assert torch.allclose(towers.read(CAPTIONS)[0], heard, atol=1e-5) and towers.read(CAPTIONS)[1] == 1
    cosine = torch.nn.functional.cosine_similarity(seen, heard)
    assert clip_score(towers, pictures, CAPTIONS)[1].value == pytest.approx(float(cosine.mean()), abs=1e-5)


def test_features_of_vision_models(tmp_path: pathlib.Path) -> None:
    ensure_torchvision()
    from transformers import AutoImageProcessor, Dinov2Model, ViTModel

    pictures = drawn()
    dino = tiny.vision_folder(tmp_path / "dino")
    seen = AutoImageProcessor.from_pretrained(dino, backend="pil")(images(pictures), return_tensors="pt")
    found = open_towers(str(dino))
    with torch.no_grad():
        assert torch.allclose(
            found(pictures), Dinov2Model.from_pretrained(dino).eval()(**seen).pooler_output, atol=1e-5
        )
    assert "28 x 28 px of 32 at the shorter side, bicubic, mean " in found.name and "pooled states" in found.name
    vit = tiny.vision_folder(tmp_path / "vit", pooled=False)
    found = open_towers(str(vit))
    with torch.no_grad():
        states = ViTModel.from_pretrained(vit, add_pooling_layer=False).eval()(**seen).last_hidden_state
    assert torch.allclose(found(pictures), states[:, 0], atol=1e-5) and "class token" in found.name
    grey = drawn()[:, :1]
    assert torch.equal(found(grey), found(grey.expand(-1, 3, -1, -1)))


def test_a_preparation_is_what_the_file_says(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    square = {"size": {"height": 16, "width": 24}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    file.write_text(json.dumps(square))
    prepare = of_transformers(tmp_path, "vit", 16)
    assert prepare == Preparation((16, 24), None, Image.Resampling.BILINEAR, (0.5,) * 3, (0.25,) * 3)
    assert str(prepare) == "24 x 16 px, bilinear, proportions lost, mean 0.5 0.5 0.5, std 0.25 0.25 0.25"
    picture = drawn(1, 20, 20)
    expected = np.asarray(images(picture)[0].resize((24, 16), Image.Resampling.BILINEAR)) / 255
    wanted = torch.from_numpy((expected - 0.5) / 0.25).permute(2, 0, 1).float()
    assert torch.allclose(prepare(picture)[0], wanted, atol=1e-6)
    plain = {**square, "size": {"shortest_edge": 16}}
    for wrong in ({**square, "do_rescale": False}, {**square, "crop_pct": 0.9}, plain, {"size": 3}, []):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="not known here"):
            of_transformers(tmp_path, "vit", 16)
    file.unlink()
    with pytest.raises(ValueError, match=r"expected preprocessor_config\.json"):
        of_transformers(tmp_path, "vit", 16)
    bare = Preparation((16, 16), 16, Image.Resampling.BICUBIC, CLIP_MEAN, CLIP_STD)
    assert of_transformers(tmp_path, "clip", 16) == bare and of_open_clip({}, 16) == replace(bare, even=True)
    with pytest.raises(ValueError, match="longest"):
        of_open_clip({"resize_mode": "longest"}, 16)
    with pytest.raises(ValueError, match="no larger than what is resized"):
        Preparation((16, 16), 8, Image.Resampling.BICUBIC, CLIP_MEAN, CLIP_STD)
    with pytest.raises(TypeError, match="uint8"):
        bare(picture.float())


def test_a_missing_library_is_named_with_its_extra(
    clip: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.open_clip_folder(tmp_path / "open")
    for library, place in (("transformers", clip), ("open_clip", folder)):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ImportError, match=rf"needs {library}: pip install 'guided\[text\]'"):
            open_towers(str(place))


def test_what_cannot_judge_is_refused(clip: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"picture network.*no such folder"):
        open_towers("./nowhere")
    dino = tiny.vision_folder(tmp_path / "dino")
    with pytest.raises(ValueError, match="reads no captions"):
        open_towers(str(dino), captions=True)
    with pytest.raises(ValueError, match="reads no captions"):
        open_towers(str(dino)).read(["a"])
    with pytest.raises(ValueError, match="sees no pictures"):
        open_towers(str(tiny.bert_folder(tmp_path / "bert")))
    from safetensors.torch import load_file, save_file

    weights = load_file(dino / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, dino / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors are not in its weights, the first is layernorm\.weight"):
        open_towers(str(dino))
