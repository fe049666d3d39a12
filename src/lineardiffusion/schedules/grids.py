r"""Grids: the times that a sampler visits, from noise to data, each a call of the network.

`grid.times(process)` are exactly n times in descending order, without the final 0. The times at which the shape changes
are among them, since from there on x_t is of another shape: the nearest time of the grid is moved to each.

Examples:
    >>> import lineardiffusion as ld
    >>> from lineardiffusion.schedules import grids
    >>> p = ld.DDPM((3, 64, 64))
    >>> grids.uniform(5).times(p), grids.trailing(5).times(p), grids.leading(5).times(p)
    ([1000, 750, 501, 251, 1], [1000, 800, 600, 400, 200], [801, 601, 401, 201, 1])
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lineardiffusion._checks import as_index, as_numbers_in_a_row, as_positive, check_process, got
from lineardiffusion.config import Configured, configured
from lineardiffusion.schedules.noise import Schedule

if TYPE_CHECKING:
    from lineardiffusion.processes.base import LinearDiffusion

Steps: TypeAlias = "int | Grid | Sequence[float] | np.ndarray[Any, Any] | Tensor | None"


@dataclass(frozen=True, eq=False, repr=False)
class Grid(Configured, ABC):
    """n times of a process; a subclass gives them by `spacing`, where shapes do not matter."""

    n: int

    def __post_init__(self) -> None:
        as_index(self.n, 1, 10**9, "n")

    @abstractmethod
    def spacing(self, process: LinearDiffusion) -> Sequence[float]:
        """n times in (0, end], descending."""

    def times(self, process: LinearDiffusion) -> list[float]:
        """The times for a process, without the final 0; integers where its path knows no others.

        Raises:
            ValueError: more times than the process has, or fewer than its changes of shape need.
        """
        check_process(process)
        times = list(self.spacing(process))
        if process.path.integral:
            times = [round(t) for t in times]
        if any(t <= s for t, s in itertools.pairwise([*times, 0])):
            known = ", rounded to the integers that a chain of operators knows," if process.path.integral else ""
            raise ValueError(f"n: expected fewer times, since those of {self}{known} are not all different")
        return through(times, [t for t in process.shape_changes() if t < times[0]])


def through(times: Sequence[float], changes: Sequence[float]) -> list[float]:
    """Descending times with the fewest and smallest moves that take some of them, but not the first, to all changes."""
    n, costs = len(times), [0.0] * len(times)
    if len(changes) >= n:
        raise ValueError(
            f"n: expected at least {len(changes) + 1}, for the first time and those at which the shape changes, got {n}"
        )
    # costs[i]: of the moves to the changes so far, of times up to the i-th; last[j][i]: which one goes to the j-th.
    last: list[list[int]] = []
    descending = sorted(changes, reverse=True)
    for change in descending:
        moved, by = [math.inf] * n, [0] * n
        for i in range(1, n):
            here = costs[i - 1] + abs(times[i] - change)
            moved[i], by[i] = (here, i) if here < moved[i - 1] else (moved[i - 1], by[i - 1])
        costs = moved
        last.append(by)
    result, i = list(times), n - 1
    for change, by in zip(reversed(descending), reversed(last), strict=True):
        result[by[i]] = change
        i = by[i] - 1
    return result


def _up_to(n: int, steps: int) -> int:
    """The number of steps of a process, which has at least n."""
    if n > steps:
        raise ValueError(f"n: expected at most {steps}, the steps of the process, got {n}")
    return steps


@configured("grids.uniform")
class uniform(Grid):
    """Equal distances: integers from T to 1, both included, where the process has steps, else T (1 − k/n).

    Examples:
        >>> import lineardiffusion as ld
        >>> from lineardiffusion.schedules import grids
        >>> grids.uniform(3).times(ld.DDPM((1,))), grids.uniform(1).times(ld.DDPM((1,)))
        ([1000, 501, 1], [1000])
    """

    def spacing(self, process: LinearDiffusion) -> Sequence[float]:
        n = self.n
        if process.num_steps is None:
            return [process.end * ((n - k) / n) for k in range(n)]  # T itself, also where it is no whole number
        last = _up_to(n, process.num_steps)
        if n == 1:
            return [last]
        return [1 + (2 * k * (last - 1) + n - 1) // (2 * n - 2) for k in reversed(range(n))]


@configured("grids.trailing")
class trailing(Grid):
    """T − k T/n, k = 0, …, n − 1, rounded where the process has steps: `timestep_spacing="trailing"` of diffusers.

    References:
        | Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2024), Table 2,
        | https://arxiv.org/abs/2305.08891
    """

    def spacing(self, process: LinearDiffusion) -> Sequence[float]:
        if process.num_steps is None:
            return uniform(self.n).spacing(process)
        last = _up_to(self.n, process.num_steps)
        # With the roundings of diffusers, which has one time too many for some n.
        return [int(t) for t in np.arange(last, 0, -last / self.n)[: self.n].round()]


@configured("grids.leading")
class leading(Grid):
    """1 + k ⌊T/n⌋, k = n − 1, …, 0, for processes with steps: `timestep_spacing="leading"` of diffusers with a
    `steps_offset` of 0. The first of them is below T: x_t still has some signal there, which the noise that samplers
    start from has not.
    """

    def spacing(self, process: LinearDiffusion) -> Sequence[float]:
        if process.num_steps is None:
            raise ValueError("leading: expected a process with steps, use grids.uniform for one of continuous time")
        stride = _up_to(self.n, process.num_steps) // self.n
        return [1 + k * stride for k in reversed(range(self.n))]


@configured("grids.karras")
@dataclass(frozen=True, eq=False, repr=False)
class karras(Grid):
    r"""Uniform in (σ/a)^{1/ρ}, from its value at T to that at the first time of the schedule (t = 1 where there are
    steps).

    Where a_T = 0, the first time is T and the others are as if σ/a there were that at T − `schedule.first`.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), Eq. 5,
        | https://arxiv.org/abs/2206.00364

    Arguments:
        n: how many times.
        rho: ρ > 0.
        sigma_min, sigma_max: the least and the greatest σ/a instead; with n = 1 the greatest.

    Raises:
        ValueError: levels that are not in this order; when it is used, levels that the process has not, or a process
            whose signal-to-noise ratio does not fall strictly.

    Examples:
        >>> import lineardiffusion as ld
        >>> from lineardiffusion.schedules import grids
        >>> p = ld.DDPM((3, 64, 64))
        >>> [round(t, 2) for t in grids.karras(5).times(p)]
        [1000, 844.36, 593.99, 142.82, 1]
    """

    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho", "sigma_min", "sigma_max"):
            value = getattr(self, name)
            if value is not None or name == "rho":
                as_positive(value, name)
        if self.sigma_min is not None and self.sigma_max is not None and not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min: expected less than sigma_max = {self.sigma_max}, got {self.sigma_min}")

    def spacing(self, process: LinearDiffusion) -> Sequence[float]:
        schedule = process.schedule
        high, low = (math.exp(-0.5 * log_snr) for log_snr in log_snr_range(schedule))
        largest = high if self.sigma_max is None else self.sigma_max
        smallest = low if self.sigma_min is None else self.sigma_min
        if -2 * math.log(largest) < schedule.log_snr(schedule.end) - 1e-9:
            raise ValueError(f"sigma_max: expected at most {high:.6g}, σ/a at the end of the process, got {largest}")
        if self.n > 1 and not smallest < largest:
            raise ValueError(f"sigma_min, sigma_max: expected ascending levels, got {smallest:.6g} and {largest:.6g}")
        roots = np.linspace(largest ** (1 / self.rho), smallest ** (1 / self.rho), self.n)
        times = _times_at(schedule, -2 * self.rho * np.log(roots))
        if self.sigma_max is None:
            times[0] = schedule.end
        if self.sigma_min is None and self.n > 1:
            times[-1] = schedule.first
        elif times[-1] <= 0:
            raise ValueError(f"sigma_min: expected a level that the process has, got {smallest}")
        return times


@configured("grids.log_snr")
class log_snr(Grid):
    """Uniform in the log-SNR, from T to the first time of the schedule (t = 1 where there are steps).

    Where a_T = 0, the first time is T and the others are as if the log-SNR there were that at T − `schedule.first`.

    Examples:
        >>> import lineardiffusion as ld
        >>> from lineardiffusion.schedules import grids
        >>> [round(t, 2) for t in grids.log_snr(5).times(ld.DDPM((3, 64, 64)))]
        [1000, 722.56, 303.31, 31.15, 1]
    """

    def spacing(self, process: LinearDiffusion) -> Sequence[float]:
        schedule = process.schedule
        times = _times_at(schedule, np.linspace(*log_snr_range(schedule), self.n))
        times[0] = schedule.end
        if self.n > 1:
            times[-1] = schedule.first
        return times


def log_snr_range(schedule: Schedule) -> tuple[float, float]:
    """At the end, or just before it where that is pure noise, and at the first time."""
    start = schedule.log_snr(schedule.end)
    if start == -math.inf:
        start = schedule.log_snr(max(schedule.end - schedule.first, schedule.first))
    return start, schedule.log_snr(schedule.first)


def _times_at(schedule: Schedule, log_snr: np.ndarray[Any, Any]) -> list[float]:
    return list(schedule.time(torch.from_numpy(log_snr)).tolist())


def as_times(process: LinearDiffusion, steps: Steps) -> list[float]:
    """The times that a sampler visits, strictly descending, with the final 0.

    Arguments:
        process: whose changes of shape must be among them.
        steps: None for all of T, …, 1; a number n for `uniform(n)`; a grid; or the times themselves, in (0, T],
            strictly descending, with or without the final 0.

    Raises:
        TypeError: none of these.
        ValueError: times that are not so, or between which the shape changes; a grid that does not fit the process.

    Examples:
        >>> import lineardiffusion as ld
        >>> from lineardiffusion.schedules import grids
        >>> grids.as_times(ld.DDPM((1,), 100), 3), grids.as_times(ld.DDPM((1,), 100), [60, 12.5])
        ([100, 51, 1, 0], [60, 12.5, 0])
    """
    check_process(process)
    if steps is None:
        if process.num_steps is None:
            raise ValueError(
                "steps: expected a number or a grid for a process of continuous time, such as 50, got None"
            )
        return list(range(process.num_steps, -1, -1))
    if isinstance(steps, Grid):
        return [*steps.times(process), 0]
    if isinstance(steps, (list, tuple, range)) or (isinstance(steps, (Tensor, np.ndarray)) and steps.ndim == 1):
        return _given(process, as_numbers_in_a_row(steps, "steps", "[999, 500, 1]"))
    try:
        return [*uniform(as_index(steps, 1, process.num_steps or 10**9, "steps")).times(process), 0]  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"steps: expected a number, a grid such as grids.uniform(50), or descending times, got {got(steps)}"
        ) from None


def _given(process: LinearDiffusion, times: list[float]) -> list[float]:
    if times and times[-1] == 0:
        times = times[:-1]
    if process.num_steps is not None:
        times = [int(t) if t.is_integer() else t for t in times]
    if not times:
        raise ValueError("steps: expected at least one time above 0, got none")
    for t in times:
        if not 0 < t <= process.end:
            raise ValueError(f"steps: expected times in (0, {process.end}], got {t}")
        if process.path.integral and not isinstance(t, int):
            raise ValueError(f"steps: expected integers, since a chain of operators has no other times, got {t}")
    for t, s in itertools.pairwise([*times, 0]):
        if not s < t:
            raise ValueError(
                f"steps: expected strictly descending times, got {s} after {t}; sorted(set(steps), reverse=True) is so"
            )
        jumped = [change for change in process.shape_changes() if s < change < t]
        if jumped:
            raise ValueError(
                f"steps: expected the times at which the shape changes among them, got {t} → {s}, which jumps over "
                f"{', '.join(map(str, jumped))}: add it, or use a grid such as grids.uniform({len(times)}), which does"
            )
    return [*times, 0]
