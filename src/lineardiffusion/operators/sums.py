"""Sums of operators: same structures add up, others are kept side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lineardiffusion._checks import Shape, compute_dtype
from lineardiffusion.krylov import Matvec
from lineardiffusion.operators.base import LinearOperator, as_operators
from lineardiffusion.operators.convolution import Convolution
from lineardiffusion.operators.dense import Matrix
from lineardiffusion.operators.diagonal import Diagonal
from lineardiffusion.operators.rules import rule
from lineardiffusion.operators.scalar import Identity, Scaled
from lineardiffusion.operators.spectral import SpectralFilter


class Sum(LinearOperator):
    r"""M = F_1 + F_2 + … of operators whose structures do not combine.

    Arguments:
        terms: F_1, F_2, …

    Raises:
        ValueError: no term, or terms of different shapes.
    """

    def __init__(self, *terms: LinearOperator) -> None:
        if not terms:
            raise ValueError("terms: expected at least one operator, got none")
        as_operators(terms, "terms")
        shapes = {(term.in_shape, term.out_shape) for term in terms}
        if len(shapes) > 1:
            raise ValueError(f"terms: expected operators of the same shapes, got {', '.join(map(str, terms))}")
        super().__init__(terms[0].in_shape, terms[0].out_shape)
        self.terms = terms

    def apply(self, x: Tensor) -> Tensor:
        first, *rest = self.terms
        work = x.to(compute_dtype(x.dtype))
        return sum((term(work) for term in rest), first(work)).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        first, *rest = self.terms
        work = y.to(compute_dtype(y.dtype))
        return sum((term.transpose(work) for term in rest), first.transpose(work)).to(y.dtype)

    def _pullback(self, v: Tensor, event: Shape) -> Matvec:
        first, *rest = [term._pullback(v, event) for term in self.terms]
        return lambda y: sum((pull(y) for pull in rest), first(y))


@rule("sum", LinearOperator, LinearOperator)
def _sum(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    return Sum(left, right)


@rule("sum", Sum, LinearOperator)
def _extend_right(left: Sum, right: LinearOperator) -> LinearOperator:
    return Sum(*left.terms, *(right.terms if isinstance(right, Sum) else (right,)))


@rule("sum", LinearOperator, Sum)
def _extend_left(left: LinearOperator, right: Sum) -> LinearOperator:
    return Sum(left, *right.terms)


@rule("sum", Convolution, LinearOperator)
def _convolution_left(left: Convolution, right: LinearOperator) -> LinearOperator:
    return left.structure + right


@rule("sum", LinearOperator, Convolution)
def _convolution_right(left: LinearOperator, right: Convolution) -> LinearOperator:
    return left + right.structure


@rule("sum", Diagonal, Diagonal)
def _diagonals(left: Diagonal, right: Diagonal) -> LinearOperator:
    return Diagonal(left.weight + right.weight)


@rule("sum", Matrix, Matrix)
def _matrices(left: Matrix, right: Matrix) -> LinearOperator:
    return Matrix(left.weight + right.weight, left.in_shape, left.out_shape)


@rule("sum", SpectralFilter, SpectralFilter)
def _filters(left: SpectralFilter, right: SpectralFilter) -> LinearOperator | None:
    return left.with_gain(left.gain + right.gain) if left.transform == right.transform else None


@rule("sum", Scaled, Scaled)
def _multiples(left: Scaled, right: Scaled) -> LinearOperator | None:
    return (left.scale + right.scale) * left.operator if _alike(left.operator, right.operator) else None


def _alike(left: LinearOperator, right: LinearOperator) -> bool:
    return left is right or (isinstance(left, Identity) and isinstance(right, Identity))


PlusIdentity = Callable[[Any, float], "LinearOperator | None"]


def _closed_under_identities(structure: type[LinearOperator], plus: PlusIdentity) -> None:
    """Rules for M + s I and s I + M, which plus(M, s) gives in the class of M."""

    def multiple_last(operator: LinearOperator, multiple: Scaled) -> LinearOperator | None:
        return plus(operator, multiple.scale) if isinstance(multiple.operator, Identity) else None

    rule("sum", structure, Scaled)(multiple_last)
    rule("sum", Scaled, structure)(lambda multiple, operator: multiple_last(operator, multiple))
    rule("sum", structure, Identity)(lambda operator, identity: plus(operator, 1.0))
    rule("sum", Identity, structure)(lambda identity, operator: plus(operator, 1.0))


_closed_under_identities(Identity, lambda identity, s: (1 + s) * identity)
_closed_under_identities(Diagonal, lambda diagonal, s: Diagonal(diagonal.weight + s))
_closed_under_identities(SpectralFilter, lambda f, s: f.with_gain(f.gain + s) if f.transform.is_complete else None)
