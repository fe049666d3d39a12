"""Matrices that may be diagonal: a vector stands for a diagonal matrix.

So formulas are written once, and cost what the structure allows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def times(a: Tensor, b: Tensor) -> Tensor:
    """A B"""
    if a.ndim == 1:
        return a * b if b.ndim == 1 else a[:, None] * b
    return a * b if b.ndim == 1 else a @ b


def act(a: Tensor, v: Tensor) -> Tensor:
    """A v for a vector v that is a vector."""
    return a * v if a.ndim == 1 else a @ v


def plus(a: Tensor, b: Tensor) -> Tensor:
    """A + B"""
    if a.ndim == b.ndim:
        return a + b
    return torch.diag(a) + b if a.ndim == 1 else a + torch.diag(b)


def transposed(a: Tensor) -> Tensor:
    """Aᵀ"""
    return a if a.ndim == 1 else a.T


def sandwich(a: Tensor, b: Tensor) -> Tensor:
    """A B Aᵀ for a symmetric B, symmetric in spite of rounding."""
    if a.ndim == 1:
        return a.square() * b if b.ndim == 1 else a[:, None] * b * a
    product = times(times(a, b), a.T)
    return (product + product.T) / 2


def inverse(a: Tensor) -> Tensor:
    """A⁻¹ of a positive definite A."""
    return 1 / a if a.ndim == 1 else torch.cholesky_inverse(torch.linalg.cholesky(a))


def trace(a: Tensor) -> float:
    """tr A"""
    return float(a.sum() if a.ndim == 1 else a.trace())


def logdet(a: Tensor) -> float:
    """log det A of a positive definite A."""
    return float(a.log().sum() if a.ndim == 1 else 2 * torch.linalg.cholesky(a).diagonal().log().sum())


def bures(a: Tensor, b: Tensor) -> float:
    """tr(A + B − 2 (A^{1/2} B A^{1/2})^{1/2}), the squared Wasserstein-2 distance of N(0, A) and N(0, B)."""
    if a.ndim == b.ndim == 1:
        return float((a.clamp(min=0).sqrt() - b.clamp(min=0).sqrt()).square().sum())
    if b.ndim == 1:
        a, b = b, a
    if a.ndim == 1:
        root = a.clamp(min=0).sqrt()
    else:
        values, vectors = torch.linalg.eigh(a)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(sandwich(root, b)).clamp(min=0).sqrt().sum()
    return max(0.0, trace(a) + trace(b) - 2 * float(cross))
