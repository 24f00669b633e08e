"""CLIP as a function to guide with, against open_clip's own towers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from guided.cond import Cond
from guided.denoiser import EDM, Denoiser
from guided.guide import gradient
from guided.nn import UNet, preset
from guided.text.clip import clip_similarity


@pytest.fixture(scope="module")
def spec(folder) -> str:
    return str(folder("open_clip"))


def test_it_is_the_logit_of_the_two_towers(spec: str) -> None:
    import open_clip

    model = open_clip.create_model(f"local-dir:{spec}")
    model = model.eval()
    prompts = ["a red circle", "a cat on a mat"]
    D = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).reshape(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).reshape(3, 1, 1)
    with torch.no_grad():
        seen = F.normalize(model.encode_image(((D + 1) / 2 - mean) / std), dim=-1)
        words = F.normalize(model.encode_text(open_clip.get_tokenizer(f"local-dir:{spec}")(prompts)), dim=-1)
        want = model.logit_scale.exp() * (seen * words).sum(-1)
        found = clip_similarity(spec, prompts)(D, Cond())
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    alone = clip_similarity(spec, prompts[1])(D, Cond())
    torch.testing.assert_close(alone[1], want[1], atol=1e-4, rtol=1e-4)


def test_a_push_along_it_raises_it(spec: str) -> None:
    torch.manual_seed(0)
    denoise = Denoiser(UNet(preset("tiny")), EDM()).requires_grad_(False)
    f = clip_similarity(spec, "a red circle")
    x = 0.5 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor(0.3, dtype=torch.float64)
    before = denoise(x, sigma, Cond())
    small = gradient(f, reads="D", scale=1e-4)(denoise)(x, sigma, Cond())
    assert bool((f(small) > f(before)).all())
    assert torch.equal(gradient(f, scale=0)(denoise)(x, sigma, Cond()), before)


def test_what_is_no_clip_is_refused(spec: str, folder) -> None:
    with pytest.raises(ValueError, match="no open_clip model"):
        clip_similarity(str(folder("t5")), "a cat")
    with pytest.raises(ValueError, match="3 channels, got 4"):
        clip_similarity(spec, "a cat")(torch.zeros(1, 4, 8, 8))
    with pytest.raises(FileNotFoundError):
        clip_similarity("./nowhere", "a cat")
