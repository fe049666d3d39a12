"""Diagonal operators: masks, vignettes, sensitivities."""

from __future__ import annotations

import torch
from torch import Tensor

from lineardiffusion._checks import check_finite
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.factored import FactoredOperator
from lineardiffusion.operators.rules import rule


class Diagonal(FactoredOperator):
    r"""M x = w ∘ x.

    Arguments:
        weight: real weights w; their shape is the event shape.

    Raises:
        ValueError: NaN or infinite weights, or a scalar.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> mask = ld.Diagonal(torch.tensor([1.0, 0.0]))
        >>> mask(torch.tensor([3.0, 4.0]))
        tensor([3., 0.])
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__(in_shape=weight.shape, out_shape=weight.shape)
        check_finite(weight, "weight")
        self.weight = weight.detach().to(device="cpu", dtype=torch.float64)

    def spectrum(self) -> Tensor:
        return self.weight


@rule("transpose", Diagonal)
def _transpose(operator: Diagonal) -> LinearOperator:
    return operator


@rule("product", Diagonal, Diagonal)
def _product(left: Diagonal, right: Diagonal) -> LinearOperator:
    return Diagonal(left.weight * right.weight)
