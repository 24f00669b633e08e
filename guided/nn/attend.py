"""Softmax attention, and what a perturbation makes of it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from guided.perturbation import Copied, Perturbation

Size = tuple[int, int]

# Up to this many scores a head (1,024 x 1,024) bf16 matmul and softmax beat the flash kernel on a CPU.
BMM_LIMIT = 1 << 20


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention: q (B, heads, N, d), k and v (B, heads, M, d), bias (B, 1, 1, M) -> as q."""
    if bias is not None:
        bias = bias.to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] * k.shape[2] <= BMM_LIMIT:
        return attend_bmm(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def attend_bmm(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """`attend` written out."""
    batch, heads, n, d = q.shape
    m = k.shape[2]
    q, k, v = q.reshape(-1, n, d), k.reshape(-1, m, d), v.reshape(-1, m, d)
    if bias is None:
        scores = torch.baddbmm(q.new_zeros(1), q, k.transpose(1, 2), beta=0, alpha=d**-0.5)
    else:
        bias = bias.expand(batch, heads, 1, m).reshape(-1, 1, m)
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=d**-0.5)
    return torch.bmm(scores.softmax(-1), v).view(batch, heads, n, d)


def attend_changed(
    q: Tensor, k: Tensor, v: Tensor, size: Size, change: Perturbation | None, bias: Tensor | None = None
) -> Tensor:
    """`attend` of a picture of size (H, W), perturbed by `change`; its own keys, H * W, stand after the text's, if any.

    identity (arXiv 2403.17377): each pixel gives its own value; the text keeps the share of attention that it has.
    blur (arXiv 2408.00760): the queries are blurred, see `blurred`.
    """
    if change is None:
        return attend(q, k, v, bias)
    if change.kind == "blur":
        return attend(blurred(q, size, change.sigma), k, v, bias).expand_as(q)
    text = k.shape[2] - q.shape[2]
    if text == 0:
        return v
    own = v[:, :, text:]
    told = attend(q, k, torch.cat((v[:, :, :text], torch.zeros_like(own)), 2), bias)
    share = attend(q, k, torch.cat((torch.zeros_like(v[:, :, :text]), torch.ones_like(own)), 2), bias)
    return told + share * own


def attend_copied(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, copied: Copied) -> Tensor:
    """`attend` of pictures to text, where those of the second half look where those of the first do.

    Tokens that stand before the text's own, as a learned null does, keep their places.
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias.to(q.dtype)
    source, own = scores.float().softmax(-1).chunk(2)
    before = k.shape[2] - copied.keep.shape[1]
    share = F.pad(copied.share.to(source), (before, 0, before, 0))
    share.diagonal(dim1=1, dim2=2)[:, :before] = 1
    keep = F.pad(copied.keep.to(source), (before, 0))
    weight = F.pad(copied.weight.to(source), (before, 0), value=1.0)
    copy = source @ share[:, None] + own * keep[:, None, None]
    seen = torch.cat((source, copy * weight[:, None, None]))
    return seen.to(v.dtype) @ v


def of_first_half(x: Tensor) -> Tensor:
    """(2 B, ...) with the first half in place of the second."""
    first = x.chunk(2)[0]
    return torch.cat((first, first))


def blurred(q: Tensor, size: Size, sigma: float) -> Tensor:
    """Queries (B, heads, H * W, d) blurred over the picture; at sigma = inf one, their mean (B, heads, 1, d)."""
    if sigma == math.inf:
        return q.mean(2, keepdim=True)
    rows, columns = (gaussian(n, sigma, q) for n in size)
    return torch.einsum("yr,xc,bhrcd->bhyxd", rows, columns, q.reshape(*q.shape[:2], *size, q.shape[3])).flatten(2, 3)


def gaussian(n: int, sigma: float, like: Tensor) -> Tensor:
    """(n, n) as `like`: row i is a Gaussian of std sigma around place i of a line mirrored at both ends, of sum 1.

    So are the columns: the blur keeps the mean, from which the paper derives what it does to the attention.
    """
    dtype, device = torch.promote_types(like.dtype, torch.float32), like.device
    # The mirrored line repeats after 2 n places, where a wider Gaussian than that is flat to nine digits.
    width = min(sigma, 2.0 * n)
    at = torch.arange(n, dtype=dtype, device=device)
    turns = 2 * n * torch.arange(-7, 8, dtype=dtype, device=device)
    away = torch.stack((at[:, None] - at, at[:, None] + at + 1))[..., None] + turns
    weights = (-0.5 * (away / width) ** 2).exp().sum((0, 3))
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)
