"""Operators given as a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_constant, check_event, check_tensor, compute_dtype
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.factored import FactoredOperator
from lineardiffusion.operators.factorisation import truncated_svd
from lineardiffusion.operators.multipliers import Casts, cast
from lineardiffusion.operators.rules import rule


class Matrix(FactoredOperator):
    r"""M x = W x on flattened events; the singular value decomposition is computed once, when first needed.

    Arguments:
        weight: real constant matrix W, with shape (prod out, prod in).
        in_shape: event shape of the input.
        out_shape: event shape of the output.

    Raises:
        ValueError: a weight whose shape does not fit the event shapes, or that is not finite, complex or being learned.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> difference = ld.Matrix(torch.tensor([[1.0, -1.0]]), in_shape=(2,), out_shape=(1,))
        >>> difference(torch.tensor([5.0, 3.0])), round(difference.norm(), 4)
        (tensor([2.]), 1.4142)
    """

    def __init__(self, weight: Tensor, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__(in_shape=in_shape, out_shape=out_shape)
        expected = (math.prod(self.out_shape), math.prod(self.in_shape))
        check_tensor(weight, "weight")
        if tuple(weight.shape) != expected:
            raise ValueError(f"weight: expected shape (prod out, prod in) = {expected}, got {tuple(weight.shape)}")
        self.weight = as_constant(weight, "weight")

    def spectrum(self) -> Tensor:
        return self._svd()[1]

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        work = x.to(compute_dtype(x.dtype))
        return _unflatten(_flatten(work, self.in_shape) @ self._weight(work).T, self.out_shape).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        work = y.to(compute_dtype(y.dtype))
        return _unflatten(_flatten(work, self.out_shape) @ self._weight(work), self.in_shape).to(y.dtype)

    @property
    def coordinates(self) -> Shape:
        return (min(self.weight.shape),)

    @classmethod
    def _apply_each(cls, operators: Sequence[Matrix], x: Tensor) -> Tensor:
        work = x.to(compute_dtype(x.dtype))
        weights = cast(torch.stack([op.weight for op in operators]), work)
        flat = _flatten(work, operators[0].in_shape)
        return _unflatten((weights @ flat[..., None])[..., 0], operators[0].out_shape).to(x.dtype)

    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._cached("svd", lambda: truncated_svd(self.weight))

    def _weight(self, like: Tensor) -> Tensor:
        return self._cached("weight", lambda: Casts(self.weight))(like)

    def _bases(self) -> tuple[Casts, Casts]:
        """U and Vᵀ."""
        return self._cached("bases", lambda: (Casts(self._svd()[0]), Casts(self._svd()[2])))

    def _to_right(self, x: Tensor) -> Tensor:
        return _flatten(x, self.in_shape) @ self._bases()[1](x).T

    def _from_right(self, z: Tensor) -> Tensor:
        return _unflatten(z @ self._bases()[1](z), self.in_shape)

    def _to_left(self, y: Tensor) -> Tensor:
        return _flatten(y, self.out_shape) @ self._bases()[0](y)

    def _from_left(self, z: Tensor) -> Tensor:
        return _unflatten(z @ self._bases()[0](z).T, self.out_shape)


@rule("transpose", Matrix)
def _transpose(operator: Matrix) -> LinearOperator:
    return Matrix(operator.weight.T, in_shape=operator.out_shape, out_shape=operator.in_shape)


@rule("product", Matrix, Matrix)
def _product(left: Matrix, right: Matrix) -> LinearOperator:
    return Matrix(left.weight @ right.weight, in_shape=right.in_shape, out_shape=left.out_shape)


def _flatten(x: Tensor, event: Shape) -> Tensor:
    return x.reshape(*x.shape[: x.ndim - len(event)], math.prod(event))


def _unflatten(z: Tensor, event: Shape) -> Tensor:
    return z.reshape(*z.shape[:-1], *event)
