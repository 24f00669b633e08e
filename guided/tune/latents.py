"""Pictures as a latent model sees them: encoded once, kept on disk under a fingerprint, read from there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from guided import _files, _safetensors
from guided.data import BadPicture, Pictures
from guided.data.aspects import ManySizes
from guided.model.autoencoder import AutoencoderKL
from guided.train.batch import values


class Latents:
    """Map-style like `Pictures`: `latents[i]` is float32 (C, h, w), the codec's mean of picture i.

    The fingerprint is of the decoded pixels, their size, and the codec's weights and scale: a changed picture is
    encoded anew. A broken picture raises BadPicture when it is asked for, as there.
    """

    def __init__(self, pictures: Pictures | ManySizes, codec: AutoencoderKL, folder: Path) -> None:
        self.pictures, self.source = pictures, pictures.source
        self.channels = codec.channels
        self.notes, self.broken = pictures.notes, pictures.broken
        digest = _of_codec(codec)
        self._keys = [self._key(i, digest) for i in range(len(pictures))]
        self._kept: dict[int, Tensor] = {}
        self._encode([i for i, key in enumerate(self._keys) if key is not None], codec, folder)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Tensor:
        """Latents of picture i; raises IndexError, BadPicture."""
        if i not in self._kept:
            self.pictures[i]  # says what is wrong with it
            raise IndexError(f"picture {i} of {len(self)}")
        return self._kept[i].clone()

    def replacement(self, i: int, among: Sequence[int] | None = None) -> int:
        """See `Pictures.replacement`."""
        return self.pictures.replacement(i, among)

    def _key(self, i: int, digest: str) -> str | None:
        try:
            picture = self.pictures[i]
        except BadPicture:
            return None
        return hashlib.sha256(f"{digest}:{list(picture.shape)}:".encode() + picture.numpy().tobytes()).hexdigest()[:32]

    @torch.no_grad()
    def _encode(self, rows: Sequence[int], codec: AutoencoderKL, folder: Path) -> None:
        absent = []
        for i in rows:
            file = folder / f"{self._keys[i]}.safetensors"
            if file.is_file():
                self._kept[i] = safetensors.torch.load_file(file)["latents"]
            else:
                absent.append(i)
        folder.mkdir(parents=True, exist_ok=True)
        for i in absent:  # one by one: a picture of 1024 pixels a side takes gigabytes
            latents = codec.encode(values(self.pictures[i][None], torch.float32)).float().cpu()[0]
            self._kept[i] = latents
            with _files.writing(folder / f"{self._keys[i]}.safetensors") as aside:
                _safetensors.save({"latents": latents}, aside)


def _of_codec(codec: AutoencoderKL) -> str:
    digest = hashlib.sha256(f"{codec.scale}:{codec.shift}".encode())
    for name, tensor in sorted(codec.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
