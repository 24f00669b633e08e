"""The original layout: `input_blocks.N.M`, as guided-diffusion, latent diffusion, Stable Diffusion and SDXL name it.

Papers: ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), LDM (arXiv 2112.10752), SDXL (arXiv 2307.01952).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from guided.nn import UNetConfig
from guided.zoo.names import Absent, Form, HeadsFirst, Joined, Kernel, NullRow, Pair, Then, Transposed

ENDS = ("weight", "bias")
_BLOCK = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embed": "emb_layers.1", "norm2": "out_layers.0"}
_BLOCK |= {"conv2": "out_layers.3"}
PLAIN = Joined()


@dataclass(frozen=True)
class Options:
    """What of the layout a `UNetConfig` does not say.

    heads_first: each head's query, key and value rows lie together (ADM's older attention order). linear: the
    projections around a transformer are matrices, else convolutions of size 1. null_row: their last class stands for
    none.
    """

    heads_first: bool = False
    linear: bool = True
    null_row: bool = False


def layout(config: UNetConfig, options: Options | None = None, classifier: bool = False) -> Iterable[Pair]:
    """One pair for each tensor of `UNet(config)`, or of `EncoderUNet(config, size)` where it is a classifier.

    Raises ValueError naming the block that has no counterpart in this layout.
    """
    problems = without_counterpart(config)
    if problems:
        raise ValueError(f"the original layout has no counterpart of {'; of '.join(problems)}")
    return list(_Table(config, options or Options(), classifier).pairs())


def without_counterpart(config: UNetConfig) -> list[str]:
    """The blocks of a network that the original layout cannot hold, each with the reason; empty where it holds all."""
    wrong = {
        "vector.aug: an augmentation level": config.aug,
        "vector.guidance: a guidance weight (distilled)": config.guidance,
        "vector.features: random Fourier features": config.time != "sinusoidal",
        "sequence.norm: a norm on the tokens (token_norm)": config.token_norm,
        "sequence.null: a learned null token (null_token)": bool(config.token_width) and config.null_token,
        "sequence.project: a map of the tokens (cross_width)": config.cross_width is not None,
        "sequence.pool: pooled text (pool_heads)": config.pool_heads > 0,
        "space: a channel of presence": config.presence,
        "space: channels of coordinates": config.coordinates,
        "down: one skip a level (skips)": config.skips != "every",
        f"middle: {config.middle_blocks} blocks, expected 2": config.middle_blocks != 2,
        "middle.0.attention: none there (middle_depth)": config.middle_depth == 0,
        f"attention of the kind {config.attention!r}": config.attention not in ("self", "transformer"),
        "down.attention: more than one after a block (depth)": config.attention == "self"
        and max(*config.depth, config.middle_depth) > 1,
        "cross_attention: transformers without text": config.attention == "transformer" and not config.token_width,
    }
    return [block for block, bad in wrong.items() if bad]


class _Table:
    """The pairs of one network."""

    def __init__(self, config: UNetConfig, options: Options, classifier: bool) -> None:
        self.config, self.options, self.classifier = config, options, classifier

    def pairs(self) -> Iterator[Pair]:
        config = self.config
        yield from _layer("vector.time.inner", "time_embed.0")
        yield from _layer("vector.time.outer", "time_embed.2")
        if config.classes:
            form: Form = PLAIN if self.options.null_row else NullRow()
            yield Pair("vector.label.weight", ("label_emb.weight",), form)
        if config.vector_width:
            yield from _layer("vector.vector.inner", "label_emb.0.0")
            yield from _layer("vector.vector.outer", "label_emb.0.2")
            yield Pair("vector.null_vector", (), Absent((config.vector_width,)))
        yield from _layer("conv_in", "input_blocks.0.0")
        yield from self._down()
        yield from self._stage("middle.0", "middle_block", (config.widths[-1],) * 2, len(config.widths))
        yield from self._block("middle.1.block", "middle_block.2", (config.widths[-1],) * 2)
        if not self.classifier:
            yield from self._up()
        yield from _layer("norm_out", "out.0")
        if self.classifier:
            yield Pair("pool.position", ("out.2.positional_embedding",), Transposed())
            yield from _layer("pool.qkv", "out.2.qkv_proj", Kernel(1))
            yield from _layer("pool.proj", "out.2.c_proj", Kernel(1))
        else:
            yield from _layer("conv_out", "out.2")

    def _down(self) -> Iterator[Pair]:
        widths, k = self.config.widths, 0
        width = widths[0]
        for level, out in enumerate(widths):
            for j in range(self.config.blocks[level]):
                k += 1
                yield from self._stage(f"down.{level}.stages.{j}", f"input_blocks.{k}", (width, out), level)
                width = out
            if level < len(widths) - 1:
                k += 1
                yield from self._move(f"down.{level}.move", f"input_blocks.{k}.0", "op", out)

    def _up(self) -> Iterator[Pair]:
        config, k = self.config, 0
        skips = skip_widths(config)
        width = config.widths[-1]
        for i, level in enumerate(reversed(range(len(config.widths)))):
            for j in range(config.blocks[level] + 1):
                pair = (width + skips.pop(), config.widths[level])
                yield from self._stage(f"up.{i}.stages.{j}", f"output_blocks.{k}", pair, level)
                width, k = config.widths[level], k + 1
            if level:
                # The step up shares the last block's number, behind its attention.
                place = f"output_blocks.{k - 1}.{1 + bool(config.depth[level])}"
                yield from self._move(f"up.{i}.move", place, "conv", width)

    def _move(self, ours: str, theirs: str, conv: str, width: int) -> Iterator[Pair]:
        if self.config.resample == "resblock":
            yield from self._block(ours, theirs, (width, width))
        elif self.config.resample == "conv":
            yield from _layer(f"{ours}.conv", f"{theirs}.{conv}")

    def _stage(self, ours: str, theirs: str, widths: tuple[int, int], level: int) -> Iterator[Pair]:
        """A residual block and its attention; `level` is the number of levels for the middle."""
        config = self.config
        middle = level == len(config.widths)
        yield from self._block(f"{ours}.block", f"{theirs}.0", widths)
        depth = config.middle_depth if middle else config.depth[level]
        if depth and config.attention == "transformer":
            text_only = config.middle_text_only if middle else config.reads_text_only(level)
            yield from self._transformer(f"{ours}.attention.0", f"{theirs}.1", depth, text_only)
        elif depth:
            yield from self._self_block(f"{ours}.attention.0", f"{theirs}.1", widths[1])

    def _block(self, ours: str, theirs: str, widths: tuple[int, int]) -> Iterator[Pair]:
        for mine, other in _BLOCK.items():
            yield from _layer(f"{ours}.{mine}", f"{theirs}.{other}")
        if widths[0] != widths[1]:
            yield from _layer(f"{ours}.skip", f"{theirs}.skip_connection")

    def _self_block(self, ours: str, theirs: str, width: int) -> Iterator[Pair]:
        order: Form = PLAIN
        if self.options.heads_first:
            order = HeadsFirst(self.config.heads or width // self.config.head_width)
        yield from _layer(f"{ours}.norm", f"{theirs}.norm")
        yield Pair(f"{ours}.self_attention.qkv.weight", (f"{theirs}.qkv.weight",), Then(Kernel(1), order))
        yield Pair(f"{ours}.self_attention.qkv.bias", (f"{theirs}.qkv.bias",), order)
        yield from _layer(f"{ours}.self_attention.out", f"{theirs}.proj_out", Kernel(1))

    def _transformer(self, ours: str, theirs: str, depth: int, text_only: bool) -> Iterator[Pair]:
        form: Form = PLAIN if self.options.linear else Kernel(2)
        yield from _layer(f"{ours}.norm", f"{theirs}.norm")
        yield from _layer(f"{ours}.proj_in", f"{theirs}.proj_in", form)
        for i in range(depth):
            mine, other = f"{ours}.layers.{i}", f"{theirs}.transformer_blocks.{i}"
            if text_only:
                yield from _cross(f"{mine}.first_cross_attention", f"{other}.attn1")
            else:
                names = tuple(f"{other}.attn1.to_{part}.weight" for part in "qkv")
                yield Pair(f"{mine}.self_attention.qkv.weight", names, Joined(3))
                yield from _layer(f"{mine}.self_attention.out", f"{other}.attn1.to_out.0")
            yield from _cross(f"{mine}.cross_attention", f"{other}.attn2")
            for norm in ("norm1", "norm2", "norm3"):
                yield from _layer(f"{mine}.{norm}", f"{other}.{norm}")
            yield from _layer(f"{mine}.mlp_in", f"{other}.ff.net.0.proj")
            yield from _layer(f"{mine}.mlp_out", f"{other}.ff.net.2")
        yield from _layer(f"{ours}.proj_out", f"{theirs}.proj_out", form)


def skip_widths(config: UNetConfig) -> list[int]:
    """The widths of the skips in the order they are made, every output being one."""
    found = [config.widths[0]]
    for level, width in enumerate(config.widths):
        found += [width] * (config.blocks[level] + (level < len(config.widths) - 1))
    return found


def _cross(ours: str, theirs: str) -> Iterator[Pair]:
    yield Pair(f"{ours}.q.weight", (f"{theirs}.to_q.weight",))
    yield Pair(f"{ours}.kv.weight", (f"{theirs}.to_k.weight", f"{theirs}.to_v.weight"), Joined(2))
    yield from _layer(f"{ours}.out", f"{theirs}.to_out.0")


def _layer(ours: str, theirs: str, form: Form = PLAIN) -> Iterator[Pair]:
    """Weight and bias; a form that changes the number of axes is the weight's."""
    for end in ENDS:
        yield Pair(f"{ours}.{end}", (f"{theirs}.{end}",), form if end == "weight" else PLAIN)
