r"""Operators with a known singular value decomposition M = U S Vᴴ whose factors are cheap to apply.

Every function of MᵀM and MMᵀ is then exact and costs two changes of basis:

    f(MᵀM) x = V f(|S|²) Vᴴ x                          where V is square,
    f(MᵀM) x = f(0) x + V (f(|S|²) − f(0)) Vᴴ x         where V has fewer columns than rows.

The spectrum is kept in float64 on the CPU and f is evaluated there, so that 1 − ρλ keeps its digits where ρλ → 1; only
the result is cast to the dtype and moved to the device of x.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, check_event, compute_dtype
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import GramMap, LinearOperator


class FactoredOperator(LinearOperator):
    """M = U S Vᴴ with isometries U and V. A subclass gives the spectrum and the four changes of basis.

    The changes of basis default to the identity: M is then diagonal in the basis of its events.
    """

    has_exact_functions = True

    @abstractmethod
    def spectrum(self) -> Tensor:
        """The diagonal S, float64 (or complex128), broadcastable against coordinates; it may have signs."""

    def _to_right(self, x: Tensor) -> Tensor:
        """Vᴴ x"""
        return x

    def _from_right(self, z: Tensor) -> Tensor:
        """V z"""
        return z

    def _to_left(self, y: Tensor) -> Tensor:
        """Uᴴ y"""
        return y

    def _from_left(self, z: Tensor) -> Tensor:
        """U z"""
        return z

    def _coordinates(self) -> int:
        """How many coordinates the two bases share; the other singular values are zero."""
        return self._rank_bound()

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        work = x.to(compute_dtype(x.dtype))
        return self._from_left(cast(self.spectrum(), work) * self._to_right(work)).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        work = y.to(compute_dtype(y.dtype))
        return self._from_right(cast(self.spectrum().conj(), work) * self._to_left(work)).to(y.dtype)

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        return self.gram_map(f)(x)

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        return self._map(f, self.out_shape, self._to_left, self._from_left)(y)

    def gram_map(self, f: SpectralFunction) -> GramMap:
        return self._map(f, self.in_shape, self._to_right, self._from_right)

    def _map(
        self,
        f: SpectralFunction,
        event: Shape,
        analyse: Callable[[Tensor], Tensor],
        synthesise: Callable[[Tensor], Tensor],
    ) -> GramMap:
        if self._coordinates() == math.prod(event):
            return diagonal_map(f(self._eigenvalues()), event, analyse, synthesise)
        images = f(self._cached("zero and eigenvalues", self._zero_and_eigenvalues))
        at_zero, seen = images[0], (images[1:] - images[0]).reshape(self.spectrum().shape)
        kept: dict[tuple[torch.dtype, torch.device], Tensor] = {}

        def function(x: Tensor, onto: Tensor | None = None) -> Tensor:
            check_event(x, event, "x")
            work = x.to(compute_dtype(x.dtype))
            # Thin bases give new tensors, which may be changed in place.
            result = add_multiple_(synthesise(analyse(work).mul_(_kept(seen, work, kept))), at_zero, work)
            return (result if onto is None else result.add_(onto)).to(x.dtype)

        return function

    def _zero_and_eigenvalues(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.float64), self._eigenvalues().flatten()])

    def _correct(self, gain: float | SpectralFunction, x: Tensor, y: Tensor, scale: float) -> Tensor:
        # In coordinates, with s = scale · S:  x + ū k (y − s x) = (1 − |s| k) x + ū k y, where k = |s| g and u = s/|s|.
        spectrum, eigenvalues = scale * self.spectrum(), scale**2 * self._eigenvalues()
        if callable(gain):
            k = gain(eigenvalues)
            told, seen = spectrum.sgn().conj() * k, spectrum.abs() * k
        else:
            told, seen = spectrum.conj() * gain, eigenvalues * gain
        if self._coordinates() == math.prod(self.in_shape):
            return self._from_right(blend(1 - seen, self._to_right(x), told, self._to_left(y)))
        return x + self._from_right(blend(-seen, self._to_right(x), told, self._to_left(y)))

    def _eigenvalues(self) -> Tensor:
        return self._cached("eigenvalues", lambda: self.spectrum().abs().square())

    def norm(self) -> float:
        return self._cached("norm", lambda: float(self.spectrum().abs().max()))

    def singular_values(self) -> Tensor:
        spectrum = self.spectrum().abs().flatten()
        values = spectrum.repeat(self._coordinates() // spectrum.numel())
        return torch.cat([values, values.new_zeros(self._rank_bound() - values.numel())])

    def _rank_bound(self) -> int:
        return min(math.prod(self.in_shape), math.prod(self.out_shape))


def cast(values: Tensor, like: Tensor) -> Tensor:
    """Values where `like` is and in its precision; complex values stay complex, and 0-dim ones stay on the CPU."""
    dtype = like.dtype.to_complex() if values.is_complex() else like.dtype
    # First the precision: there are devices without float64.
    return values.to(dtype) if values.ndim == 0 else values.to(dtype).to(like.device)


def diagonal_map(
    weights: Tensor, event: Shape, analyse: Callable[[Tensor], Tensor], synthesise: Callable[[Tensor], Tensor]
) -> GramMap:
    """(x, onto) ↦ onto + V diag(weights) Vᴴ x for a square V: one number for all coordinates, or one for each."""
    kept: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def function(x: Tensor, onto: Tensor | None = None) -> Tensor:
        check_event(x, event, "x")
        if weights.ndim == 0 and onto is not None:  # V cancels
            return add_multiple(onto, weights, x)
        work = x.to(compute_dtype(x.dtype))
        result = synthesise(_kept(weights, work, kept) * analyse(work))
        return (result if onto is None else result.add_(onto)).to(x.dtype)

    return function


def _kept(values: Tensor, like: Tensor, kept: dict[tuple[torch.dtype, torch.device], Tensor]) -> Tensor:
    """`cast`, once for each precision and device."""
    key = like.dtype, like.device
    if key not in kept:
        with torch.inference_mode(False):  # what is kept may be needed for gradients later
            kept[key] = cast(values, like)
    return kept[key]


def blend(p: Tensor, x: Tensor, q: Tensor, y: Tensor) -> Tensor:
    """p ∘ x + q ∘ y, in two passes."""
    if p.ndim == q.ndim == 0 and not torch.compiler.is_compiling():  # a graph that is compiled cannot hold floats
        return torch.add(float(p) * x, y, alpha=float(q))
    return torch.addcmul(cast(p, x) * x, cast(q, y), y)


def add_multiple(x: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    """x + scale · y for a 0-dim scale, in one pass."""
    if not torch.compiler.is_compiling():
        return torch.add(x, y, alpha=float(scale))
    return x + cast(scale, y) * y


def add_multiple_(x: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    """`add_multiple` in place of x."""
    if not torch.compiler.is_compiling():
        return x.add_(y, alpha=float(scale))
    return x + cast(scale, y) * y
