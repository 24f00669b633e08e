"""Tiny random text encoders, saved in their publishers' own formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch

from guided._compat import ensure_torchvision

CORPUS = [
    "a red circle left of a blue square",
    "a small green triangle in the top right corner",
    "a photo of a smiling cat, dark skin tone, golden hour",
    "two astronauts ride a horse on the moon; oil on canvas",
]


def clip_folder(folder: Path, *, projected: bool = False, width: int = 32, seed: int = 0) -> Path:
    """CLIPTextModel (projected: CLIPTextModelWithProjection) with CLIP's real vocabulary."""
    ensure_torchvision()
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77).save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=24,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).save_pretrained(folder)
    return folder


def clip_pair_folder(folder: Path, *, side: int = 32, seed: int = 0, **prepared: object) -> Path:
    """A whole CLIPModel with CLIP's real vocabulary and its processor; `prepared` changes how that takes pictures."""
    ensure_torchvision()
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77).save_pretrained(folder)
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"]}
    config = CLIPConfig(
        text_config={**common, **ends, "vocab_size": len(vocabulary)},
        vision_config={**common, "image_size": side, "patch_size": 8},
        projection_dim=24,
    )
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    CLIPImageProcessor(**{**sizes, **prepared}).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    return folder


def vision_folder(folder: Path, *, pooled: bool = True, seed: int = 0) -> Path:
    """A Dinov2Model with its processor (pooled), or a ViT saved without its pooler."""
    ensure_torchvision()
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    config = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if pooled:
            Dinov2Model(Dinov2Config(**config, patch_size=14)).save_pretrained(folder)
        else:
            ViTModel(ViTConfig(**config, patch_size=14, intermediate_size=48), add_pooling_layer=False).save_pretrained(
                folder
            )
    return folder


def t5_folder(folder: Path, *, width: int = 32, seed: int = 0) -> Path:
    """T5EncoderModel with a unigram vocabulary learnt from four sentences."""
    ensure_torchvision()
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    learner.train_from_iterator(CORPUS, trainer)
    pieces = [(piece, score) for piece, score in json.loads(learner.to_str())["model"]["vocab"]]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    tokenizer.save_pretrained(folder)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        T5EncoderModel(config).save_pretrained(folder)
    return folder


def bert_folder(folder: Path, *, width: int = 32, seed: int = 0) -> Path:
    """BertModel that reads 32 tokens, with a vocabulary of letters and a few words."""
    ensure_torchvision()
    from transformers import BertConfig, BertModel

    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.;"
    words = ["red", "circle", "blue", "square", "left", "of", "photo", "cat"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32})
    )
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    return folder


def open_clip_folder(folder: Path, *, width: int = 32, seed: int = 0, text: dict | None = None) -> Path:
    """A whole open_clip model (image tower too) in open_clip's folder format; `text` changes its text tower."""
    ensure_torchvision()
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "width": width, "heads": 4, "layers": 2, **(text or {})},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # A tower of other than the plain kind lives under "text." in the weights, as open_clip has it.
        kind = open_clip.CustomTextCLIP if text else open_clip.CLIP
        model = kind(**json.loads(json.dumps(config)))
    folder.mkdir(parents=True, exist_ok=True)
    written = {"model_cfg": {**config, **({"custom_text": True} if text else {})}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's byte-pair vocabulary and merges, from the file open_clip ships."""
    import open_clip.tokenizer as tokenizer

    lines = gzip.decompress(Path(tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    merges = [(a, b) for a, b in (line.split() for line in lines[1 : 49152 - 256 - 2 + 1])]
    letters = list(tokenizer.bytes_to_unicode().values())
    names = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    return {name: i for i, name in enumerate(names)}, merges
