"""A sampler in numbers: how many calls each resolution has, and where they lie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# How many numbers tell how dense the calls are, in all resolutions together, while calls move between them.
DENSITIES = 4


@dataclass(frozen=True)
class Plan:
    """A sampler in numbers.

    Attributes:
        calls: at each level, the coarsest first.
        eta: η.
        above: how far the log-SNR where the grid begins is above that of the schedule's end.
        below: how far the log-SNR of the last call is below that of the schedule's first time.
        densities: for each level that is used as many logarithms of distances between calls.
    """

    calls: tuple[int, ...]
    eta: float
    above: float
    below: float
    densities: tuple[float, ...]

    @property
    def used(self) -> list[int]:
        """How many calls those levels have that have any."""
        return [n for n in self.calls if n]

    def numbers(self) -> list[float]:
        return [self.eta, self.above, self.below, *self.densities]

    def with_numbers(self, numbers: Sequence[float]) -> Plan:
        eta, above, below, *densities = numbers
        return Plan(self.calls, min(max(eta, 0.0), 1.0), max(above, 0.0), max(below, 0.0), tuple(densities))

    def with_calls(self, calls: tuple[int, ...]) -> Plan:
        """Other numbers of calls, as far from each other as these were at the same place of the trajectory."""
        used = [n for n in calls if n]
        count = max(2, DENSITIES // len(used))
        if len(used) == len(self.used) and len(self.densities) == len(used) * count:
            return replace(self, calls=calls)
        return replace(self, calls=calls, densities=self._densities(used, count))

    def refined(self) -> Plan:
        """The same with twice as many numbers."""
        return replace(self, densities=self._densities(self.used, 2 * len(self.densities) // len(self.used)))

    def _densities(self, used: Sequence[int], count: int) -> tuple[float, ...]:
        """As many for each of the levels with these numbers of calls, of the same grid."""
        before = self.log_distances()
        starts = itertools.accumulate(used[:-1], initial=0)
        places = np.concatenate(
            [np.linspace(start, start + n - 1, count) for start, n in zip(starts, used, strict=True)]
        )
        return tuple(np.interp(places / sum(used), np.arange(len(before)) / len(before), before).tolist())

    def log_distances(self) -> list[float]:
        """Of each call from the one before it, up to a common term; the first is of no use."""
        count, result = len(self.densities) // len(self.used), []
        for level, n in enumerate(self.used):
            own = self.densities[level * count : (level + 1) * count]
            result += np.interp(np.linspace(0, count - 1, n), range(count), own).tolist()
        return result

    def log_snr(self, start: float, end: float) -> list[float]:
        """Of the calls, for a schedule that goes from start to end; the first one is where the grid begins."""
        start, end = start + self.above, end - self.below
        passed = [0.0, *itertools.accumulate(map(math.exp, self.log_distances()[1:]))]
        return [start + (end - start) * length / max(passed[-1], 1e-300) for length in passed]
