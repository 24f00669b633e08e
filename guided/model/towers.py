"""The text encoders of a published pipeline within a model's folder: copied there, and found there again."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from guided.text import locate, tokenizer_folder

# Never a pickle, and no weights beside those that are read.
_SMALL = (".json", ".txt", ".model")
REST = "original.safetensors"
"""In the folder of a first tower: what else was in the single file that a pipeline came in."""


def portable(spec: Any) -> tuple[Any, dict[pathlib.Path, str]]:
    """A spec as a card holds it, with folders relative to the model's, and the files to copy: source -> target.

    Specs without towers name what is found elsewhere, and are left as they are.
    """
    if not isinstance(spec, Mapping) or "towers" not in spec:
        return spec, {}
    towers, copies = [], {}
    for i, tower in enumerate(spec["towers"]):
        found = locate(tower["from"])
        end = "" if i == 0 else f"_{i + 1}"
        tokenizer = tokenizer_folder(found.folder)
        # Encoder and tokenizer go side by side, as diffusers has them, where they lay so and where they lay in one.
        rest = [file for file in [found.folder / REST] if file.is_file()]
        for file in (*found.weights, *rest, *_small(found.folder)):
            copies[file] = f"text_encoder{end}/{file.name}"
        for file in _small(tokenizer):
            copies[file] = f"{'text_encoder' if tokenizer == found.folder else 'tokenizer'}{end}/{file.name}"
        towers.append({**tower, "from": f"text_encoder{end}", "weights": found.checksum()})
    return {**spec, "towers": towers}, copies


def placed(spec: Any, folder: pathlib.Path) -> Any:
    """A card's spec with the folders of its towers where they lie in the model's folder.

    Raises ValueError for a tower that would lie elsewhere.
    """
    if not isinstance(spec, Mapping) or "towers" not in spec:
        return spec
    towers = []
    for i, tower in enumerate(spec["towers"] if isinstance(spec["towers"], list) else []):
        expected = "text_encoder" if i == 0 else f"text_encoder_{i + 1}"
        if not isinstance(tower, Mapping) or tower.get("from") != expected:
            raise ValueError(f"text.towers[{i}]: expected the folder {expected!r}, got {tower!r:.80}")
        towers.append({**tower, "from": str(folder / expected)})
    return {**spec, "towers": towers}


def copy(copies: Mapping[pathlib.Path, str], folder: pathlib.Path) -> None:
    """Copy files into a folder that is being written."""
    for source, target in copies.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / target)


def _small(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _SMALL)
