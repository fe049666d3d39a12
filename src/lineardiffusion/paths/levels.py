"""What paths have in common whose shape changes at known times."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lineardiffusion._checks import Shape
from lineardiffusion.caches import BoundedCache
from lineardiffusion.operators.base import LinearOperator, operator_bytes
from lineardiffusion.paths.base import Path
from lineardiffusion.schedules import ResolutionSchedule, Schedule, as_changes

P = TypeVar("P", bound="Levelled")

_RESIZE_BYTES = 2**28


class Levelled(Path):
    """A path of events that become smaller, level by level; 0 is full size.

    Arguments:
        sizes: event shape at each level.
        when: when the levels begin, all but the first: a resolution schedule, or the level of each x_1, …, x_T.
        brightness: `gain` at each level.
    """

    def __init__(
        self, sizes: Sequence[Shape], when: ResolutionSchedule | Sequence[int], brightness: Sequence[float]
    ) -> None:
        self.sizes, self.when, self._brightness = list(sizes), when, list(brightness)
        self._changes: list[float] | None = None
        # Between levels, whenever they change: the same path with its levels at other times shares them.
        self._resizes: BoundedCache[LinearOperator] = BoundedCache(_RESIZE_BYTES, operator_bytes)

    def changing(self: P, when: ResolutionSchedule | Sequence[int]) -> P:
        """The same path with its levels at other times.

        Arguments:
            when: a resolution schedule such as `ld.changes_at([300, 600])`, or the level of each x_1, …, x_T.

        Examples:
            >>> import lineardiffusion as ld
            >>> path = ld.paths.pyramid((1, 16, 16), levels=2).changing(ld.changes_at([0.4]))
            >>> ld.LinearDiffusion(path, ld.schedules.flow()).shape_changes()
            [0.4]
        """
        other = copy.copy(self)
        other.when, other._changes = when, None
        return other

    def on(self: P, schedule: Schedule) -> P:
        bound = copy.copy(self)
        changes = as_changes(self.when, len(self.sizes), schedule)
        bound._changes = [t for t in changes if t <= schedule.end]
        return bound

    def level(self, t: float) -> int:
        """How many of the changes are at t or before."""
        if self._changes is None:
            raise ValueError("t: expected a path of a process, as times belong to a schedule; make the process first")
        return sum(change <= t for change in self._changes)  # a graph that is being compiled knows no bisection

    def shape(self, t: float) -> Shape:
        return self.sizes[self.level(t)]

    def changes(self) -> list[float]:
        self.level(0)
        return sorted(set(self._changes or []))

    def gain(self, t: float | Tensor) -> float | Tensor:
        if not isinstance(t, Tensor):
            return self._brightness[self.level(t)]
        dtype = torch.float32 if t.device.type == "mps" else torch.float64
        result = torch.full(t.shape, self._brightness[0], dtype=dtype, device=t.device)
        for change, brightness in zip(self._changes or [], self._brightness[1:], strict=False):
            result = result.masked_fill(t >= change, brightness)
        return result
