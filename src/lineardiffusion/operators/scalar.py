"""Multiples of the identity and of any other operator: the whole of DDPM, and the signal scale of every process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_number, check_event, check_kind, column, compute_dtype
from lineardiffusion.krylov import Matvec, SpectralFunction
from lineardiffusion.lanczos import SpectrumBounds
from lineardiffusion.operators.base import GramMap, LinearOperator, StepMap, StepRule, apply_each
from lineardiffusion.operators.factored import FactoredOperator
from lineardiffusion.operators.rules import rule

_ONE = torch.ones((), dtype=torch.float64)


class Identity(FactoredOperator):
    """M = I on events of the given shape.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> (0.5 * ld.Identity((2,)))(torch.tensor([2.0, 4.0]))
        tensor([1., 2.])
    """

    has_frame = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(in_shape=shape, out_shape=shape)

    def spectrum(self) -> Tensor:
        return _ONE

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        return x

    def transpose(self, y: Tensor) -> Tensor:
        return self.apply(y)


class Scaled(LinearOperator):
    """M = scale · A. Functions of MᵀM are functions of AᵀA, so A keeps its structure and its factorisation is shared.

    Arguments:
        scale: a finite number.
        operator: the operator A.

    Raises:
        ValueError: `scale` is not finite.
    """

    def __init__(self, scale: float, operator: LinearOperator) -> None:
        check_kind(operator, LinearOperator, "operator", "a LinearOperator A")
        super().__init__(in_shape=operator.in_shape, out_shape=operator.out_shape)
        self.scale = as_number(scale, "scale")
        if not abs(self.scale) < float("inf"):
            raise ValueError(f"scale: expected a finite number, got {scale}")
        self.operator = operator

    def apply(self, x: Tensor) -> Tensor:
        return (self.scale * self.operator(x.to(compute_dtype(x.dtype)))).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        return (self.scale * self.operator.transpose(y.to(compute_dtype(y.dtype)))).to(y.dtype)

    def _pullback(self, v: Tensor, event: Shape) -> Matvec:
        pull = self.operator._pullback(v, event)
        return lambda y: self.scale * pull(y)

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        return self.operator.gram_function(lambda values: f(self.scale**2 * values), x)

    def gram_map(self, f: SpectralFunction) -> GramMap:
        return self.operator.gram_map(lambda values: f(self.scale**2 * values))

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        return self.operator.cogram_function(lambda values: f(self.scale**2 * values), y)

    def _step_map(self, rule: StepRule) -> StepMap:
        return self.operator._step_map(rule._replace(scale=rule.scale * self.scale))

    def _adjoint_function(self, g: SpectralFunction, y: Tensor) -> Tensor:
        return self.scale * self.operator._adjoint_function(lambda values: g(self.scale**2 * values), y)

    @property
    def has_exact_functions(self) -> bool:
        return self.operator.has_exact_functions

    @property
    def has_frame(self) -> bool:
        return self.operator.has_frame

    def norm(self) -> float:
        return abs(self.scale) * self.operator.norm()

    def norm_at_most(self, bound: float) -> bool:
        return self.operator.norm_at_most(bound / abs(self.scale)) if self.scale else bound >= 0

    def spectrum_bounds(self) -> SpectrumBounds:
        bounds = self.operator.spectrum_bounds()
        scale = self.scale**2
        return SpectrumBounds(scale * bounds.least, scale * bounds.largest, bounds.singular or scale == 0)

    def singular_values(self) -> Tensor:
        return abs(self.scale) * self.operator.singular_values()

    @classmethod
    def _apply_each(cls, operators: Sequence[Scaled], x: Tensor) -> Tensor:
        y = apply_each([op.operator for op in operators], x)
        return column(torch.tensor([op.scale for op in operators], dtype=torch.float64), y) * y


def without_scale(operator: LinearOperator) -> LinearOperator:
    """A of M = scale · A; M itself where it has no scale."""
    return operator.operator if isinstance(operator, Scaled) else operator


@rule("transpose", Identity)
def _transpose_identity(operator: Identity) -> LinearOperator:
    return operator


@rule("scale", LinearOperator)
def _scale(operator: LinearOperator, scale: float) -> LinearOperator:
    return Scaled(scale, operator)


@rule("scale", Scaled)
def _scale_again(operator: Scaled, scale: float) -> LinearOperator:
    return Scaled(scale * operator.scale, operator.operator)


@rule("transpose", Scaled)
def _transpose(operator: Scaled) -> LinearOperator:
    return operator.scale * operator.operator.T


@rule("product", Scaled, LinearOperator)
def _scaled_left(left: Scaled, right: LinearOperator) -> LinearOperator:
    return left.scale * (left.operator @ right)


@rule("product", LinearOperator, Scaled)
def _scaled_right(left: LinearOperator, right: Scaled) -> LinearOperator:
    return right.scale * (left @ right.operator)


@rule("product", Identity, LinearOperator)
def _identity_left(left: Identity, right: LinearOperator) -> LinearOperator:
    return right


@rule("product", LinearOperator, Identity)
def _identity_right(left: LinearOperator, right: Identity) -> LinearOperator:
    return left


@rule("function", Identity)
def _function_of_identity(operator: Identity, f: SpectralFunction) -> LinearOperator:
    return float(f(_ONE)) * operator


@rule("function", Scaled)
def _function(operator: Scaled, f: SpectralFunction) -> LinearOperator:
    return operator.operator.function(lambda values: f(operator.scale**2 * values))
