"""UNet2DConditionModel as our U-Net: names, shapes and numbers are those of diffusers' own class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guided.cond import Cond
from guided.nn import UNet
from guided.zoo import diffusers_names as names
from guided.zoo.diffusers_config import to_config
from guided.zoo.names import lost, read, write
from tests.nn.tools import wake
from tests.zoo.published import PUBLISHED, SMALL

diffusers = pytest.importorskip("diffusers")


def theirs(values: dict[str, Any]) -> Any:
    return diffusers.UNet2DConditionModel.from_config(values)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_has_all_keys_and_shapes_of_their_class(name: str) -> None:
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in theirs(PUBLISHED[name]).state_dict().items()}
        ours = UNet(to_config(PUBLISHED[name]))
    pairs = names.table(ours, bool(PUBLISHED[name].get("use_linear_projection")))
    assert {pair.ours for pair in pairs} == set(ours.state_dict())
    assert names.shapes(pairs, ours) == expected
    assert names.difference(names.shapes(pairs, ours), expected) is None


def both(name: str) -> tuple[Any, UNet]:
    """Their small network with random weights, all of them awake, and ours with the same."""
    values = SMALL[name]
    torch.manual_seed(0)
    network = theirs(values).eval()
    wake(network)
    ours = UNet(to_config(values)).eval()
    pairs = names.table(ours, bool(values.get("use_linear_projection")))
    state = network.state_dict()
    ours.load_state_dict(read(pairs, state))
    back = write(pairs, ours.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) and back[key].shape == state[key].shape for key in state)
    return network, ours


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_outputs_agree(name: str, batch: int) -> None:
    network, ours = both(name)
    config = ours.config
    # Their ResNet blocks round odd sizes down and then cannot join the skips.
    size = (16, 32) if name.startswith("if") else (13, 11)
    x = torch.randn(batch, config.in_channels, *size)
    image = torch.randn(batch, config.image_channels, *size) if config.image_channels else None
    tokens = torch.randn(batch, 5, config.token_width)
    # DeepFloyd IF reads the padding too, as it was trained; the upscaler's first attention to text takes no mask there.
    mask, masked = torch.ones(batch, 5, dtype=torch.bool), not name.startswith(("if", "x4"))
    if masked:
        mask = torch.arange(5) <= torch.arange(2, 2 + batch)[:, None]
    label = torch.arange(batch) if config.classes else None
    aug = torch.tensor([250.0, 3.0, 0.0])[:batch] if config.aug else None
    pooled, six = torch.randn(batch, 10), torch.rand(batch, 6) * 1000
    extra, vector = None, None
    if config.vector_width:
        extra = {"text_embeds": pooled, "time_ids": six}
        vector = torch.cat((pooled, network.add_time_proj(six.flatten()).reshape(batch, -1)), 1)
    cond = Cond(label=label, tokens=tokens, mask=mask, vector=vector, image=image, aug=aug)
    for level in (1.0, 120.0, 400.5, 777.0, 999.0):
        t = torch.full((batch,), level)
        want = network(
            x if image is None else torch.cat((x, image), 1),
            t,
            encoder_hidden_states=tokens,
            encoder_attention_mask=mask if masked else None,
            class_labels=label if aug is None else aug,
            added_cond_kwargs=extra,
        ).sample
        assert (ours(x, t, cond) - want).norm() < 1e-5 * want.norm()


REFUSED = [
    ("down_block_types", ["KDownBlock2D"] * 4, r"down_block_types\[0\]: expected CrossAttnDown.*got 'KDownBlock2D'"),
    ("down_block_types", ["CrossAttnDownBlock2D"] * 3, "down_block_types: expected 4 entries"),
    ("up_block_types", ["UpBlock2D"] * 4, r"up_block_types\[3\]: expected CrossAttnUpBlock2D, got 'UpBlock2D'"),
    ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn", "mid_block_type: expected UNetMidBlock2DCrossAttn"),
    ("time_cond_proj_dim", 256, "time_cond_proj_dim: expected None, got 256"),
    ("cross_attention_norm", "layer_norm", "cross_attention_norm: expected None or 'group_norm'"),
    ("resnet_time_scale_shift", "ada_group", "resnet_time_scale_shift: expected 'default' or 'scale_shift'"),
    ("act_fn", "mish", "act_fn: expected 'silu'"),
    ("addition_embed_type", "image", "addition_embed_type: expected None or 'text'"),
    ("addition_embed_type", "text_time", "projection_class_embeddings_input_dim, addition_time_embed_dim: expected"),
    ("class_embed_type", "projection", "class_embed_type: expected None or 'timestep'"),
    ("center_input_sample", True, "center_input_sample: expected False"),
    ("dual_cross_attention", True, "dual_cross_attention"),
    ("conv_in_kernel", 5, "conv_in_kernel"),
    ("attention_head_dim", [1, 4, 2, 2], "attention_head_dim: expected one number of heads"),
    ("attention_head_dim", 7, "attention_head_dim: expected divisors"),
    ("attention_head_dim", "8", "attention_head_dim: expected whole numbers"),
    ("norm_num_groups", 32, "norm_num_groups: expected a divisor"),
    ("norm_num_groups", None, "norm_num_groups: expected a divisor"),
    ("cross_attention_dim", [12, 12, 13, 12], "cross_attention_dim: expected one whole number"),
    ("block_out_channels", "wide", "block_out_channels: expected a list"),
    ("in_channels", 3, "in_channels, out_channels: expected at least 4"),
    ("resnet_out_scale_factor", 2.0, "mid_block_scale_factor, resnet_out_scale_factor: expected both to be 1"),
    ("time_embedding_act_fn", "silu", "time_embedding_act_fn, resnet_skip_time_act: expected null and false"),
    ("wings", 2, "wings: not an entry of UNet2DConditionModel"),
    ("_class_name", "SD3Transformer2DModel", "_class_name: expected 'UNet2DConditionModel'"),
]


@pytest.mark.parametrize("entry, value, message", REFUSED, ids=lambda v: str(v)[:30])
def test_what_has_no_counterpart_is_refused_by_name(entry: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_config(SMALL["sd-1.5"] | {"attention_head_dim": 2} | {entry: value})


def test_a_difference_is_told_by_block() -> None:
    expected = {"conv_in.weight": (8, 4, 3, 3), "down_blocks.0.attentions.1.norm.bias": (8,), "mid_block.a.b": (1,)}
    found = {"conv_in.weight": (8, 5, 3, 3), "mid_block.a.b": (1,), "up_blocks.1.resnets.0.conv1.weight": (2,)}
    assert names.difference(expected, found) == (
        "conv_in: conv_in.weight is [8, 5, 3, 3], expected [8, 4, 3, 3]; "
        "down_blocks.0.attentions.1: down_blocks.0.attentions.1.norm.bias is missing; "
        "up_blocks.1.resnets.0: up_blocks.1.resnets.0.conv1.weight is not expected"
    )


def test_what_stands_for_nothing_is_not_lost_in_silence() -> None:
    _, ours = both("x4-upscaler")
    assert lost(names.table(ours, True), ours.state_dict()) == []
    with torch.no_grad():
        ours.vector.label.weight[-1] = 1.0  # type: ignore[union-attr, index]
    assert lost(names.table(ours, True), ours.state_dict()) == ["vector.label.weight"]
