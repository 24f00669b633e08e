"""What a run holds, counted on tensors without memory: of Stable Diffusion's sizes, and beside what is known."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from guided import zoo
from guided._memory import Living
from guided.cond import Cond
from guided.denoiser import Denoiser, Eps
from guided.model.autoencoder import AutoencoderKL
from guided.nn import UNet, native
from guided.train import optimizer
from guided.train.recipe import Recipe
from guided.tune import Asked, adapters, preparing, recipe_for
from guided.tune.counting import Count, bytes_of, counted, lighter, of_an_update, refusal
from guided.tune.preparing import prepare_tuning, rest
from guided.zoo.families import FAMILIES
from tests.zoo import pipelines

CPU = torch.device("cpu")


def recipe(**train: Any) -> Recipe:
    return Recipe.model_validate({"data": {"path": "."}, "train": {"batch_size": 8, "warmup": 0, **train}})


def test_what_would_fit_is_the_least_that_does() -> None:
    count = Count(before=1000, trained=100, moments=200, kept=50, fixed=150, picture=1000)
    assert count.peak(recipe()) == 1000 + round(1.1 * (200 + 50 + 150 + 8 * 1000))
    assert count.peak(recipe(), 4) == 1000 + round(1.1 * (200 + 50 + 150 + 2 * 1000 + 100))
    light = Count(1000, 100, 200, 50, 150, 200)
    said = refusal(count, recipe(), 7000, light)
    assert "train.accumulate=2 (" in said and "train.checkpointing=true (" in said
    assert "--accumulate 2, " in said and "--checkpointing, " in said
    none = refusal(count, recipe(), 1200, light)
    assert "accumulate" not in none and "checkpointing" not in none


@pytest.mark.parametrize(("free", "fits"), [(1400, True), (1200, False), (900, False)])
def test_adapters_are_no_way_out_where_not_even_they_would_fit(free: int, fits: bool) -> None:
    count = Count(before=1000, trained=100, moments=200, kept=50, fixed=150, picture=200)
    whole = Recipe.model_validate(
        {"data": {"path": "."}, "tune": {"base": "b", "method": "full", "rank": 0}, "train": {"batch_size": 8}}
    )
    # What stays: 1000 there before, and 1.1 times a picture's 200 and the 50 that are no gradients.
    assert ("--method lora" in refusal(count, whole, free, count)) == fits
    assert ("a machine with more memory" in refusal(count, whole, free, count)) == (not fits)


def test_tensors_count_from_their_birth_to_their_death_and_views_and_what_was_there_do_not() -> None:
    w = torch.ones(100, 100, requires_grad=True)
    with Living() as living:
        a = torch.zeros(1000)
        b = a[:10]
        b.add_(1)
        w.detach().mul_(1)
        del a
        assert living.now == 4000
        del b
        assert living.now == 0
        y = w * w  # keeps w alone, which was there
        z = y.exp()  # keeps its output
        del y
        assert living.now == 40_000
        torch.autograd.grad(z, w, torch.ones_like(z))
    assert living.now == 40_000


def test_an_update_is_its_fixed_part_and_its_pictures() -> None:
    w, frozen, one = nn.Parameter(torch.randn(300, 300).double()), torch.randn(300, 300), 8 * 300 * 300

    def loss(count: int) -> torch.Tensor:
        changed = w * frozen.double()  # what is cast is kept for the way back, however many pictures there are
        return (changed * torch.ones(count, 300, 300).double()).exp().sum()

    fixed, picture = of_an_update(loss, [w])
    # Of a picture: itself, what exp is given or keeps, and what comes back through it. Fixed: the cast, the product.
    assert 3 * one <= picture <= 4 * one
    assert 2 * one <= fixed <= 4 * one


def test_where_memory_ends_the_answer_is_more_than_there_is() -> None:
    w = nn.Parameter(torch.ones(100))

    def loss(count: int) -> torch.Tensor:
        y = (w * torch.ones(count, 100)).exp()
        if count > most:
            raise torch.OutOfMemoryError
        return y.sum()

    most = 2
    fixed, picture = of_an_update(loss, [w])
    alone = fixed + picture
    most = 1
    assert of_an_update(loss, [w]) == (0, alone)
    most = 0
    assert sum(of_an_update(loss, [w])) >= 2 * 400


@dataclass
class Sized:
    """A LoRA of rank 16 on every layer of a published network, of one picture an update in bf16, on a GPU."""

    weights: int
    trained: list[nn.Parameter]
    network: UNet
    taken: tuple[int, int]

    def peak(self, name: str) -> int:
        modules: dict[str, nn.Module] = {"network": self.network}
        small = recipe(batch_size=1, optimizer=name)
        own = bytes_of(self.trained)
        moments = optimizer.size(modules, small.train)
        return Count(self.weights, own, moments, own, *self.taken).peak(small)


def sized(family: str, frozen: torch.dtype, checkpointing: bool) -> Sized:
    """The network on tensors without memory; what a batch of one picture takes."""
    known = next(one for one in FAMILIES if one.name == family)
    config = known.config
    with torch.device("meta"):
        network = UNet(config)
    network.requires_grad_(False).to(frozen)
    network.checkpointing = checkpointing
    adapters.fresh(network, 16, None, "all")
    with FakeTensorMode():
        for module in network.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    kind = torch.float32 if p.requires_grad else p.dtype
                    module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=kind), p.requires_grad)
            for name, b in module._buffers.items():
                module._buffers[name] = None if b is None else torch.empty(b.shape, dtype=b.dtype)
        denoiser = Denoiser(network, Eps(), 0.03, 14.0)  # a schedule would remember its levels without memory
        denoiser.autocast = torch.bfloat16
        trained = [p for p in network.parameters() if p.requires_grad]
        vector = torch.randn(1, config.vector_width) if config.vector_width else None
        cond = Cond(tokens=torch.randn(1, 77, config.token_width), mask=torch.ones(1, 77).bool(), vector=vector)
        x = torch.randn(1, 4, *known.size)
        with Living() as living:
            torch.autograd.grad((denoiser(x, torch.rand(1), cond) - x).square().sum(), trained)
    return Sized(bytes_of(network.parameters()), trained, network, (living.most, 0))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without our kernels of the CPU, and with normalisations in float32, as autocast has them on a GPU."""
    monkeypatch.setattr(native, "library", lambda: None)

    def wide(norm: Any) -> Any:
        return lambda x, *rest: norm(x.float(), *(r.float() if isinstance(r, torch.Tensor) else r for r in rest))

    for place, name in ((F, "group_norm"), (F, "layer_norm"), (torch, "group_norm")):
        monkeypatch.setattr(place, name, wide(getattr(place, name)))
    yield


