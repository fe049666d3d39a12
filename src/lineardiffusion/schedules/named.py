"""The noise schedules that networks are trained with, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lineardiffusion._checks import as_index, as_number, check_kind
from lineardiffusion.config import configured
from lineardiffusion.schedules.noise import Schedule
from lineardiffusion.schedules.tables import VariancePreserving, as_levels, from_alpha_bar

AlphaBar: TypeAlias = "Sequence[float] | np.ndarray[Any, Any] | Tensor"
NoiseSchedule: TypeAlias = "str | Schedule | Callable[[int], Schedule | AlphaBar] | AlphaBar"


@configured("schedules.linear")
class linear(VariancePreserving):
    r"""ᾱ_t = Π_{u ≤ t} (1 − β_u) with β rising linearly from `beta_start` to `beta_end`.

    An end that is not given is that of Ho et al. for 1000 steps, scaled so that x_T is noise for every T, as in ADM
    and in the original implementation of Scale Space Diffusion: 1e-4 · 1000/T and 0.02 · 1000/T, but at most 0.999,
    which the latter reaches at T = 20.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239

    Arguments:
        num_steps: T.
        beta_start, beta_end: β_1 and β_T, used as they are. A single step has β_T.

    Raises:
        ValueError: no step, or ends that are not in (0, 1) and in this order.

    Examples:
        >>> import torch
        >>> from lineardiffusion import schedules
        >>> schedules.linear(1000).signal(torch.tensor([0, 1, 1000])).square()
        tensor([1.0000e+00, 9.9990e-01, 4.0358e-05], dtype=torch.float64)
    """

    def __init__(self, num_steps: int, beta_start: float | None = None, beta_end: float | None = None) -> None:
        steps = as_index(num_steps, 1, 10**9, "num_steps")
        self.beta_start, self.beta_end = beta_start, beta_end
        first = min(1e-4 * 1000 / steps, 0.999) if beta_start is None else as_number(beta_start, "beta_start")
        last = min(0.02 * 1000 / steps, 0.999) if beta_end is None else as_number(beta_end, "beta_end")
        if not 0 < first <= last < 1:
            raise ValueError(f"beta_start, beta_end: expected 0 < beta_start ≤ beta_end < 1, got {first}, {last}")
        betas = torch.linspace(first, last, steps, dtype=torch.float64)
        betas[-1] = last  # of a single step too, which linspace gives the first
        super().__init__(_from_betas(betas))


@configured("schedules.cosine")
class cosine(VariancePreserving):
    r"""ᾱ_t = f(t)/f(0), f(t) = cos²(π/2 · (t/T + offset)/(1 + offset)), with β_t at most `max_beta`.

    References:
        | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), Eq. 17,
        | https://arxiv.org/abs/2102.09672

    Arguments:
        num_steps: T.
        offset: at least 0.
        max_beta: in (0, 1).

    Raises:
        ValueError: no step, or numbers out of range.
    """

    def __init__(self, num_steps: int, offset: float = 0.008, max_beta: float = 0.999) -> None:
        steps = as_index(num_steps, 1, 10**9, "num_steps")
        self.offset, self.max_beta = as_number(offset, "offset"), as_number(max_beta, "max_beta")
        if not 0 <= self.offset < math.inf:
            raise ValueError(f"offset: expected a number ≥ 0, got {offset}")
        if not 0 < self.max_beta < 1:
            raise ValueError(f"max_beta: expected a number in (0, 1), got {max_beta}")
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        signal = (math.pi / 2 * (time + offset) / (1 + offset)).cos().square()
        super().__init__(_from_betas((1 - signal[1:] / signal[:-1]).clamp(max=max_beta)))


def _from_betas(betas: Tensor) -> Tensor:
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


@configured("schedules.cosine_log_snr")
class cosine_log_snr(Schedule):
    r"""ᾱ_t = sigmoid(λ(t/T)) with λ(u) = −2 log tan(u·b + (1 − u)·a), a and b such that λ runs from `log_snr_max` to
    `log_snr_min`. At t = 0 data are clean by convention.

    References:
        | Blurring Diffusion Models (Hoogeboom & Salimans, 2023), Appendix A, https://arxiv.org/abs/2209.05557

    Arguments:
        num_steps: T, for a table like the others; None for the formula itself at times in [0, 1].
        log_snr_min, log_snr_max: ln ᾱ/(1 − ᾱ) at T and, but for the convention, at 0.

    Raises:
        ValueError: no step, or an empty range of log-SNR.
    """

    def __init__(self, num_steps: int | None, log_snr_min: float = -10.0, log_snr_max: float = 10.0) -> None:
        self.log_snr_min = as_number(log_snr_min, "log_snr_min")
        self.log_snr_max = as_number(log_snr_max, "log_snr_max")
        if not -math.inf < self.log_snr_min < self.log_snr_max < math.inf:
            raise ValueError(f"log_snr_min: expected less than log_snr_max = {log_snr_max}, got {log_snr_min}")
        self._ends = math.atan(math.exp(-0.5 * log_snr_max)), math.atan(math.exp(-0.5 * log_snr_min))
        self._table: from_alpha_bar | None = None
        if num_steps is not None:
            self.end = self.num_steps = as_index(num_steps, 1, 10**9, "num_steps")
            self.first = 1
            angle = self._angle(torch.arange(self.end + 1, dtype=torch.float64) / self.end)
            alpha_bar = (-2 * angle.tan().log()).sigmoid()
            alpha_bar[0] = 1
            self._table = from_alpha_bar(alpha_bar)

    def _angle(self, u: Tensor) -> Tensor:
        first, last = self._ends
        return first + (last - first) * u

    def __call__(self, t: Any) -> tuple[Any, Any]:
        return super().__call__(t) if self._table is None else self._table(t)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = self._angle(t)  # whose tangent is σ/a
        return angle.cos(), angle.sin()

    def _inverse(self, log_snr: Tensor) -> Tensor:
        if self._table is not None:
            return self._table.time(log_snr)
        first, last = self._ends
        return ((-0.5 * log_snr).exp().atan() - first) / (last - first)


_NAMED: dict[str, Callable[[int], Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "cosine_log_snr": cosine_log_snr,
}


def as_schedule(schedule: NoiseSchedule, num_steps: int | None) -> Schedule:
    """The schedule that an argument stands for.

    Arguments:
        schedule: "linear", "cosine" or "cosine_log_snr"; a Schedule; ᾱ_0, …, ᾱ_T as a sequence, an array or a tensor;
            or a function of T that returns one of these, such as `schedules.linear` itself.
        num_steps: T, which the schedule must have; None for one of continuous time.

    Raises:
        TypeError: none of these.
        ValueError: an unknown name, another number of steps, or values that do not fall from ᾱ_0 = 1 to ᾱ_T ≥ 0.

    Examples:
        >>> from lineardiffusion import schedules
        >>> schedules.as_schedule("cosine", 100) == schedules.cosine(100)
        True
    """
    steps = None if num_steps is None else as_index(num_steps, 1, 10**9, "num_steps")
    if isinstance(schedule, str) and schedule not in _NAMED:
        raise ValueError(
            f"schedule: expected one of {', '.join(map(repr, _NAMED))}, a schedule such as schedules.linear(1000), or "
            f"ᾱ_0 … ᾱ_T, got {schedule!r}"
        )
    made: object = _NAMED[schedule] if isinstance(schedule, str) else schedule
    is_other_class = isinstance(made, type) and not issubclass(made, Schedule)
    if callable(made) and not isinstance(made, Schedule) and not is_other_class:
        if steps is None:
            raise ValueError(f"num_steps: expected a number of steps for the schedule {schedule!r}, got None")
        made = made(steps)
    if isinstance(made, (list, tuple, np.ndarray, Tensor)):
        made = as_levels(made, "schedule")
        if steps is not None and len(made) != steps + 1:
            remedy = "; ᾱ_0 = 1 comes before those of diffusers' alphas_cumprod" if len(made) == steps else ""
            raise ValueError(
                f"schedule: expected ᾱ_0 … ᾱ_T, {steps + 1} numbers for T = {steps}, got {len(made)}{remedy}"
            )
        made = from_alpha_bar(made)
    check_kind(made, Schedule, "schedule", f"one of {', '.join(map(repr, _NAMED))}, a schedule or ᾱ_0 … ᾱ_T")
    assert isinstance(made, Schedule)
    if made.num_steps != steps:
        raise ValueError(f"schedule: expected one of num_steps = {steps}, got {made}, of num_steps = {made.num_steps}")
    return made
