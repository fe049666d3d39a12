"""Matrices between coordinates that fall into independent groups.

A vector stands for a diagonal matrix. Any other has the shape (groups, rows, columns), a block for each group, the
coordinates of a group being consecutive; a matrix of two axes is one group. So formulas are written once, and cost what
the structure allows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def times(a: Tensor, b: Tensor) -> Tensor:
    """A B"""
    if a.ndim == 1:
        return a * b if b.ndim == 1 else a.reshape(b.shape[:-1])[..., None] * b
    return a * b.reshape(*a.shape[:-2], 1, a.shape[-1]) if b.ndim == 1 else a @ b


def act(a: Tensor, v: Tensor) -> Tensor:
    """A v for vectors v, with shape (*batch, n)."""
    if a.ndim == 1:
        return a * v
    blocks = a.reshape(-1, *a.shape[-2:])
    in_groups = v.reshape(-1, len(blocks), a.shape[-1]).transpose(0, 1)  # so that a group's vectors are one product
    return (in_groups @ blocks.mT).transpose(0, 1).reshape(*v.shape[:-1], -1)


def plus(a: Tensor, b: Tensor) -> Tensor:
    """A + B"""
    if a.ndim == b.ndim:
        return a + b
    if a.ndim == 1:
        a, b = b, a
    return a + torch.diag_embed(b.reshape(a.shape[:-1]))


def transposed(a: Tensor) -> Tensor:
    """Aᵀ"""
    return a if a.ndim == 1 else a.mT


def sandwich(a: Tensor, b: Tensor) -> Tensor:
    """A B Aᵀ for a symmetric B, symmetric in spite of rounding."""
    if a.ndim == 1:
        return a.square() * b if b.ndim == 1 else times(times(a, b), a)
    product = times(times(a, b), a.mT)
    return (product + product.mT) / 2


def inverse(a: Tensor) -> Tensor:
    """A⁻¹ of a positive definite A."""
    return 1 / a if a.ndim == 1 else torch.cholesky_inverse(torch.linalg.cholesky(a))


def trace(a: Tensor) -> float:
    """tr A"""
    return float((a if a.ndim == 1 else _diagonal(a)).sum())


def largest(a: Tensor) -> float:
    """The largest eigenvalue of a symmetric A."""
    return float((a if a.ndim == 1 else torch.linalg.eigvalsh(a)).max())


def logdet(a: Tensor) -> float:
    """log det A of a positive definite A."""
    if a.ndim == 1:
        return float(a.log().sum())
    return float(2 * _diagonal(torch.linalg.cholesky(a)).log().sum())


def wasserstein(deviation: Tensor, a: Tensor, b: Tensor, weights: Tensor | None = None) -> float:
    """W2 of two Gaussians whose means differ by a vector, with covariances A and B; a group counts as often as its
    weight says, or once."""
    parts = [deviation.square(), _squared_distances(a, b)]
    if weights is not None:
        parts = [weights * part.reshape(len(weights), -1).sum(1) for part in parts]
    return math.sqrt(max(0.0, sum(float(part.sum()) for part in parts)))


def bures(a: Tensor, b: Tensor) -> float:
    """tr(A + B − 2 (A^{1/2} B A^{1/2})^{1/2}), the squared Wasserstein-2 distance of N(0, A) and N(0, B)."""
    return max(0.0, float(_squared_distances(a, b).sum()))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """What each group, or each coordinate of vectors, adds to that distance."""
    if a.ndim == b.ndim == 1:
        return (a.clamp(min=0).sqrt() - b.clamp(min=0).sqrt()).square()
    if b.ndim == 1:
        a, b = b, a
    if a.ndim == 1:
        root, own = a.clamp(min=0).sqrt(), a.reshape(b.shape[:-1])
    else:
        values, vectors = torch.linalg.eigh(a)
        root, own = times(vectors, values.clamp(min=0).sqrt().flatten()) @ vectors.mT, _diagonal(a)
    cross: Tensor = torch.linalg.eigvalsh(sandwich(root, b)).clamp(min=0).sqrt()
    return (own + _diagonal(b) - 2 * cross).sum(-1)


def _diagonal(a: Tensor) -> Tensor:
    return a.diagonal(dim1=-2, dim2=-1)