@pytest.mark.parametrize(
    ("family", "frozen", "checkpointing", "gigabytes"),
    [
        ("sd-1", "float32", False, 8),
        pytest.param("sd-1", "bfloat16", False, 4, marks=pytest.mark.slow),
        pytest.param("sd-1", "float32", True, 4.5, marks=pytest.mark.slow),
        pytest.param("sd-1", "bfloat16", True, 3, marks=pytest.mark.slow),
        pytest.param("sdxl-base", "float32", False, None, marks=pytest.mark.slow),
        pytest.param("sdxl-base", "float32", True, 16, marks=pytest.mark.slow),
        pytest.param("sdxl-base", "bfloat16", True, 9, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(900)
def test_a_lora_of_stable_diffusions_size_fits(
    family: str, frozen: str, checkpointing: bool, gigabytes: float | None, as_on_a_gpu: None
) -> None:
    found = sized(family, getattr(torch, frozen), checkpointing)
    peaks = {name: found.peak(name) for name in ("adamw", "adamw8bit")}
    print(family, frozen, checkpointing, {name: f"{peak / 1e9:.2f} GB" for name, peak in peaks.items()})
    assert peaks["adamw8bit"] < peaks["adamw"]
    if gigabytes is None:  # that is why there are settings
        assert peaks["adamw8bit"] > 16e9
    else:
        assert peaks["adamw"] <= gigabytes * 1e9


def test_nothing_that_is_done_stays_on_the_device(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, elsewhere = zoo.load_model(pipelines.saved("sd-1.5", tmp_path / "sd")), torch.device("meta")
    moved: list[str] = []
    monkeypatch.setattr(AutoencoderKL, "to", lambda self, place: moved.append(str(place)))

    def rested(**words: bool) -> tuple[str, bool]:
        moved.clear()
        model.encoders = {name: encoder.to(elsewhere) for name, encoder in model.encoders.items()}  # type: ignore[union-attr]
        rest(model, elsewhere, **words)
        return model.encoders["text"].device.type, moved == ["cpu"]  # type: ignore[union-attr]

    assert rested(reads=False, encodes=True) == ("cpu", False)
    assert rested(reads=False) == ("cpu", True)
    assert rested(reads=True) == ("meta", True)


@pytest.mark.parametrize(("method", "moves"), [("lora", True), ("full", True), ("lora and text", False)])
def test_encoders_rest_before_the_latents_are_made(
    method: str, moves: bool, captioned: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))
    base = pipelines.saved("sd-1.5", tmp_path / "sd")
    asked = Asked(images=16, batch_size=4, size=(16, 16), text_rank=2 if "text" in method else None, frozen="bf16")
    asked = dataclasses.replace(asked, prompts=("a cat",))
    made = recipe_for(zoo.load_model(base), str(base), captioned, method.split()[0], tmp_path / "run", asked)
    said: list[tuple[str, dict[str, bool]]] = []
    monkeypatch.setattr(preparing, "rest", lambda model, device, **how: said.append(("rest", how)))
    encode = AutoencoderKL.encode

    def encoded(self: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
        said.append(("encode", {"alone": len(images) == 1}))
        return encode(self, images)

    monkeypatch.setattr(AutoencoderKL, "encode", encoded)
    job = prepare_tuning(made, CPU, stand_in=True)
    how = {"reads": not moves}
    assert said[0] == ("rest", {**how, "encodes": True}) and said[-1] == ("rest", how)
    assert len(said) > 2 and all(row == ("encode", {"alone": True}) for row in said[1:-1])
    kinds = {p.dtype for p in job.denoiser.network.parameters() if not p.requires_grad}
    assert kinds == (set() if method == "full" else {torch.bfloat16})


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_count_holds_all_that_is_trained(
    method: str, words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))
    asked = Asked(images=16, batch_size=8, text_rank=2 if method == "lora" else None, replay=0.0)
    made = recipe_for(zoo.load_model(words_base), str(words_base), captioned, method, tmp_path / "run", asked)
    job = prepare_tuning(made, CPU, stand_in=True)
    count = counted(job, CPU)
    network = bytes_of(p for p in job.denoiser.network.parameters() if p.requires_grad)
    text = bytes_of(p for tower in job.tuning.extras.values() for p in tower.parameters() if p.requires_grad)  # type: ignore[union-attr]
    assert (text > 0) == (method == "lora")
    assert count.trained == network + text and count.moments == 2 * (network + text)
    assert count.kept == 2 * network + text
    light = lighter(count, job, CPU)
    assert light.moments == count.moments and 0 < light.picture < count.picture


def test_a_person_may_ask_for_the_optimizer_and_for_what_is_frozen(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    base = zoo.load_model(words_base)
    asked = Asked(optimizer="adamw8bit", frozen="bf16")
    made = recipe_for(base, str(words_base), captioned, "lora", tmp_path / "run", asked)
    assert (made.train.optimizer, made.tune.frozen) == ("adamw8bit", "bf16")  # type: ignore[union-attr]
    usual = recipe_for(base, str(words_base), captioned, "lora", tmp_path / "run")
    assert (usual.train.optimizer, usual.tune.frozen) == ("adamw", "float32")  # type: ignore[union-attr]
