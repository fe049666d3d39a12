"""Hypothesis strategies for what the library is made of: shapes, noise schedules, operators and processes.

Examples:
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
from typing import Literal, get_args

import torch
from hypothesis import strategies as st
from torch import Tensor

from lineardiffusion import paths
from lineardiffusion import schedules as noise
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
    bases,
)
from lineardiffusion.operators.separable import Mode
from lineardiffusion.paths import Path
from lineardiffusion.processes.base import Coupling, LinearDiffusion
from lineardiffusion.schedules import Schedule, changes_at
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
def schedules(draw: st.DrawFn, max_steps: int = 6) -> Schedule:
    """Noise schedules of every kind: tables of 2 to `max_steps` steps, and continuous ones; some end in pure noise."""
    num_steps = draw(st.integers(2, max_steps))
    tables: list[Schedule] = [
        noise.from_alpha_bar(draw(alpha_bars(num_steps))),
        noise.linear(num_steps),
        noise.cosine(num_steps),
        noise.cosine_log_snr(num_steps),
        noise.zero_terminal_snr(noise.cosine(num_steps)),
    ]
    continuous: list[Schedule] = [
        noise.flow(draw(st.floats(0.5, 4))),
        noise.edm(),
        noise.vp(),
        noise.ve(),
        noise.cosine_log_snr(None),
        noise.piecewise([0, 0.5, 0.5, 1], [1, 0.5, 0.25, 0], [0, 0.5, 0.75, 1]),
    ]
    return draw(st.sampled_from(tables + continuous))


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
    """Processes of every path and schedule with either coupling, among them chains of unrelated operators with shapes
    that change."""
    kind = draw(st.sampled_from(["chain", *_PATHS]))
    if kind == "chain":
        return _chain(draw, draw(st.integers(2, max_steps)))
    schedule = draw(schedules(max_steps))
    path, coupling = _PATHS[kind](draw, schedule), draw(st.sampled_from(get_args(Coupling)))
    try:
        return LinearDiffusion(path, schedule, coupling=coupling)
    except ValueError as error:  # a resize may enlarge some patterns a little, and then leaves its noise no room
        if "smallest feasible" not in str(error):
            raise
        return LinearDiffusion(path, schedule, coupling="shared")


def _identity(draw: st.DrawFn, schedule: Schedule) -> Path:
    return paths.identity(draw(shapes()))


def _heat(draw: st.DrawFn, schedule: Schedule) -> Path:
    return paths.heat(draw(shapes()), draw(st.floats(0, 4)), draw(st.floats(0.05, 1)))


def _pyramid(draw: st.DrawFn, schedule: Schedule) -> Path:
    mode: Mode | Literal["haar"] = draw(st.sampled_from([*_MODES, "haar"]))
    if mode == "haar":
        levels, factor = draw(st.integers(1, 3)), 2.0
        shape = (draw(st.integers(1, 2)), *(2 ** (levels - 1) * n for n in draw(shapes(1, 2, 2))))
    else:
        shape = draw(shapes(min_dims=3, max_dims=3, max_side=6))
        factor = draw(st.sampled_from([1.5, 2.0, 3.0]))
        levels = draw(st.integers(1, _most_levels(max(shape[1:]), factor)))
    least, end = 0.05 * schedule.end, schedule.end
    times = st.integers(1, int(end)) if schedule.num_steps else st.floats(least, end)
    changes = changes_at(sorted(draw(st.lists(times, min_size=levels - 1, max_size=levels - 1))))
    return paths.pyramid(shape, levels, changes, mode, factor)


def _most_levels(side: int, factor: float) -> int:
    levels = 1
    while math.ceil(side / factor**levels) < math.ceil(side / factor ** (levels - 1)):
        levels += 1
    return levels


def _spectral(draw: st.DrawFn, schedule: Schedule) -> Path:
    """Some coordinates fade, and some are gone from some time on."""
    shape = (draw(st.integers(1, 2)), 2 * draw(st.integers(1, 2)), 2 * draw(st.integers(1, 3)))
    known = [bases.Cosine(shape), bases.Fourier(shape), bases.BlockCosine(shape, 2), bases.Haar(shape)]
    basis: bases.Basis = draw(st.sampled_from(known))
    rates = 3 * torch.rand(basis.coordinates, generator=_generator(draw), dtype=torch.float64)
    if isinstance(basis, bases.Fourier):  # real events have the same gain at k and −k
        rates = (rates + rates.flip(-2, -1).roll((1, 1), (-2, -1))) / 2
    gone = draw(st.floats(1, 4))

    def gains(t: float) -> Tensor:
        faded = t / schedule.end * rates
        return torch.where(faded < gone, torch.exp(-faded), 0.0)

    return paths.spectral(basis, gains)


_PATHS: dict[str, Callable[[st.DrawFn, Schedule], Path]] = {
    "identity": _identity,
    "heat": _heat,
    "pyramid": _pyramid,
    "spectral": _spectral,
}


def _chain(draw: st.DrawFn, num_steps: int) -> LinearDiffusion:
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
    return torch.randn(*shape, generator=_generator(draw), dtype=torch.float64)


def _generator(draw: st.DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(_SEEDS))


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
