r"""Operators that are diagonal in an orthonormal basis: blurs, and whole diffusions in frequency space.

The type-II discrete cosine transform diagonalises symmetric filters with half-sample symmetric boundaries, the heat
equation with insulated borders among them; the Fourier transform diagonalises circular convolutions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_constant, as_shape
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Basis, Cosine, Fourier
from lineardiffusion.operators.factored import FactoredOperator, largest_size
from lineardiffusion.operators.rules import rule
from lineardiffusion.operators.separable import spatial_axes


class SpectralFilter(FactoredOperator):
    r"""M = V diag(gain) Vᴴ with an orthonormal basis V of events.

    Arguments:
        shape: event shape, channels first.
        gain: constant multipliers, broadcastable to the coordinates of the basis; for "dct" and "fft" these are those
            of the shape, and index k of an axis is the k-th frequency of the transform (`torch.fft.fftfreq` order for
            "fft"). Complex gains need the Fourier basis.
        basis: "dct" (type II, orthonormal) or "fft", of the axes that the gain has: with as many as an event of three
            or more, the first is that of the channels, which have a gain each and are not transformed. Or one of
            `ld.bases`; what its coordinates leave out is zero in results.

    Attributes:
        transform: the basis V.

    Raises:
        ValueError: a basis of other events; a gain that does not fit, is not finite or is being learned, or whose
            filter would turn real signals into complex ones.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> mean = ld.SpectralFilter((1, 4), torch.tensor([1.0, 0.0, 0.0, 0.0]))
        >>> mean(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
        tensor([[3., 3., 3., 3.]])
        >>> coarse = ld.SpectralFilter((1, 4), torch.tensor([1.0, 1.0, 0.0, 0.0]), ld.bases.Haar((1, 4)))
        >>> coarse(torch.tensor([[1.0, 2.0, 3.0, 6.0]])).round(decimals=4)
        tensor([[1.5000, 1.5000, 4.5000, 4.5000]])
    """

    has_frame = True

    def __init__(self, shape: Sequence[int], gain: Tensor, basis: Literal["dct", "fft"] | Basis = "dct") -> None:
        super().__init__(in_shape=shape, out_shape=shape)
        self.gain = as_constant(gain, "gain", allow_complex=True)
        self.basis = basis
        self.transform = _as_basis(basis, self.in_shape, gain.ndim)
        if self.transform.shape != self.in_shape:
            raise ValueError(f"basis: expected one of events {self.in_shape}, got {self.transform}")
        coordinates = self.transform.coordinates
        try:
            self.gain.broadcast_to(coordinates)
        except RuntimeError:
            raise ValueError(
                f"gain: expected a shape that broadcasts to {coordinates}, got {tuple(gain.shape)}"
            ) from None
        if isinstance(self.transform, Fourier):
            numbers = self.gain.reshape(self.gain.shape or (1,))
            axes = tuple(range(-min(self.transform.axes, numbers.ndim), 0))
            mirrored = numbers.flip(axes).roll([1] * len(axes), axes).conj()
            if largest_size(numbers - mirrored) > 1e-9 * largest_size(numbers):
                raise ValueError("gain: expected gain[−k] = conj(gain[k]), so that real signals stay real")
        elif gain.is_complex():
            raise ValueError(f"gain: expected real values for basis {basis!r}, got complex ones")

    def with_gain(self, gain: Tensor) -> SpectralFilter:
        """A filter of the same basis with another gain, float64 or complex128 and known to be sound."""
        result = copy.copy(self)
        result.gain = gain
        return result

    def spectrum(self) -> Tensor:
        return self.gain

    def _to_right(self, x: Tensor) -> Tensor:
        return self.transform.analyse(x)

    def _from_right(self, z: Tensor) -> Tensor:
        return self.transform.synthesise(z)

    def _to_left(self, y: Tensor) -> Tensor:
        return self.transform.analyse(y)

    def _from_left(self, z: Tensor) -> Tensor:
        return self.transform.synthesise(z)

    @property
    def coordinates(self) -> Shape:
        return self.transform.coordinates

    def bases(self) -> tuple[Basis, Basis]:
        return self.transform, self.transform


def _as_basis(basis: str | Basis, shape: Shape, gain_ndim: int) -> Basis:
    if isinstance(basis, Basis):
        return basis
    if basis not in ("dct", "fft"):
        raise ValueError(f"basis: expected 'dct', 'fft' or one of ld.bases, got {basis!r}")
    axes = gain_ndim - 1 if gain_ndim == len(shape) >= 3 else max(1, gain_ndim)
    if axes > len(shape):
        raise ValueError(f"gain: expected a shape that broadcasts to {shape}, got one of {gain_ndim} axes")
    return Cosine(shape, axes) if basis == "dct" else Fourier(shape, axes)


@rule("transpose", SpectralFilter)
def _transpose(operator: SpectralFilter) -> LinearOperator:
    return operator.with_gain(operator.gain.conj().resolve_conj()) if operator.gain.is_complex() else operator


@rule("scale", SpectralFilter)
def _scale(operator: SpectralFilter, scale: float) -> LinearOperator | None:
    return operator.with_gain(scale * operator.gain) if scale else None  # a multiple of 0 keeps its signs as Scaled


@rule("product", SpectralFilter, SpectralFilter)
def _product(left: SpectralFilter, right: SpectralFilter) -> LinearOperator | None:
    return right.with_gain(left.gain * right.gain) if left.transform == right.transform else None


@rule("function", SpectralFilter)
def _function(operator: SpectralFilter, f: SpectralFunction) -> LinearOperator | None:
    if not operator.transform.is_complete:
        return None  # what has no coordinates is multiplied by f(0)
    return operator.with_gain(f(operator.gain.abs().square()))


def cosine_coefficients(events: Tensor, shape: Shape) -> Tensor:
    """Vᵀx, V the basis of SpectralFilter(shape, gain) with a gain of that whole shape."""
    return _as_basis("dct", shape, len(shape)).analyse(events)


def dct_frequencies(shape: Sequence[int]) -> list[Tensor]:
    r"""Frequencies π k / n, in radians per pixel, of the cosine basis of each spatial axis: −Δ has the eigenvalues
    Σ_i (π k_i / n_i)²."""
    event = as_shape(shape)
    sizes = event[len(event) - spatial_axes(event) :]
    return [math.pi * torch.arange(size, dtype=torch.float64) / size for size in sizes]
