"""`guided convert`: the same network in another format."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from guided.cli import common
from guided.cli.common import Json

if TYPE_CHECKING:
    from guided.cascade import Cascade
    from guided.model import Model, NoisyClassifier

EXAMPLE = "For example: [bold]guided convert 64x64_diffusion.pt runs/adm-64 --to guided --pickle[/bold]"


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model: a folder, a run, or a published checkpoint.")],
    target: Annotated[pathlib.Path, typer.Argument(metavar="DST", help="What is written: a folder, or a file.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="guided or diffusers (folders), original (a file); of an adapter diffusers-lora, peft or adapter "
            "(folders), kohya (a file).",
        ),
    ],
    pickle: Annotated[
        bool, typer.Option("--pickle", help="Read SRC even if it is a pickle (.pt, .ckpt), in a process of its own.")
    ] = False,
    config: Annotated[
        pathlib.Path | None,
        typer.Option("--config", help="SRC's own config, YAML or JSON; by default the one of its name beside it."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Of an adapter: the model that it is for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model or an adapter in another format; what goes to guided and back is the same bit for bit.

    guided: a model folder; of an adapter's folder its base, with the adapter merged into the weights. diffusers: a
    pipeline's folder, of what came from one or from a whole single file; of a model trained here, if diffusers has its
    network, that and its scheduler. original: one safetensors file with the names of guided-diffusion
    (input_blocks.N.M); of a latent pipeline the whole file, as it came but for the copy of moving averages (model_ema).
    adapter: our own folder of one, which names its base.
    """
    if to not in (*FORMATS, *ADAPTERS):
        raise ValueError(f"--to: expected one of {', '.join((*FORMATS, *ADAPTERS))}, got {to!r}")
    if base is not None and to not in ADAPTERS:
        raise ValueError(f"--base: goes with --to {', '.join(ADAPTERS)}, for an adapter")
    if config is not None and pathlib.Path(source).is_dir():
        raise ValueError("--config: belongs to a checkpoint file; a model folder has a card")
    if to in ADAPTERS:
        from guided.tune import adapters

        written = [str(path) for path in adapters.convert(source, target, to, base)]
    else:
        written = [str(path) for path in FORMATS[to](source, target, pickle, config)]
    if as_json:
        common.show_json({"written": written})
        return
    for path in written:
        print(common.printable(path))


def _to_guided(source: str, target: pathlib.Path, pickle: bool, config: pathlib.Path | None) -> list[pathlib.Path]:
    from guided import zoo
    from guided.tune import adapters
    from guided.zoo import weights

    if target.exists():
        raise FileExistsError(f"{target}: is there already; choose another name")
    place = pathlib.Path(source)
    if adapters.is_adapter(place) or adapters.is_adapter(place / "model"):
        merged = zoo.load_model(source)
        adapters.merge(merged)
        return [merged.save(target)]
    if not (place.is_file() or (place / "model_index.json").is_file()):
        raise ValueError(
            f"{source}: --to guided: expected a published checkpoint's file, a pipeline of diffusers, or the folder of "
            "an adapter"
        )
    model = _one(zoo.load(source, pickle=pickle, config=None if config is None else weights.config_of(config)))
    for name, value in (model.card.get("provenance") or {}).get("assumed", {}).items():
        common.say(f"assumed: {name} = {value} (no tensor says it; --config overrides it)")
    return [model.save(target)]


def _to_original(source: str, target: pathlib.Path, pickle: bool, config: pathlib.Path | None) -> list[pathlib.Path]:
    from guided import zoo
    from guided.zoo import export, weights

    said = None if config is None else weights.config_of(config)
    if pathlib.Path(source).is_file():
        return export.rewrite(pathlib.Path(source), target, pickle=pickle, config=said)
    return export.export(_one(zoo.load(source)), target)


def _to_diffusers(source: str, target: pathlib.Path, pickle: bool, config: pathlib.Path | None) -> list[pathlib.Path]:
    from guided import zoo
    from guided.model import Model
    from guided.zoo import weights

    model = _one(zoo.load(source, pickle=pickle, config=None if config is None else weights.config_of(config)))
    if not isinstance(model, Model):
        raise ValueError(f"{source}: a classifier of noisy pictures, for which diffusers has no class")
    written = zoo.to_diffusers(model, target)
    if "text" in model.encoders and not (written / "model_index.json").is_file():
        common.say(
            "its text encoder is none of a pipeline's parts: give its states as encoder_hidden_states, with their mask "
            "as encoder_attention_mask; nothing said is one state of zeros"
        )
    return [written]


ADAPTERS = ("diffusers-lora", "kohya", "peft", "adapter")
FORMATS: Mapping[str, Callable[[str, pathlib.Path, bool, pathlib.Path | None], list[pathlib.Path]]] = {
    "guided": _to_guided,
    "original": _to_original,
    "diffusers": _to_diffusers,
}


def _one(found: Model | NoisyClassifier | Cascade) -> Model | NoisyClassifier:
    """A model alone; ValueError for a cascade."""
    from guided.cascade import Cascade

    if isinstance(found, Cascade):
        raise ValueError(f"{found.name}: a cascade; convert its stages one by one: {', '.join(found.folders)}")
    return found
