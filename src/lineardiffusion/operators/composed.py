"""Products and transposes of operators whose structure is not known any better."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from lineardiffusion._checks import Shape, compute_dtype
from lineardiffusion.krylov import Matvec, SpectralFunction
from lineardiffusion.lanczos import SpectrumBounds
from lineardiffusion.operators.base import LinearOperator, as_operators
from lineardiffusion.operators.rules import rule


class Composed(LinearOperator):
    r"""The product M = F_1 F_2 … F_k of operators whose structures do not combine.

    Arguments:
        factors: F_1, …, F_k; the last is applied first.

    Raises:
        ValueError: no factor, or shapes that do not chain.
    """

    def __init__(self, *factors: LinearOperator) -> None:
        if not factors:
            raise ValueError("factors: expected at least one operator, got none")
        as_operators(factors, "factors")
        for left, right in pairwise(factors):
            if left.in_shape != right.out_shape:
                raise ValueError(f"factors: expected shapes that chain, got {left} after {right}")
        super().__init__(in_shape=factors[-1].in_shape, out_shape=factors[0].out_shape)
        self.factors = factors

    def apply(self, x: Tensor) -> Tensor:
        y = x.to(compute_dtype(x.dtype))
        for factor in reversed(self.factors):
            y = factor(y)
        return y.to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        for factor in self.factors:
            y = factor.transpose(y)
        return y

    def _pullback(self, v: Tensor, event: Shape) -> Matvec:
        pulls = [factor._pullback(v, event) for factor in self.factors]

        def pull(y: Tensor) -> Tensor:
            for pull_factor in pulls:
                y = pull_factor(y)
            return y

        return pull


@rule("product", LinearOperator, LinearOperator)
def _product(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    return Composed(left, right)


@rule("product", Composed, LinearOperator)
def _extend_right(left: Composed, right: LinearOperator) -> LinearOperator:
    *rest, last = left.factors
    return _flat(*rest, last @ right)


@rule("product", LinearOperator, Composed)
def _extend_left(left: LinearOperator, right: Composed) -> LinearOperator:
    first, *rest = right.factors
    return _flat(left @ first, *rest)


def _flat(*factors: LinearOperator) -> LinearOperator:
    """The product of factors some of which may be products themselves."""
    flat = [part for factor in factors for part in (factor.factors if isinstance(factor, Composed) else (factor,))]
    return Composed(*flat) if len(flat) > 1 else flat[0]


class Transposed(LinearOperator):
    """Mᵀ of an operator M, with the roles of MᵀM and MMᵀ exchanged."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(in_shape=operator.out_shape, out_shape=operator.in_shape)
        self.operator = operator

    def apply(self, x: Tensor) -> Tensor:
        return self.operator.transpose(x)

    def transpose(self, y: Tensor) -> Tensor:
        return self.operator(y)

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        return self.operator.cogram_function(f, x)

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        return self.operator.gram_function(f, y)

    def _adjoint_function(self, g: SpectralFunction, y: Tensor) -> Tensor:
        return self.transpose(self.cogram_function(g, y))

    @property
    def has_exact_functions(self) -> bool:
        return self.operator.has_exact_functions

    def norm(self) -> float:
        return self.operator.norm()

    def norm_at_most(self, bound: float) -> bool:
        return self.operator.norm_at_most(bound)

    def spectrum_bounds(self) -> SpectrumBounds:
        return self.operator.spectrum_bounds()

    def singular_values(self) -> Tensor:
        return self.operator.singular_values()


@rule("transpose", LinearOperator)
def _transpose(operator: LinearOperator) -> LinearOperator:
    return Transposed(operator)


@rule("transpose", Transposed)
def _transpose_back(operator: Transposed) -> LinearOperator:
    return operator.operator


@rule("product", Transposed, Transposed)
def _transpose_of_product(left: Transposed, right: Transposed) -> LinearOperator:
    return (right.operator @ left.operator).T
