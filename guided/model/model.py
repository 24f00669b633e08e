"""`Model`: a denoiser with everything it takes to draw with it, opened from and saved to a folder."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guided._files import checksum
from guided.codec import Codec
from guided.degrade import Translation
from guided.denoiser import Denoiser
from guided.guide import Guide, Term
from guided.model import adapted, edge, store
from guided.model import card as cards
from guided.model.autoencoder import AutoencoderKL
from guided.model.conditioning import LazyEncoder
from guided.model.distilled import Distilled
from guided.model.drawing import Progress, run
from guided.model.request import Request, Size, plan
from guided.model.result import Result
from guided.model.verbs import Verbs
from guided.nn import UNet, UNetConfig
from guided.solvers import Solver
from guided.text import TextEncoder


class Model(Verbs):
    """A denoiser, its codec, its encoders of conditions by name ("text"), and its card.

    card: JSON; `size` [H, W] is needed, `name`, `classes`, `defaults` (steps, w, solver), `mean` (of the data, one
    number a channel), recipe, data, metrics and provenance as they are known. early: the weights of an early snapshot.
    files: the weights files that the network came from, if not a folder of ours.
    Raises ValueError where the parts do not fit together.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Codec,
        encoders: Mapping[str, TextEncoder | LazyEncoder],
        card: Mapping[str, Any],
        *,
        early: Mapping[str, Tensor] | None = None,
        source: str | None = None,
        files: Sequence[pathlib.Path] | None = None,
    ) -> None:
        self.denoiser = denoiser.eval()
        self.codec = codec
        self.encoders = dict(encoders)
        self.card: dict[str, Any] = {**card, "range": [float(denoiser.lo), float(denoiser.hi)]}
        self.source = source
        self._early = early
        self._hash: str | None = None
        self._files = files
        # What is on it beside its weights (`guided.tune.adapters`), one record each; and the model that it was put on.
        self.adapters: tuple[Mapping[str, Any], ...] = ()
        self.base: Mapping[str, Any] | None = None
        store.fitting(self.card, self.encoders, denoiser.network)
        self._set_edge()

    def _set_edge(self) -> None:
        said = self.card.get("edge")
        if said is not None:
            config: UNetConfig = self.denoiser.network.config  # type: ignore[assignment]
            self.denoiser.edge = edge.of(said, config, self.codec, self.encoders.get("text"))

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Model:
        """Open a model folder, or the folder of a finished training run.

        Weights become float32 on the CPU; the text encoder is opened with the first prompt. Raises FileNotFoundError,
        or ValueError where a file is damaged, of another kind, or does not fit its card. Warns (`NotFinite`) where
        weights hold NaN or infinity.
        """
        opened = store.read(pathlib.Path(folder), UNet, cards.denoiser)
        spec = opened.card.get("text")
        encoders = {} if spec is None else {"text": LazyEncoder(spec)}
        model = cls(opened.framed, opened.codec, encoders, opened.card, early=opened.early, source=os.fspath(folder))
        model._hash = opened.hash
        return model

    def save(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> pathlib.Path:
        """Write the model folder, whole or not at all; what stood there before is replaced then.

        dtype: what the weights are stored in, float32 or bfloat16. Raises OSError where the disk is full, ValueError
        where the folder holds something other than a model, or an adapter is on the model.
        """
        self.plain("save")
        place = pathlib.Path(folder)
        spec = self.encoders["text"].spec if "text" in self.encoders else None
        store.write(place, self.denoiser, self.codec, {**self.card, "text": spec}, self._early, dtype)
        return place

    @property
    def name(self) -> str:
        """The card's name of the model, for messages."""
        return str(self.card.get("name") or self.source or "the model")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures it was trained on."""
        height, width = self.card["size"]
        return height, width

    @property
    def channels(self) -> int:
        """Channels of the space the denoiser works in: of its pictures, where the codec is `Pixels`."""
        return int(self.denoiser.network.config.in_channels)  # type: ignore[union-attr, arg-type]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes; empty where it knows none."""
        return tuple(self.card.get("classes") or ())

    @property
    def translation(self) -> Translation | None:
        """The tasks of a network that changes pictures, None for one that draws from nothing."""
        said = self.card.get("translate")
        return None if said is None else Translation.of(said)

    @property
    def distilled(self) -> Distilled | None:
        """What it learnt of a guided teacher, None for a model that was trained on pictures."""
        said = self.card.get("distilled")
        return None if said is None else Distilled.of(said)

    @property
    def conditional(self) -> bool:
        """Whether it draws prompts or classes."""
        return "text" in self.encoders or bool(self.classes)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.denoiser.parameters()).device

    @property
    def hash(self) -> str:
        """SHA-256 of the weights: of the file it was opened from, or of `model.safetensors` if saved in float32."""
        if self._hash is None:
            self._hash = store.hash_of(self.denoiser.network) if self._files is None else checksum(self._files)
        return self._hash

    def forget_hash(self) -> None:
        """Its weights are no longer those of the files it came from."""
        self._hash, self._files = None, None

    def worn(self) -> list[dict[str, Any]]:
        """The records of the adapters on it; one in training, which no file holds yet, has a name alone."""
        text: Any = self.encoders.get("text")
        read = isinstance(getattr(text, "spec", None), Mapping) and "adapters" in text.spec
        on = read or getattr(text, "changed", False) or adapted.is_adapted(self.denoiser.network)
        return [dict(entry) for entry in self.adapters] or ([{"name": "in training"}] if on else [])

    def plain(self, verb: str) -> None:
        """Raise ValueError where an adapter is on the model, which `verb` would lose."""
        on = self.worn()
        if on:
            names = ", ".join(repr(entry["name"]) for entry in on)
            raise ValueError(
                f"{verb}: an adapter is on {self.name} ({names}): merge it first (guided convert ADAPTER DST --to "
                "guided, or tune.adapters.merge), or save the adapter itself with tune.adapters.save"
            )

    def to(self, device: torch.device | str) -> Model:
        """Move the weights to a device, in place; an encoder opened from a folder is opened there."""
        self.denoiser.to(device)
        self.encoders = {
            name: encoder.to(device) if isinstance(encoder, LazyEncoder) else encoder
            for name, encoder in self.encoders.items()
        }
        if isinstance(self.codec, AutoencoderKL):
            self.codec.to(device)
        self._set_edge()
        return self

    def compute_in(self, dtype: torch.dtype | None) -> Model:
        """Compute in a dtype by autocast, network and autoencoder, None: in their own; the state stays as it is."""
        self.denoiser.autocast = dtype
        if isinstance(self.codec, AutoencoderKL):
            self.codec.autocast = dtype
        return self

    def early(self) -> Denoiser | None:
        """The early snapshot as a denoiser of its own (the weak one of autoguidance), None where there is none."""
        if self._early is None:
            return None
        network = adapted.stripped(store.blank(self.denoiser.network))
        network.load_state_dict(dict(self._early), assign=True)
        weak = self.denoiser.with_network(network)
        return weak.eval().requires_grad_(False).to(self.device)

    def generate(
        self,
        prompts: str | Sequence[str] | None = None,
        n: int = 1,
        *,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        guide: Guide | Term | str | None = None,
        w: float | None = None,
        negative: str | int | None = None,
        size: Size | None = None,
        solver: Solver | str | None = None,
        path: Tensor | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> Result:
        """Draw n pictures of each prompt or class; image i has seed `seed + i` (prompts outer, n inner).

        labels: names or numbers of classes. steps, w, solver: the card's by default; w is the weight of classifier-free
        guidance, negative what it steers away from; guide any guide in place of both, or its text, as in
        "cfg(5) + perturbed('identity', 2) >> rescale(0.7)". size: (H, W) or one number. path: noise levels of your own,
        in place of steps. batch: how many are drawn at once; by default 1 on a CPU, where a picture then has the same
        bits in any company, else 16.
        Raises ValueError for anything the model cannot draw.
        """
        request = Request(prompts, n, labels, steps, guide, w, negative, size, solver, path, seed, batch)
        result = None
        for progress in self.drawing(request):
            result = progress.result
        assert result is not None
        return result

    def drawing(self, request: Request) -> Iterator[Progress]:
        """`generate` as a generator, for those who watch: yields after every move; the last value holds the result.

        Everything is checked here, before the first value is asked for.
        """
        return run(self, plan(self, request))
