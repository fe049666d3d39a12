"""Paths on which the resolution falls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from lineardiffusion._checks import Shape, as_choice, as_index, as_list, as_shape
from lineardiffusion.config import configured
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.orthogonal import AveragePool
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.operators.separable import Mode, Resize, spatial_axes
from lineardiffusion.paths.base import as_event
from lineardiffusion.paths.levels import Levelled
from lineardiffusion.schedules import ResolutionSchedule, convex_decay


@configured("paths.pyramid")
class pyramid(Levelled):
    r"""Resolutions that fall, level by level; between its changes a path of R = I.

    Arguments:
        shape: event shape of the data, channels first.
        levels: number of resolutions, 4 by default.
        resolution_schedule: when they change, such as `ld.convex_decay(0.5)` (the default) or `ld.changes_at([…])`; or
            the level of each x_1, …, x_T.
        mode: how `Resize` resamples, with antialiasing where the mode has it; or "haar" for the orthonormal levels of
            the Haar basis, for which a_t has a factor 2^{d/2} for each level.
        factor: the ratio > 1 between levels, ⌈n / factor^l⌉ pixels at level l; or the sizes of the lower levels.

    Raises:
        ValueError: levels beyond what the shape holds, odd sizes for "haar", an unknown mode.

    Examples:
        >>> import lineardiffusion as ld
        >>> path = ld.paths.pyramid((3, 48, 64), 3, ld.changes_at([300, 600]), factor=1.5)
        >>> p = ld.LinearDiffusion(path, ld.schedules.linear(1000))
        >>> p.shape(299), p.shape(300), p.shape(600)
        ((3, 48, 64), (3, 32, 43), (3, 22, 29))
    """

    def __init__(
        self,
        shape: Sequence[int],
        levels: int | None = None,
        resolution_schedule: ResolutionSchedule | Sequence[int] | None = None,
        mode: Mode | Literal["haar"] = "bilinear",
        factor: float | Sequence[Any] = 2,
    ) -> None:
        self.event = as_event(shape)
        as_choice(mode, (*get_args(Mode), "haar"), "mode")
        if resolution_schedule is not None and not callable(resolution_schedule):
            expected = "a schedule such as ld.convex_decay(0.5), or the level of each step"
            resolution_schedule = as_list(resolution_schedule, "resolution_schedule", expected)
        sizes = _sizes(self.event, levels, factor)
        self.levels, self.mode, self.factor = len(sizes), mode, factor
        when = convex_decay(0.5) if resolution_schedule is None else resolution_schedule
        self._steps = [_one_level(fine, coarse, mode) for fine, coarse in itertools.pairwise(sizes)]
        per_level = 2 ** (spatial_axes(self.event) / 2) if mode == "haar" else 1.0
        super().__init__(sizes, when, [per_level**level for level in range(self.levels)])

    def arguments(self) -> dict[str, object]:
        return {
            "shape": self.event,
            "levels": self.levels,
            "resolution_schedule": self.when,
            "mode": self.mode,
            "factor": self.factor,
        }

    def between(self, s: float, t: float) -> LinearOperator:
        pair = self.level(s), self.level(t)
        return self._resizes.get(pair, lambda: self._product(*pair))

    def _product(self, fine: int, coarse: int) -> LinearOperator:
        if self.mode == "haar" and fine < coarse:
            return AveragePool(self.sizes[fine], 2 ** (coarse - fine))  # means of means are means
        product: LinearOperator = Identity(self.sizes[fine])
        for step in self._steps[fine:coarse]:
            product = step @ product
        return product

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        return self.between(0, times.tolist()[0])(x)  # all of one shape


def _one_level(fine: Shape, coarse: Shape, mode: Mode | Literal["haar"]) -> LinearOperator:
    axes = spatial_axes(fine)
    if mode != "haar":
        return Resize(fine, coarse[-axes:], mode)
    if any(n != 2 * m for n, m in zip(fine[-axes:], coarse[-axes:], strict=True)):
        raise ValueError(f"mode: expected even sizes, each twice the next, for 'haar', got {fine} → {coarse}")
    return AveragePool(fine, 2)


def _sizes(shape: Shape, levels: int | None, factor: float | Sequence[Any]) -> list[Shape]:
    """Event shapes of all levels: each axis ⌈n / factor^level⌉, or as they are listed."""
    axes = spatial_axes(shape)
    channels, full = shape[: len(shape) - axes], shape[-axes:]
    if isinstance(factor, (int, float)) and not isinstance(factor, bool):
        count = as_index(4 if levels is None else levels, 1, 64, "levels")
        if not 1 < factor < math.inf:
            raise ValueError(f"factor: expected a ratio > 1 between levels, or a list of sizes, got {factor}")
        sizes = [tuple(math.ceil(round(n / factor**level, 9)) for n in full) for level in range(count)]
    else:
        given = as_list(factor, "factor", "a ratio > 1 between levels, or a list of sizes such as [32, 16]")
        listed = [as_shape((size,) * axes if isinstance(size, int) else size, "factor") for size in given]
        sizes = listed if listed and listed[0] == full else [full, *listed]
        if levels is not None and levels != len(sizes):
            raise ValueError(f"factor: expected {levels - 1} sizes for {levels} levels, got {given}")
    for level, (fine, coarse) in enumerate(itertools.pairwise(sizes), start=1):
        if len(coarse) != axes or any(m > n for n, m in zip(fine, coarse, strict=False)) or coarse == fine:
            raise ValueError(
                f"levels: expected each level smaller than the one before, got {fine} and then {coarse}: at most "
                f"{level} for shape {shape}"
            )
    return [channels + size for size in sizes]
