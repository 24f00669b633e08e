"""Changes of head: new classes, another text encoder, a picture that is shown; the first output is the old one's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided.nn import UNet, UNetConfig


def changed(network: UNet, changes: Mapping[str, Any], text: bool = False) -> UNet:
    """A network with another head, whose first output is the old one's; the old one stays as it is.

    changes: fields of `UNetConfig`; more `classes`, `image_channels`, `presence` and `aug` where there were none,
    `token_width` and `vector_width` of another encoder. text: whether the encoder is another one, also where it is as
    wide. Known classes, and no class, say what they said; a new class says what no class said; a picture or a level of
    augmentation changes nothing; any text of the new encoder says what no text said. All of that bit for bit, but for
    text, where attention sums as many equal values as there are tokens, and for a picture, where a convolution sums
    more channels: 1e-6 of the output.
    Raises ValueError for changes that no first output could equal.
    """
    old, config = network.config, dataclasses.replace(network.config, **_fitted(network.config, changes, text))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = UNet(config)
    state, fresh = network.state_dict(), made.state_dict()
    kept = {name: value for name, value in state.items() if name in fresh and fresh[name].shape == value.shape}
    made.load_state_dict({**fresh, **kept})
    with torch.no_grad():
        _classes(made, network)
        _pictures(made, network)
        _level(made, old)
        if text:
            _text(made, network)
    return made.to(next(network.parameters()))


def _fitted(old: UNetConfig, changes: Mapping[str, Any], text: bool) -> dict[str, Any]:
    known = {"classes", "image_channels", "presence", "aug", "token_width", "vector_width"}
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"a change of head names {', '.join(sorted(known))}; got {', '.join(unknown)}")
    if changes.get("classes", old.classes) < old.classes:
        raise ValueError(f"classes: the network knows {old.classes}, expected as many at least")
    if old.image_channels and changes.get("image_channels", old.image_channels) != old.image_channels:
        raise ValueError(f"image_channels: the network is shown {old.image_channels} already, got others")
    fitted = {name: value for name, value in changes.items() if getattr(old, name) != value}
    if text:
        if not old.null_token:
            raise ValueError(
                "another text encoder: this network learnt no null token: what it says without text hangs on its own "
                "encoder's states of an empty prompt, which no other encoder's could equal"
            )
        if old.pool_heads:
            raise ValueError("another text encoder: this network pools its tokens, which no other's could equal")
        fitted |= {"cross_width": old.context, "token_norm": True}
    return fitted


def _classes(made: UNet, network: UNet) -> None:
    new = made.vector.label
    if new is None or new.num_embeddings == (network.vector.label.num_embeddings if network.vector.label else 0):
        return
    old = network.vector.label
    if old is None:
        new.weight.zero_()
        return
    new.weight[: old.num_embeddings - 1] = old.weight[:-1]
    new.weight[old.num_embeddings - 1 :] = old.weight[-1]


def _pictures(made: UNet, network: UNet) -> None:
    """The first convolution sees the new channels with weights of zero: those of x come first, places last."""
    old, new = network.config, made.config
    more = new.image_channels + new.presence - old.image_channels - old.presence
    if not more:
        return
    square = old.patch**2
    first = (old.in_channels + old.image_channels) * square
    weight = network.conv_in.weight
    zeros = weight.new_zeros(weight.shape[0], more * square, *weight.shape[2:])
    made.conv_in.weight.copy_(torch.cat((weight[:, :first], zeros, weight[:, first:]), 1))


def _level(made: UNet, old: UNetConfig) -> None:
    if made.vector.aug is not None and not old.aug:
        for weight in (made.vector.aug.outer.weight, made.vector.aug.outer.bias, made.vector.null_aug):
            weight.zero_()


def _text(made: UNet, network: UNet) -> None:
    """Whatever the new encoder says is mapped to what the network knew as no text."""
    sequence, before = made.sequence, network.sequence
    if sequence is not None and before is not None:
        assert sequence.project is not None and before.null is not None
        null: Tensor = before.null if before.project is None else before.project(before.null)
        sequence.project.weight.zero_()
        sequence.project.bias.copy_(null)
    if made.vector.vector is not None:
        inner = network.vector.vector.inner  # type: ignore[union-attr]
        said: Tensor = inner(network.vector.null_vector)
        made.vector.vector.inner.weight.zero_()
        made.vector.vector.inner.bias.copy_(said)
