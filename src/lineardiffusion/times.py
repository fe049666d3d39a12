r"""Times for training: how the t of a batch are drawn.

`sample(process, batch_size, generator)` returns times (batch_size,) on the CPU: integers 1, …, T where the process has
steps, else float64 in (0, T]. Where the resolution changes, a batch has to be of one shape (`ByShape`), or is passed on
in the parts of one shape that `group_by_shape` finds (all others).
"""

from __future__ import annotations

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lineardiffusion._checks import (
    Shape,
    as_index,
    as_number,
    as_numbers_in_a_row,
    as_positive,
    check_process,
    device_of,
)
from lineardiffusion.alike import draw_alike as draw_alike
from lineardiffusion.alike import group_by_shape as group_by_shape
from lineardiffusion.alike import spans_of, uniform_numbers
from lineardiffusion.config import Configured, configured

if TYPE_CHECKING:
    from lineardiffusion.processes.base import LinearDiffusion


class TimeSampler(Configured, ABC):
    """A distribution of the times of a batch."""

    @abstractmethod
    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Times of a batch.

        Arguments:
            process: the process that is trained.
            batch_size: how many.
            generator: the source of randomness; the global one by default.

        Raises:
            ValueError: no time is asked for, or a process that does not fit.
        """


@configured("times.ByShape")
@dataclass(frozen=True, eq=False, repr=False)
class ByShape(TimeSampler):
    r"""The rule of Scale Space Diffusion (Sec. 4.2): draw one t uniformly from all. If x_t and the clean image that is
    predicted from it (at t − 1, or just below t) have the same shape, fill the batch uniformly with times of that shape
    that keep it; otherwise repeat t. Over many batches every t has the same probability.

    That trains each step that changes the shape with one batch in T, and never in continuous time. With a
    `shape_change_fraction` a batch is one of them with this probability, and else one of the others; `weights` are then
    those that keep the objective as it was.

    Arguments:
        shape_change_fraction: in (0, 1), for processes that change shape.

    Raises:
        ValueError: a fraction out of range; when it is used, a process none or all of whose steps change the shape.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 32, 32), levels=3)
        >>> t = ld.times.ByShape().sample(p, 64, torch.Generator().manual_seed(0))
        >>> {p.shape(int(u)) for u in t}
        {(1, 32, 32)}
    """

    shape_change_fraction: float | None = None

    def __post_init__(self) -> None:
        fraction = self.shape_change_fraction
        if fraction is not None and not 0 < as_number(fraction, "shape_change_fraction") < 1:
            raise ValueError(f"shape_change_fraction: expected a number in (0, 1), got {fraction}")

    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        count = _count(process, batch_size)
        return draw_alike(process, self._first(process, generator), count, generator)

    def _first(self, process: LinearDiffusion, generator: torch.Generator | None) -> float:
        last, changes = process.num_steps, []
        if self.shape_change_fraction is not None:
            changes = self._changes(process)
            device = device_of(generator)
            if float(torch.rand((), generator=generator, device=device)) < self.shape_change_fraction:
                return changes[_integer(len(changes), generator)]
        if last is None:
            return process.end * (1 - float(uniform_numbers((), generator)))
        others = [t for t in range(1, last + 1) if t not in changes] if changes else range(1, last + 1)
        return others[_integer(len(others), generator)]

    def weights(self, process: LinearDiffusion, t: Tensor) -> Tensor:
        r"""(1/T) / q(t), q(t) the probability of t: losses times these weights have the expectation they have without a
        `shape_change_fraction`.

        Arguments:
            process: one with steps.
            t: times (B,).

        Returns:
            Weights (B,) in float64, on the device of t.

        Raises:
            ValueError: a process of continuous time, whose changes of shape have no probability without the fraction.
        """
        weights = torch.ones(len(t), dtype=torch.float64, device=t.device)
        if self.shape_change_fraction is None:
            return weights
        changes, last = self._changes(process), process.num_steps
        if last is None:
            raise ValueError(
                "process: expected one with steps, since a change of shape has no weight in continuous time"
            )
        at_change = len(changes) / (last * self.shape_change_fraction)
        elsewhere = (last - len(changes)) / (last * (1 - self.shape_change_fraction))
        is_change = torch.isin(t, torch.tensor(changes, device=t.device))
        return torch.where(is_change, at_change * weights, elsewhere * weights)

    @staticmethod
    def _changes(process: LinearDiffusion) -> list[float]:
        changes = process.shape_changes()
        if not changes or len(changes) == process.num_steps:
            raise ValueError(
                f"shape_change_fraction: expected a process some of whose steps change the shape, got {process}"
            )
        return changes


@configured("times.Mixed")
@dataclass(frozen=True, eq=False, repr=False)
class Mixed(TimeSampler):
    r"""Several resolutions in a batch: image i is of group i mod `groups`, and each group is filled by the rule of
    `ByShape` from a first time of its own. These lie at equal distances in probability, so that the groups of every
    batch spread evenly over all times. Such a batch is passed on in the parts that `group_by_shape` finds.

    Arguments:
        groups: how many; a divisor of the batch size.
        shares: of the images at each resolution of x_t, finest first; scaled to a sum of 1. By default its share of the
            times.

    Raises:
        ValueError: no group, shares that are none; when it is used, a batch that cannot be divided, or more or fewer
            shares than resolutions.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 32, 32), levels=3)
        >>> t = ld.times.Mixed(groups=16).sample(p, 64, torch.Generator().manual_seed(0))
        >>> [(len(part), p.shape(int(t[part[0]]))) for part in p.group_by_shape(t)]
        [(8, (1, 8, 8)), (36, (1, 32, 32)), (20, (1, 16, 16))]
    """

    groups: int
    shares: Sequence[float] | None = None

    def __post_init__(self) -> None:
        as_index(self.groups, 1, 2**31, "groups")
        if self.shares is None:
            return
        shares = as_numbers_in_a_row(self.shares, "shares", "[2, 1, 1]")
        if not all(0 <= share < math.inf for share in shares) or not sum(shares) > 0:
            raise ValueError(f"shares: expected finite numbers ≥ 0, not all of them 0, got {self.shares}")

    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        count = _count(process, batch_size)
        if count % self.groups:
            raise ValueError(f"groups: expected a divisor of batch_size = {count}, got {self.groups}")
        first, time = float(uniform_numbers((), generator)), self._quantiles(process)
        starts = [time((first + k / self.groups) % 1) for k in range(self.groups)]
        columns = [draw_alike(process, t, count // self.groups, generator) for t in starts]
        return torch.stack(columns, 1).flatten()

    def _quantiles(self, process: LinearDiffusion) -> Callable[[float], float]:
        """From a probability in [0, 1) to a time."""
        spans = spans_of(process)
        totals: dict[Shape, float] = {}
        for shape, start, stop in spans:
            totals[shape] = totals.get(shape, 0.0) + stop - start
        shares = list(totals.values()) if self.shares is None else list(self.shares)
        if len(shares) != len(totals):
            raise ValueError(f"shares: expected one for each of the resolutions {list(totals)}, got {shares}")
        share = {shape: value / sum(shares) for shape, value in zip(totals, shares, strict=True)}
        masses = [share[shape] * (stop - start) / totals[shape] for shape, start, stop in spans]
        ends = list(itertools.accumulate(masses))

        def time(probability: float) -> float:
            # Spans without a share end where the one before does, and are passed over.
            i = min(bisect.bisect_right(ends, probability), bisect.bisect_left(ends, ends[-1]))
            _, start, stop = spans[i]
            t = stop - (stop - start) * (ends[i] - probability) / masses[i]
            if process.num_steps is not None:
                return min(max(int(t), start), stop - 1)
            return max(t, math.nextafter(start, stop))

        return time


@configured("times.Uniform")
class Uniform(TimeSampler):
    """Every t with the same probability, each image on its own.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> ld.times.Uniform().sample(ld.DDPM((1, 8)), 3, torch.Generator().manual_seed(0))
        tensor([ 30, 293, 541])
    """

    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        count = _count(process, batch_size)
        return _at_fractions(process, 1 - uniform_numbers((count,), generator))


@dataclass(frozen=True, eq=False, repr=False)
class Normal(TimeSampler):
    """Times that are a function of normal numbers, each image on its own."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not math.isfinite(as_number(self.mean, "mean")):
            raise ValueError(f"mean: expected a finite number, got {self.mean}")
        as_positive(self.std, "std")

    def _normal(self, count: int, generator: torch.Generator | None) -> Tensor:
        device = device_of(generator)
        return self.mean + self.std * torch.randn(count, generator=generator, device=device).cpu().double()


