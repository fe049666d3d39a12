"""Diagonal operators: masks, vignettes, sensitivities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import as_constant, compute_dtype
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.factored import FactoredOperator
from lineardiffusion.operators.rules import rule


class Diagonal(FactoredOperator):
    r"""M x = w ∘ x.

    Arguments:
        weight: real constant weights w; their shape is the event shape.

    Raises:
        ValueError: weights that are NaN, infinite, complex or being learned, or a scalar.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> mask = ld.Diagonal(torch.tensor([1.0, 0.0]))
        >>> mask(torch.tensor([3.0, 4.0]))
        tensor([3., 0.])
    """

    has_frame = True

    def __init__(self, weight: Tensor) -> None:
        self.weight = as_constant(weight, "weight")
        super().__init__(in_shape=weight.shape, out_shape=weight.shape)

    def spectrum(self) -> Tensor:
        return self.weight

    @classmethod
    def _apply_each(cls, operators: Sequence[Diagonal], x: Tensor) -> Tensor:
        work = x.to(compute_dtype(x.dtype))
        return (torch.stack([op._multiplier().on(work) for op in operators]) * work).to(x.dtype)


@rule("transpose", Diagonal)
def _transpose(operator: Diagonal) -> LinearOperator:
    return operator


@rule("scale", Diagonal)
def _scale(operator: Diagonal, scale: float) -> LinearOperator | None:
    return Diagonal(scale * operator.weight) if scale else None  # a multiple of 0 keeps its signs as Scaled


@rule("product", Diagonal, Diagonal)
def _product(left: Diagonal, right: Diagonal) -> LinearOperator:
    return Diagonal(left.weight * right.weight)


@rule("function", Diagonal)
def _function(operator: Diagonal, f: SpectralFunction) -> LinearOperator:
    return Diagonal(f(operator.weight.square()))
