r"""Orthonormal bases of events: a filter has a gain for each coordinate, a path makes coordinates fade.

    z = Vᴴ x  (analyse),     x = V z  (synthesise),     ‖z‖ = ‖x‖

All are real but for Fourier's, and all but `Principal` of lower rank are bases of all events. Channels come first; the
others are transformed along the axes after them. Half precisions are computed in float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion._checks import (
    Shape,
    as_index,
    as_numbers,
    as_shape,
    check_event,
    check_finite,
    check_tensor,
    compute_dtype,
    in_dtype,
)
from lineardiffusion.config import Configured, configured
from lineardiffusion.operators.multipliers import Casts, cast
from lineardiffusion.operators.separable import along_axes, for_each_axis, spatial_axes


class Basis(Configured, ABC):
    """An orthonormal basis V of events.

    Attributes:
        shape: event shape.
        coordinates: shape of the coordinates of an event.
    """

    shape: Shape
    coordinates: Shape

    @property
    def is_complete(self) -> bool:
        """Whether V is a basis of all events, and not an isometry only."""
        return math.prod(self.coordinates) == math.prod(self.shape)

    def analyse(self, x: Tensor) -> Tensor:
        """Vᴴ x, from (*batch, *shape) to (*batch, *coordinates).

        Raises:
            ValueError: x does not end in `shape`.
        """
        check_event(x, self.shape, "x")
        z = self._analyse(in_dtype(x, compute_dtype(x.dtype)))
        return z if z.is_complex() else in_dtype(z, x.dtype)

    def synthesise(self, z: Tensor) -> Tensor:
        """V z, from (*batch, *coordinates) to (*batch, *shape).

        Raises:
            ValueError: z does not end in `coordinates`.
        """
        check_tensor(z, "z")
        count = len(self.coordinates)
        if z.ndim < count or tuple(z.shape[z.ndim - count :]) != self.coordinates:
            expected = ", ".join(map(str, self.coordinates))
            raise ValueError(f"z: expected coordinates of shape (*batch, {expected}), got {tuple(z.shape)}")
        x = self._synthesise(z if z.is_complex() else in_dtype(z, compute_dtype(z.dtype)))
        return x if z.is_complex() else in_dtype(x, z.dtype)

    @abstractmethod
    def _analyse(self, x: Tensor) -> Tensor:
        """`analyse`, in at least single precision, without checks."""

    @abstractmethod
    def _synthesise(self, z: Tensor) -> Tensor:
        """`synthesise`, in at least single precision, without checks."""

    def smaller(self, shape: Sequence[int]) -> Basis:
        """The basis of the same kind of smaller events, whose coordinates are the first ones of these along each axis.

        Raises:
            ValueError: there is none.
        """
        raise ValueError(
            f"basis: expected Standard, Cosine, BlockCosine, Haar or Principal, whose coordinates can be cut, "
            f"got {self}"
        )


@configured("bases.Standard")
class Standard(Basis):
    """The pixels themselves, V = I.

    Arguments:
        shape: event shape.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> ld.bases.Standard((1, 2)).analyse(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = self.coordinates = as_shape(shape)

    def _analyse(self, x: Tensor) -> Tensor:
        return x

    def _synthesise(self, z: Tensor) -> Tensor:
        return z

    def smaller(self, shape: Sequence[int]) -> Basis:
        return Standard(_cut(self, shape, len(self.shape)))


@configured("bases.Cosine")
class Cosine(Basis):
    r"""The type-II discrete cosine transform: V diagonalises symmetric filters with mirrored borders, the heat equation
    with insulated borders among them. Coordinate k of an axis of n pixels has the frequency π k / n.

    Arguments:
        shape: event shape, channels first.
        axes: how many of the last axes are transformed; by default all but the first, the channels.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> ld.bases.Cosine((1, 4)).analyse(torch.ones(1, 4)).round(decimals=4).abs()
        tensor([[2., 0., 0., 0.]])
    """

    def __init__(self, shape: Sequence[int], axes: int | None = None) -> None:
        self.shape = self.coordinates = as_shape(shape)
        self.axes = spatial_axes(self.shape) if axes is None else as_index(axes, 1, len(self.shape), "axes")

    def _analyse(self, x: Tensor) -> Tensor:
        return along_axes([dct_matrix(n, x) for n in self.shape[-self.axes :]], x)

    def _synthesise(self, z: Tensor) -> Tensor:
        return along_axes([dct_matrix(n, z).T for n in self.shape[-self.axes :]], z)

    def smaller(self, shape: Sequence[int]) -> Basis:
        return Cosine(_cut(self, shape, self.axes), self.axes)

    def arguments(self) -> dict[str, object]:
        return {"shape": self.shape, "axes": None if self.axes == spatial_axes(self.shape) else self.axes}


@configured("bases.Fourier")
class Fourier(Basis):
    """The discrete Fourier transform: V diagonalises circular convolutions. Coordinates are complex, z[−k] = conj(z[k])
    those of real events, in the order of `torch.fft.fftfreq`; the real part is what a synthesis keeps.

    Arguments:
        shape: event shape, channels first.
        axes: how many of the last axes are transformed; by default all but the first, the channels.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> ld.bases.Fourier((1, 4)).analyse(torch.ones(1, 4)).real
        tensor([[2., 0., 0., 0.]])
    """

    def __init__(self, shape: Sequence[int], axes: int | None = None) -> None:
        self.shape = self.coordinates = as_shape(shape)
        self.axes = spatial_axes(self.shape) if axes is None else as_index(axes, 1, len(self.shape), "axes")
        self._dims = tuple(range(-self.axes, 0))

    def _analyse(self, x: Tensor) -> Tensor:
        coefficients: Tensor = torch.fft.fftn(x, dim=self._dims, norm="ortho")
        return coefficients

    def _synthesise(self, z: Tensor) -> Tensor:
        signal: Tensor = torch.fft.ifftn(z, dim=self._dims, norm="ortho").real
        return signal

    def arguments(self) -> dict[str, object]:
        return {"shape": self.shape, "axes": None if self.axes == spatial_axes(self.shape) else self.axes}


@configured("bases.BlockCosine")
class BlockCosine(Basis):
    """The cosine transform of each block of pixels, as in JPEG. Events of (C, H, W) have coordinates of
    (C, H/b, W/b, b, b): a gain of shape (b, b) is that of all blocks.

    Arguments:
        shape: event shape, channels first.
        block: size of the blocks along each of the last axes; an int stands for every axis but the first.

    Raises:
        ValueError: blocks that do not divide the sizes.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.bases.BlockCosine((3, 24, 32), 8).coordinates
        (3, 3, 4, 8, 8)
    """

    def __init__(self, shape: Sequence[int], block: Sequence[int] | int = 8) -> None:
        self.shape = as_shape(shape)
        self.block = for_each_axis(block, self.shape, "block")
        sizes = self.shape[len(self.shape) - len(self.block) :]
        if len(self.block) > len(self.shape) or any(b < 1 or n % b for n, b in zip(sizes, self.block, strict=True)):
            raise ValueError(f"block: expected divisors of the last sizes of {self.shape}, got {self.block}")
        counts = tuple(n // b for n, b in zip(sizes, self.block, strict=True))
        self.coordinates = self.shape[: len(self.shape) - len(sizes)] + counts + self.block
        # (…, n, …) as (…, n/b, b, …)
        self._pairs = tuple(size for pair in zip(counts, self.block, strict=True) for size in pair)

    def _analyse(self, x: Tensor) -> Tensor:
        d = len(self.block)
        pairs = x.reshape(*x.shape[: x.ndim - d], *self._pairs)
        blocks = pairs.movedim(tuple(range(-2 * d + 1, 0, 2)), tuple(range(-d, 0)))
        return along_axes([dct_matrix(b, x) for b in self.block], blocks)

    def _synthesise(self, z: Tensor) -> Tensor:
        d = len(self.block)
        blocks = along_axes([dct_matrix(b, z).T for b in self.block], z)
        pairs = blocks.movedim(tuple(range(-d, 0)), tuple(range(-2 * d + 1, 0, 2)))
        return pairs.reshape(*z.shape[: z.ndim - 2 * d], *self.shape[len(self.shape) - d :])

    def smaller(self, shape: Sequence[int]) -> Basis:
        d = len(self.block)
        event = _cut(self, shape, d)
        ratios = [(b * m, n) for b, m, n in zip(self.block, event[-d:], self.shape[-d:], strict=True)]
        if any(part % n for part, n in ratios):
            raise ValueError(f"shape: expected sizes that give every block of {self} as many whole pixels, got {event}")
        return BlockCosine(event, [part // n for part, n in ratios])


@configured("bases.Haar")
class Haar(Basis):
    r"""Haar's wavelets: along each axis and for each pair of neighbours (a + b)/√2 and (a − b)/√2, sums first, and then
    the same again for the corner of sums alone, which is the image at half the size and 2^{d/2} times as bright.

    Arguments:
        shape: event shape, channels first.
        levels: how often the size is halved; 0 leaves events as they are.

    Attributes:
        halvings: event shapes of the sums of each level.

    Raises:
        ValueError: sizes that are odd at some level.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> ld.bases.Haar((1, 4), levels=2).analyse(torch.tensor([[1.0, 1.0, 3.0, 3.0]])).round(decimals=4)
        tensor([[ 4., -2.,  0.,  0.]])
    """

    def __init__(self, shape: Sequence[int], levels: int = 1) -> None:
        self.shape = self.coordinates = as_shape(shape)
        self.levels = as_index(levels, 0, 64, "levels")
        self._axes = tuple(range(-spatial_axes(self.shape), 0))
        sizes = self.shape[self._axes[0] :]
        if any(n % 2**self.levels for n in sizes):
            most = min((n & -n).bit_length() - 1 for n in sizes)
            raise ValueError(
                f"levels: expected sizes that can be halved {self.levels} times, multiples of {2**self.levels}, got "
                f"{self.shape}, which allows {most}"
            )
        # The sizes of what each level transforms: the sums of the one before.
        self._corners = [tuple(n >> level for n in sizes) for level in range(self.levels)]
        rest = self.shape[: len(self.shape) - len(sizes)]
        self.halvings = [(*rest, *(n >> level for n in sizes)) for level in range(1, self.levels + 1)]

    def _analyse(self, x: Tensor) -> Tensor:
        z = x.clone()
        for sizes in self._corners:
            corner = first(z, sizes)
            band = corner
            for axis in self._axes:
                a, b = torch.unflatten(band, axis, (band.shape[axis] // 2, 2)).unbind(axis)
                band = torch.cat([a + b, a - b], axis) * math.sqrt(0.5)
            corner.copy_(band)
        return z

    def _synthesise(self, z: Tensor) -> Tensor:
        x = z.clone()
        for sizes in reversed(self._corners):
            corner = first(x, sizes)
            band = corner
            for axis in self._axes:
                sums, differences = band.chunk(2, axis)
                pairs = torch.stack([sums + differences, sums - differences], axis)
                band = pairs.flatten(axis - 1, axis) * math.sqrt(0.5)
            corner.copy_(band)
        return x

    def smaller(self, shape: Sequence[int]) -> Basis:
        event = _cut(self, shape, len(self._axes))
        ratios = {n / m for n, m in zip(self.shape[self._axes[0] :], event[self._axes[0] :], strict=True)}
        halvings = math.log2(min(ratios))
        if len(ratios) > 1 or halvings not in range(self.levels + 1):
            raise ValueError(f"shape: expected one of the {self.levels} halvings of {self}, got {event}")
        return Haar(event, self.levels - int(halvings))


@configured("bases.Principal")
class Principal(Basis):
    r"""The first principal directions of a set of images: eigenvectors of their covariance, the largest eigenvalue
    first. Coordinates have the shape (rank,). With fewer than all directions V is an isometry, Vᵀ V = I: what is
    orthogonal to all of them has no coordinates. The mean of the images is taken off to find the directions, and only
    there: analysis is linear.

    Arguments:
        images: real constant data, with shape (N, *event).
        rank: how many directions; at most as many as there are images and numbers in one.

    Raises:
        ValueError: a rank out of range, or images that are not finite.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> line = torch.tensor([[1.0, 1.0], [2.0, 2.0], [6.0, 6.0]])
        >>> ld.bases.Principal(line, rank=1).analyse(torch.tensor([3.0, 3.0])).round(decimals=4)
        tensor([4.2426])
    """

    def __init__(self, images: Tensor | Sequence[Any], rank: int) -> None:
        self.images = images.detach() if isinstance(images, Tensor) else as_numbers(images, "images")
        if self.images.ndim < 2 or self.images.is_complex():
            raise ValueError(f"images: expected real numbers of shape (N, *event), got {tuple(self.images.shape)}")
        check_finite(self.images, "images")
        if self.images.is_meta:
            raise ValueError("images: expected a tensor with values, got one on the device meta")
        self.shape = as_shape(self.images.shape[1:])
        self.rank = as_index(rank, 1, min(self.images.shape[0], math.prod(self.shape)), "rank")
        self.coordinates = (self.rank,)
        self._casts = Casts(self._directions())

    def _directions(self) -> Tensor:
        """The directions as columns, (n, rank), each with its largest entry positive."""
        flat = self.images.to("cpu", torch.float64).reshape(len(self.images), -1)
        centred = flat - flat.mean(0)
        if len(centred) > centred.shape[1]:
            centred = torch.linalg.qr(centred, mode="r").R  # of the same right singular vectors, with fewer rows
        rows: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[: self.rank]
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        return (rows * largest.sgn()).T.contiguous()

    def _analyse(self, x: Tensor) -> Tensor:
        flat = x.reshape(*x.shape[: x.ndim - len(self.shape)], math.prod(self.shape))
        return torch.matmul(flat, self._casts(x))

    def _synthesise(self, z: Tensor) -> Tensor:
        return torch.matmul(z, self._casts(z).T).reshape(*z.shape[:-1], *self.shape)

    def smaller(self, shape: Sequence[int]) -> Basis:
        """Of events that are the first coordinates themselves, of shape (k,)."""
        event = as_shape(shape)
        if len(event) != 1 or event[0] > self.rank:
            raise ValueError(f"shape: expected (k,), k ≤ {self.rank} principal coordinates, got {event}")
        return Standard(event)

    def __repr__(self) -> str:
        return f"Principal({len(self.images)} images of {self.shape}, rank={self.rank})"


def _cut(basis: Basis, shape: Sequence[int], axes: int) -> Shape:
    """The shape of smaller events, which differ in the last axes alone.

    Raises:
        ValueError: it is that of no such events.
    """
    event, whole = as_shape(shape), basis.shape
    rest = len(whole) - axes
    if (
        len(event) != len(whole)
        or event[:rest] != whole[:rest]
        or any(m > n for m, n in zip(event, whole, strict=True))
    ):
        raise ValueError(f"shape: expected that of smaller events than {whole}, in the last {axes} axes, got {event}")
    return event


def first(z: Tensor, sizes: Sequence[int]) -> Tensor:
    """The first so many numbers along each of the last axes, a view."""
    for axis, n in zip(range(-len(sizes), 0), sizes, strict=True):
        z = z.narrow(axis, 0, n)
    return z


def padded(z: Tensor, sizes: Sequence[int]) -> Tensor:
    """Numbers that are the first ones of so many along each of the last axes, all others 0."""
    missing = [n - m for m, n in zip(z.shape[z.ndim - len(sizes) :], sizes, strict=True)]
    return F.pad(z, [margin for n in reversed(missing) for margin in (0, n)])  # which has the last axis first


_DCT: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def dct_matrix(n: int, like: Tensor) -> Tensor:
    """The orthonormal type-II cosine transform, (frequency, position), kept for each size, precision and device."""
    key = (n, like.dtype, like.device)
    if key not in _DCT:
        with torch.inference_mode(False):  # what is kept may be needed for gradients later
            frequency, position = torch.arange(n)[:, None], torch.arange(n)
            quarters = frequency * (2 * position + 1) % (4 * n)  # whole numbers, of which large ones keep their digits
            matrix = math.sqrt(2 / n) * torch.cos(math.pi / (2 * n) * quarters.double())
            matrix[0] /= math.sqrt(2)
            _DCT[key] = cast(matrix, like)
    return _DCT[key]
