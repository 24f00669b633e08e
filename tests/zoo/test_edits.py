"""Edits with published kinds of models: in latents, and by networks that were trained to paint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import guided
from guided.cond import Cond
from guided.guide import cfg
from guided.model import Model
from guided.model.conditioning import encode
from guided.noise import Noise
from guided.tasks import DDPMInversion, Exact, FlowEdit, Inversion, PromptToPrompt
from tests.zoo import pipelines

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root: Path = tmp_path_factory.mktemp("pipelines")
    names = ("sd-1.5", "sd-inpainting", "if-i-m")
    return {name: guided.load(pipelines.saved(name, root / name)) for name in names}  # type: ignore[misc]


def photo(model: Model, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*model.size, 3), dtype=np.uint8)


def hole(model: Model) -> np.ndarray:
    mask = np.zeros(model.size, bool)
    mask[3 : model.size[0] // 2, 5 : model.size[1] - 2] = True
    return mask


@pytest.mark.parametrize("name", ["sd-1.5", "sd-inpainting", "if-i-m"])
def test_outside_the_mask_nothing_changes(opened: dict[str, Model], name: str) -> None:
    model = opened[name]
    given, mask = photo(model), hole(model)
    for arguments in ({"strength": 0.6}, {"strength": 1.0}, {"strength": 0.5, "by": FlowEdit("a blue square")}):
        found = model.edit(given, "a red circle", mask=mask, steps=3, **arguments).arrays[0]
        assert np.array_equal(found[~mask], given[~mask]) and (found[mask] != given[mask]).mean() > 0.5
    wide = model.outpaint(given, "a red circle", expand=(8, 0, 0, 8), steps=2).arrays[0]
    assert np.array_equal(wide[: given.shape[0], 8:], given)


def test_sdedit_in_latents_starts_from_the_encoded_photo(opened: dict[str, Model]) -> None:
    model = opened["sd-1.5"]
    given = photo(model)
    pictures = torch.from_numpy(given / 127.5 - 1).permute(2, 0, 1)[None].float()
    found = model.edit(given, "a red circle", strength=0.5, steps=4, w=2.0, seed=3)
    path = torch.tensor(found.records[0]["path"], dtype=torch.float64)
    cond = encode(model.encoders["text"], ["a red circle"])
    with torch.no_grad():
        x0 = model.codec.encode(pictures)
        x = x0 + float(path[0]) * Noise([3])(0, x0.shape[1:])
        want = model.codec.decode(guided.sample(cfg(2.0)(model.denoiser), x, path, cond)).clamp(-1, 1)
    torch.testing.assert_close(found.tensor, want, atol=1e-4, rtol=0)


def test_a_network_trained_to_paint_is_shown_what_is_kept(opened: dict[str, Model]) -> None:
    """As diffusers' pipeline shows it: the mask at the latents' size by nearest neighbours, the rest made grey."""
    model = opened["sd-inpainting"]
    given, mask = photo(model), hole(model)
    seen: list[Cond] = []
    inner = model.denoiser.edge
    assert inner is not None

    class Spy:
        accepts = inner.accepts

        def __call__(self, x: torch.Tensor, cond: Cond) -> Cond:
            seen.append(cond)
            return inner(x, cond)

    model.denoiser.edge = Spy()
    try:
        record = model.inpaint(given, "a red circle", mask=mask, steps=3, w=2.0).records[0]
    finally:
        model.denoiser.edge = inner
    pictures = torch.from_numpy(given / 127.5 - 1).permute(2, 0, 1)[None].float()
    free = torch.from_numpy(mask)[None, None].float()
    with torch.no_grad():
        kept = model.codec.encode(pictures * (free < 0.5))
    want = torch.cat((torch.nn.functional.interpolate(free, size=kept.shape[2:]), kept), 1)
    assert record["nfe"] == 3 and "Known" not in str(record["guide"])
    for cond in seen:
        assert cond.image is not None
        for image in cond.image:
            torch.testing.assert_close(image, want[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("by", [Exact, FlowEdit, DDPMInversion, Inversion, PromptToPrompt])
def test_edits_by_inversion_bring_the_photo_back_in_latents(opened: dict[str, Model], by: type) -> None:
    model = opened["sd-1.5"]
    given = photo(model)
    pictures = torch.from_numpy(given / 127.5 - 1).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        want = model.codec.decode(model.codec.encode(pictures)).clamp(-1, 1)
    how = {"w": 1.0, "steps": 40 if by is Inversion else 12, "strength": 0.4}
    same = model.edit(given, "a red circle", by=by("a red circle"), **how).tensor
    other = model.edit(given, "two astronauts", by=by("a red circle"), **how).tensor
    assert float((same - want).abs().mean()) < (0.06 if by is Inversion else 1e-4)
    assert not torch.equal(same, other)


def test_attention_is_copied_only_where_there_is_some_to_text(opened: dict[str, Model]) -> None:
    model = opened["if-i-m"]
    with pytest.raises(ValueError, match="no cross-attention"):
        model.edit(photo(model), "a red circle", by=PromptToPrompt("a blue square"), steps=2)
