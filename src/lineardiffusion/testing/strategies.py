"""Hypothesis strategies for what the library is made of: shapes, noise schedules, operators and processes.

Example:
    >>> from hypothesis import given
    >>> import lineardiffusion as ld
    >>> from lineardiffusion.testing import strategies
    >>> @given(strategies.operators())
    ... def test_norm_of_the_transpose(op):
    ...     assert abs(op.norm() - op.T.norm()) <= 1e-3 * op.norm()
    >>> test_norm_of_the_transpose()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from lineardiffusion._checks import Shape
from lineardiffusion.operators import (
    BlockDiagonal,
    ChannelMix,
    Diagonal,
    Identity,
    LinearOperator,
    Matrix,
    Resize,
    Separable,
    SpectralFilter,
)
from lineardiffusion.operators.separable import Mode
from lineardiffusion.processes import DDPM, BlurringDiffusion, LinearDiffusion, ScaleSpaceDiffusion
from lineardiffusion.testing.operators import Opaque

_MODES: tuple[Mode, ...] = ("bilinear", "bicubic", "nearest", "nearest-exact", "area")
_SEEDS = st.integers(0, 2**16)


def shapes(min_dims: int = 2, max_dims: int = 3, max_side: int = 5) -> st.SearchStrategy[Shape]:
    """Event shapes, channels first, of any sizes from 1 to `max_side`."""
    return st.lists(st.integers(1, max_side), min_size=min_dims, max_size=max_dims).map(tuple)


def alpha_bars(num_steps: int) -> st.SearchStrategy[Tensor]:
    """Noise schedules ᾱ_0 = 1 > ᾱ_1 > … > ᾱ_T > 0, float64."""
    alphas = st.lists(st.floats(0.05, 0.999), min_size=num_steps, max_size=num_steps)
    return alphas.map(lambda ratios: torch.tensor([1.0, *ratios], dtype=torch.float64).cumprod(0))


@st.composite
def operators(
    draw: st.DrawFn, in_shape: Sequence[int] | None = None, kinds: Sequence[str] | None = None
) -> LinearOperator:
    """Operators of every structure, of random or zero weights.

    Arguments:
        in_shape: event shape of the input; random by default.
        kinds: which structures, of "scalar", "diagonal", "dct", "fft", "resize", "separable", "matrix", "mix" (of
            channels), "blocks" (one for each channel) and "opaque"; all by default.
    """
    shape = tuple(draw(shapes())) if in_shape is None else tuple(in_shape)
    kind = draw(st.sampled_from(sorted(_MAKERS) if kinds is None else list(kinds)))
    return _MAKERS[kind](draw, shape)


@st.composite
def processes(draw: st.DrawFn, max_steps: int = 6) -> LinearDiffusion:
    """Feasible processes of every family, among them chains of unrelated operators with shapes that change."""
    num_steps = draw(st.integers(2, max_steps))
    family = draw(st.sampled_from(["general", "ddpm", "blurring", "scale space"]))
    if family == "general":
        return _general(draw, num_steps)
    alpha_bar = draw(alpha_bars(num_steps))
    shape = tuple(draw(shapes(min_dims=3, max_dims=3, max_side=6)))
    if family == "ddpm":
        return DDPM(shape, num_steps, alpha_bar)
    if family == "blurring":
        blur, floor = draw(st.floats(0, 4)), draw(st.floats(0.05, 1))
        return BlurringDiffusion(shape, num_steps, blur_sigma_max=blur, min_scale=floor, schedule=alpha_bar)
    levels = draw(st.integers(1, 1 + math.ceil(math.log2(max(shape[1:])))))
    level_of = sorted(draw(st.lists(st.integers(0, levels - 1), min_size=num_steps, max_size=num_steps)))
    mode = draw(st.sampled_from(_MODES))
    return ScaleSpaceDiffusion(shape, levels, num_steps, alpha_bar, resolution_schedule=level_of, mode=mode)


def _general(draw: st.DrawFn, num_steps: int) -> LinearDiffusion:
    steps: list[LinearOperator] = []
    sigmas = [0.0]
    for _ in range(num_steps):
        step = draw(operators(steps[-1].out_shape if steps else None))
        gain = step.norm()
        if gain > 2:  # noise levels should not explode along the chain
            step = 2 / gain * step
        slack = draw(st.floats(1.05, 2))
        sigmas.append(max(0.1, slack * sigmas[-1] * step.norm()))
        steps.append(step)
    return LinearDiffusion(steps, sigmas)


def _weights(draw: st.DrawFn, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw(_SEEDS))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _sizes(draw: st.DrawFn, shape: Shape) -> Shape:
    return tuple(draw(st.integers(1, 5)) for _ in shape[1:]) or (draw(st.integers(1, 5)),)


def _scalar(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    return draw(st.floats(-2, 2)) * Identity(shape)


def _diagonal(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    weights = _weights(draw, *shape)
    return Diagonal((weights > 0).double() if draw(st.booleans()) else weights)


def _dct(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    return SpectralFilter(shape, _weights(draw, *(shape[1:] or shape)))


def _fft(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    return SpectralFilter(shape, torch.fft.fftn(_weights(draw, *(shape[1:] or shape)), norm="ortho"), basis="fft")


def _resize(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    return Resize(shape, _sizes(draw, shape), draw(st.sampled_from(_MODES)))


def _separable(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    axes = shape[1:] or shape
    return Separable([_weights(draw, m, n) for m, n in zip(_sizes(draw, shape), axes, strict=True)], shape)


def _matrix(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    sizes = _sizes(draw, shape)
    return Matrix(_weights(draw, math.prod(sizes), math.prod(shape)), shape, (1, *sizes))


def _mix(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    if len(shape) < 2:
        return _matrix(draw, shape)
    return ChannelMix(_weights(draw, draw(st.integers(1, 3)), shape[0]), _axes(draw, shape[1:]))


def _blocks(draw: st.DrawFn, shape: Shape) -> LinearOperator:
    if len(shape) < 2:
        return _matrix(draw, shape)
    sizes = [draw(st.integers(1, 5)) for _ in shape[1:]]
    return BlockDiagonal([_axes(draw, shape[1:], sizes) for _ in range(shape[0])])


def _axes(draw: st.DrawFn, shape: Shape, sizes: Sequence[int] | None = None) -> LinearOperator:
    """A separable operator on every axis of a shape without channels."""
    sizes = [draw(st.integers(1, 5)) for _ in shape] if sizes is None else sizes
    return Separable([_weights(draw, m, n) for m, n in zip(sizes, shape, strict=True)], shape)


_MAKERS: dict[str, Callable[[st.DrawFn, Shape], LinearOperator]] = {
    "scalar": _scalar,
    "diagonal": _diagonal,
    "dct": _dct,
    "fft": _fft,
    "resize": _resize,
    "separable": _separable,
    "matrix": _matrix,
    "mix": _mix,
    "blocks": _blocks,
    "opaque": lambda draw, shape: Opaque(_matrix(draw, shape)),
}
