"""Whole single files: the model of a file is the model of the folder, and it comes out as it went in."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import guided
from guided._compat import ensure_torchvision
from guided.cli import main
from guided.cond import Cond
from guided.denoiser import Eps, V
from guided.frames import DDPM
from guided.model import Model
from guided.model.conditioning import encode
from guided.zoo import bpe, ldm_names, names, whole_open
from guided.zoo.families import FAMILIES
from guided.zoo.recognise import expected, recognise
from tests.zoo import singles

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
PROMPT = "a red circle left of a blue square"
KINDS = tuple(singles.UNETS)
Both = dict[str, tuple[Path, Path]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Of every kind the folder and the single file of the same weights."""
    root = tmp_path_factory.mktemp("singles")
    found = {}
    for kind in KINDS:
        (root / kind).mkdir()
        found[kind] = singles.saved(kind, root / kind)
    return found


def opened(file: Path, config: Any) -> Model:
    model = guided.load(file, config=config)
    assert isinstance(model, Model)
    return model


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_the_model_that_its_folder_is(kind: str, both: Both) -> None:
    folder, file = both[kind]
    theirs, ours = opened(folder, None), opened(file, singles.CONFIGS[kind])
    assert equal(theirs.denoiser.network.state_dict(), ours.denoiser.network.state_dict())
    assert theirs.denoiser.network.config == ours.denoiser.network.config
    assert theirs.denoiser.parametrization == ours.denoiser.parametrization
    for entry in ("size", "defaults", "edge", "range"):
        assert theirs.card[entry] == ours.card[entry], entry
    texts = [encode(model.encoders["text"], [PROMPT, ""]) for model in (theirs, ours)]
    assert texts[0].tokens is not None and texts[1].tokens is not None and texts[0].tokens.any()
    assert torch.equal(texts[0].tokens, texts[1].tokens)
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(theirs.codec.encode(picture), ours.codec.encode(picture))
    if kind in ("x4", "inpainting"):
        image = torch.randn(1, theirs.denoiser.network.config.image_channels, 8, 8)  # type: ignore[union-attr]
        x, sigma = torch.randn(1, 4, 8, 8), torch.tensor(2.0)
        aug = torch.tensor([0.1]) if kind == "x4" else None
        cond = Cond(tokens=texts[0].tokens[:1], mask=texts[0].mask[:1], image=image, aug=aug)  # type: ignore[index]
        assert torch.equal(theirs.denoiser(x, sigma, cond), ours.denoiser(x, sigma, cond))
        return
    drawn = [model.generate(PROMPT, n=2, steps=3, seed=5).tensor for model in (theirs, ours)]
    assert torch.equal(*drawn) and drawn[0].std() > 0.01


@torch.no_grad()
def test_sd_2_reads_what_its_own_text_encoder_says(both: Both) -> None:
    """open_clip's transformer itself: the states before its last layer, and then its last norm."""
    ensure_torchvision()
    import open_clip

    file = both["sd2"][1]
    stem = "cond_stage_model.model."
    state = {n.removeprefix(stem): v for n, v in load_file(file).items() if n.startswith(stem) and "logit" not in n}
    tower = open_clip.transformer.TextTransformer(
        vocab_size=state["token_embedding.weight"].shape[0], width=128, heads=2, layers=4, mlp_ratio=2, output_dim=128
    ).eval()
    tower.load_state_dict(state)
    encoder = opened(file, singles.CONFIGS["sd2"]).encoders["text"]
    said = encoder([PROMPT]).tokens
    (read,) = encoder.opened.towers  # type: ignore[union-attr]
    ids = torch.full((1, 77), read.pad)
    words = read.words(PROMPT).ids
    ids[0, : len(words)] = torch.tensor(words)
    x = tower.token_embedding(ids) + tower.positional_embedding
    for block in tower.transformer.resblocks[:-1]:
        x = block(x, attn_mask=tower.attn_mask)
    assert torch.allclose(tower.ln_final(x), said, atol=1e-5)


