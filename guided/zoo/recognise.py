"""Which network a checkpoint of the original layout holds: by its tensors, its config, and what was published."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from guided.denoiser import Parametrization
from guided.frames import DDPM
from guided.model import card as cards
from guided.nn import UNetConfig
from guided.zoo import names
from guided.zoo.deduce import Deduced, Shapes, block_of, deduce
from guided.zoo.families import FAMILIES, Family
from guided.zoo.original import Options, layout
from guided.zoo.settings import Settings

STEM = "input_blocks.0.0.weight"
# What stands beside the U-Net in the single files of latent diffusion, Stable Diffusion and SDXL.
_BESIDE = (
    *("first_stage_model.", "cond_stage_model.", "conditioner.", "model_ema.", "low_scale_model.", "embedder."),
    *("noise_augmentor.", "denoiser.", "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_"),
    *("model.decay", "logvar", "scale_factor", "lvlb_weights"),
)


@dataclass(frozen=True)
class Recognised:
    """A network of the original layout, and where its description comes from.

    family: the published network it is like, None where it is like none. prefix: of its names in the file. size: (H, W)
    of what it works on, where that is known; latent: whether that is latents. assumed: what neither the tensors nor a
    config say, taken from the family; a config given beside the weights overrides it.
    """

    family: str | None
    config: UNetConfig
    options: Options
    prefix: str
    classifier: bool
    size: tuple[int, int] | None
    latent: bool
    schedule: DDPM | None
    predicts: Parametrization | None
    assumed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learned_variance(self) -> bool:
        """Whether the second half of its output is the variance."""
        return not self.classifier and self.config.out_channels == 2 * self.config.in_channels

    def assumptions(self) -> dict[str, Any]:
        """`assumed` as JSON."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in self.assumed.items()}
        return {name: v if isinstance(v, int | str | float | list) else repr(v) for name, v in plain.items()}

    def blank(self) -> nn.Module:
        """The network, without memory."""
        return blank(self.config, self.size if self.classifier else None)

    def expected(self) -> Shapes:
        """The names, without the prefix, and shapes of all its tensors in the file."""
        return expected(self.config, self.options, self.size if self.classifier else None)

    def table(self) -> list[names.Pair]:
        """Its tensors under both names."""
        return list(layout(self.config, self.options, self.classifier))


def is_original(shapes: Shapes) -> bool:
    """Whether any of the names is of this layout."""
    return any(name.endswith(STEM) or "input_blocks." in name for name in shapes)


def recognise(shapes: Shapes, config: Mapping[str, Any] | None = None) -> Recognised:
    """The network that tensors of these names and shapes are; raises ValueError with what is missing or unexpected.

    config: the original's own, see `guided.zoo.settings`; it must not contradict the tensors.
    """
    prefix = _prefix(shapes)
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    foreign = [name for name in shapes if not name.startswith((prefix, *_BESIDE))]
    settings = Settings.of(config)
    try:
        if foreign:
            raise ValueError(f"not a part of such a checkpoint: {_some(foreign)}")
        found = deduce(own)
        settings.check(found.config, found.linear)
        known = _family(found)
        made = _recognised(found, settings, known, prefix)
        wrong = differences(made.expected(), own)
    except ValueError as error:
        raise ValueError(f"{error}; {nearest(own)}") from None
    if wrong:
        raise ValueError(f"does not make a whole network: {wrong}; {nearest(own)}")
    return made


def _prefix(shapes: Shapes) -> str:
    found = sorted({name.removesuffix(STEM) for name in shapes if name.endswith(STEM)}, key=len)
    if not found:  # its first tensor is missing, which is said when all are compared
        found = sorted({name.partition("input_blocks.")[0] for name in shapes if "input_blocks." in name}, key=len)
    usual = [prefix for prefix in found if prefix == "model.diffusion_model."]
    if len(found) > 1 and not usual:
        raise ValueError(f"several networks, under the names {', '.join(map(repr, found))}: expected one")
    return (usual or found or [""])[0]


def _plain(config: UNetConfig) -> UNetConfig:
    """A config without what its tensors' shapes cannot tell."""
    return replace(config, heads=None, head_width=1, dropout=0.0, text_only=(), middle_text_only=False)


def _family(found: Deduced) -> Family | None:
    for family in FAMILIES:
        kind = (family.classifier, family.options.linear, found.size or family.size)
        if kind == (found.classifier, found.linear, family.size) and _plain(family.config) == _plain(found.config):
            return family
    return None


