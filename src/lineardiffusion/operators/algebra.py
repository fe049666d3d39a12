"""Products and transposes of operators, and the rules by which products keep their structure.

A rule belongs to a pair of classes. It is written next to the structure it keeps, registered with `composition_rule`,
and found by the classes of the two operators and their bases, the left one's first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lineardiffusion.lanczos import SpectralFunction
from lineardiffusion.operators.base import LinearOperator

Rule = Callable[[Any, Any], "LinearOperator | None"]
_RULES: dict[tuple[type, type], Rule] = {}


def composition_rule(left: type, right: type) -> Callable[[Rule], Rule]:
    """Register a function (a, b) ↦ a @ b for two classes; it may return None to pass."""

    def register(rule: Rule) -> Rule:
        _RULES[left, right] = rule
        return rule

    return register


def compose(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    """left @ right in the simplest form that a rule knows, a `Composed` otherwise.

    Raises:
        ValueError: the shapes do not chain.
    """
    if left.in_shape != right.out_shape:
        raise ValueError(
            f"a @ b: expected b.out_shape = a.in_shape = {left.in_shape}, got {right.out_shape} (a: {left}, b: {right})"
        )
    for left_class in type(left).__mro__:
        for right_class in type(right).__mro__:
            rule = _RULES.get((left_class, right_class))
            result = rule(left, right) if rule else None
            if result is not None:
                return result
    return Composed(left, right)


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
        for left, right in itertools.pairwise(factors):
            if left.in_shape != right.out_shape:
                raise ValueError(f"factors: expected shapes that chain, got {left} after {right}")
        super().__init__(in_shape=factors[-1].in_shape, out_shape=factors[0].out_shape)
        self.factors = factors

    def apply(self, x: Tensor) -> Tensor:
        for factor in reversed(self.factors):
            x = factor(x)
        return x

    def transpose(self, y: Tensor) -> Tensor:
        for factor in self.factors:
            y = factor.transpose(y)
        return y


@composition_rule(Composed, LinearOperator)
def _extend_right(left: Composed, right: LinearOperator) -> LinearOperator:
    return _joined(left.factors, right)


@composition_rule(LinearOperator, Composed)
def _extend_left(left: LinearOperator, right: Composed) -> LinearOperator:
    first, *rest = right.factors
    joint = compose(left, first)
    head = joint.factors if isinstance(joint, Composed) else (joint,)
    return Composed(*head, *rest) if rest else joint


def _joined(factors: tuple[LinearOperator, ...], right: LinearOperator) -> LinearOperator:
    *rest, last = factors
    joint = compose(last, right)
    tail = joint.factors if isinstance(joint, Composed) else (joint,)
    return Composed(*rest, *tail)


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

    def norm(self) -> float:
        return self.operator.norm()

    def singular_values(self) -> Tensor:
        return self.operator.singular_values()

    @property
    def T(self) -> LinearOperator:
        return self.operator


@composition_rule(Transposed, Transposed)
def _transpose_of_product(left: Transposed, right: Transposed) -> LinearOperator:
    return compose(right.operator, left.operator).T