@pytest.mark.parametrize("kind", ("sd1", "sd2", "sdxl", "x4"))
@pytest.mark.parametrize("through", ("guided", "diffusers"))
def test_it_comes_out_as_it_went_in(kind: str, through: str, both: Both, tmp_path: Path) -> None:
    file = both[kind][1]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(singles.CONFIGS[kind]))
    assert main(["convert", str(file), str(tmp_path / "there"), "--to", through, "--config", str(config)]) == 0
    back = tmp_path / "back.safetensors"
    assert main(["convert", str(tmp_path / "there"), str(back), "--to", "original"]) == 0
    before = {name: value for name, value in load_file(file).items() if not name.startswith("model_ema.")}
    assert equal(before, load_file(back)) and len(before) > 400
    if through == "diffusers":
        pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "there")
        state = pipe.text_encoder.state_dict()
        wanted = transformers.CLIPTextModel.from_pretrained(both[kind][0] / "text_encoder").state_dict()
        assert equal(wanted, state)
    straight = tmp_path / "straight.safetensors"
    said = ["--to", "original", "--config", str(config)]
    assert main(["convert", str(file), str(straight), *said]) == 0
    assert equal(before, load_file(straight))


def test_weights_of_16_bits_too(tmp_path: Path) -> None:
    _, file = singles.saved("sdxl", tmp_path, torch.float16)
    model = opened(file, singles.CONFIGS["sdxl"])
    model.save(tmp_path / "ours")
    from guided.zoo.export import export

    export(Model.open(tmp_path / "ours"), tmp_path / "back.safetensors")
    assert equal(load_file(file), load_file(tmp_path / "back.safetensors"))


def test_a_folder_of_diffusers_goes_out_as_one_file(both: Both, tmp_path: Path) -> None:
    for kind in ("sd1", "sdxl"):
        folder, file = both[kind]
        out = tmp_path / f"{kind}.safetensors"
        assert main(["convert", str(folder), str(out), "--to", "original"]) == 0
        wanted = load_file(file)
        found = load_file(out)
        assert found.keys() <= wanted.keys() and equal(found, {name: wanted[name] for name in found})
        left = {name.rpartition(".")[2] for name in wanted.keys() - found.keys() if "model_ema" not in name}
        assert left == ({"position_ids", "betas"} if kind == "sd1" else {"position_ids", "logit_scale"})
    with pytest.raises(ValueError, match=r"resblocks\.3\.: .*without its last layer"):
        from guided.zoo.export import export

        export(opened(both["sd2"][0], None), tmp_path / "sd2.safetensors")


def test_what_no_tensor_says_is_assumed_said_and_overridden(both: Both, tmp_path: Path) -> None:
    file, base = both["sd2"][1], singles.CONFIGS["sd2"]
    model = opened(file, base)
    assert model.card["provenance"]["assumed"]["predicts"] == "V()"
    frame: Any = model.denoiser.parametrization
    assert frame.predicts == V() and frame.frame == DDPM("scaled", 0.00085, 0.012)
    said = {**base, "parameterization": "eps", "linear_start": 0.001, "linear_end": 0.02}
    told: Any = opened(file, said)
    assert told.denoiser.parametrization.predicts == Eps()
    assert told.denoiser.parametrization.frame == DDPM("scaled", 0.001, 0.02)
    assert not {"predicts", "schedule"} & set(told.card["provenance"]["assumed"])
    # The YAML beside the file.
    beside = tmp_path / "it.safetensors"
    shutil.copyfile(file, beside)
    shutil.copytree(file.parent / "tokenizer", tmp_path / "tokenizer")
    unet = {key: value for key, value in base.items() if key != "image_size"}
    params = {"parameterization": "eps", "scale_factor": 0.5, "unet_config": {"params": unet}}
    beside.with_suffix(".yaml").write_text(json.dumps({"model": {"params": params}}))
    read: Any = opened(beside, None)
    assert read.denoiser.parametrization.predicts == Eps() and read.codec.scale == 0.5
    assert read.size == (128, 128), "64 latents a side, where nothing says it"
    assert read.card["provenance"]["assumed"]["image_size"] == 64


