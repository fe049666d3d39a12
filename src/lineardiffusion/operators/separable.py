r"""Separable operators, one matrix for each spatial axis; resizing is the one that Scale Space Diffusion is built on.

M = A_1 ⊗ … ⊗ A_d acts on the last d axes. With thin decompositions A_i = U_i S_i V_iᵀ that of M is ⊗U_i, ⊗S_i, ⊗V_i:
a function of MᵀM costs 2d small matrix products, whatever the number of channels and samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion._checks import (
    Shape,
    as_choice,
    as_constant,
    as_flag,
    as_list,
    as_shape,
    check_event,
    check_tensor,
    compute_dtype,
    got,
)
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import GramMap, LinearOperator, StepMap, StepRule, over_root
from lineardiffusion.operators.factored import FactoredOperator
from lineardiffusion.operators.factorisation import largest_singular_value, norm_bound, truncated_svd
from lineardiffusion.operators.multipliers import Casts, Multiplier, cast
from lineardiffusion.operators.rules import rule

Mode = Literal["bilinear", "bicubic", "nearest", "nearest-exact", "area"]


class Separable(FactoredOperator):
    r"""M = A_1 ⊗ … ⊗ A_d on the last d axes of an event.

    Arguments:
        factors: real constant matrices A_1, …, A_d for the last d axes, in order; A_i has shape (out_i, in_i).
        in_shape: event shape of the input.

    Raises:
        ValueError: factors that do not fit `in_shape`, or that are not finite, complex or being learned.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> total = ld.Separable([torch.ones(1, 2), torch.eye(3)], in_shape=(2, 3))
        >>> total(torch.arange(6.0).reshape(2, 3))
        tensor([[3., 5., 7.]])
    """

    def __init__(self, factors: Sequence[Tensor], in_shape: Sequence[int]) -> None:
        event = as_shape(in_shape, "in_shape")
        if isinstance(factors, Tensor):
            raise TypeError(f"factors: expected a sequence of matrices, one for each axis, got {got(factors)}")
        factors = as_list(factors, "factors", "a sequence of matrices, one for each axis")
        for factor in factors:
            check_tensor(factor, "factors")
        axes = event[len(event) - len(factors) :]
        if not 1 <= len(factors) <= len(event) or any(
            factor.ndim != 2 or factor.shape[1] != size for factor, size in zip(factors, axes, strict=True)
        ):
            raise ValueError(
                f"factors: expected matrices with {axes} columns for in_shape {event}, "
                f"got shapes {[tuple(factor.shape) for factor in factors]}"
            )
        out = event[: len(event) - len(factors)] + tuple(factor.shape[0] for factor in factors)
        super().__init__(in_shape=event, out_shape=out)
        self.factors = tuple(as_constant(factor, "factors") for factor in factors)

    def spectrum(self) -> Tensor:
        singular = [s for _, s, _ in self._svds()]
        return self._cached("spectrum", lambda: outer(singular))

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        work = x.to(compute_dtype(x.dtype))
        return along_axes([factor(work) for factor in self._casts()], work).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        work = y.to(compute_dtype(y.dtype))
        return along_axes([factor(work).T for factor in self._casts()], work).to(y.dtype)

    def _casts(self) -> list[Casts]:
        return self._cached("casts", lambda: [Casts(factor) for factor in self.factors])

    @classmethod
    def _apply_each(cls, operators: Sequence[Separable], x: Tensor) -> Tensor:
        first = operators[0]
        if any(len(op.factors) != len(first.factors) for op in operators):
            return super()._apply_each(operators, x)
        stacked = [torch.stack([op.factors[axis] for op in operators]) for axis in range(len(first.factors))]
        return along_axes_each(stacked, x.to(compute_dtype(x.dtype))).to(x.dtype)

    def _svds(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        return self._cached("svds", lambda: [truncated_svd(factor) for factor in self.factors])

    def _bases(self) -> tuple[list[Casts], list[Casts]]:
        """U and Vᵀ of every axis."""

        def make() -> tuple[list[Casts], list[Casts]]:
            return [Casts(u) for u, _, _ in self._svds()], [Casts(vt) for _, _, vt in self._svds()]

        return self._cached("bases", make)

    def _to_right(self, x: Tensor) -> Tensor:
        return along_axes([vt(x) for vt in self._bases()[1]], x)

    def _from_right(self, z: Tensor) -> Tensor:
        return along_axes([vt(z).T for vt in self._bases()[1]], z)

    def _to_left(self, y: Tensor) -> Tensor:
        return along_axes([u(y).T for u in self._bases()[0]], y)

    def _from_left(self, z: Tensor) -> Tensor:
        return along_axes([u(z) for u in self._bases()[0]], z)

    def norm(self) -> float:
        return self._cached("norm", lambda: math.prod(map(largest_singular_value, self.factors)))

    def norm_at_most(self, bound: float) -> bool:
        # Nothing is factorised where a bound of the norm is enough.
        return math.prod(map(norm_bound, self.factors)) <= bound or self.norm() <= bound

    def gram_map(self, f: SpectralFunction) -> GramMap:
        diagonal = self._cached("gram diagonal", self._gram_diagonal)
        if diagonal is None:
            return super().gram_map(f)
        weights = Multiplier(f(diagonal))

        def function(x: Tensor, onto: Tensor | None = None) -> Tensor:
            check_event(x, self.in_shape, "x")
            work = x.to(compute_dtype(x.dtype))
            return (weights(work) if onto is None else weights.onto(onto.to(work.dtype), work)).to(x.dtype)

        return function

    def _step_map(self, rule: StepRule) -> StepMap:
        diagonal = self._cached("gram diagonal", self._gram_diagonal)
        if diagonal is None:
            return super()._step_map(rule)
        gain, deviation, scale, _, of = rule
        # (1 − λ g) ∘ x + g ∘ Mᵀ y + d ∘ n, with g = k/√λ, all of them functions of the diagonal λ of MᵀM.
        values = scale**2 * diagonal
        g = over_root(gain)(values) if callable(gain) else gain * torch.ones_like(values)
        kept, told = Multiplier(of * (1 - values * g)), Multiplier(scale * g)
        drawn = None if deviation is None else Multiplier(deviation(values))

        def step(x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
            mean = told.onto(kept(x), self.transpose(y))
            return mean if drawn is None or noise is None else drawn.onto(mean, noise)

        return step

    def _gram_diagonal(self) -> Tensor | None:
        """The diagonal of MᵀM where no row has more than one number, as in a selection of pixels (nearest), so that
        there is nothing else; otherwise None."""
        if any(bool(((factor != 0).sum(1) > 1).any()) for factor in self.factors):
            return None
        return outer([factor.square().sum(0) for factor in self.factors])

    @property
    def coordinates(self) -> Shape:
        channels = self.in_shape[: len(self.in_shape) - len(self.factors)]
        return channels + tuple(min(factor.shape) for factor in self.factors)


@rule("transpose", Separable)
def _transpose(operator: Separable) -> LinearOperator:
    return Separable([factor.T for factor in operator.factors], in_shape=operator.out_shape)


@rule("product", Separable, Separable)
def _product(left: Separable, right: Separable) -> LinearOperator | None:
    if len(left.factors) != len(right.factors):
        return None
    return Separable([a @ b for a, b in zip(left.factors, right.factors, strict=True)], in_shape=right.in_shape)


class Resize(Separable):
    r"""Resampling of the last axes to a new size, equal to `torch.nn.functional.interpolate(align_corners=False)`.

    Arguments:
        in_shape: event shape of the input, channels first, e.g. (3, 64, 64).
        size: new sizes of the last len(size) axes; an int stands for every axis but the first.
        mode: "bilinear" (linear in each axis), "bicubic", "area", "nearest", which takes the first of the pixels that
            one replaces, or "nearest-exact", which takes the one in their middle.
        antialias: widen the kernel when shrinking, for "bilinear" and "bicubic"; the others have no such variant.

    Raises:
        ValueError: an unknown mode, or sizes that do not fit `in_shape`.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> halve = ld.Resize((1, 4), 2, mode="area")
        >>> halve(torch.tensor([[1.0, 3.0, 5.0, 7.0]]))
        tensor([[2., 6.]])
    """

    def __init__(
        self, in_shape: Sequence[int], size: Sequence[int] | int, mode: Mode = "bilinear", antialias: bool = True
    ) -> None:
        event = as_shape(in_shape, "in_shape")
        sizes = for_each_axis(size, event, "size")
        as_choice(mode, get_args(Mode), "mode")
        antialias = as_flag(antialias, "antialias")
        if len(sizes) > len(event) or min(sizes) < 1:
            raise ValueError(f"size: expected at most {len(event)} sizes ≥ 1 for in_shape {event}, got {sizes}")
        axes = event[len(event) - len(sizes) :]
        filtered = antialias and mode in ("bilinear", "bicubic")
        super().__init__([_resampling(n, m, mode, filtered) for n, m in zip(axes, sizes, strict=True)], event)
        self.size, self.mode, self.antialias = sizes, mode, antialias


@lru_cache(maxsize=256)
def _resampling(n: int, m: int, mode: Mode, antialias: bool) -> Tensor:
    """The (m, n) matrix that resamples one axis: the columns of the resized identity image."""
    options = {"align_corners": False, "antialias": antialias} if mode in ("bilinear", "bicubic") else {}
    identity = torch.eye(n, dtype=torch.float64)[None, None]
    matrix = F.interpolate(identity, size=(m, n), mode=mode, **options)[0, 0]
    # A kernel treats both ends of an axis alike, but for the rounding of positions; a selection may not.
    return matrix if mode.startswith("nearest") else (matrix + matrix.flip(0, 1)) / 2


def along_axes(matrices: Sequence[Tensor], x: Tensor) -> Tensor:
    """Apply one matrix to each of the last axes of x."""
    for axis, matrix in zip(range(-1, -len(matrices) - 1, -1), reversed(matrices), strict=True):
        if axis == -1:
            x = F.linear(x, matrix)
        elif axis == -2:
            x = torch.matmul(matrix, x)
        else:
            x = F.linear(x.movedim(axis, -1), matrix).movedim(-1, axis)
    return x


def along_axes_each(matrices: Sequence[Tensor], x: Tensor) -> Tensor:
    """`along_axes` with matrices of its own for each row of x: each of shape (B, out, in)."""
    for axis, stack in zip(range(-1, -len(matrices) - 1, -1), reversed(matrices), strict=True):
        factors = cast(stack, x)
        if axis == -2:
            x = factors.reshape(len(factors), *[1] * (x.ndim - 3), *factors.shape[1:]) @ x
        else:
            moved = x.movedim(axis, -1)
            rows = torch.bmm(moved.reshape(len(factors), -1, moved.shape[-1]), factors.mT)
            x = rows.reshape(*moved.shape[:-1], rows.shape[-1]).movedim(-1, axis)
    return x


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """v_1 ⊗ v_2 ⊗ …: an axis for each vector."""
    return reduce(lambda a, b: a[..., None] * b, vectors)


def for_each_axis(value: Sequence[int] | int, event: Shape, name: str) -> Shape:
    """Numbers for the last axes of an event; an int stands for every spatial axis."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,) * spatial_axes(event)
    return as_shape(value, name)


def spatial_axes(shape: Shape) -> int:
    """How many of the last axes are spatial: all but the channels, which come first; an event of one axis has none."""
    return max(1, len(shape) - 1)