@configured("times.LogitNormal")
@dataclass(frozen=True, eq=False, repr=False)
class LogitNormal(Normal):
    r"""t = T sigmoid(z), z ~ N(mean, std²): most often the middle of a flow.

    References:
        | Scaling Rectified Flow Transformers (Esser et al., 2024), Sec. 3.1, https://arxiv.org/abs/2403.03206

    Raises:
        ValueError: a mean that is not finite, a standard deviation that is not positive.
    """

    mean: float = 0.0
    std: float = 1.0

    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        return _at_fractions(process, self._normal(_count(process, batch_size), generator).sigmoid())


@configured("times.LogNormalSigma")
@dataclass(frozen=True, eq=False, repr=False)
class LogNormalSigma(Normal):
    r"""ln(σ_t/a_t) ~ N(mean, std²), as EDM is trained. Levels beyond those of the process become its last or first
    time, and where it has steps t is rounded.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), Table 1,
        | https://arxiv.org/abs/2206.00364

    Raises:
        ValueError: a mean that is not finite, a standard deviation that is not positive; when it is used, a process
            whose signal-to-noise ratio does not fall strictly.
    """

    mean: float = -1.2
    std: float = 1.2

    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        count, schedule = _count(process, batch_size), process.schedule
        t = schedule.time(-2 * self._normal(count, generator))
        if schedule.num_steps is not None:
            return t.round().long().clamp(1, schedule.num_steps)
        return torch.where(t > 0, t, schedule.first)


def _count(process: LinearDiffusion, batch_size: int) -> int:
    """The size of a batch, both checked."""
    check_process(process)
    return as_index(batch_size, 1, 2**31, "batch_size")


def _at_fractions(process: LinearDiffusion, fractions: Tensor) -> Tensor:
    """T u for u in [0, 1], rounded up to 1, …, T where there are steps."""
    if process.num_steps is None:
        return (process.end * fractions).clamp(min=math.nextafter(0, 1))
    return (process.num_steps * fractions).ceil().long().clamp(1, process.num_steps)


def _integer(count: int, generator: torch.Generator | None) -> int:
    """Uniform in 0 … count − 1."""
    device = device_of(generator)
    return int(torch.randint(count, (), generator=generator, device=device))