def test_a_pickle_is_opened_when_asked_for(both: Both, tmp_path: Path) -> None:
    file = both["sd1"][1]
    torch.save({"state_dict": load_file(file), "global_step": 7}, tmp_path / "sd1.ckpt")
    shutil.copytree(file.parent / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="a Python pickle"):
        guided.load(tmp_path / "sd1.ckpt", config=singles.CONFIGS["sd1"])
    model = guided.load(tmp_path / "sd1.ckpt", pickle=True, config=singles.CONFIGS["sd1"])
    assert isinstance(model, Model) and model.name == "sd1"
    wanted = opened(file, singles.CONFIGS["sd1"]).denoiser.network.state_dict()
    assert equal(wanted, model.denoiser.network.state_dict())


def without(prefix: str) -> Any:
    return lambda state: {name: value for name, value in state.items() if not name.startswith(prefix)}


def reshaped(name: str) -> Any:
    return lambda state: {**state, name: state[name][..., :-1].contiguous()}


def renamed(old: str, new: str) -> Any:
    return lambda state: {**without(old)(state), new: state[old]}


MIDDLE, QUANT = "first_stage_model.encoder.mid.attn_1.k.weight", "first_stage_model.quant_conv.bias"
NORM, LAYER = (
    "first_stage_model.decoder.up.1.block.0.norm1.bias",
    "cond_stage_model.transformer.text_model.encoder.layers",
)
ROWS, PAIR = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", "conditioner.embedders.1.model."
DAMAGED = [
    ("sd1", without("first_stage_model."), r"first_stage_model\.: not in the file: it has no autoencoder"),
    ("sd1", without("cond_stage_model."), r"cond_stage_model\.transformer\.: not in the file: it has no text encoder"),
    ("sdxl", without(PAIR), r"conditioner\.embedders\.1\.model\.: not in the file: it has no text encoder"),
    ("sdxl", without("conditioner."), r"conditioner\.embedders\.0\.transformer\.: not in the file"),
    ("sd1", reshaped(MIDDLE), rf"of another shape: {re.escape(MIDDLE)} is \[64, 64, 1, 0\], expected \[64, 64, 1, 1\]"),
    ("sd1", reshaped(NORM), rf"{re.escape(NORM)} is \["),
    (
        "sd1",
        renamed(QUANT, "first_stage_model.x"),
        r"1 missing: .*quant_conv\.bias; 1 not expected: first_stage_model\.x",
    ),
    ("sd1", reshaped(f"{LAYER}.1.mlp.fc2.weight"), r"layers\.1\.mlp\.fc2\.weight is \["),
    ("sd1", without(f"{LAYER}.1."), r"layers\.: expected layers 0, 1, \.\.\. without a hole"),
    ("sd2", reshaped(ROWS), rf"{re.escape(ROWS)} is \[384, 127\], expected \[384, 128\]"),
    ("sdxl", without(f"{PAIR}text_projection"), r"conditioner\.embedders\.1\.model\.text_projection: missing"),
    ("sd1", reshaped("model.diffusion_model.middle_block.1.norm.bias"), r"middle_block\.1: 1 of another shape"),
    ("sd1", lambda s: s | {"first_stage_model.lora": torch.zeros(1)}, r"1 not expected: first_stage_model\.lora"),
    ("sd1", lambda s: s | {MIDDLE: s[MIDDLE].double()}, rf"dtype: expected .*, but {re.escape(MIDDLE)} is float64"),
]


