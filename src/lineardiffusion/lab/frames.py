r"""Orthonormal frames in which covariances and operators are diagonal, or as near to that as they come.

A frame is a basis of `ld.bases`, the order in which its coordinates fall into groups, and an orthogonal matrix for each
group:

    z_g = U_gᵀ (Vᴴ x)_{g}

Where operators lead from each group to the same group of another shape alone, the groups are independent Gaussians.
The mean of pairs makes of the cosines of frequencies π k / n and π (n − k) / n the same but for factors, and a
cut leaves one of them: with L levels the coordinates of a line fall into groups of 2^{L − 1}. A resize that is the same
in a mirror keeps those with even k from those with odd k. Without changes of shape each cosine is a group of its own.

Sums over groups of a smooth spectrum are sums over some of them, each with the weight of its neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, check_finite, check_kind, check_real
from lineardiffusion.caches import BoundedCache
from lineardiffusion.covariance import GramCovariance
from lineardiffusion.lab.matrices import act, sandwich
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Basis, Cosine, Fourier, Standard
from lineardiffusion.operators.scalar import Identity, Scaled
from lineardiffusion.operators.separable import spatial_axes
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.paths import Path, heat, identity, pyramid, truncated

_CACHE_BYTES = 2**28
_MIRRORED = ("bilinear", "bicubic", "area")  # of the modes of Resize, those that are the same in a mirror
_WHOLE = 16  # how many of the lowest frequencies of an axis a part has all of


class Groups(NamedTuple):
    """Of the cosine coordinates of an event.

    Attributes:
        ids: the group of each.
        layout: of the groups, channels first.
    """

    ids: Tensor
    layout: Shape


class Part(NamedTuple):
    """Some of the groups.

    Attributes:
        groups: which.
        weights: how many each stands for.
    """

    groups: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Frame:
    """An orthonormal basis of events.

    Arguments:
        basis: V.
        groups: how many of one size the coordinates fall into.
        order: of the coordinates of V, group by group; as they are without.
        turn: U, with shape (groups, m, m) and the frame's vectors as columns; I without.
        part: which groups of all these are, if not all.
    """

    basis: Basis
    groups: int = 1
    order: Tensor | None = None
    turn: Tensor | None = None
    part: Part | None = None

    @property
    def shape(self) -> Shape:
        return self.basis.shape

    @property
    def size(self) -> int:
        """n, how many coordinates there are."""
        return math.prod(self.basis.coordinates) if self.order is None else len(self.order)

    def coordinates(self, events: Tensor) -> Tensor:
        """(*batch, n) of events (*batch, *shape)."""
        z = self.basis.analyse(events).flatten(-len(self.basis.coordinates))
        z = z if self.order is None else z[..., self.order]
        return z if self.turn is None else act(self.turn.mT, z)

    def events(self, coordinates: Tensor) -> Tensor:
        """Events (*batch, *shape) of coordinates (*batch, n)."""
        z = coordinates if self.turn is None else act(self.turn, coordinates)
        if self.order is not None:
            z = z.new_zeros(*z.shape[:-1], math.prod(self.basis.coordinates)).index_copy_(-1, self.order, z)
        return self.basis.synthesise(z.reshape(*z.shape[:-1], *self.basis.coordinates))

    def dense(self, matrix: Tensor) -> Tensor:
        """The matrix on flattened events of one between these coordinates."""
        units = torch.eye(self.size, dtype=torch.float64).reshape(-1, *self.shape)
        return self.events(act(matrix, self.coordinates(units))).flatten(1).T

    def along(self, matrix: Tensor) -> tuple[Frame, Tensor]:
        """The frame of a symmetric matrix of these coordinates, and the eigenvalues there."""
        values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        turn = vectors if self.turn is None else self.turn @ vectors
        return replace(self, turn=turn), values.flatten()


def eigenframe(matrix: Tensor, shape: Shape) -> tuple[Frame, Tensor]:
    """The eigenvectors and eigenvalues of a symmetric matrix on flattened events."""
    return Frame(Standard(shape)).along(matrix[None])


@singledispatch
def frame_of(covariance: LinearOperator) -> tuple[Frame, Tensor]:
    """The frame of a symmetric operator, and its eigenvalues there; known for filters, computed for others."""
    return eigenframe(covariance.to_dense().double(), covariance.in_shape)


@frame_of.register
def _(covariance: SpectralFilter) -> tuple[Frame, Tensor]:
    basis = covariance.transform
    if isinstance(basis, Fourier) or not basis.is_complete:
        return eigenframe(covariance.to_dense().double(), basis.shape)
    return Frame(basis), _gains(covariance)


@frame_of.register
def _(covariance: Scaled) -> tuple[Frame, Tensor]:
    frame, values = frame_of(covariance.operator)
    return frame, covariance.scale * values


@frame_of.register
def _(covariance: GramCovariance) -> tuple[Frame, Tensor]:
    if isinstance(covariance.operator, SpectralFilter):
        frame, gains = frame_of(covariance.operator)
        if frame.turn is None:
            return frame, covariance.variance(gains.square())
    return eigenframe(covariance.to_dense().double(), covariance.in_shape)


@singledispatch
def groups_of(path: Path, shape: Shape) -> Groups | None:
    """Those of the events of a shape that the path has, where cosines fall into any."""
    return None


@groups_of.register(identity)
@groups_of.register(heat)
def _(path: Path, shape: Shape) -> Groups | None:
    return Groups(torch.arange(math.prod(shape)).reshape(shape), shape)


@groups_of.register
def _(path: pyramid, shape: Shape) -> Groups | None:
    if path.mode in ("haar", "area") and _are_halves(path.sizes):
        return _halved(path.sizes[-1], shape)
    axes = spatial_axes(shape)
    if path.mode in _MIRRORED and all(n % 2 == 0 for size in path.sizes for n in size[-axes:]):
        return _of_axes(shape, [torch.arange(n) % 2 for n in shape[-axes:]], [2] * axes)
    return None


@groups_of.register
def _(path: truncated, shape: Shape) -> Groups | None:
    return _halved(path.sizes[-1], shape) if isinstance(path.basis, Cosine) and _are_halves(path.sizes) else None


def _are_halves(sizes: Sequence[Shape]) -> bool:
    """Whether each spatial axis is half of the one before, and all others are the same."""
    axes = spatial_axes(sizes[0])
    return all(
        fine[:-axes] == coarse[:-axes] and fine[-axes:] == tuple(2 * n for n in coarse[-axes:])
        for fine, coarse in itertools.pairwise(sizes)
    )


def _halved(least: Shape, shape: Shape) -> Groups:
    """The groups of frequencies that are the same at the least size, where an axis is halved time and again."""
    counts = least[-spatial_axes(shape) :]
    return _of_axes(shape, [_folded(n, count) for n, count in zip(shape[-len(counts) :], counts, strict=True)], counts)


def _of_axes(shape: Shape, indices: Sequence[Tensor], counts: Sequence[int]) -> Groups:
    """A group for every combination of channels and of the groups along axes."""
    channels = shape[: len(shape) - len(counts)]
    group = torch.arange(math.prod(channels)).reshape(*channels, *[1] * len(counts))
    for i, (index, count) in enumerate(zip(indices, counts, strict=True)):
        group = group * count + index.reshape(-1, *[1] * (len(counts) - 1 - i))
    return Groups(group, (*channels, *counts))


def _folded(n: int, least: int) -> Tensor:
    """What halving leaves of the frequencies 0, …, n − 1 at the size `least`."""
    k = torch.arange(n)
    while n > least:
        n //= 2
        k = torch.where(k < n, k, (2 * n - k) % n)
    return k


def grouped(path: Path, shape: Shape, part: Part | None = None) -> Frame:
    """A frame of the events of a shape that the path has, in its groups or a part of them; of pixels where all are one
    group."""
    groups = groups_of(path, shape)
    if groups is None:
        return Frame(Standard(shape))
    order = torch.argsort(groups.ids.flatten(), stable=True).reshape(math.prod(groups.layout), -1)
    order = order if part is None else order[part.groups]
    return Frame(Cosine(shape), len(order), order.flatten(), part=part)


def part_of(layout: Shape) -> Part:
    """Groups of all low frequencies, and from there on of fewer the higher they are, as spectra vary by octaves."""
    groups, weights = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.float64)
    for axis, n in enumerate(layout, start=spatial_axes(layout) - len(layout)):
        nodes, widths = _nodes(n) if axis >= 0 else (torch.arange(n), torch.ones(n))
        groups = (groups[:, None] * n + nodes).flatten()
        weights = (weights[:, None] * widths).flatten()
    return Part(groups, weights)


def _nodes(n: int) -> tuple[Tensor, Tensor]:
    """Frequencies of 0, …, n − 1, and how many each stands for, itself in the middle."""
    nodes, widths, end, width = [], [], 0, 1
    while end < n:
        width *= 3 if end >= _WHOLE * width else 1
        widths.append(min(width, n - end))
        nodes.append(end + (widths[-1] - 1) // 2)
        end += widths[-1]
    return torch.tensor(nodes), torch.tensor(widths)


@singledispatch
def in_frames(operator: LinearOperator, source: Frame, target: Frame) -> Tensor:
    """V_targetᵀ M V_source, as a vector where it is known to be diagonal."""
    return matrix_of(operator, source, target)


@in_frames.register
def _(operator: Identity, source: Frame, target: Frame) -> Tensor:
    if source is not target:
        return matrix_of(operator, source, target)
    return torch.ones(source.size, dtype=torch.float64)


@in_frames.register
def _(operator: Scaled, source: Frame, target: Frame) -> Tensor:
    return operator.scale * in_frames(operator.operator, source, target)


@in_frames.register
def _(operator: SpectralFilter, source: Frame, target: Frame) -> Tensor:
    if source is target and source.turn is None and source.basis == operator.transform:
        gains = _gains(operator)
        return gains if source.order is None else gains[source.order]
    return matrix_of(operator, source, target)


def matrix_of(function: Callable[[Tensor], Tensor], source: Frame, target: Frame, *, diagonal: bool = False) -> Tensor:
    """The matrix of a linear function of events that mixes no groups, or is diagonal: the j-th columns of all blocks
    are what it makes of the sum of the groups' j-th vectors."""
    if diagonal:
        return target.coordinates(function(source.events(torch.ones(1, source.size, dtype=torch.float64))))[0]
    m = source.size // source.groups
    units = torch.eye(m, dtype=torch.float64)[:, None].expand(m, source.groups, m).reshape(m, -1)
    images = target.coordinates(function(source.events(units)))
    return images.reshape(m, source.groups, -1).permute(1, 2, 0)


