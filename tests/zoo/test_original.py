"""The original layout: names and shapes of every published network, its arithmetic, and the same bits out again."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor

from guided import zoo
from guided.cond import Cond
from guided.nn import UNetConfig, preset
from guided.zoo import names, opening
from guided.zoo.export import ours, settings
from guided.zoo.families import FAMILIES, Family
from guided.zoo.original import Options, layout
from guided.zoo.recognise import expected, recognise
from tests.zoo import adm
from tests.zoo.adm import ADM, CLASSIFIER, SD, SDXL, UPSAMPLER, X4, Flags, Published

# Tensors, and the SHA-256 of their sorted names and shapes, of the networks that the authors' own code builds from the
# published flags and configs (guided-diffusion; stablediffusion; generative-models), taken once on the meta device.
PUBLISHED = {
    "adm-64": (541, "cdbf32c1675c84fb"),
    "adm-128": (493, "c56d52445fdb2112"),
    "adm-256": (567, "e357403fc997eb00"),
    "adm-256-unconditional": (566, "77e18ded5689d791"),
    "adm-512": (645, "ab03f15f765591ce"),
    "adm-512-unconditional": (644, "b6f15ffbf63bfee4"),
    "adm-64-to-256": (567, "3a8b8bceb82c3f82"),
    "adm-128-to-512": (537, "7e722e2f64fce61c"),
    "adm-classifier-64": (307, "0b7fc9917ffd8325"),
    "adm-classifier-128": (221, "e717337216e06448"),
    "adm-classifier-256": (249, "bc098f973cf9f8b9"),
    "adm-classifier-512": (281, "2a24b6c641814825"),
    "sd-1": (686, "b0828585f6719ebf"),
    "sd-1-inpainting": (686, "8d32db57e6073b0c"),
    "sd-2": (686, "c8627f6484f9e606"),
    "sd-2-inpainting": (686, "99b3aa7fd349b9ff"),
    "sd-2-depth": (686, "cc2466cba53797c2"),
    "sd-2-unclip-h": (690, "ef3a2ac3c6b4b967"),
    "sd-2-unclip-l": (690, "3a63632f5c310567"),
    "sd-x4-upscaler": (687, "79a87191c498e99f"),
    "ldm-text": (686, "8bd8c451ab448bfb"),
    "ldm-imagenet-256": (688, "7b0f2712566147ed"),
    "sdxl-base": (1680, "b968733410df414e"),
    "sdxl-inpainting": (1680, "dacb82e1e3de0cb9"),
    "sdxl-refiner": (1220, "1a18064602a01a9b"),
}
BY_NAME = {family.name: family for family in FAMILIES}


def listed(family: Family) -> dict[str, tuple[int, ...]]:
    return dict(expected(family.config, family.options, family.size if family.classifier else None))


@pytest.mark.parametrize("name", BY_NAME)
def test_names_and_shapes_are_those_that_the_authors_code_makes(name: str) -> None:
    found = listed(BY_NAME[name])
    text = "\n".join(f"{key} {list(shape)}" for key, shape in sorted(found.items()))
    assert (len(found), hashlib.sha256(text.encode()).hexdigest()[:16]) == PUBLISHED[name]


@pytest.mark.parametrize("name", BY_NAME)
def test_names_and_shapes_alone_tell_the_published_network(name: str) -> None:
    family = BY_NAME[name]
    prefix = "model.diffusion_model." if family.latent else ""
    found = recognise({prefix + key: shape for key, shape in listed(family).items()})
    assert (found.family, found.config, found.options) == (family.name, family.config, family.options)
    assert (found.size, found.schedule, found.predicts) == (family.size, family.schedule, family.predicts)
    assert (found.prefix, found.classifier, found.latent) == (prefix, family.classifier, family.latent)
    assert {"schedule", "predicts"} < set(found.assumed) and {"heads", "head_width"} & set(found.assumed)
    assert ("use_new_attention_order" in found.assumed) == (family.config.attention == "self")
    assert found.learned_variance == (name.startswith("adm") and not family.classifier)


# Heads (w: of a fixed width), the order of attention, the noise and what is predicted, as the published commands and
# configs say it: MODEL_FLAGS of guided-diffusion's README, the YAML files of the others.
SAID = {
    "adm-64": ("w64", "new", "cosine", "Eps"),
    "adm-128": ("4", "old", "linear", "Eps"),
    "adm-256": ("w64", "old", "linear", "Eps"),
    "adm-256-unconditional": ("w64", "old", "linear", "Eps"),
    "adm-512": ("w64", "old", "linear", "Eps"),
    "adm-512-unconditional": ("w64", "old", "linear", "Eps"),
    "adm-64-to-256": ("4", "old", "linear", "Eps"),
    "adm-128-to-512": ("w64", "old", "linear", "Eps"),
    "adm-classifier-64": ("w64", "old", "cosine", "Eps"),
    "adm-classifier-128": ("w64", "old", "linear", "Eps"),
    "adm-classifier-256": ("w64", "old", "linear", "Eps"),
    "adm-classifier-512": ("w64", "old", "linear", "Eps"),
    "sd-1": ("8", "", "scaled 0.00085 0.012", "Eps"),
    "sd-1-inpainting": ("8", "", "scaled 0.00085 0.012", "Eps"),
    "sd-2": ("w64", "", "scaled 0.00085 0.012", "V"),
    "sd-2-inpainting": ("w64", "", "scaled 0.00085 0.012", "Eps"),
    "sd-2-depth": ("w64", "", "scaled 0.00085 0.012", "Eps"),
    "sd-2-unclip-h": ("w64", "", "scaled 0.00085 0.012", "V"),
    "sd-2-unclip-l": ("w64", "", "scaled 0.00085 0.012", "V"),
    "sd-x4-upscaler": ("8", "", "scaled 0.0001 0.02", "V"),
    "sdxl-base": ("w64", "", "scaled 0.00085 0.012", "Eps"),
    "sdxl-inpainting": ("w64", "", "scaled 0.00085 0.012", "Eps"),
    "sdxl-refiner": ("w64", "", "scaled 0.00085 0.012", "Eps"),
    "ldm-text": ("8", "", "scaled 0.00085 0.012", "Eps"),
    "ldm-imagenet-256": ("1", "", "scaled 0.0015 0.0195", "Eps"),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_what_only_the_authors_can_say(name: str) -> None:
    family = BY_NAME[name]
    heads = str(family.config.heads or f"w{family.config.head_width}")
    order = "" if family.latent else "old" if family.options.heads_first else "new"
    noise = family.schedule.schedule
    noise += f" {family.schedule.start} {family.schedule.end}" if noise == "scaled" else ""
    assert (heads, order, noise, type(family.predicts).__name__) == SAID[name]


NETWORKS = {
    "adm": ADM,
    "adm, new order": dataclasses.replace(ADM, new_order=True),
    "adm, additive, convolutions": dataclasses.replace(ADM, scale_shift=False, updown=False),
    "adm, additive": dataclasses.replace(ADM, scale_shift=False, num_res_blocks=2),
    "adm, four heads, unconditional": dataclasses.replace(ADM, num_heads=4, num_classes=0, out_channels=3),
    "adm, half the width first": dataclasses.replace(ADM, model_channels=64, channel_mult=(0.5, 1, 1.5)),
    "upsampler": UPSAMPLER,
    "upsampler, new order": dataclasses.replace(UPSAMPLER, new_order=True),
    "classifier": CLASSIFIER,
    "classifier, new order": dataclasses.replace(CLASSIFIER, new_order=True, num_res_blocks=2),
    "sd 1": SD,
    "sd 2": dataclasses.replace(SD, linear=True, num_heads=0),
    "sd inpainting": dataclasses.replace(SD, in_channels=9),
    "sd x4": X4,
    "sdxl": SDXL,
}


def drawn(f: Flags, batch: int, size: tuple[int, int], dtype: torch.dtype, seed: int) -> tuple[Tensor, Cond]:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    own = f.in_channels if f.in_channels in (3, 4) else 4 if f.context else 3
    image = f.in_channels - own
    return normal(batch, own, *size), Cond(
        label=(torch.arange(batch) * 2 + 1) % f.num_classes if f.num_classes else None,
        image=normal(batch, image, *size) if image else None,
        tokens=normal(batch, 5, f.context) if f.context else None,
        mask=torch.ones(batch, 5, dtype=torch.bool) if f.context else None,
        vector=normal(batch, f.vector) if f.vector else None,
    )


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (7, 5)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_computes_what_was_published(name: str, size: tuple[int, int]) -> None:
    f = NETWORKS[name]
    if f.pool_side and size != (8, 8):
        pytest.skip("a classifier reads one size")
    state = adm.weights(f)
    network = zoo.network(state, f.config)
    exact = Published({key: value.double() for key, value in state.items()}, f)
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
        network.to(dtype)
        for batch in (1, 3):
            for level in (0.0, 3.0, 250.0, 700.5, 999.0):
                x, cond = drawn(f, batch, size, dtype, batch)
                t = torch.full((batch,), level, dtype=torch.float64)
                fields = [value if value is None or not value.is_floating_point() else value.double()
                          for value in (cond.label, cond.image, cond.tokens, cond.vector)]  # fmt: skip
                want = exact(x.double(), t, *fields)
                got = network(x, t.to(dtype), cond)
                assert got.shape == want.shape
                assert float((got.double() - want).norm() / want.norm()) < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_goes_in_comes_out_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    f = NETWORKS[name]
    state = {key: value.to(dtype) for key, value in adm.weights(f).items()}
    found = recognise({key: tuple(value.shape) for key, value in state.items()}, f.config)
    network = opening.loaded(found, state)
    back = names.write(found.table(), network.state_dict())
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back[key].to(dtype).view(torch.uint8), value.contiguous().view(torch.uint8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    for key, value in adm.weights(f).items():
        assert torch.equal(state[key], value.to(dtype)), "the caller's tensors are his"


def test_orders_of_heads_differ_and_the_default_is_said() -> None:
    state = adm.weights(ADM)
    old = zoo.network(state, {"num_head_channels": 16})
    new = zoo.network(state, {"num_head_channels": 16, "use_new_attention_order": True})
    name = "down.1.stages.0.attention.0.self_attention.qkv.weight"
    assert not torch.equal(old.state_dict()[name], new.state_dict()[name])
    shapes = adm.shapes(ADM)
    assert recognise(shapes, {"num_head_channels": 16}).assumed == {"use_new_attention_order": False}
    assert recognise(shapes, ADM.config).assumed == {}


def test_where_text_and_picture_have_one_width_no_shape_tells_them_apart() -> None:
    f = dataclasses.replace(X4, channel_mult=(1, 2, 3), context=96)
    assert recognise(adm.shapes(f), f.config).assumed == {"text_only": (False, True, False)}
    told = {**f.config, "disable_self_attentions": [True, True, False], "disable_middle_self_attn": False}
    found = recognise(adm.shapes(f), told)
    assert found.assumed == {} and found.config.text_only == (True, True, False)


def test_no_class_adds_nothing() -> None:
    network = zoo.network(adm.weights(ADM), ADM.config)
    table = network.vector.label.weight  # type: ignore[union-attr]
    assert table.shape[0] == 6 and not table[-1].any() and table[:-1].any()


@pytest.mark.parametrize("attention", ["self", "transformer"])
def test_every_tensor_of_ours_has_its_pair(attention: str) -> None:
    text: dict[str, Any] = {"token_width": 24, "null_token": False} if attention == "transformer" else {}
    config = UNetConfig(attention=attention, classes=3, vector_width=0, image_channels=2, **text)
    from guided.zoo.recognise import blank

    pairs = list(layout(config, Options()))
    assert sorted(pair.ours for pair in pairs) == sorted(blank(config).state_dict())
    theirs = [name for pair in pairs for name in pair.theirs]
    assert len(theirs) == len(set(theirs))


def test_a_network_of_our_own_goes_out_and_comes_back() -> None:
    from tests.nn.tools import awake

    config = preset("unet128-class", widths=(32, 64, 64, 64, 64), classes=4, head_width=32, out_channels=3)
    network = awake(config)
    state = ours(network)
    assert state["label_emb.weight"].shape == (5, 128), "the learnt class of nothing is one more"
    back = zoo.network(state, settings(network))
    for key, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[key], value)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("unet32-text", "sequence.norm"),
        ("unet64-class", "norm: 16 groups"),
        ("unet64-text", "attention of the kind 'cross'"),
        ("tiny", "one skip a level"),
    ],
)
def test_what_has_no_counterpart_is_named(name: str, block: str) -> None:
    from guided.nn import UNet

    with torch.device("meta"):
        network = UNet(preset(name))
    with pytest.raises(ValueError, match=f"no counterpart of .*{block}"):
        ours(network)
