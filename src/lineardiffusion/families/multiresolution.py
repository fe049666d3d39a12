r"""Pretrained networks at several resolutions: what SPEED, RALU and Bottleneck Sampling share.

A network of a full-band process, x_t = a_t x_0 + σ_t ε (its base), is called at smaller sizes too. Sampling runs
through the base's times in stages, each of one size; between two of them the state is resized by an operator U, and
noise is added so that all of it is white again, which takes it back to an earlier time of the base:

    x_s = (a_s/a_t) U x_t + (σ_s² I − (a_s/a_t)² σ_t² U Uᵀ)^{1/2} z,     σ_s/a_s ≥ ‖U‖ σ_t/a_t .

This is a transition of the library (`ld.transition`) with U for its operator, and needs no call of the network. At
equality, with U the inverse of an orthonormal truncation, it is also the posterior of a process that truncates, given
that the detail of the image is zero.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lineardiffusion import paths
from lineardiffusion._checks import Shape, as_number, as_shape, check_event
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import Configured, configured
from lineardiffusion.covariance import Covariance
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Family
from lineardiffusion.families.jumps import Jumping, check_change
from lineardiffusion.operators.base import LinearOperator, prepared_bytes
from lineardiffusion.paths import Path
from lineardiffusion.posterior import transition
from lineardiffusion.processes.base import Coupling, LinearDiffusion
from lineardiffusion.schedules import Schedule, flow
from lineardiffusion.schedules.noise import no_single_time

_CACHE_BYTES = 2**28


@configured("families.Restarted")
class Restarted(Schedule):
    r"""The times of a schedule in pieces, some of them more than once: from its end to b_1, from e_1 ≥ b_1 to b_2, …,
    from e_k to 0, one after the other on one axis, on which each piece is as long as it was.

    Arguments:
        base: the schedule.
        jumps: (b_1, e_1), …, (b_k, e_k), times of the base, as a sampler comes to them.

    Raises:
        ValueError: times that are not so.

    Examples:
        >>> import lineardiffusion as ld
        >>> schedule = ld.families.multiresolution.Restarted(ld.schedules.flow(), [(0.25, 0.5)])
        >>> schedule.end, schedule.changes, schedule.sigma(0.5), schedule.sigma(0.75)
        (1.25, [0.5], 0.25, 0.5)
    """

    def __init__(self, base: Schedule, jumps: Sequence[tuple[float, float]]) -> None:
        self.base = base
        self.jumps = [(as_number(b, "jumps"), as_number(e, "jumps")) for b, e in jumps]
        pieces, top = [], float(base.end)
        for before, after in self.jumps:
            if not 0 <= before < top or not before <= after <= base.end or after == 0:
                raise ValueError(
                    f"jumps: expected (b, e) with b below {top:g}, where the times before the jump begin, and e in "
                    f"[b, {base.end:g}], got ({before:g}, {after:g})"
                )
            pieces.append((before, top))
            top = after
        # The least noisy one first.
        self.pieces = [(0.0, top), *reversed(pieces)]
        *starts, self.end = itertools.accumulate((high - low for low, high in self.pieces), initial=0.0)
        self.changes, self._starts = starts[1:], starts
        self.first = min(base.first, self.changes[0] / 2 if starts[1:] else base.first)

    def base_time(self, t: Tensor) -> Tensor:
        """The time of the base that t is."""
        result = t
        for start, (low, high) in zip(self._starts[1:], self.pieces[1:], strict=True):
            result = torch.where(t >= start, (low + (t - start)).clamp(max=high), result)
        low, high = self.pieces[0]
        return torch.where(t < self.changes[0], t.clamp(max=high), result) if self.changes else result

    def time_of(self, stage: int, base_time: float) -> float:
        """The time in a stage, 0 for the last one of a sampler, that is a time of the base."""
        low, high = self.pieces[stage]
        if not low <= base_time <= high:
            raise ValueError(f"base_time: expected one in [{low:g}, {high:g}], those of stage {stage}, got {base_time}")
        return self._starts[stage] + (base_time - low)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.base(self.base_time(t))

    def _inverse(self, log_snr: Tensor) -> Tensor:
        if self.changes:
            raise no_single_time(self)
        return self.base.time(log_snr)


@configured("families.BaseIndex")
@dataclass(frozen=True, eq=False, repr=False)
class BaseIndex(Configured):
    """What a network of the base is told of its time, "index" or "time": of each t of a `Restarted` schedule."""

    of: Literal["index", "time"] = "index"

    def __call__(self, process: LinearDiffusion, t: Tensor) -> Tensor:
        schedule = process.schedule
        if not isinstance(schedule, Restarted):
            raise ValueError(f"process: expected one of the times of a Restarted schedule, got {schedule}")
        return schedule.base_time(t) - (1 if self.of == "index" and schedule.base.num_steps else 0)


def after_upsampling(schedule: Schedule, t: float, ratio: float) -> float:
    """The time of the schedule at which σ/a is `ratio` times what it is at t.

    Raises:
        ValueError: the schedule has no such time.
    """
    wanted = schedule.log_snr(t) - 2 * math.log(ratio)
    if wanted < schedule.log_snr(schedule.end):
        raise ValueError(
            f"transitions: expected times at which the schedule still has noise {ratio:.4g} times as strong relative "
            f"to the signal, got t = {t}; the last such time is "
            f"{schedule.time(schedule.log_snr(schedule.end) + schedule.log_snr(t) - wanted):.6g}"
        )
    return schedule.time(wanted)


def jump_kernel(
    lift: LinearOperator, before: tuple[float, float], after: tuple[float, float]
) -> tuple[LinearOperator, Covariance]:
    r"""(a_s/a_t) U and σ_s² I − (a_s/a_t)² σ_t² U Uᵀ.

    Arguments:
        lift: U.
        before, after: (a_t, σ_t) and (a_s, σ_s).

    Raises:
        ValueError: σ_s is too small for that.
    """
    operator = (after[0] / before[0]) * lift
    return operator, transition(operator, before[1], after[1])


class Multiresolution(Jumping):
    r"""The stages of a pretrained base; see this module. A subclass gives its path, its jumps and `lift`. Nothing has
    to be trained; `loss` is the base's, of every size, for fine-tuning.

    Arguments:
        base: the family that the network was trained for: R = I and white noise.
        path: the resolutions, on the times of a `Restarted` schedule.
        schedule: the base's, restarted.
        coupling: as for `LinearDiffusion`.

    Attributes:
        base: the base.
    """

    schedule: Restarted

    def __init__(self, base: Family, path: Path, schedule: Restarted, coupling: Coupling = "markov") -> None:
        super().__init__(path, schedule, coupling=coupling)
        self.base, self.prediction, self.weighting = base, base.prediction, base.weighting
        self._jumps: BoundedCache[tuple[LinearOperator, Covariance]] = BoundedCache(_CACHE_BYTES, _bytes)

    @abstractmethod
    def lift(self, t: float) -> LinearOperator:
        """U of the change of shape at t: from shape(t) to the shape just below."""

    def jump(self, x_t: Tensor, t: float, noise: Tensor) -> Tensor:
        """x_s just below a change of shape at t.

        Arguments:
            x_t: states, with shape (B, *shape(t)).
            t: one of `shape_changes()`.
            noise: standard normal, with shape (B, *shape just below t).
        """
        check_change(self, t)
        check_event(x_t, self.shape(t), "x_t")
        operator, covariance = self._jumps.get(t, lambda: self._make_jump(t))
        return covariance.sample(operator(x_t), noise)

    def new_detail(self, clean: Tensor, t: float) -> Tensor:
        return clean - self.lift(t)(self.degradation(self.before(t), t)(clean))

    def _make_jump(self, t: float) -> tuple[LinearOperator, Covariance]:
        before, after = ((self.signal_scale(u), self.sigma(u)) for u in (t, self.before(t)))
        return jump_kernel(self.lift(t), before, after)

    def denoiser(self, network: Any) -> Denoiser:
        """A network of the base, told its times, and called with states of every shape."""
        own = self.base.denoiser(network)
        time_input = own.time_input
        if own.network is not network:
            raise ValueError(f"base: expected one whose network is called with states as they are, got {self.base}")
        if callable(time_input):
            raise ValueError(f"base: expected one whose network is told a time by name, got {time_input!r}")
        given = BaseIndex(time_input) if time_input in ("index", "time") else time_input
        return Denoiser(network, self, self.prediction, given, lift="pseudoinverse")


def as_base(base: Family, shape: Sequence[int]) -> tuple[Family, Shape]:
    """The base, checked, and the event shape."""
    event = as_shape(shape)
    if not isinstance(base, Family) or not isinstance(base.path, paths.identity) or not base.is_isotropic:
        raise TypeError(f"base: expected a family of R = I and white noise, such as ld.FlowMatching(shape), got {base}")
    if base.shape(0) != event:
        raise ValueError(f"base: expected one of events {event}, got one of {base.shape(0)}")
    return base, event


def _bytes(jump: tuple[LinearOperator, Covariance]) -> int:
    return sum(map(prepared_bytes, jump))


def shifted(u: float, shift: float) -> float:
    """h u/(1 + (h − 1) u), whose inverse is that of 1/h."""
    return shift * u / (1 + (shift - 1) * u)


def through_stages(process: Multiresolution, pieces: Sequence[Sequence[float]]) -> list[float]:
    """Times of a process from those of each of its stages, the first to be sampled first, given as times of a flow of
    the same signal-to-noise ratios; the first of every piece begins its stage."""
    schedule, times = process.schedule, []
    starts, stages = [schedule.end, *reversed(schedule.changes)], reversed(range(len(pieces)))
    for piece, start, stage in zip(pieces, starts, stages, strict=True):
        others = [schedule.base.time(flow().log_snr(u)) for u in piece[1:]]
        times += [start, *(schedule.time_of(stage, t) for t in others)]
    return times