def _gains(operator: SpectralFilter) -> Tensor:
    return operator.gain.double().broadcast_to(operator.transform.coordinates).flatten()


class InFrame(LinearOperator):
    """V diag(values) Vᵀ in a frame. What operators that change the shape make of it is kept by the operator, so that
    processes whose paths differ in when they change alone share it.

    Arguments:
        frame: V.
        values: ≥ 0, one for each coordinate.
    """

    def __init__(self, frame: Frame, values: Tensor) -> None:
        super().__init__(frame.shape, frame.shape)
        self.frame, self.values = frame, values
        self._images: BoundedCache[InFrame] = BoundedCache(_CACHE_BYTES, attrgetter("frame.turn.nbytes"))
        self._matrices: BoundedCache[Tensor] = BoundedCache(_CACHE_BYTES, attrgetter("nbytes"))

    def apply(self, x: Tensor) -> Tensor:
        return self.frame.events(self.values * self.frame.coordinates(x))

    def in_groups(self, path: Path, *, thinned: bool = False) -> InFrame | None:
        """The same in the groups of a path, or in a part of them; None where there are none of coordinates of its
        basis."""
        own, values = self.frame, self.values
        groups = groups_of(path, own.shape) if thinned else None
        frame = grouped(path, own.shape, own.part if groups is None else part_of(groups.layout))
        if own.turn is not None or frame.order is None or frame.basis != own.basis:
            return None
        if own.order is not None:
            if torch.equal(own.order, frame.order):
                return self
            values = torch.empty_like(values).index_copy_(0, own.order, values)
        return InFrame(frame, values[frame.order])

    def image(self, operator: LinearOperator, path: Path | None) -> InFrame:
        """M C Mᵀ of an operator of a path, in its groups; without one in a frame of pixels."""
        return self._images.get(operator, lambda: self._image(operator, path))

    def _image(self, operator: LinearOperator, path: Path | None) -> InFrame:
        shape, part = operator.out_shape, self.frame.part
        frame = Frame(Standard(shape)) if path is None else grouped(path, shape, part)
        frame, values = frame.along(sandwich(matrix_of(operator, self.frame, frame), self.values))
        return InFrame(frame, values.clamp(min=0))

    def between(self, operator: LinearOperator, source: Frame, target: Frame) -> Tensor:
        """V_targetᵀ M V_source for frames of this or of images of it."""
        return self._matrices.get((operator, source, target), lambda: in_frames(operator, source, target))


