r"""Operators made of blocks along the first axis of an event, its channels: one operator for each channel, or the same
operator for all of them with a mix of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lineardiffusion._checks import as_constant, check_event, check_kind, compute_dtype
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import GramMap, LinearOperator, StepMap, StepRule, as_operators
from lineardiffusion.operators.multipliers import Casts, Change, Multiplier
from lineardiffusion.operators.rules import rule


class BlockDiagonal(LinearOperator):
    r"""(M x)_i = A_i x_i for each channel i: a degradation of its own for each of them, functions included.

    Arguments:
        blocks: A_1, …, A_C, all of the same shapes; the event shapes gain a first axis of size C.

    Raises:
        ValueError: no block, or blocks of different shapes.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> blocks = ld.BlockDiagonal([ld.Identity((2,)), 0.5 * ld.Identity((2,))])
        >>> blocks(torch.ones(2, 2))
        tensor([[1.0000, 1.0000],
                [0.5000, 0.5000]])
    """

    def __init__(self, blocks: Sequence[LinearOperator]) -> None:
        self.blocks = tuple(as_operators(blocks, "blocks"))
        shapes = {(block.in_shape, block.out_shape) for block in self.blocks}
        if len(shapes) != 1:
            raise ValueError(
                f"blocks: expected operators of one shape, got {', '.join(map(str, self.blocks)) or 'none'}"
            )
        count, first = len(self.blocks), self.blocks[0]
        super().__init__((count, *first.in_shape), (count, *first.out_shape))

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        return _per_channel([block.apply for block in self.blocks], x, len(self.in_shape))

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        return _per_channel([block.transpose for block in self.blocks], y, len(self.out_shape))

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        return self.gram_map(f)(x)

    def gram_map(self, f: SpectralFunction) -> GramMap:
        maps = [block.gram_map(f) for block in self.blocks]

        def function(x: Tensor, onto: Tensor | None = None) -> Tensor:
            check_event(x, self.in_shape, "x")
            result = _per_channel(maps, x, len(self.in_shape))
            return result if onto is None else onto + result

        return function

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        return _per_channel([partial(block.cogram_function, f) for block in self.blocks], y, len(self.out_shape))

    def _step_map(self, rule: StepRule) -> StepMap:
        rule = rule._replace(complete=rule.complete and self.has_frame)
        steps = [block._step_map(rule) for block in self.blocks]
        axis_x, axis_y = -len(self.in_shape), -len(self.out_shape)

        def step(x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
            draws = [None] * len(steps) if noise is None else noise.unbind(axis_x)
            channels = zip(steps, x.unbind(axis_x), y.unbind(axis_y), draws, strict=True)
            return torch.stack([block(x_i, y_i, noise_i) for block, x_i, y_i, noise_i in channels], axis_x)

        return step

    @property
    def has_exact_functions(self) -> bool:
        return all(block.has_exact_functions for block in self.blocks)

    @property
    def has_frame(self) -> bool:
        return all(block.has_frame for block in self.blocks)

    def norm(self) -> float:
        return max(block.norm() for block in self.blocks)

    def norm_at_most(self, bound: float) -> bool:
        return all(block.norm_at_most(bound) for block in self.blocks)

    def singular_values(self) -> Tensor:
        return torch.cat([block.singular_values() for block in self.blocks])


class ChannelMix(LinearOperator):
    r"""M = W ⊗ A: A on each channel, then channels mixed by a matrix W. With W = P diag(s) Qᵀ,

        f(MᵀM) x = (Q ⊗ I) [ f(s_i² AᵀA) x̃_i ]_i ,   x̃ = (Qᵀ ⊗ I) x ,

    exact in the channels and, in A, as exact as A is.

    Arguments:
        weight: W, with shape (channels out, channels in).
        operator: A, on events without the axis of channels.

    Raises:
        ValueError: a weight that is not a finite, real, constant matrix.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> grey = ld.ChannelMix(torch.full((1, 3), 1 / 3), ld.Identity((2, 2)))
        >>> grey(torch.ones(3, 2, 2)).shape, round(grey.norm(), 4)
        (torch.Size([1, 2, 2]), 0.5774)
    """

    def __init__(self, weight: Tensor, operator: LinearOperator) -> None:
        self.weight = as_constant(weight, "weight")
        if weight.ndim != 2:
            raise ValueError(f"weight: expected a matrix (channels out, channels in), got shape {tuple(weight.shape)}")
        check_kind(operator, LinearOperator, "operator", "a LinearOperator for each channel")
        self.operator = operator
        super().__init__((weight.shape[1], *operator.in_shape), (weight.shape[0], *operator.out_shape))

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        work = x.to(compute_dtype(x.dtype))
        return _mix(self._weight(work), self.operator(work), -len(self.out_shape)).to(x.dtype)

    def transpose(self, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        work = y.to(compute_dtype(y.dtype))
        return self.operator.transpose(_mix(self._weight(work).T, work, -len(self.out_shape))).to(y.dtype)

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        return self.gram_map(f)(x)

    def gram_map(self, f: SpectralFunction) -> GramMap:
        rotation = self._svd()[2]
        rotated = _rotated(rotation, self._blocks(len(rotation)).gram_map(f), len(self.in_shape))

        def function(x: Tensor, onto: Tensor | None = None) -> Tensor:
            check_event(x, self.in_shape, "x")
            return rotated(x) if onto is None else onto + rotated(x)

        return function

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        check_event(y, self.out_shape, "y")
        rotation = self._svd()[0].T
        blocks = self._blocks(len(rotation))
        return _rotated(rotation, partial(blocks.cogram_function, f), len(self.out_shape))(y)

    def _blocks(self, count: int) -> BlockDiagonal:
        """s_i A for `count` channels, the last of them with s_i = 0 where W has fewer singular values."""
        scales = [*self._svd()[1].tolist(), *[0.0] * (count - min(self.weight.shape))]
        return self._cached(("blocks", count), lambda: BlockDiagonal([scale * self.operator for scale in scales]))

    def _step_map(self, rule: StepRule) -> StepMap:
        # Channel by channel, between rotations of both sides; what W does not see stays as it is, but for noise.
        left, singular, right = self._svd()
        axis_x, axis_y = -len(self.in_shape), -len(self.out_shape)
        to_left, to_right, from_right = (Casts(rotation.contiguous()) for rotation in (left.T, right, right.T))
        deviation, of = rule.deviation, rule.of
        steps = [
            self.operator._step_map(rule._replace(scale=rule.scale * s, complete=False)) for s in singular.tolist()
        ]
        unseen = None if deviation is None else Multiplier(deviation(torch.zeros((), dtype=torch.float64)))

        def step(x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
            channels, told = _mix(to_right(x), x, axis_x).unbind(axis_x), _mix(to_left(y), y, axis_y).unbind(axis_y)
            draws = None if noise is None else _mix(to_right(noise), noise, axis_x).unbind(axis_x)
            results = []
            for i, channel in enumerate(channels):
                drawn = None if draws is None else draws[i]
                if i < len(steps):
                    results.append(steps[i](channel, told[i], drawn))
                else:
                    kept = channel if of == 1 else of * channel
                    results.append(kept if unseen is None or drawn is None else unseen.onto(kept, drawn))
            return _mix(from_right(x), torch.stack(results, axis_x), axis_x)

        return step

    def _adjoint_function(self, g: SpectralFunction, y: Tensor) -> Tensor:
        return self.transpose(self.cogram_function(g, y))

    @property
    def has_exact_functions(self) -> bool:
        return self.operator.has_exact_functions

    def norm(self) -> float:
        return float(self._svd()[1].max()) * self.operator.norm()

    def norm_at_most(self, bound: float) -> bool:
        largest = float(self._svd()[1].max())
        return self.operator.norm_at_most(bound / largest) if largest else bound >= 0

    def singular_values(self) -> Tensor:
        values = torch.outer(self._svd()[1], self.operator.singular_values()).flatten()
        rank_bound = min(self.weight.shape) * len(self.operator.singular_values())
        missing = min(math.prod(self.in_shape), math.prod(self.out_shape)) - rank_bound
        return torch.cat([values, values.new_zeros(missing)])

    def _weight(self, like: Tensor) -> Tensor:
        return self._cached("weight", lambda: Casts(self.weight))(like)

    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """P, s, Qᵀ with square P and Q."""
        return self._cached("svd", lambda: tuple(torch.linalg.svd(self.weight)))


@rule("transpose", BlockDiagonal)
def _transpose_blocks(operator: BlockDiagonal) -> LinearOperator:
    return BlockDiagonal([block.T for block in operator.blocks])


@rule("product", BlockDiagonal, BlockDiagonal)
def _product_of_blocks(left: BlockDiagonal, right: BlockDiagonal) -> LinearOperator:
    return BlockDiagonal([a @ b for a, b in zip(left.blocks, right.blocks, strict=True)])


@rule("transpose", ChannelMix)
def _transpose(operator: ChannelMix) -> LinearOperator:
    return ChannelMix(operator.weight.T, operator.operator.T)


@rule("product", ChannelMix, ChannelMix)
def _product(left: ChannelMix, right: ChannelMix) -> LinearOperator:
    return ChannelMix(left.weight @ right.weight, left.operator @ right.operator)


def _mix(weight: Tensor, x: Tensor, axis: int) -> Tensor:
    """Channels, the given axis, mixed by a matrix."""
    return (x.movedim(axis, -1) @ weight.T).movedim(-1, axis)


def _per_channel(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor, event_ndim: int) -> Tensor:
    channels = zip(functions, x.unbind(-event_ndim), strict=True)
    results = [function(channel) for function, channel in channels]
    return torch.stack(results, dim=x.ndim - event_ndim)


def _rotated(rotation: Tensor, function: Change, event_ndim: int) -> Change:
    """A function of blocks, between a rotation of the channels and its inverse."""
    casts = Casts(rotation)

    def rotated(x: Tensor) -> Tensor:
        work = x.to(compute_dtype(x.dtype))
        weight = casts(work)
        return _mix(weight.T, function(_mix(weight, work, -event_ndim)), -event_ndim).to(x.dtype)

    return rotated