def _recognised(found: Deduced, settings: Settings, family: Family | None, prefix: str) -> Recognised:
    said: dict[str, Any] = {**settings.heads(), **settings.text_only(len(found.config.widths))}
    for key, name in (("groups", "groups"), ("dropout", "dropout")):
        if key in settings.values:
            said[name] = settings.values[key]
    assumed: dict[str, Any] = {}
    if family is not None:
        values = {name: getattr(family.config, name) for name in ("heads", "head_width", "dropout")}
        values = {name: value for name, value in values.items() if name not in said}
        if found.ambiguous and "text_only" not in said:
            values["text_only"] = family.config.text_only
        assumed = {k: v for k, v in values.items() if v is not None and not (k == "head_width" and values.get("heads"))}
        assumed = {k: v for k, v in assumed.items() if (k, v) != ("dropout", 0.0)}
        said |= values
    elif not {"heads", "head_width"} & set(said):
        raise ValueError(
            "these are the names of guided-diffusion, but no published network has these widths and blocks, and the "
            "number of heads stands in no tensor: give config= with num_head_channels or num_heads (and "
            "use_new_attention_order)"
        )
    elif found.ambiguous and "text_only" not in said:
        assumed["text_only"] = found.config.text_only
    config = replace(found.config, **said)
    order = settings.flag("use_new_attention_order")
    heads_first = not order if order is not None else family.options.heads_first if family else True
    options = Options(config.attention == "self" and heads_first, found.linear, bool(settings.flag("null_class")))
    if config.attention == "self" and order is None:
        assumed["use_new_attention_order"] = not heads_first
    if config.classes and options.null_row:
        config = replace(config, classes=config.classes - 1)
    schedule, predicts = settings.schedule(), settings.predicts()
    if family is not None:
        assumed |= {} if schedule else {"schedule": family.schedule}
        assumed |= {} if predicts else {"predicts": family.predicts}
        schedule, predicts = schedule or family.schedule, predicts or family.predicts
    side = settings.number("image_size")
    size = found.size or ((side, side) if side else family.size if family else None)
    return Recognised(
        *(family.name if family else None, config, options, prefix, found.classifier, size),
        *(family.latent if family else config.attention == "transformer", schedule, predicts, assumed),
    )


def blank(config: UNetConfig, size: tuple[int, int] | None = None) -> nn.Module:
    """A network without memory; with a size, a classifier."""
    kind = "UNet" if size is None else "EncoderUNet"
    return cards.network({"network": {"class": kind, "config": config.to_dict()}, "size": list(size or ())})


def expected(config: UNetConfig, options: Options, size: tuple[int, int] | None = None) -> Shapes:
    """The names and shapes of a whole network in this layout; with a size, of a classifier."""
    state = blank(config, size).state_dict()
    table = layout(config, options, size is not None)
    return {name: tuple(value.shape) for name, value in names.write(table, state).items()}


def differences(wanted: Shapes, found: Shapes, most: int = 6) -> str | None:
    """How the tensors of a checkpoint differ from those of a network, block by block; None where they do not."""
    blocks: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in wanted.keys() | found.keys():
        block = block_of(name)
        rest = name.removeprefix(f"{block}.")
        if name not in found:
            blocks[block]["missing"].append(rest)
        elif name not in wanted:
            blocks[block]["not expected"].append(rest)
        elif wanted[name] != found[name]:
            shape = f"{rest} is {list(found[name])}, expected {list(wanted[name])}"
            blocks[block]["of another shape"].append(shape)
    told = [
        f"{block}: " + ", ".join(f"{len(parts)} {kind} ({_some(sorted(parts), 3)})" for kind, parts in kinds.items())
        for block, kinds in sorted(blocks.items())
    ]
    more = f"; and {len(told) - most} blocks more" if len(told) > most else ""
    return "; ".join(told[:most]) + more if told else None


def nearest(found: Shapes) -> str:
    """Which published network a checkpoint is most like, in words: by names and shapes, else by names alone."""
    whole = {family.name: _share(set(found.items()), _published(family)) for family in FAMILIES}
    named = {family.name: _share(set(found), {name for name, _ in _published(family)}) for family in FAMILIES}
    for shares, what in ((whole, "its tensors"), (named, "its names, not its shapes")):
        name = max(shares, key=lambda name: shares[name])
        if shares[name] >= 0.1:
            return f"most like the published {name} ({100 * shares[name]:.1f} % of {what})"
    return "it is like none of the published ones"


def _share(found: Set[Any], wanted: Set[Any]) -> float:
    return len(found & wanted) / max(len(found | wanted), 1)


@functools.lru_cache(maxsize=len(FAMILIES))
def _published(family: Family) -> frozenset[tuple[str, tuple[int, ...]]]:
    size = family.size if family.classifier else None
    return frozenset(expected(family.config, family.options, size).items())


def _some(listed: list[str], most: int = 5) -> str:
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
