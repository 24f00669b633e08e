"""The parts of a latent diffusion's single file under diffusers' names: autoencoder and text towers.

In every pair here `ours` is the name in the file, `theirs` are those in the folders of diffusers and transformers, for
there one tensor of the file may be three. Papers: LDM (arXiv 2112.10752), CLIP (arXiv 2103.00020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from guided.zoo.names import Form, Inverse, Joined, Kernel, Pair, Transposed

ENDS = ("weight", "bias")
_SAME = Joined()
_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def autoencoder(config: Mapping[str, Any]) -> Iterator[Pair]:
    """LDM's AutoencoderKL; config: the config.json of diffusers' class."""
    widths, blocks = list(config["block_out_channels"]), config["layers_per_block"]
    count = len(widths)
    for end in ("encoder", "decoder"):
        yield from _both(f"{end}.conv_in", f"{end}.conv_in")
        yield from _both(f"{end}.norm_out", f"{end}.conv_norm_out")
        yield from _both(f"{end}.conv_out", f"{end}.conv_out")
        for i in (0, 1):
            yield from _resnet(f"{end}.mid.block_{i + 1}", f"{end}.mid_block.resnets.{i}", False)
        yield from _both(f"{end}.mid.attn_1.norm", f"{end}.mid_block.attentions.0.group_norm")
        for file, name in _ATTENTION.items():
            theirs = f"{end}.mid_block.attentions.0.{name}"
            yield from _both(f"{end}.mid.attn_1.{file}", theirs, Inverse(Kernel(2)))
    for i, width in enumerate(widths):
        before = widths[max(i - 1, 0)]
        for j in range(blocks):
            place = f"encoder.down.{i}.block.{j}", f"encoder.down_blocks.{i}.resnets.{j}"
            yield from _resnet(*place, j == 0 and before != width)
        if i < count - 1:
            yield from _both(f"encoder.down.{i}.downsample.conv", f"encoder.down_blocks.{i}.downsamplers.0.conv")
    for i, width in enumerate(reversed(widths)):
        before = widths[min(count - i, count - 1)]
        level = count - 1 - i  # the file counts levels from the finest in both halves
        for j in range(blocks + 1):
            place = f"decoder.up.{level}.block.{j}", f"decoder.up_blocks.{i}.resnets.{j}"
            yield from _resnet(*place, j == 0 and before != width)
        if level:
            yield from _both(f"decoder.up.{level}.upsample.conv", f"decoder.up_blocks.{i}.upsamplers.0.conv")
    yield from _both("quant_conv", "quant_conv")
    yield from _both("post_quant_conv", "post_quant_conv")


def autoencoder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of diffusers' AutoencoderKL."""
    widths, latent = list(config["block_out_channels"]), config["latent_channels"]
    top, first = widths[-1], widths[0]
    ends = {
        "encoder.conv_in": (first, config["in_channels"], 3),
        "encoder.conv_out": (2 * latent, top, 3),
        "decoder.conv_in": (top, latent, 3),
        "decoder.conv_out": (config["out_channels"], first, 3),
        "quant_conv": (2 * latent, 2 * latent, 1),
        "post_quant_conv": (latent, latent, 1),
    }
    found: dict[str, tuple[int, ...]] = {}
    for pair in autoencoder(config):
        name = pair.theirs[0]
        layer, _, end = name.rpartition(".")
        out, given, side = ends.get(layer) or _convolution(layer, widths)
        whole = (out, given) if ".attentions." in layer else (out, given, side, side)
        found[name] = (given if "norm1" in layer else out,) if "norm" in layer or end == "bias" else whole
    return found


