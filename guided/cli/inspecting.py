"""`guided inspect`: say what a file or folder is, and of a picture the command that makes it again."""

from __future__ import annotations

import json
import math
import pathlib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from guided.cli import common
from guided.cli.common import Json

EXAMPLE = "For example: [bold]guided inspect out/000000.png[/bold]"


def inspect(
    file: Annotated[pathlib.Path, typer.Argument(help="A picture, a folder of a model or a run, or a weights file.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all weights: sums, NaN, parity with diffusers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Describe a picture, a model folder, that of a run, a diffusers pipeline or an adapter, or a safetensors file.

    For a picture that guided drew this prints the command that makes it again.
    """
    facts = describe(file, verify)
    if as_json:
        common.show_json(facts)
        return
    width = max(len(common.printable(name)) for name in facts)
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"{common.printable(name):<{width}}  {common.printable(text)}")


def describe(path: pathlib.Path, verify: bool = False) -> dict[str, Any]:
    """What is known of a file or folder; raises FileNotFoundError, or ValueError where it is damaged or unknown."""
    if path.is_dir():
        return _folder(path, verify)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    from guided import _safetensors

    with path.open("rb") as stream:
        start = stream.read(8)
    if path.suffix.lower() == ".safetensors":
        return _weights(path, verify)
    if path.name.endswith(".safetensors.index.json"):
        return _sharded(path)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return _picture(path)
    _safetensors.refuse_pickle(path)
    return _other_picture(path)


def _weights(path: pathlib.Path, verify: bool) -> dict[str, Any]:
    from guided import _files, _safetensors

    header = _safetensors.header(path)
    facts_of_network = _network(path, {name: entry.shape for name, entry in header.tensors.items()})
    kinds = Counter(entry.dtype for entry in header.tensors.values())
    shown = list(header.tensors.items())[:8]
    facts: dict[str, Any] = {
        "file": str(path),
        "kind": "safetensors, sound",
        **facts_of_network,
        "tensors": len(header.tensors),
        "parameters": header.parameters,
        "bytes": header.data,
        "dtypes": dict(kinds),
        "first": {name: f"{entry.dtype} {list(entry.shape)}" for name, entry in shown},
    }
    from guided.tune.adapters import describing

    facts |= describing.of_keys(header)
    if header.metadata:
        facts["metadata"] = dict(header.metadata)
    if verify:
        import safetensors.torch

        bad = _safetensors.not_finite(safetensors.torch.load_file(path))
        facts["sha256"] = _files.sha256(path)
        facts["not finite"] = bad or "none"
    return facts


def _sharded(path: pathlib.Path) -> dict[str, Any]:
    from guided.zoo import weights

    listed = weights.entries(path)
    return {
        "file": str(path),
        "kind": f"safetensors in {len(weights.parts(path))} files, sound",
        **_network(path, {name: entry.shape for name, entry in listed.items()}),
        "tensors": len(listed),
        "parameters": sum(math.prod(entry.shape) for entry in listed.values()),
        "dtypes": dict(Counter(entry.dtype for entry in listed.values())),
    }


def _network(path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What network tensors of these names make, in the layouts that are known; empty where they make none."""
    from guided.zoo import describing

    return describing.described(path, shapes)


def _picture(path: pathlib.Path) -> dict[str, Any]:
    from PIL import Image

    from guided.cli.again import command, remark
    from guided.model.result import record_of

    record = record_of(path)
    with Image.open(path, formats=["PNG"]) as picture:
        facts: dict[str, Any] = {"file": str(path), "kind": f"PNG, {picture.width} x {picture.height}, {picture.mode}"}
    if record is None:
        return {**facts, "made by": "not guided, or its record was removed"}
    made = command(record)
    # What we say of the file is ours: a record that claims to be it is no record of ours.
    told = {name: value for name, value in record.items() if name not in (*facts, "path", "command", "remark")}
    facts |= told
    if isinstance(record.get("path"), list):
        facts["path"] = record["path"]
    if made is not None:
        facts["command"] = made
    note = remark(record)
    return {**facts, "remark": note} if note else facts


def _other_picture(path: pathlib.Path) -> dict[str, Any]:
    from guided.data import decode

    try:
        decoded = decode(path)
    except ValueError as error:
        raise ValueError(f"{path}: neither a picture, a model, a run nor a safetensors file ({error})") from None
    height, width, channels = decoded.array.shape
    facts = {"file": str(path), "kind": f"picture, {width} x {height}, {channels} channels, {decoded.array.dtype}"}
    return {**facts, "notes": list(decoded.notes)} if decoded.notes else facts


def _folder(path: pathlib.Path, verify: bool) -> dict[str, Any]:
    if (path / "card.json").is_file():
        return _model(path, verify)
    if (path / "run.json").is_file():
        return _run(path, verify)
    if (path / "model_index.json").is_file():
        from guided.zoo.certificate import describe as of_pipeline

        return of_pipeline(path, verify)
    from guided.tune.adapters import describing, is_adapter

    if is_adapter(path):
        return describing.of_folder(path)
    raise ValueError(
        f"{path}: neither a model folder (no card.json), a training run (no run.json), a pipeline of diffusers nor an "
        "adapter"
    )


def _model(path: pathlib.Path, verify: bool) -> dict[str, Any]:
    from guided import _files, _safetensors
    from guided.model import card as cards

    card = cards.read(path)
    files = {}
    for name, digest in card["sha256"].items():
        header = _safetensors.header(path / name)
        files[name] = f"{header.parameters:,} parameters, {header.data / 1e6:.1f} MB"
        if verify and _files.sha256(path / name) != digest:
            raise ValueError(f"{path / name}: not as the card says: damaged, or replaced")
    text = card.get("text")
    facts = {
        "folder": str(path),
        "kind": f"model {card.get('name', '')!r}",
        "draws": _drawn(card),
        "size": f"{card['size'][1]} x {card['size'][0]}",
        "weights": files,
        "network": card["network"].get("class"),
        "parametrization": card["parametrization"],
        "range": card["range"],
        "text": text if text is None or isinstance(text, str) else text.get("from") or _towers(text),
        "defaults": card.get("defaults"),
        "distilled": card.get("distilled"),
        "estimates": card.get("estimates"),
        "data": card.get("data"),
        "metrics": card.get("metrics"),
        "provenance": card.get("provenance"),
        "checksums": "right" if verify else None,
    }
    return {name: value for name, value in facts.items() if value not in (None, {}, [])}


def _towers(text: Mapping[str, Any]) -> list[str]:
    return [str(tower.get("from")) for tower in text.get("towers", [])]


def _drawn(card: Mapping[str, Any]) -> str:
    if card.get("text") is not None:
        return "prompts"
    classes = card.get("classes") or []
    listed = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    told = f"{len(classes)} classes: {listed}" if classes else "pictures without a condition"
    return f"nothing; it tells {told}" if card["network"].get("class") == "EncoderUNet" else told


def _run(path: pathlib.Path, verify: bool) -> dict[str, Any]:
    from guided.train import checkpoint, keeping

    try:
        record = json.loads((path / "run.json").read_bytes())
        student = record.get("distillation")
        recipe = record["recipe"] if student is None else student
        images = int(recipe["train"]["images"] if student is None else student["images"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path / 'run.json'}: not the record of a run ({error})") from None
    there = checkpoint.listed(path / "checkpoints")
    done = checkpoint.number(there[-1]) if there else 0
    facts: dict[str, Any] = {
        "folder": str(path),
        "kind": f"training run {recipe.get('name', '')!r}"
        if student is None
        else f"distillation of {student['guide']}",
        "images": f"{done} of {images}",
        "finished": keeping.finished(path, images if student is None else max(done or 0, 1)) is not None,
        "checkpoints": [checkpoint.number(folder) for folder in there],
    }
    if verify:
        facts["damaged"] = {folder.name: fault for folder in there if (fault := checkpoint.fault(folder))} or "none"
    facts["recipe"] = recipe
    if (path / "model" / "card.json").is_file():
        facts["model"] = _model(path / "model", verify)
    return facts