@pytest.mark.parametrize(("kind", "change", "message"), DAMAGED, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_missing_or_misshapen_is_named(
    kind: str, change: Any, message: str, both: Both, tmp_path: Path
) -> None:
    file = tmp_path / "it.safetensors"
    save_file(change(load_file(both[kind][1])), file)
    with pytest.raises(ValueError, match=message) as caught:
        guided.load(file, config=singles.CONFIGS[kind])
    assert str(caught.value).startswith(str(file))


def test_a_tokenizer_is_looked_for_and_the_places_are_said(both: Both, tmp_path: Path) -> None:
    file, config = both["sd1"][1], singles.CONFIGS["sd1"]
    alone = tmp_path / "it.safetensors"
    shutil.copyfile(file, alone)
    with pytest.raises(FileNotFoundError, match=rf"tokenizer.*514 tokens.*looked for it in {tmp_path}/tokenizer"):
        guided.load(alone, config=config)
    model = opened(alone, {**config, "tokenizer": str(file.parent / "tokenizer")})
    assert model.generate(PROMPT, steps=1).tensor.isfinite().all()
    with pytest.raises(FileNotFoundError, match="config: tokenizer: expected a folder"):
        guided.load(alone, config={**config, "tokenizer": str(tmp_path / "none")})


def test_a_file_alone_gets_clips_tokenizer(both: Both, tmp_path: Path) -> None:
    state = load_file(both["sd1"][1])
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    state[name] = torch.randn(bpe.SIZE, 128, generator=torch.Generator().manual_seed(3))
    file = tmp_path / "it.safetensors"
    save_file(state, file)
    model = opened(file, singles.CONFIGS["sd1"])
    (tower,) = model.encoders["text"].opened.towers  # type: ignore[union-attr]
    assert tower.words("a cat").ids == [49406, 320, 2368, 49407] and tower.pad == 49407
    # The same file again is the same folder in the cache.
    assert (
        opened(file, singles.CONFIGS["sd1"]).encoders["text"].spec["towers"][0]["from"]
        == (model.encoders["text"].spec["towers"][0]["from"])
    )


WIDE: dict[str, Any] = {"max_position_embeddings": 77, "vocab_size": 49408}
CLIP_L = WIDE | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = WIDE | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_G = WIDE | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
SIZES = {"sd-1": ("sd1", 768), "sd-2": ("sd2", 1024), "sdxl-base": ("sdxl", 2048)}
ARCHS = {"sd-2": ("ViT-H-14", 24), "sdxl-base": ("ViT-bigG-14", 32)}


def published(family: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file: the U-Net's by its family, the parts' by the classes themselves."""
    ensure_torchvision()
    import open_clip

    known = next(one for one in FAMILIES if one.name == family)
    found = {f"model.diffusion_model.{n}": s for n, s in expected(known.config, known.options).items()}
    with torch.device("meta"):
        vae = diffusers.AutoencoderKL(
            block_out_channels=[128, 256, 512, 512],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
        )
        clip = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP_L))
    for name, value in vae.state_dict().items():
        square = (*value.shape, 1, 1) if "attentions" in name and value.ndim == 2 else tuple(value.shape)
        found[f"first_stage_model.{singles._vae(name, 4)}"] = square
    assert sum(name.startswith("first_stage_model.") for name in found) == 248
    if family != "sd-2":
        prefix = "conditioner.embedders.0." if family == "sdxl-base" else "cond_stage_model."
        inner = {name.removeprefix("text_model."): tuple(v.shape) for name, v in clip.state_dict().items()}
        assert len(inner) == 196
        found |= {f"{prefix}transformer.text_model.{name}": shape for name, shape in inner.items()}
        found[f"{prefix}transformer.text_model.embeddings.position_ids"] = (1, 77)
    if family != "sd-1":
        arch, layers = ARCHS[family]
        text = dict(open_clip.get_model_config(arch)["text_cfg"])
        assert text["layers"] == layers
        with torch.device("meta"):
            tower = open_clip.transformer.TextTransformer(
                **text, output_dim=open_clip.get_model_config(arch)["embed_dim"]
            )
        prefix = "conditioner.embedders.1.model." if family == "sdxl-base" else "cond_stage_model.model."
        found |= {f"{prefix}{name}": tuple(value.shape) for name, value in tower.state_dict().items()}
        found[f"{prefix}logit_scale"] = ()
    return found


@pytest.mark.parametrize("family", SIZES)
def test_the_published_files_are_known_by_names_and_shapes(family: str) -> None:
    shapes = published(family)
    found = recognise(shapes)
    assert found.family == family
    whole = whole_open.describe(found, shapes)
    kind, width = SIZES[family]
    assert whole.unet["cross_attention_dim"] == width
    side = {"sd-1": 512, "sd-2": 768, "sdxl-base": 1024}[family]
    assert whole.vae["sample_size"] == side and whole.unet["sample_size"] == side // 8
    assert whole.vae["block_out_channels"] == [128, 256, 512, 512] and whole.vae["layers_per_block"] == 2
    towers = [{name: tower.config[name] for name in CLIP_L} for tower in whole.towers]
    assert towers == {"sd-1": [CLIP_L], "sd-2": [CLIP_H], "sdxl-base": [CLIP_L, CLIP_G]}[family]
    acts = [tower.config["hidden_act"] for tower in whole.towers]
    assert acts == {"sd-1": ["quick_gelu"], "sd-2": ["gelu"], "sdxl-base": ["quick_gelu", "gelu"]}[family]
    # The folders of the parts, as the classes themselves name and shape them.
    parts = names.write(whole.table(), {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    with torch.device("meta"):
        classes: dict[str, Any] = {
            "unet": diffusers.UNet2DConditionModel.from_config(
                {k: v for k, v in singles.UNETS[kind].items() if k not in singles._TINY} | dict(whole.unet)
            ),
            "vae": diffusers.AutoencoderKL.from_config(dict(whole.vae)),
        }
        for tower in whole.towers:
            made = getattr(transformers, tower.config["architectures"][0])
            classes[tower.part] = made(transformers.CLIPTextConfig(**tower.config))
    for part, made in classes.items():
        stem = "text_model." if part == "text_encoder" else ""
        wanted = {n.removeprefix(stem): tuple(v.shape) for n, v in made.state_dict().items()}
        inner = {n.removeprefix(f"{part}/").removeprefix(stem): tuple(v.shape)
                 for n, v in parts.items() if n.startswith(f"{part}/")}  # fmt: skip
        assert inner == wanted, part
    left = {name for name in whole.others(shapes) if ".resblocks.23." not in name}
    told = {"position_ids", "logit_scale", "attn_mask", "text_projection"}
    assert {name.rpartition(".")[2] for name in left} <= told


def test_shapes_of_the_parts_are_those_of_their_classes() -> None:
    for widths in ([32, 64], [64, 32, 64]):
        config = {"block_out_channels": widths, "layers_per_block": 1, "in_channels": 3, "out_channels": 3}
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * len(widths)}
        blocks["up_block_types"] = ["UpDecoderBlock2D"] * len(widths)
        with torch.device("meta"):
            vae = diffusers.AutoencoderKL(**config, **blocks, latent_channels=4)
        wanted = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
        assert ldm_names.autoencoder_shapes({**config, "latent_channels": 4}) == wanted


def test_inspect_says_which_parts_are_in_it(both: Both, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "it.safetensors"
    shutil.copyfile(both["sd2"][1], file)
    file.with_suffix(".json").write_text(json.dumps(singles.CONFIGS["sd2"]))
    assert main(["inspect", "--json", str(file)]) == 0
    shown = json.loads(capsys.readouterr().out)
    state = load_file(file)
    count = sum(value.numel() for name, value in state.items() if name.startswith("first_stage_model."))
    assert shown["parts"]["autoencoder"].endswith(f"{count:,} parameters")
    assert list(shown["parts"]) == ["U-Net", "autoencoder", "text encoder", "moving averages", "others"]
    assert shown["text"] == "open_clip, 128 wide, 3 layers read" and shown["opens"] == "as a model"
    save_file(without("first_stage_model.")(state), file)
    assert main(["inspect", "--json", str(file)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "autoencoder" not in shown["parts"] and shown["opens"].startswith("no: first_stage_model.: not in the file")