def _convolution(layer: str, widths: Sequence[int]) -> tuple[int, int, int]:
    """Channels out and in, and the side of the kernel, of a layer within the blocks (of a norm: its width twice)."""
    half, place, *rest = layer.split(".")
    if place == "mid_block":
        return widths[-1], widths[-1], 3
    if place == "conv_norm_out":
        width = widths[-1] if half == "encoder" else widths[0]
        return width, width, 3
    ordered = list(widths) if half == "encoder" else list(reversed(widths))
    i = int(rest[0])
    before = ordered[max(i - 1, 0)]
    given = before if rest[1] == "resnets" and rest[2] == "0" and rest[3] in ("conv1", "norm1", "conv_shortcut") else 0
    return ordered[i], given or ordered[i], 1 if rest[-1] == "conv_shortcut" else 3


def clip(layers: int) -> Iterator[Pair]:
    """CLIP's text tower by transformers' own names."""
    for name in clip_names(layers):
        yield Pair(f"text_model.{name}", (f"text_model.{name}",))


def open_clip(layers: int, projected: bool) -> Iterator[Pair]:
    """open_clip's text transformer, its first `layers` layers."""
    yield Pair("token_embedding.weight", ("text_model.embeddings.token_embedding.weight",))
    yield Pair("positional_embedding", ("text_model.embeddings.position_embedding.weight",))
    for i in range(layers):
        file, theirs = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for end in ENDS:
            rows = tuple(f"{theirs}.self_attn.{part}_proj.{end}" for part in "qkv")
            yield Pair(f"{file}.attn.in_proj_{end}", rows, Joined(3))
        yield from _both(f"{file}.attn.out_proj", f"{theirs}.self_attn.out_proj")
        yield from _both(f"{file}.ln_1", f"{theirs}.layer_norm1")
        yield from _both(f"{file}.ln_2", f"{theirs}.layer_norm2")
        yield from _both(f"{file}.mlp.c_fc", f"{theirs}.mlp.fc1")
        yield from _both(f"{file}.mlp.c_proj", f"{theirs}.mlp.fc2")
    yield from _both("ln_final", "text_model.final_layer_norm")
    if projected:
        yield Pair("text_projection", ("text_projection.weight",), Transposed())


def clip_names(layers: int) -> list[str]:
    """The tensors of transformers' CLIP text tower."""
    found = ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight"]
    for i in range(layers):
        inner = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        inner += ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
        found += [f"encoder.layers.{i}.{part}.{end}" for part in inner for end in ENDS]
    return [*found, *(f"final_layer_norm.{end}" for end in ENDS)]


def clip_shape(name: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor of a tower with this config.json of transformers."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    if name == "text_projection.weight":
        return (config["projection_dim"], width)
    if "token_embedding" in name:
        return (config["vocab_size"], width)
    if "position_embedding" in name:
        return (config["max_position_embeddings"], width)
    out, given = {"fc1": (inner, width), "fc2": (width, inner)}.get(name.split(".")[-2], (width, width))
    return (out,) if name.endswith("bias") or "norm" in name else (out, given)


def within(pairs: Iterator[Pair], file: str, part: str) -> Iterator[Pair]:
    """The pairs with a prefix on the names in the file and a folder on those in the parts."""
    for pair in pairs:
        yield Pair(f"{file}{pair.ours}", tuple(f"{part}/{name}" for name in pair.theirs), pair.form)


def renamed(file: Sequence[Pair], theirs: Sequence[Pair]) -> Iterator[Pair]:
    """Two tables of one network as one; both have its tensors in the same pieces and shapes."""
    other = {pair.ours: pair for pair in theirs}
    for pair in file:
        for old, new in zip(pair.theirs, other[pair.ours].theirs, strict=True):
            yield Pair(old, (new,))


def _resnet(file: str, theirs: str, skip: bool) -> Iterator[Pair]:
    for name, other in _RESNET.items():
        yield from _both(f"{file}.{name}", f"{theirs}.{other}")
    if skip:
        yield from _both(f"{file}.nin_shortcut", f"{theirs}.conv_shortcut")


def _both(file: str, theirs: str, form: Form = _SAME) -> Iterator[Pair]:
    yield Pair(f"{file}.weight", (f"{theirs}.weight",), form)
    yield Pair(f"{file}.bias", (f"{theirs}.bias",))
