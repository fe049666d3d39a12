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
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, check_event, compute_dtype, images_under, to_device
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import GramMap, LinearOperator, StepMap, StepRule
from lineardiffusion.operators.multipliers import Change, Multiplier, Term, combination, unless_zero

_ZERO, _ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


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

    @property
    def coordinates(self) -> Shape:
        """Shape of the coordinates that the two bases share; what has none is made zero."""
        return self.in_shape

    def bases(self) -> object:
        """U and V, equal to those of another operator of this class where the two differ in S alone; None where that is
        not known."""
        return None

    @classmethod
    def _apply_each(cls, operators: Sequence[Any], x: Tensor) -> Tensor:
        first = operators[0]
        bases, shape = first.bases(), first.spectrum().shape
        if bases is None or any(op.bases() != bases or op.spectrum().shape != shape for op in operators):
            return super()._apply_each(operators, x)
        work = x.to(compute_dtype(x.dtype))
        stacked = to_device(torch.stack([op._multiplier().on(work) for op in operators]), work.device)
        gains = stacked.reshape(len(operators), *[1] * (len(first.coordinates) - len(shape)), *shape)
        return first._from_left(gains * first._to_right(work)).to(x.dtype)  # type: ignore[no-any-return]

    def _is_basis(self, event: Shape) -> bool:
        """Whether U, or V, is a basis of all these events, and not an isometry only."""
        return math.prod(self.coordinates) == math.prod(event)

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        work = x.to(compute_dtype(x.dtype))
        return self._from_left(self._multiplier()(self._to_right(work))).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        work = y.to(compute_dtype(y.dtype))
        weights = self._multiplier if not self.spectrum().is_complex() else self._conjugate_multiplier
        return self._from_right(weights()(self._to_left(work))).to(y.dtype)

    def _multiplier(self) -> Multiplier:
        return self._cached("multiplier", lambda: Multiplier(self.spectrum()))

    def _conjugate_multiplier(self) -> Multiplier:
        return self._cached("conjugate multiplier", lambda: Multiplier(self.spectrum().conj().resolve_conj()))

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        return self.gram_map(f)(x)

    def gram_map(self, f: SpectralFunction) -> GramMap:
        return self._map(f, self.in_shape, self._to_right, self._from_right)

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        return self._map(f, self.out_shape, self._to_left, self._from_left)(y)

    def _map(self, f: SpectralFunction, event: Shape, analyse: Change, synthesise: Change) -> GramMap:
        combined = combination([self._term(*self._images(f, event, 1.0), event, analyse)], synthesise)

        def function(x: Tensor, onto: Tensor | None = None) -> Tensor:
            check_event(x, event, "x")
            return combined([x.to(compute_dtype(x.dtype))], onto).to(x.dtype)

        return function

    def _images(self, f: SpectralFunction, event: Shape, scale: float) -> tuple[Tensor | None, Tensor]:
        """f(λ) for scale · M: beside coordinates, which is f(0), and what they have beyond that; all of it in
        coordinates where these are a basis of the events."""
        if self._is_basis(event):
            return None, images_under(f, scale**2 * self._eigenvalues())
        images = images_under(f, scale**2 * self._cached("zero and eigenvalues", self._zero_and_eigenvalues))
        return images[0], (images[1:] - images[0]).reshape(self.spectrum().shape)

    def _term(self, beside: Tensor | None, inside: Tensor, event: Shape, analyse: Change) -> Term:
        if self.has_frame and inside.ndim == 0 and self._is_basis(event):
            return Term(unless_zero(inside), None, analyse)  # one number for all coordinates: V cancels
        return Term(None if beside is None else unless_zero(beside), unless_zero(inside), analyse)

    def _zero_and_eigenvalues(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.float64), self._eigenvalues().flatten()])

    def _step_map(self, rule: StepRule) -> StepMap:
        gain, deviation, scale, complete, of = rule
        # In coordinates, with s = scale · S and u = s/|s|:  x + ū k (y − s x) = (1 − |s| k) x + ū k y.
        event, whole = self.in_shape, self._is_basis(self.in_shape)
        spectrum, values = scale * self.spectrum(), scale**2 * self._eigenvalues()
        beside = None
        if not callable(gain):
            told, seen = gain * spectrum.conj(), gain * values
        else:
            k = images_under(gain, values, "gain")
            seen = spectrum.abs() * k
            if not (complete and self.has_frame):
                told = spectrum.sgn().conj() * k
            else:
                told = direction(self.spectrum()).conj() * k * math.copysign(1, scale)
                beside = None if whole else gain(_ZERO)
        terms = [
            self._term(None if whole else of * _ONE, of * (1 - seen) if whole else -of * seen, event, self._to_right),
            self._term(beside, told if beside is None else told - beside, event, self._to_left),
        ]
        if deviation is not None:
            beside, inside = self._images(deviation, event, scale)
            terms.append(self._term(beside, inside, event, self._to_right))
        combined = combination(terms, self._from_right)

        def step(x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
            return combined((x, y) if noise is None else (x, y, noise), None)

        return step

    def _eigenvalues(self) -> Tensor:
        return self._cached("eigenvalues", lambda: self.spectrum().abs().square())

    def norm(self) -> float:
        return self._cached("norm", lambda: largest_size(self.spectrum()))

    def singular_values(self) -> Tensor:
        values = self.spectrum().abs().broadcast_to(self.coordinates).flatten()
        missing = min(math.prod(self.in_shape), math.prod(self.out_shape)) - values.numel()
        return torch.cat([values, values.new_zeros(missing)])


def direction(spectrum: Tensor) -> Tensor:
    """s/|s|, and 1 where s = 0."""
    return torch.where(spectrum == 0, 1, spectrum.sgn())


def largest_size(values: Tensor) -> float:
    """max |v|"""
    if values.is_complex():
        return float(values.abs().max())
    low, high = values.aminmax()
    return max(-float(low), float(high))
