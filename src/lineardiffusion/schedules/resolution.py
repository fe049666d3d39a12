r"""Resolution schedules: from which time on x_t has which resolution.

A schedule is called with the number of levels and the noise schedule, and returns the first time of each level but that
of full size, ascending: t_1 ≤ … ≤ t_{levels − 1}. Two equal times pass over a level, and a time beyond the end leaves
its level out. Where the noise schedule has steps, times are integers from 1 on, else numbers in (0, end].

References:
    | Scale Space Diffusion (Mukhopadhyay et al., 2026), Sec. 8.3, https://arxiv.org/abs/2603.08709
"""

from __future__ import annotations

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, as_list, as_numbers, as_numbers_in_a_row, as_positive, check_function, got
from lineardiffusion.config import Configured, configured
from lineardiffusion.information import diffusion_information
from lineardiffusion.schedules.noise import Schedule

ResolutionSchedule: TypeAlias = Callable[[int, Schedule], Sequence[float]]


_HALVINGS = 64  # of [0, end], beyond the digits of a float64


class Rule(Configured, ABC):
    """A resolution schedule that says whether a level is reached at t, which it then is at all later times."""

    def __call__(self, levels: int, noise_schedule: Schedule) -> list[float]:
        return [self._first_time(level, levels, noise_schedule) for level in range(1, levels)]

    @abstractmethod
    def reached(self, level: int, levels: int, t: float, noise_schedule: Schedule) -> bool:
        """Whether x_t, t > 0, has this level of 1, …, levels − 1, or a lower resolution."""

    def _first_time(self, level: int, levels: int, noise: Schedule) -> float:
        def reached(t: float) -> bool:
            return self.reached(level, levels, t, noise)

        if noise.num_steps is not None:
            return 1 + bisect.bisect_left(range(1, noise.num_steps + 1), True, key=reached)
        if not reached(noise.end):
            return math.inf
        low, high = 0.0, noise.end
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        return high


class Fraction(Rule):
    """Level ⌊n · fraction(τ)⌋ of n, at most n − 1, with τ from 0 at the first time to 1 at the last."""

    @abstractmethod
    def fraction(self, time: float) -> float:
        """From [0, 1] onto [0, 1], rising."""

    def reached(self, level: int, levels: int, t: float, noise_schedule: Schedule) -> bool:
        steps = noise_schedule.num_steps
        time = t / noise_schedule.end if steps is None else (t - 1) / max(steps - 1, 1)
        return levels * self.fraction(time) >= level


@dataclass(frozen=True, eq=False, repr=False)
class Powered(Fraction):
    """One with a positive power."""

    power: float

    def __post_init__(self) -> None:
        as_positive(self.power, "power")


@configured("equal_levels")
class equal_levels(Fraction):
    """Every resolution for the same time (Sec. 8.3.1)."""

    def fraction(self, time: float) -> float:
        return time


@configured("convex_decay")
class convex_decay(Powered):
    r"""Level ⌊n (1 − (1 − τ)^power)⌋ at τ ∈ [0, 1] (Sec. 8.3.2): powers below 1 keep the full resolution longer.

    Raises:
        ValueError: a power that is not positive.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.convex_decay(0.5)(3, ld.schedules.linear(1000)), ld.convex_decay(0.5)(3, ld.schedules.flow())
        ([556, 890], [0.5555555555555556, 0.888888888888889])
    """

    def fraction(self, time: float) -> float:
        return 1 - float((1 - time) ** self.power)


@configured("tanh_like")
class tanh_like(Powered):
    """Fast at both ends and slow between, with most of the time at the middle resolutions (Sec. 8.3.3).

    Raises:
        ValueError: a power that is not positive.
    """

    def fraction(self, time: float) -> float:
        top = _cubic(_signed_power(0.5, self.power))
        return 1 - (0.5 + 0.5 * _cubic(_signed_power(0.5 - time, self.power)) / top)


@configured("sigmoid_like")
class sigmoid_like(Powered):
    """The inverse function of `tanh_like`: slow at both ends, all changes around the middle (Sec. 8.3.4).

    Raises:
        ValueError: a power that is not positive.
    """

    def fraction(self, time: float) -> float:
        top = _cubic(_signed_power(0.5, self.power))
        # The inverse of w ↦ 1.5 w − 2 w³ = sin(3 arcsin w) / 2.
        root = math.sin(math.asin(2 * top * (1 - 2 * time)) / 3)
        return 1 - (0.5 + _signed_power(root, 1 / self.power))


def _signed_power(value: float, power: float) -> float:
    return math.copysign(abs(value) ** power, value)


def _cubic(w: float) -> float:
    return 1.5 * w - 2 * w**3


@configured("information_matched")
class information_matched(Rule):
    r"""The smallest resolution that holds the information of x_t: r² ≥ Info(t) (Sec. 3.2 of Scale Space Diffusion).

    Info(t) is the expected share of pixels in which the signal dominates the noise (see `diffusion_information`),
    r = 2^{−level} the normalised side.
    """

    def reached(self, level: int, levels: int, t: float, noise_schedule: Schedule) -> bool:
        share = torch.tensor(noise_schedule.log_snr(t), dtype=torch.float64).sigmoid()
        return float(diffusion_information(share)) <= 4.0**-level


