"""Orthonormal frames in which covariances and operators are diagonal, or as near to that as they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from lineardiffusion._checks import Shape
from lineardiffusion.covariance import GramCovariance
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Basis, Fourier
from lineardiffusion.operators.scalar import Identity, Scaled
from lineardiffusion.operators.spectral import SpectralFilter


@dataclass(frozen=True, eq=False)
class Frame:
    """An orthonormal basis of events.

    Arguments:
        shape: event shape.
        vectors: its columns, with shape (n, n), in float64.
        basis: the one of `ld.bases` that it is, if any.
    """

    shape: Shape
    vectors: Tensor
    basis: Basis | None = None

    def coordinates(self, events: Tensor) -> Tensor:
        """(*batch, n) of events (*batch, *shape)."""
        return events.flatten(-len(self.shape)) @ self.vectors

    def events(self, coordinates: Tensor) -> Tensor:
        """Events (*batch, *shape) of coordinates (*batch, n)."""
        return (coordinates @ self.vectors.T).reshape(*coordinates.shape[:-1], *self.shape)


def eigenframe(matrix: Tensor, shape: Shape) -> tuple[Frame, Tensor]:
    """The eigenvectors and eigenvalues of a symmetric matrix on flattened events."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return Frame(shape, vectors), values


@singledispatch
def frame_of(covariance: LinearOperator) -> tuple[Frame, Tensor]:
    """The frame of a symmetric operator, and its eigenvalues there; known for filters, computed for others."""
    return eigenframe(covariance.to_dense().double(), covariance.in_shape)


@frame_of.register
def _(covariance: SpectralFilter) -> tuple[Frame, Tensor]:
    basis = covariance.transform
    if isinstance(basis, Fourier) or not basis.is_complete:
        return eigenframe(covariance.to_dense().double(), basis.shape)
    units = torch.eye(math.prod(basis.shape), dtype=torch.float64).reshape(-1, *basis.coordinates)
    return Frame(basis.shape, basis.synthesise(units).flatten(1).T.contiguous(), basis), _gains(covariance)


@frame_of.register
def _(covariance: Scaled) -> tuple[Frame, Tensor]:
    frame, values = frame_of(covariance.operator)
    return frame, covariance.scale * values


@frame_of.register
def _(covariance: GramCovariance) -> tuple[Frame, Tensor]:
    if isinstance(covariance.operator, SpectralFilter):
        frame, gains = frame_of(covariance.operator)
        if frame.basis is not None:
            return frame, covariance.variance(gains.square())
    return eigenframe(covariance.to_dense().double(), covariance.in_shape)


@singledispatch
def in_frames(operator: LinearOperator, source: Frame, target: Frame) -> Tensor:
    """V_targetᵀ M V_source, as a vector where it is known to be diagonal."""
    return matrix_of(operator, source, target)


@in_frames.register
def _(operator: Identity, source: Frame, target: Frame) -> Tensor:
    if source is not target:
        return matrix_of(operator, source, target)
    return torch.ones(len(source.vectors), dtype=torch.float64)


@in_frames.register
def _(operator: Scaled, source: Frame, target: Frame) -> Tensor:
    return operator.scale * in_frames(operator.operator, source, target)


@in_frames.register
def _(operator: SpectralFilter, source: Frame, target: Frame) -> Tensor:
    if source is target and source.basis == operator.transform:
        return _gains(operator)
    return matrix_of(operator, source, target)


def matrix_of(function: Callable[[Tensor], Tensor], source: Frame, target: Frame, *, diagonal: bool = False) -> Tensor:
    """The matrix of a linear function of events, by the images of the frame's vectors; where it is diagonal, by that of
    their sum."""
    if diagonal:
        return target.coordinates(function(source.vectors.sum(1).reshape(1, *source.shape)))[0]
    return target.coordinates(function(source.vectors.T.reshape(-1, *source.shape))).T


def _gains(operator: SpectralFilter) -> Tensor:
    return operator.gain.double().broadcast_to(operator.transform.coordinates).flatten()
