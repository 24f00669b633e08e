"""Feature spaces from files and folders: the same numbers as timm's and torchvision's own code gives, and refusals."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from guided._compat import ensure_torchvision
from guided.evaluate.inception import AsTensorFlow, Inception, open_inception
from guided.evaluate.preparing import of_open_clip, of_timm
from guided.evaluate.spaces import open_space
from tests.evaluate import tiny_judges
from tests.evaluate.test_towers import drawn, images


@pytest.fixture(scope="module")
def inception() -> dict[str, Tensor]:
    return tiny_judges.inception()


@pytest.mark.parametrize("shape", [(40, 40), (20, 31), (32, 57), (50, 36)])
def test_a_timm_folder_is_what_timm_makes_of_it(tmp_path: pathlib.Path, shape: tuple[int, int]) -> None:
    ensure_torchvision()
    import timm
    from timm.data import create_transform, resolve_model_data_config

    folder = tiny_judges.timm_folder(tmp_path / "vit")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    pictures = drawn(3, *shape)
    with torch.no_grad():
        wanted = model(torch.stack([transform(picture) for picture in images(pictures)]))
    found = open_space(str(folder))
    assert wanted.std(0).min() > 1e-3 and torch.allclose(found(pictures), wanted, atol=1e-5)
    assert found(pictures).shape == (3, 24)
    assert "32 x 32 px of 35 at the shorter side, bicubic, mean 0.5 0.4 0.3" in found.name


def test_a_timm_model_by_name_and_file(tmp_path: pathlib.Path) -> None:
    """Weights of other classes than the published ones, of none, and a folder in timm's older form."""
    ensure_torchvision()
    import timm

    pictures = drawn(2)
    for classes in (10, 0):
        model = timm.create_model("test_resnet", num_classes=classes).eval()
        file = tmp_path / f"{classes}.safetensors"
        save_file(model.state_dict(), file)
        found = open_space(f"timm:test_resnet:{file}")
        with torch.no_grad():
            wanted = model.forward_head(model.forward_features(found.prepare(pictures)), pre_logits=True)
        assert torch.allclose(found(pictures), wanted, atol=1e-5) and "160 x 160 px" in found.name
    folder = tiny_judges.timm_folder(tmp_path / "old", legacy=True)
    with pytest.raises(ValueError, match=r"its weights do not fit vit_tiny_patch16_224"):
        open_space(str(folder))  # the older form has no arguments, and so names a larger network
    weights = load_file(tmp_path / "10.safetensors")
    del weights["layer2.0.conv1.weight"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.weight"):
        open_space(f"timm:test_resnet:{tmp_path / 'cut.safetensors'}")


def test_what_timm_is_not_to_open(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no model 'resnet5'; it knows .*resnet50"):
        open_space("timm:resnet5")
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_space(f"timm:test_resnet:{tmp_path / 'no.safetensors'}")
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="a Python pickle"):
        open_space(f"timm:test_resnet:{tmp_path / 'weights.pth'}", pickle=True)
    folder = tiny_judges.timm_folder(tmp_path / "vit")
    said = json.loads((folder / "config.json").read_text())
    for wrong in ({"model_args": {"checkpoint_path": "x.pth"}}, {"architecture": "hf-hub:someone/else"}):
        (folder / "config.json").write_text(json.dumps({**said, **wrong}))
        with pytest.raises(ValueError, match=r"no other weights|knows no model"):
            open_space(str(folder))
    with pytest.raises(FileNotFoundError, match="picture network"):
        open_space("./nowhere")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm: pip install 'guided\[text\]'"):
        open_space("timm:resnet50")


def test_the_middle_is_cut_where_torchvision_cuts_it() -> None:
    ensure_torchvision()
    from torchvision import transforms

    for height, width in ((33, 36), (35, 34), (32, 39), (37, 32), (32, 35), (32, 33)):
        picture = drawn(1, height, width)
        asked = {"input_size": (3, 32, 32), "crop_pct": 1.0, "interpolation": "bilinear", "mean": (0,) * 3}
        found = of_timm({**asked, "crop_mode": "center", "std": (1,) * 3})(picture)[0]
        resize = transforms.Resize(32, transforms.InterpolationMode.BILINEAR)
        wanted = np.asarray(transforms.CenterCrop(32)(resize(images(picture)[0])))
        assert torch.equal((255 * found).round().byte(), torch.tensor(wanted).permute(2, 0, 1))
    assert of_open_clip({}, 32).even
    squashed = of_timm({**asked, "crop_mode": "squash", "std": (1,) * 3})
    assert squashed.shortest is None and squashed.filter == Image.Resampling.BILINEAR
    for wrong in ({"crop_mode": "border"}, {"crop_mode": "squash", "crop_pct": 0.9}, {"input_size": (1, 32, 32)}):
        with pytest.raises(ValueError, match="not known here"):
            of_timm({**asked, "std": (1,) * 3, **wrong})
    with pytest.raises(ValueError, match="not known here"):
        of_timm({**asked, "std": (1,) * 3, "interpolation": "lanczos"})


def torchvisions(state: dict[str, Tensor]) -> Any:
    """torchvision's Inception made FID's: averages without the padding, a maximum in the last block."""
    ensure_torchvision()
    from torchvision.models import Inception3, inception

    model = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    model.load_state_dict(state)
    model.fc = torch.nn.Identity()
    whole = inception.InceptionE._forward

    class Like:
        """`torch.nn.functional` with another average."""

        def __init__(self, pool: Any) -> None:
            self.avg_pool2d = pool

        def __getattr__(self, name: str) -> Any:
            return getattr(F, name)

    def run(x: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            mean = Like(lambda x, **how: F.avg_pool2d(x, **how, count_include_pad=False))
            most = Like(lambda x, **how: F.max_pool2d(x, **how))
            patch.setattr(inception, "F", mean)

            def block(self: Any, x: Tensor) -> Any:
                patch.setattr(inception, "F", most if self is model.Mixed_7c else mean)
                return whole(self, x)

            patch.setattr(inception.InceptionE, "_forward", block)
            with torch.no_grad():
                return torch.as_tensor(model.eval()(x))

    return run


def test_inception_is_torchvisions_with_tensorflows_pools(inception: dict[str, Tensor], tmp_path: pathlib.Path) -> None:
    save_file(inception, tmp_path / "inception.safetensors")
    found = open_space(f"inception:{tmp_path / 'inception.safetensors'}")
    pictures = drawn(2, 40, 30)
    features, wanted = found(pictures), torchvisions(inception)(AsTensorFlow()(pictures))
    assert features.shape == (2, 2048) and float((features[0] - features[1]).abs().max()) > 0.1
    assert torch.allclose(features, wanted, rtol=1e-4, atol=1e-4)
    assert "299 x 299 px, bilinear as TensorFlow 1 does it" in found.name and "inception.safetensors" in found.name


@pytest.mark.parametrize("size", [(32, 32), (299, 299), (7, 640), (1, 300)])
def test_pictures_are_stretched_as_tensorflow_1_does(size: tuple[int, int]) -> None:
    picture = drawn(1, *size)
    out = AsTensorFlow()(picture)[0].double().numpy()
    x, rng = picture[0].double().numpy(), np.random.default_rng(0)
    for _ in range(300):
        row, column = (int(n) for n in rng.integers(0, 299, 2))
        down, right = row * size[0] / 299, column * size[1] / 299
        top, left = int(down), int(right)
        below, beyond = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
        a, b = down - top, right - left
        upper = (1 - b) * x[:, top, left] + b * x[:, top, beyond]
        lower = (1 - b) * x[:, below, left] + b * x[:, below, beyond]
        assert out[:, row, column] == pytest.approx(((1 - a) * upper + a * lower - 128) / 128, abs=1e-4)
    grey = picture[:, :1]
    assert torch.equal(AsTensorFlow()(grey), AsTensorFlow()(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(TypeError, match="uint8"):
        AsTensorFlow()(picture.float())


def test_the_published_pickle_is_read_on_request_alone(inception: dict[str, Tensor], tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save({name: value for name, value in inception.items() if "num_batches" not in name}, file)
    with pytest.raises(ValueError, match=r"a pickle, which can run code .*--pickle"):
        open_space(f"inception:{file}")
    network = open_space(f"inception:{file}", pickle=True).see
    assert isinstance(network, Inception)
    own = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    assert len(own) == 94 * 5 and all(torch.equal(value, inception[name]) for name, value in own.items())


def test_weights_of_another_inception_are_refused(inception: dict[str, Tensor], tmp_path: pathlib.Path) -> None:
    file = tmp_path / "weights.safetensors"
    other = {**inception, "fc.weight": torch.zeros(1000, 2048)}
    cut = {name: value for name, value in inception.items() if name != "Mixed_7b.branch3x3_2b.conv.weight"}
    for state, message in ((other, r"torchvision's has 1000 classes"), (cut, r"1 missing: Mixed_7b.branch3x3_2b")):
        save_file(state, file)
        with pytest.raises(ValueError, match=message):
            open_inception(str(file))
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_inception(str(tmp_path / "no.pth"))
