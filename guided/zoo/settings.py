"""The original's own configs: what they say that no tensor does, checked against what the tensors say.

Read are the flags of guided-diffusion (`num_channels`, ...), the parameters of a `UNetModel` and the whole YAML of a
latent diffusion (`model.params.unet_config.params`) or an SDXL (`network_config`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guided.denoiser import X0, Eps, Parametrization, V
from guided.frames import DDPM
from guided.nn import UNetConfig

_CLASSIFIER = {
    "classifier_width": "model_channels",
    "classifier_depth": "num_res_blocks",
    "classifier_attention_resolutions": "attention_resolutions",
    "classifier_use_scale_shift_norm": "use_scale_shift_norm",
    "classifier_resblock_updown": "resblock_updown",
}
_SAME = {"num_channels": "model_channels", "large_size": "image_size", "diffusion_steps": "timesteps", **_CLASSIFIER}
_HIDDEN = (
    *("num_heads", "num_head_channels", "num_heads_upsample", "use_new_attention_order", "dropout"),
    *("image_size", "disable_self_attentions", "disable_middle_self_attn", "groups", "null_class"),
)
_NOISE = (*("noise_schedule", "linear_start", "linear_end", "timesteps", "parameterization", "predict_xstart"),)
_IDLE = (
    *("use_checkpoint", "use_fp16", "dims", "conv_resample", "legacy", "use_spatial_transformer"),
    *("small_size", "spatial_transformer_attn_type", "use_bf16", "timestep_respacing", "use_kl"),
    *("rescale_timesteps", "n_embed", "rescale_learned_sigmas", "classifier_use_fp16", "classifier_pool"),
    *("num_attention_blocks", "use_ddim"),
)
_CHECKED = (
    *("model_channels", "in_channels", "out_channels", "num_res_blocks", "channel_mult"),
    *("attention_resolutions", "context_dim", "adm_in_channels", "num_classes", "class_cond"),
    *("learn_sigma", "use_scale_shift_norm", "resblock_updown", "transformer_depth"),
    "use_linear_in_transformer",
)


@dataclass(frozen=True)
class Settings:
    """What a config says: values by the `UNetModel`'s names."""

    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> Settings:
        """Read a config; raises ValueError for keys that mean nothing to these networks."""
        values, known = {}, {*_HIDDEN, *_NOISE, *_IDLE, *_CHECKED, *_SAME}
        for key, value in _flat(config or {}).items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"config: {key}: not a setting of guided-diffusion's or latent diffusion's U-Net{hint}"
                )
            if value is not None:
                values[_SAME.get(key, key)] = value
        return cls(values)

    def check(self, config: UNetConfig, linear: bool) -> None:
        """Raise ValueError where the config says another network than the tensors."""
        said = self.values
        time = config.time_width or config.widths[0]
        facts: dict[str, Any] = {
            "model_channels": time,
            "in_channels": config.in_channels + config.image_channels,
            "out_channels": config.out_channels,
            "num_res_blocks": list(config.blocks),
            "channel_mult": [width / time for width in config.widths],
            "context_dim": config.token_width,
            "adm_in_channels": config.vector_width,
            "class_cond": bool(config.classes),
            "learn_sigma": config.out_channels == 2 * config.in_channels,
            "use_scale_shift_norm": config.scale_shift,
            "resblock_updown": config.resample == "resblock",
            "use_linear_in_transformer": linear,
        }
        for key, fact in facts.items():
            if key in said and not _same(said[key], fact):
                raise ValueError(f"config: {key}: says {said[key]!r}, the tensors {fact!r}: of another network?")
        self._check_attention(config)
        classes = said.get("num_classes")
        if classes is not None and (classes != "sequential" if config.vector_width else classes != config.classes):
            raise ValueError(
                f"config: num_classes: says {classes!r}, the tensors {config.classes}: of another network?"
            )

    def _check_attention(self, config: UNetConfig) -> None:
        depth = self.values.get("transformer_depth")
        if depth is not None and config.attention == "transformer":
            said_depth = [depth] * len(config.depth) if isinstance(depth, int) else _listed(depth)
            if any(there not in (0, one) for there, one in zip(config.depth, said_depth, strict=False)):
                raise ValueError(
                    f"config: transformer_depth: says {depth!r}, the tensors {list(config.depth)}: of another network?"
                )
        said = self.values.get("attention_resolutions")
        if said is None:
            return
        if isinstance(said, str):  # guided-diffusion's flags name sizes of the picture, its code steps of the network
            side = self.number("image_size")
            if side is None:
                return
            said = [side // int(part) if 1 <= part <= side else 0 for part in _listed(said)]
        said = _listed(said)
        found = [2**level for level, depth in enumerate(config.depth) if depth]
        if sorted(int(step) for step in said if step < 2 ** len(config.depth)) != found:
            raise ValueError(
                f"config: attention_resolutions: says steps {sorted(said)}, the tensors {found}: of another network?"
            )

    def number(self, key: str, low: int = 1) -> int | None:
        """A whole number, None where the config does not say it (or says -1, guided-diffusion's "not given")."""
        value = self.values.get(key)
        if value is None or value == -1:
            return None
        if type(value) is not int or value < low:
            raise ValueError(f"config: {key}: expected a whole number >= {low}, got {value!r:.80}")
        return value

    def flag(self, key: str) -> bool | None:
        """True, false, or None where the config does not say it."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"config: {key}: expected true or false, got {value!r:.80}")
        return value

    def heads(self) -> dict[str, int | None]:
        """`heads` and `head_width` of a config, as far as they are said."""
        width, heads, above = (self.number(key) for key in ("num_head_channels", "num_heads", "num_heads_upsample"))
        if width is not None:
            return {"heads": None, "head_width": width}
        if heads is not None and above not in (None, heads):
            raise ValueError(f"config: num_heads_upsample: {above} beside num_heads {heads}: guided has one number")
        return {} if heads is None else {"heads": heads, "head_width": UNetConfig.head_width}

    def schedule(self) -> DDPM | None:
        """The noise it was trained on; latent diffusion's "linear" is linear in the root."""
        if self.flag("rescale_timesteps") and self.values.get("timesteps", 1000) != 1000:
            raise ValueError("config: rescale_timesteps: guided shows a network the index of its 1000 levels alone")
        name, said, steps = self.values.get("noise_schedule"), self.values, self.number("timesteps", 2) or 1000
        try:
            if name is not None:
                return DDPM(str(name), 1000 / steps * 1e-4, 1000 / steps * 0.02, steps)
            if "linear_start" in said and "linear_end" in said:
                return DDPM("scaled", said["linear_start"], said["linear_end"], steps)
        except (TypeError, ValueError) as error:
            raise ValueError(f"config: {error}") from None
        return None

    def predicts(self) -> Parametrization | None:
        """What the network's output means."""
        if self.flag("predict_xstart"):
            return X0()
        kind = self.values.get("parameterization")
        kinds: dict[str, Parametrization] = {"eps": Eps(), "v": V(), "x0": X0()}
        if kind is not None and (not isinstance(kind, str) or kind not in kinds):
            raise ValueError(f"config: parameterization: expected one of {', '.join(kinds)}, got {kind!r:.80}")
        return None if kind is None else kinds[kind]

    def text_only(self, levels: int) -> dict[str, Any]:
        """`text_only` and `middle_text_only` of a config, as far as they are said."""
        found: dict[str, Any] = {}
        said, middle = self.values.get("disable_self_attentions"), self.flag("disable_middle_self_attn")
        if said is not None:
            if not isinstance(said, Sequence) or len(said) != levels:
                raise ValueError(f"config: disable_self_attentions: expected {levels} values, got {said!r:.80}")
            found["text_only"] = tuple(bool(value) for value in said)
        return found if middle is None else {**found, "middle_text_only": middle}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a whole YAML in one mapping; a flat one is returned as it is."""
    if not isinstance(config, Mapping):
        raise ValueError(f"config: expected a mapping, got {type(config).__name__}")
    values = dict(config)
    if isinstance(values.get("model"), Mapping):
        values = dict(values["model"])
    outer = values["params"] if isinstance(values.get("params"), Mapping) else values
    for name in ("unet_config", "network_config"):
        inner = outer.get(name)
        if isinstance(inner, Mapping) and isinstance(inner.get("params"), Mapping):
            beside = {key: outer[key] for key in _NOISE if key in outer}
            if "VScaling" in str(outer.get("denoiser_config", "")):
                beside["parameterization"] = "v"
            # There image_size is of no use: 32 for latents of any size.
            return {**{key: value for key, value in inner["params"].items() if key != "image_size"}, **beside}
    return dict(outer)


def _same(said: Any, fact: Any) -> bool:
    if not isinstance(fact, list):
        return bool(list(said) == [fact] * len(said)) if isinstance(said, list | tuple) else bool(said == fact)
    if said == "":  # guided-diffusion's flag: by the picture's size
        return True
    listed = _listed(said)
    if not isinstance(said, str | list | tuple):  # one for all levels
        listed = listed * len(fact)
    return [float(part) for part in listed] == fact


def _listed(said: Any) -> list[Any]:
    if isinstance(said, str):
        try:
            return _listed([float(part) for part in said.split(",")])
        except ValueError:
            raise ValueError(f"config: expected numbers with commas between them, got {said!r:.80}") from None
    listed = list(said) if isinstance(said, list | tuple) else [said]
    if not all(isinstance(part, int | float) and abs(part) < 1e9 for part in listed):
        raise ValueError(f"config: expected numbers, got {said!r:.80}")
    return listed


def means_something(config: Mapping[str, Any]) -> bool:
    """Whether a mapping holds any setting at all: another program's notes may lie beside a checkpoint too."""
    return bool({*_HIDDEN, *_NOISE, *_CHECKED, *_SAME} & set(_flat(config)))
