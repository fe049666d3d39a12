r"""Operators that are diagonal in a cosine or Fourier basis: blurs, and whole diffusions in frequency space.

The type-II discrete cosine transform diagonalises symmetric filters with half-sample symmetric boundaries, the heat
equation with insulated borders among them; the Fourier transform diagonalises circular convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_constant, as_shape, compute_dtype
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.factored import FactoredOperator
from lineardiffusion.operators.multipliers import cast
from lineardiffusion.operators.rules import rule
from lineardiffusion.operators.separable import along_axes, spatial_axes

Basis = Literal["dct", "fft"]


class SpectralFilter(FactoredOperator):
    r"""M = V diag(gain) Vᴴ with V the orthonormal cosine or Fourier basis of the axes that the gain has.

    Arguments:
        shape: event shape, channels first.
        gain: constant multipliers, broadcastable to `shape`; index k of an axis is the k-th frequency of the transform
            (`torch.fft.fftfreq` order for "fft"). With as many axes as an event of three or more, the first is that of
            the channels, which have a gain each and are not transformed. Complex gains need basis="fft".
        basis: "dct" (type II, orthonormal) or "fft".

    Raises:
        ValueError: a gain that does not fit, is not finite or is being learned, or whose filter would turn real signals
            into complex ones.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> mean = ld.SpectralFilter((1, 4), torch.tensor([1.0, 0.0, 0.0, 0.0]))
        >>> mean(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
        tensor([[3., 3., 3., 3.]])
    """

    has_frame = True

    def __init__(self, shape: Sequence[int], gain: Tensor, basis: Basis = "dct") -> None:
        super().__init__(in_shape=shape, out_shape=shape)
        if basis not in ("dct", "fft"):
            raise ValueError(f"basis: expected 'dct' or 'fft', got {basis!r}")
        self.gain = as_constant(gain, "gain", allow_complex=True)
        self.basis = basis
        transformed = gain.ndim - 1 if gain.ndim == len(self.in_shape) >= 3 else max(1, gain.ndim)
        self.axes = tuple(range(-transformed, 0))
        try:
            full = self.gain.broadcast_to(self.in_shape)
        except RuntimeError:
            raise ValueError(
                f"gain: expected a shape that broadcasts to {self.in_shape}, got {tuple(gain.shape)}"
            ) from None
        if basis == "dct" and gain.is_complex():
            raise ValueError("gain: expected real values for basis 'dct', got complex ones")
        if basis == "fft":
            mirrored = full.flip(self.axes).roll([1] * len(self.axes), self.axes).conj()
            if not torch.allclose(full, mirrored, rtol=1e-9, atol=1e-9 * float(full.abs().max())):
                raise ValueError("gain: expected gain[−k] = conj(gain[k]), so that real signals stay real")

    def spectrum(self) -> Tensor:
        return self.gain

    def _to_right(self, x: Tensor) -> Tensor:
        if self.basis == "fft":
            coefficients: Tensor = torch.fft.fftn(x, dim=self.axes, norm="ortho")
            return coefficients
        return along_axes([dct_matrix(x.shape[axis], x) for axis in self.axes], x)

    def _from_right(self, z: Tensor) -> Tensor:
        if self.basis == "fft":
            signal: Tensor = torch.fft.ifftn(z, dim=self.axes, norm="ortho").real
            return signal
        return along_axes([dct_matrix(z.shape[axis], z).T for axis in self.axes], z)

    def _to_left(self, y: Tensor) -> Tensor:
        return self._to_right(y)

    def _from_left(self, z: Tensor) -> Tensor:
        return self._from_right(z)

    def singular_values(self) -> Tensor:
        return self.gain.abs().broadcast_to(self.in_shape).flatten()

    @classmethod
    def _apply_each(cls, operators: Sequence[SpectralFilter], x: Tensor) -> Tensor:
        first = operators[0]
        if any(op.basis != first.basis or op.gain.shape != first.gain.shape for op in operators):
            return super()._apply_each(operators, x)
        stacked = torch.stack([op.gain for op in operators])
        gains = stacked.reshape(len(operators), *[1] * (x.ndim - stacked.ndim), *first.gain.shape)
        work = x.to(compute_dtype(x.dtype))
        return first._from_right(cast(gains, work) * first._to_right(work)).to(x.dtype)


@rule("transpose", SpectralFilter)
def _transpose(operator: SpectralFilter) -> LinearOperator:
    return SpectralFilter(operator.in_shape, operator.gain.conj(), operator.basis)


@rule("scale", SpectralFilter)
def _scale(operator: SpectralFilter, scale: float) -> LinearOperator | None:
    if scale == 0:
        return None  # a multiple of 0 keeps its signs and phases as Scaled
    return SpectralFilter(operator.in_shape, scale * operator.gain, operator.basis)


@rule("product", SpectralFilter, SpectralFilter)
def _product(left: SpectralFilter, right: SpectralFilter) -> LinearOperator | None:
    if (left.basis, left.axes) != (right.basis, right.axes):
        return None
    return SpectralFilter(right.in_shape, left.gain * right.gain, right.basis)


_DCT: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def cosine_coefficients(events: Tensor, shape: Shape) -> Tensor:
    """Vᵀx, V the basis of SpectralFilter(shape, gain) with a gain of that whole shape."""
    return SpectralFilter(shape, torch.ones(shape))._to_right(events)


def dct_matrix(n: int, like: Tensor) -> Tensor:
    """The orthonormal type-II cosine transform, (frequency, position), kept for each size, precision and device."""
    key = (n, like.dtype, like.device)
    if key not in _DCT:
        with torch.inference_mode(False):  # what is kept may be needed for gradients later
            frequency, position = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
            matrix = math.sqrt(2 / n) * torch.cos(math.pi / n * frequency * (position + 0.5))
            matrix[0] /= math.sqrt(2)
            _DCT[key] = cast(matrix, like)
    return _DCT[key]


def dct_frequencies(shape: Sequence[int]) -> list[Tensor]:
    r"""Frequencies π k / n, in radians per pixel, of the cosine basis of each spatial axis: −Δ has the eigenvalues
    Σ_i (π k_i / n_i)²."""
    event = as_shape(shape)
    sizes = event[len(event) - spatial_axes(event) :]
    return [math.pi * torch.arange(size, dtype=torch.float64) / size for size in sizes]


@rule("function", SpectralFilter)
def _function(operator: SpectralFilter, f: SpectralFunction) -> LinearOperator:
    return SpectralFilter(operator.in_shape, f(operator.gain.abs().square()), operator.basis)
