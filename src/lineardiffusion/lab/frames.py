"""Matrices that may be diagonal, and the frames in which they are.

Covariances and operators are taken to an orthonormal frame for each shape of a process. There a vector stands for a
diagonal matrix, so that formulas are written once, and cost what the structure allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from lineardiffusion._checks import Shape
from lineardiffusion.covariance import GramCovariance
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Cosine, dct_matrix
from lineardiffusion.operators.scalar import Identity, Scaled
from lineardiffusion.operators.spectral import SpectralFilter


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


@dataclass(frozen=True)
class Frame:
    """An orthonormal basis of events.

    Arguments:
        vectors: its columns, with shape (n, n), in float64.
        cosine_axes: how many axes it transforms by cosines, where it is the basis of a SpectralFilter; otherwise 0.
    """

    vectors: Tensor
    cosine_axes: int = 0


def eigenframe(matrix: Tensor) -> tuple[Frame, Tensor]:
    """The eigenvectors and eigenvalues of a symmetric matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return Frame(vectors), values


@singledispatch
def frame_of(covariance: LinearOperator) -> tuple[Frame, Tensor]:
    """The frame of a symmetric operator, and its eigenvalues there; known for filters, computed for others."""
    return eigenframe(covariance.to_dense().double())


@frame_of.register
def _(covariance: SpectralFilter) -> tuple[Frame, Tensor]:
    if not isinstance(covariance.transform, Cosine):
        return eigenframe(covariance.to_dense().double())
    gain = covariance.gain.broadcast_to(covariance.in_shape).flatten()
    return _cosines(covariance.in_shape, covariance.transform.axes), gain


@frame_of.register
def _(covariance: Scaled) -> tuple[Frame, Tensor]:
    frame, values = frame_of(covariance.operator)
    return frame, covariance.scale * values


@frame_of.register
def _(covariance: GramCovariance) -> tuple[Frame, Tensor]:
    if not isinstance(covariance.operator, SpectralFilter):
        return eigenframe(covariance.to_dense().double())
    frame, gain = frame_of(covariance.operator)
    return frame, covariance.variance(gain.square())


@singledispatch
def in_frames(operator: LinearOperator, source: Frame, target: Frame) -> Tensor:
    """V_targetᵀ M V_source, as a vector where it is known to be diagonal."""
    return _dense(operator, source, target)


@in_frames.register
def _(operator: Identity, source: Frame, target: Frame) -> Tensor:
    return torch.ones(len(source.vectors), dtype=torch.float64)


@in_frames.register
def _(operator: Scaled, source: Frame, target: Frame) -> Tensor:
    return operator.scale * in_frames(operator.operator, source, target)


@in_frames.register
def _(operator: SpectralFilter, source: Frame, target: Frame) -> Tensor:
    if isinstance(operator.transform, Cosine) and source.cosine_axes == operator.transform.axes:
        return operator.gain.broadcast_to(operator.in_shape).flatten()
    return _dense(operator, source, target)


def _dense(operator: LinearOperator, source: Frame, target: Frame) -> Tensor:
    return target.vectors.T @ operator.to_dense().double() @ source.vectors


def _cosines(shape: Shape, axes: int) -> Frame:
    """The basis of a SpectralFilter on the last axes."""
    vectors = torch.ones(1, 1, dtype=torch.float64)
    for axis, n in enumerate(shape):
        identity = torch.eye(n, dtype=torch.float64)
        cosines = dct_matrix(n, identity).T.contiguous() if axis >= len(shape) - axes else identity
        vectors = torch.kron(vectors, cosines)
    return Frame(vectors, axes)