@configured("snr_matched")
class snr_matched(Rule):
    r"""A resolution is left as soon as nothing is to be seen of what it adds: level l at the first t at which the
    signal-to-noise ratio a_t² λ/σ_t² of every frequency beyond level l is below the threshold.

    Level l of an axis of n pixels holds its first ⌈n/2^l⌉ frequencies.

    Arguments:
        spectrum: variances λ of the data in the cosine basis, with shape (…, *spatial), such as the gain of
            `ld.lab.estimate` or `ld.lab.power_law`; axes before the last two (one, for a single axis) are channels.
        threshold: greatest signal-to-noise ratio that may be dropped.

    Raises:
        ValueError: a negative variance, or a threshold that is not positive.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.snr_matched(ld.lab.power_law((1, 64)).gain)(4, ld.schedules.linear(1000))
        [89, 167, 278]
    """

    def __init__(self, spectrum: Tensor | Sequence[float] | Sequence[Sequence[float]], threshold: float = 0.1) -> None:
        self.spectrum, self.threshold = as_numbers(spectrum, "spectrum"), as_positive(threshold, "threshold")
        if self.spectrum.ndim == 0 or not self.spectrum.numel() or not bool((self.spectrum >= 0).all()):
            raise ValueError(
                f"spectrum: expected variances ≥ 0 of at least one axis, got shape {tuple(self.spectrum.shape)}"
            )

    def reached(self, level: int, levels: int, t: float, noise_schedule: Schedule) -> bool:
        kept = dropped = self.spectrum.clone()
        for axis in range(-min(2, dropped.ndim), 0):
            kept = kept.narrow(axis, 0, -(-dropped.shape[axis] // 2**level))
        kept.zero_()
        return noise_schedule.log_snr(t) + float(dropped.max().log()) < math.log(self.threshold)


@configured("changes_at")
class changes_at(Configured):
    """Level l from the l-th of these times on; a time that comes twice passes over a level.

    Arguments:
        times: first t of each lower resolution, one fewer than levels, above 0 and ascending; integers where the
            process has steps. A time beyond the end leaves its level out.

    Raises:
        ValueError: times that are not so; when it is used, a number of them that does not fit the levels.

    Examples:
        >>> import lineardiffusion as ld
        >>> schedule = ld.changes_at([360, 570])
        >>> ld.ScaleSpaceDiffusion((1, 32, 32), levels=3, resolution_schedule=schedule).shape_changes()
        [360, 570]
    """

    def __init__(self, times: Sequence[float]) -> None:
        numbers = as_numbers_in_a_row(times, "times", "[360, 570]")
        if numbers != sorted(numbers) or not all(t > 0 for t in numbers):
            raise ValueError(f"times: expected ascending times above 0, got {got(times)}")
        self.times = tuple(int(t) if t.is_integer() else t for t in numbers)

    def __call__(self, levels: int, noise_schedule: Schedule) -> list[float]:
        if len(self.times) != levels - 1:
            raise ValueError(f"times: expected {levels - 1} for {levels} levels, got {list(self.times)}")
        return list(self.times)


_RULE = "a schedule such as ld.convex_decay(0.5), or the level of each step"


def as_changes(
    resolution_schedule: ResolutionSchedule | Sequence[int] | Tensor, levels: int, noise_schedule: Schedule
) -> list[float]:
    """The first time of each level but that of full size, checked; those beyond the end are never reached.

    Arguments:
        resolution_schedule: a schedule as those above, or the level of each of x_1, …, x_T.
        levels: number of resolutions.
        noise_schedule: of the process.

    Raises:
        TypeError: levels that are not integers.
        ValueError: levels that fall with t, do not exist or are not T; times that are none.
    """
    if callable(resolution_schedule) and not isinstance(resolution_schedule, Tensor):
        check_function(resolution_schedule, "resolution_schedule", _RULE)
        times = resolution_schedule(levels, noise_schedule)
        changes = as_numbers_in_a_row(times, "resolution_schedule", "[360, 570], to be returned")
        if len(changes) != levels - 1 or changes != sorted(changes) or not all(t > 0 for t in changes):
            raise ValueError(
                f"resolution_schedule: expected {levels - 1} ascending times above 0 for {levels} levels, got {changes}"
            )
        if noise_schedule.num_steps is None:
            return changes
        if not all(t.is_integer() or t > noise_schedule.end for t in changes):
            raise ValueError(f"resolution_schedule: expected integer times, since the process has steps, got {changes}")
        return [int(t) if t.is_integer() else t for t in changes]
    if noise_schedule.num_steps is None:
        raise ValueError(
            "resolution_schedule: expected a schedule such as ld.convex_decay(0.5) for a process of continuous time, "
            "got levels for each step"
        )
    steps = as_list(resolution_schedule, "resolution_schedule", _RULE)
    given = [as_index(level, 0, levels - 1, "resolution_schedule") for level in steps]
    if len(given) != noise_schedule.num_steps:
        raise ValueError(f"resolution_schedule: expected {noise_schedule.num_steps} levels, got {len(given)}")
    for t, (before, after) in enumerate(itertools.pairwise(given), start=2):
        if after < before:
            raise ValueError(
                f"resolution_schedule: expected resolutions that never grow with t, got level {before} at t = {t - 1} "
                f"and {after} at t = {t}"
            )
    return [1 + bisect.bisect_left(given, level) for level in range(1, levels)]
