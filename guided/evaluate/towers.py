"""Published networks as judges: the image tower of a CLIP or a vision model as features, both towers for CLIPScore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided._compat import ensure_torchvision
from guided.evaluate.features import batches
from guided.evaluate.figures import Figure, mean
from guided.evaluate.preparing import cosine, of_open_clip, of_transformers
from guided.text._locate import Found, locate
from guided.text._transformers import quiet
from guided.text.clip import both_towers

_BATCH = 64
WEIGHT = 2.5
"""CLIPScore's w: it stretches the cosines of published CLIPs to about 0..1."""


@dataclass(frozen=True, eq=False)
class Towers:
    """Networks that turn pictures, and captions where they can, into vectors (N, F); they serve as `Features`.

    prepare: uint8 (N, 1 or 3, H, W) -> what the network takes; its `str` says how, for reports.
    see: prepared pictures -> (N, F). words: captions -> ids and mask; hear: those -> (N, F); None where they only see.
    """

    title: str
    prepare: Callable[[Tensor], Tensor]
    see: Callable[[Tensor], Tensor]
    words: Callable[[list[str]], tuple[Tensor, Tensor]] | None
    hear: Callable[[Tensor, Tensor], Tensor] | None
    device: torch.device

    @property
    def name(self) -> str:
        """Which network, and how it is shown its pictures."""
        return f"{self.title}, pictures {self.prepare}"

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures uint8 (N, 1 or 3, H, W) -> (N, F) float32."""
        parts = (self.see(self.prepare(part).to(self.device)) for part in batches(pictures, _BATCH))
        return torch.cat([part.float().cpu() for part in parts])

    @torch.no_grad()
    def read(self, captions: Sequence[str]) -> tuple[Tensor, int]:
        """Captions -> (N, F) float32, and how many of them fill all tokens there are, and may have been cut."""
        if self.words is None or self.hear is None:
            raise ValueError(f"{self.title}: sees pictures but reads no captions; CLIPScore needs a CLIP")
        found, full = [], 0
        for start in range(0, len(captions), _BATCH):
            ids, mask = self.words(list(captions[start : start + _BATCH]))
            full += int(mask[:, -1].bool().sum())
            found.append(self.hear(ids.to(self.device), mask.to(self.device)).float().cpu())
        return torch.cat(found), full


def clip_score(
    clip: Towers, pictures: Tensor, captions: Sequence[str], at: str = "", real: Tensor | None = None
) -> list[Figure]:
    """CLIPScore, the mean of 2.5 max(cos, 0), and the mean cosine of pictures and captions (Hessel et al. 2021, eq. 1).

    pictures: uint8 (N, C, H, W), one for each caption; the captions are read as they are, without the paper's "A photo
    depicts". real: as many real pictures of these captions. Beside stand the score of those, and that of the drawn ones
    with the caption of the next picture. Raises ValueError for fewer than 2 pictures or another number of captions.
    """
    if len(pictures) != len(captions) or (real is not None and len(real) != len(captions)):
        raise ValueError(f"CLIPScore needs a picture a caption, got {len(pictures)} for {len(captions)}")
    heard, _ = clip.read(captions)
    seen = clip(pictures)
    drawn = cosine(seen, heard)
    beside = {"real": cosine(clip(real), heard)} if real is not None else {}
    beside["next caption"] = cosine(seen, heard.roll(1, 0))

    def score(found: Tensor) -> Tensor:
        return WEIGHT * found.clamp_min(0)

    return [
        mean("CLIPScore", score(drawn), at, {name: float(score(found).mean()) for name, found in beside.items()}),
        mean("CLIP cosine", drawn, at, {name: float(found.mean()) for name, found in beside.items()}),
    ]


def find(spec: str) -> Found:
    """Where the files of a published network are, as `open_towers` looks for them; it raises the same errors."""
    try:
        return locate(spec)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("text encoder", "picture network", 1)) from None


def open_towers(spec: str | Found, device: torch.device | str = "cpu", *, captions: bool = False) -> Towers:
    """Open a published network: a folder, or a hub id, of an open_clip model or of a transformers model that sees.

    captions: both towers of a CLIP are needed. Of transformers, `get_image_features` is taken where there is one (CLIP,
    SigLIP), else the pooled state (DINOv2: of the class token, after the norm), else the mean or class token of the
    last. Also "open_clip:ARCH:FILE.safetensors". Weights are safetensors only. Raises FileNotFoundError where there is
    none, ValueError where it does not fit, ImportError naming the extra where its library is missing.
    """
    found = find(spec) if isinstance(spec, str) else spec
    opened = _open_clip if found.library == "open_clip" else _transformers
    return opened(found, torch.device(device), captions)


def _open_clip(found: Found, device: torch.device, captions: bool) -> Towers:
    ensure_torchvision()
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(f"{found.name} needs open_clip: pip install 'guided[text]'") from error
    model, asked = both_towers(open_clip, found)
    model = model.eval().requires_grad_(False).to(device)
    prepare = of_open_clip(asked, model.visual.image_size)
    tokens = open_clip.get_tokenizer(found.arch or f"local-dir:{found.folder}")

    def words(texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = tokens(texts)
        return ids, ids != getattr(getattr(tokens, "tokenizer", None), "pad_token_id", 0)

    return Towers(
        _title(found, "image tower"),
        prepare,
        model.encode_image,
        words,
        lambda ids, mask: model.encode_text(ids),
        device,
    )


def _transformers(found: Found, device: torch.device, captions: bool) -> Towers:
    ensure_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{found.name} needs transformers: pip install 'guided[text]'") from error
    model, unpooled = _weights(transformers, found)
    config = model.config
    side = getattr(getattr(config, "vision_config", config), "image_size", None)
    if not (hasattr(model, "get_image_features") or model.main_input_name == "pixel_values"):
        raise ValueError(f"{found.name}: {type(model).__name__} sees no pictures; give a CLIP or a vision model")
    prepare = of_transformers(found.folder, config.model_type, side if isinstance(side, int) else None)
    model = model.eval().requires_grad_(False).to(device)
    if not hasattr(model, "get_text_features"):
        if captions:
            raise ValueError(f"{found.name}: {type(model).__name__} reads no captions; CLIPScore needs a CLIP")
        title = _title(found, "pooled states" if not unpooled else "class token")
        return Towers(title, prepare, lambda x: _pooled(model(pixel_values=x), unpooled), None, None, device)
    tokenizer = None
    if captions:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            found.folder, local_files_only=True, trust_remote_code=False
        )

    # A tokenizer that gives no mask belongs to a tower that was trained to read the padding (SigLIP).
    masked = tokenizer is None or "attention_mask" in tokenizer.model_input_names

    def hear(ids: Tensor, mask: Tensor) -> Tensor:
        return _vector(model.get_text_features(input_ids=ids, attention_mask=mask if masked else None))

    def see(x: Tensor) -> Tensor:
        return _vector(model.get_image_features(pixel_values=x))

    length = int(config.text_config.max_position_embeddings)
    words = None if tokenizer is None else _words(tokenizer, length)
    return Towers(_title(found, "image features"), prepare, see, words, hear, device)


def _words(tokenizer: Any, length: int) -> Callable[[list[str]], tuple[Tensor, Tensor]]:
    def words(texts: list[str]) -> tuple[Tensor, Tensor]:
        found = tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
            return_attention_mask=True,
        )
        return found["input_ids"], found["attention_mask"]

    return words


def _weights(transformers: Any, found: Found) -> tuple[Any, bool]:
    """The model of a folder, and whether its weights lack the pooler it would have."""
    extra = {} if found.variant is None else {"variant": found.variant}
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    try:
        with quiet(transformers):
            model, report = transformers.AutoModel.from_pretrained(
                found.folder, output_loading_info=True, **options, **extra
            )
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{found.name}: does not load: {' '.join(str(error).split())}") from error
    # A tensor that is missing would be filled with random numbers.
    missing = sorted(report["missing_keys"])
    lacking = [name for name in missing if not name.startswith("pooler.")]
    if lacking:
        raise ValueError(f"{found.name}: {len(lacking)} tensors are not in its weights, the first is {lacking[0]}")
    return model, bool(missing)


def _vector(found: Any) -> Tensor:
    vector: Tensor = getattr(found, "pooler_output", found)
    return vector


def _pooled(found: Any, unpooled: bool) -> Tensor:
    pooled = None if unpooled else getattr(found, "pooler_output", None)
    if pooled is not None:
        return torch.as_tensor(pooled).flatten(1)
    states: Tensor = found.last_hidden_state
    return states.mean((2, 3)) if states.ndim == 4 else states[:, 0]


def _title(found: Found, part: str) -> str:
    return f"{part} of {found.name} ({found.library}, weights {found.checksum()[:12]})"


def tensors_of(path: Path, pickle: bool) -> dict[str, Tensor]:
    """The tensors of a weights file; raises ValueError for a pickle that was not asked for, or that is refused."""
    from guided.zoo import weights

    if weights.is_pickle(path) and not pickle:
        raise ValueError(
            f"{path}: a pickle, which can run code when it is read; pickle=True (--pickle) reads it in a process of "
            "its own that builds tensors alone"
        )
    return weights.read(path, pickle=pickle)