def in_frame(covariance: Tensor | LinearOperator, shape: Shape) -> InFrame:
    """A covariance of events of a shape, a matrix or an operator, in its frame."""
    count = math.prod(shape)
    if isinstance(covariance, Tensor):
        check_real(covariance, "covariance")
        check_finite(covariance, "covariance")
        if covariance.shape != (count, count):
            raise ValueError(f"covariance: expected shape {(count, count)}, got {tuple(covariance.shape)}")
        dense = covariance.detach().cpu().double()
        if not torch.allclose(dense, dense.T, rtol=1e-6, atol=1e-9 * float(dense.abs().max())):
            raise ValueError("covariance: expected a symmetric matrix")
        frame, values = eigenframe(dense, shape)
    else:
        check_kind(covariance, LinearOperator, "covariance", "a matrix or an operator, such as ld.lab.power_law(shape)")
        if covariance.in_shape != shape or covariance.out_shape != shape:
            raise ValueError(f"covariance: expected an operator on events {shape}, got one on {covariance.in_shape}")
        if isinstance(covariance, InFrame):
            return covariance
        frame, values = frame_of(covariance)
    if float(values.min()) < -1e-9 * float(values.max()):
        raise ValueError(f"covariance: expected eigenvalues ≥ 0, got {float(values.min()):.6g}")
    return InFrame(frame, values.clamp(min=0))
