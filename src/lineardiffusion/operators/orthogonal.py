"""Operators with orthogonal rows, MMᵀ = c I: pooling, selections of pixels, truncated bases. None is factorised."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import as_positive, as_shape, check_event, check_kind, compute_dtype, images_under
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import GramMap, LinearOperator, StepMap, StepRule
from lineardiffusion.operators.bases import Basis, first, padded
from lineardiffusion.operators.multipliers import Multiplier
from lineardiffusion.operators.rules import rule
from lineardiffusion.operators.separable import for_each_axis


class OrthogonalRows(LinearOperator):
    r"""M with MMᵀ = c I. A subclass writes `apply`, and every function of the Gram matrices is two products:

        f(MMᵀ) y = f(c) y,     f(MᵀM) x = f(0) x + (f(c) − f(0))/c · MᵀM x .

    Arguments:
        in_shape, out_shape: event shapes.
        squared_norm: c > 0, the squared length of each row.

    Raises:
        ValueError: c is not positive.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> class EvenPixels(ld.OrthogonalRows):
        ...     def apply(self, x):
        ...         return x[..., ::2]
        >>> even = EvenPixels((4,), (2,), squared_norm=1.0)
        >>> even.gram_function(lambda values: 3 - values, torch.ones(4))
        tensor([2., 3., 2., 3.])
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int], squared_norm: float) -> None:
        super().__init__(in_shape, out_shape)
        self.squared_norm = as_positive(squared_norm, "squared_norm")

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        return self.gram_map(f)(x)

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        work = y.to(compute_dtype(y.dtype))
        image = images_under(f, torch.tensor(self.squared_norm, dtype=torch.float64))
        return Multiplier(image)(work).to(y.dtype)

    def gram_map(self, f: SpectralFunction) -> GramMap:
        beside, seen = self._images(f, 1.0)

        def function(x: Tensor, onto: Tensor | None = None) -> Tensor:
            check_event(x, self.in_shape, "x")
            work = x.to(compute_dtype(x.dtype))
            total = beside(work) if onto is None else beside.onto(onto, work)
            return seen.onto(total, self.transpose(self(work))).to(x.dtype)

        return function

    def _images(self, f: SpectralFunction, scale: float) -> tuple[Multiplier, Multiplier]:
        """b and w with f(s² MᵀM) = b + w MᵀM."""
        at_zero, at_c = images_under(f, torch.tensor([0.0, scale**2 * self.squared_norm], dtype=torch.float64))
        return Multiplier(at_zero), Multiplier((at_c - at_zero) / self.squared_norm)

    def _step_map(self, rule: StepRule) -> StepMap:
        gain, deviation, scale, _, of = rule
        # x + d_0 n + Mᵀ [κ y + M (δ n − κ s x)],  with d(s² MᵀM) = d_0 + δ MᵀM and K = κ Mᵀ.
        c = torch.tensor(self.squared_norm, dtype=torch.float64)
        if callable(gain):
            kappa = images_under(gain, scale**2 * c, "gain") / c.sqrt() * ((scale > 0) - (scale < 0))
        else:
            kappa = gain * scale * torch.ones_like(c)
        told, back = Multiplier(kappa), Multiplier(-of * scale * kappa)
        draws = None if deviation is None else self._images(deviation, scale)

        def step(x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
            inner, total = back(x), x if of == 1 else of * x
            if draws is not None and noise is not None:
                beside, seen = draws
                inner, total = seen.onto(inner, noise), beside.onto(total, noise)
            return total + self.transpose(told.onto(self(inner), y))

        return step

    def _adjoint_function(self, g: SpectralFunction, y: Tensor) -> Tensor:
        return self.transpose(self.cogram_function(g, y))

    has_exact_functions = True

    def norm(self) -> float:
        return math.sqrt(self.squared_norm)

    def singular_values(self) -> Tensor:
        return torch.full((math.prod(self.out_shape),), self.norm(), dtype=torch.float64)


class AveragePool(OrthogonalRows):
    r"""Means over disjoint blocks of pixels, `ld.Resize(mode="area")` by whole factors: MMᵀ = I / (pixels in a block).

    Arguments:
        in_shape: event shape, channels first.
        factor: block size of each of the last len(factor) axes; an int stands for every axis but the first.

    Raises:
        ValueError: factors that do not divide the sizes.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> ld.AveragePool((1, 4), 2)(torch.tensor([[1.0, 3.0, 5.0, 7.0]]))
        tensor([[2., 6.]])
    """

    def __init__(self, in_shape: Sequence[int], factor: Sequence[int] | int) -> None:
        event = as_shape(in_shape, "in_shape")
        factors = for_each_axis(factor, event, "factor")
        axes = event[len(event) - len(factors) :]
        if len(factors) > len(event) or any(k < 1 or n % k for n, k in zip(axes, factors, strict=True)):
            raise ValueError(f"factor: expected divisors of the last sizes of {event}, got {factors}")
        coarse = tuple(n // k for n, k in zip(axes, factors, strict=True))
        super().__init__(event, event[: len(event) - len(factors)] + coarse, 1 / math.prod(factors))
        self.factors = factors
        # (…, n, …) as (…, n/k, k, …)
        self._blocks = tuple(size for pair in zip(coarse, factors, strict=True) for size in pair)

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        d = len(self.factors)
        blocks = x.to(compute_dtype(x.dtype)).reshape(*x.shape[: x.ndim - d], *self._blocks)
        return blocks.mean(dim=tuple(range(-2 * d + 1, 0, 2))).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        d = len(self.factors)
        batch, coarse = y.shape[: y.ndim - d], y.shape[y.ndim - d :]
        blocks = (y / math.prod(self.factors)).reshape(*batch, *(size for n in coarse for size in (n, 1)))
        return blocks.expand(*batch, *self._blocks).reshape(*batch, *self.in_shape[len(self.in_shape) - d :])


class Truncation(OrthogonalRows):
    r"""The smaller image that the first coordinates of an image belong to: M = V_small P Vᵀ, where P keeps along each
    axis the coordinates that smaller events have, in the basis of the same kind. MMᵀ = I: white noise stays white, and
    an image of constant colour becomes √(pixels / pixels of the small one) times as bright.

    With `Cosine` these are the low frequencies; with `BlockCosine` those of each block; with `Haar` the sums.

    Arguments:
        basis: V, one of `ld.bases`.
        shape: event shape of the smaller image.

    Raises:
        ValueError: a basis that has no such smaller one, or a shape that does not fit it.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> halve = ld.Truncation(ld.bases.Cosine((1, 4)), (1, 2))
        >>> halve(torch.ones(1, 4)).round(decimals=4)
        tensor([[1.4142, 1.4142]])
    """

    def __init__(self, basis: Basis, shape: Sequence[int]) -> None:
        check_kind(basis, Basis, "basis", "one of ld.bases, such as bases.Haar(shape)")
        self.basis, self.small = basis, basis.smaller(shape)
        super().__init__(basis.shape, self.small.shape, squared_norm=1.0)

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        return self.small.synthesise(first(self.basis.analyse(x), self.small.coordinates))

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        return self.basis.synthesise(padded(self.small.analyse(y), self.basis.coordinates))


@rule("product", Truncation, Truncation)
def _product(left: Truncation, right: Truncation) -> LinearOperator | None:
    return Truncation(right.basis, left.out_shape) if left.basis == right.small else None
