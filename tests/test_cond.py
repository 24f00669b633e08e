"""Cond: absent is declared, and every operation keeps the batch together."""

from __future__ import annotations

import pytest
import torch

from guided.cond import FIELDS, SEMANTIC, Cond


def full(size: int = 3, length: int = 4) -> Cond:
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(length) < torch.arange(1, size + 1)[:, None]
    return Cond(
        label=torch.arange(size),
        tokens=torch.randn(size, length, 5, generator=g),
        mask=mask,
        vector=torch.randn(size, 6, generator=g),
        image=torch.randn(size, 3, 8, 10, generator=g),
        aug=torch.rand(size, generator=g),
    )


def same(a: Cond, b: Cond) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in FIELDS]
    return all((x is None and y is None) or torch.equal(x.nan_to_num(9), y.nan_to_num(9)) for x, y in pairs)


def test_drop_declares_each_field_absent_where_asked_and_nowhere_else() -> None:
    cond, where = full(), torch.tensor([False, True, False])
    dropped = cond.drop(where, FIELDS)
    assert dropped.label.tolist() == [0, -1, 2]
    assert not dropped.mask[1].any() and torch.equal(dropped.mask[[0, 2]], cond.mask[[0, 2]])
    for name in ("vector", "image", "aug"):
        new, old = getattr(dropped, name), getattr(cond, name)
        assert new[1].isnan().all() and torch.equal(new[[0, 2]], old[[0, 2]])


def test_null_keeps_image_and_aug_unless_they_are_named() -> None:
    null = full().null()
    assert (null.label == -1).all() and not null.mask.any() and null.vector.isnan().all()
    assert torch.equal(null.image, full().image) and torch.equal(null.aug, full().aug)
    assert full().null(SEMANTIC | {"image"}).image.isnan().all()
    assert Cond().null().size is None


def test_cat_pads_tokens_and_declares_what_some_lack_absent() -> None:
    joined = Cond.cat([full(2, 3), Cond(), full(1, 5)], [2, 2, 1])
    assert joined.size == 5 and joined.tokens.shape == (5, 5, 5)
    assert joined.label.tolist() == [0, 1, -1, -1, 0]
    assert not joined.mask[2:4].any() and not joined.mask[:2, 3:].any()
    assert joined.image[2:4].isnan().all() and joined.aug[2:4].isnan().all()
    assert same(joined.index(slice(4, 5)), full(1, 5))


def test_cat_then_index_returns_each_part() -> None:
    parts = [full(2), full(3)]
    joined = Cond.cat(parts, [2, 3])
    assert same(joined.index([0, 1]), parts[0]) and same(joined.index(torch.tensor([2, 3, 4])), parts[1])


def test_crop_cuts_the_image_plane_alone() -> None:
    cut = full().crop((slice(2, 5), slice(0, 4)))
    assert torch.equal(cut.image, full().image[:, :, 2:5, :4]) and torch.equal(cut.vector, full().vector)


def test_only_keeps_what_a_network_accepts() -> None:
    kept = full().only({"tokens"})
    assert kept.mask is not None and kept.label is None and kept.image is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cond(tokens=torch.zeros(2, 3, 4)), "tokens and mask"),
        (lambda: Cond(tokens=torch.zeros(2, 3, 4), mask=torch.ones(2, 4, dtype=torch.bool)), r"\(2, 4\)"),
        (lambda: Cond(label=torch.zeros(2), aug=torch.zeros(3)), "batch size"),
        (lambda: full().drop(torch.ones(3, dtype=torch.bool), {"colour"}), "colour"),
        (lambda: Cond.cat([full(2)], [3]), "announced as 3"),
        (lambda: Cond.cat([Cond(vector=torch.zeros(1, 2)), Cond(vector=torch.zeros(1, 3))], [1, 1]), "vector"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_tokens_and_their_mask_are_one() -> None:
    cond = Cond(tokens=torch.ones(2, 3, 4), mask=torch.ones(2, 3, dtype=torch.bool), aug=torch.zeros(2))
    for name in ("tokens", "mask"):
        dropped = cond.drop(torch.tensor([True, False]), {name})
        assert dropped.mask is not None and dropped.mask.any(1).tolist() == [False, True]
        assert cond.only({name}).mask is cond.mask and cond.only({name}).tokens is cond.tokens
