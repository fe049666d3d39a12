r"""Noise schedules, ᾱ as a function of t.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239
    | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, check_constant

NoiseSchedule = Callable[[int], Tensor]


def linear_schedule(num_steps: int, beta_start: float | None = None, beta_end: float | None = None) -> Tensor:
    r"""ᾱ_t = Π_{u ≤ t} (1 − β_u) with β rising linearly from `beta_start` to `beta_end` (Ho et al., 2020).

    An end that is not given is that of Ho et al. for 1000 steps, scaled so that x_T is noise for every T, as in ADM
    and in the original implementation of Scale Space Diffusion: 1e-4 · 1000/T and 0.02 · 1000/T, but at most 0.999,
    which the latter reaches at T = 20.

    Arguments:
        num_steps: T.
        beta_start, beta_end: β_1 and β_T, used as they are. A single step has β_T.

    Returns:
        ᾱ_0 = 1, …, ᾱ_T as float64, with shape (T + 1,).

    Raises:
        ValueError: no step, or ends that are not in (0, 1) and in this order.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.linear_schedule(1000)[[0, 1, 1000]]
        tensor([1.0000e+00, 9.9990e-01, 4.0358e-05], dtype=torch.float64)
    """
    num_steps = as_index(num_steps, 1, 10**9, "num_steps")
    first = min(1e-4 * 1000 / num_steps, 0.999) if beta_start is None else beta_start
    last = min(0.02 * 1000 / num_steps, 0.999) if beta_end is None else beta_end
    if not 0 < first <= last < 1:
        raise ValueError(f"beta_start, beta_end: expected 0 < beta_start ≤ beta_end < 1, got {first}, {last}")
    betas = torch.linspace(first, last, num_steps, dtype=torch.float64)
    betas[-1] = last  # of a single step too, which linspace gives the first
    return _from_betas(betas)


def cosine_schedule(num_steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    r"""ᾱ_t = f(t)/f(0), f(t) = cos²(π/2 · (t/T + offset)/(1 + offset)), with β_t at most `max_beta` (Nichol &
    Dhariwal, 2021, Eq. 17).

    Returns:
        ᾱ_0 = 1, …, ᾱ_T as float64, with shape (T + 1,).

    Raises:
        ValueError: no step.
    """
    num_steps = as_index(num_steps, 1, 10**9, "num_steps")
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    signal = (math.pi / 2 * (time + offset) / (1 + offset)).cos().square()
    return _from_betas((1 - signal[1:] / signal[:-1]).clamp(max=max_beta))


def cosine_log_snr_schedule(num_steps: int, log_snr_min: float = -10.0, log_snr_max: float = 10.0) -> Tensor:
    r"""ᾱ_t = sigmoid(λ(t/T)) with λ(u) = −2 log tan(u·b + (1 − u)·a), a and b such that λ runs from `log_snr_max` to
    `log_snr_min`: the schedule of Blurring Diffusion (Hoogeboom & Salimans, 2023, Appendix A).

    Returns:
        ᾱ_0 = 1, …, ᾱ_T as float64, with shape (T + 1,). ᾱ_0 is 1 by the convention that x_0 is clean data.

    Raises:
        ValueError: no step, or an empty range of log-SNR.
    """
    num_steps = as_index(num_steps, 1, 10**9, "num_steps")
    if not log_snr_min < log_snr_max:
        raise ValueError(f"log_snr_min: expected less than log_snr_max = {log_snr_max}, got {log_snr_min}")
    first, last = math.atan(math.exp(-0.5 * log_snr_max)), math.atan(math.exp(-0.5 * log_snr_min))
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    alpha_bar = torch.sigmoid(-2 * (first + (last - first) * time).tan().log())
    alpha_bar[0] = 1
    return alpha_bar


def _from_betas(betas: Tensor) -> Tensor:
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


_NAMED = {"linear": linear_schedule, "cosine": cosine_schedule}


def as_alpha_bar(schedule: Any, num_steps: int) -> Tensor:
    """ᾱ_0, …, ᾱ_T from a schedule's name, a function of T, or the values themselves, checked.

    Raises:
        ValueError: an unknown name, a wrong shape, or values that do not fall from ᾱ_0 = 1 to ᾱ_T ≥ 0.
    """
    num_steps = as_index(num_steps, 1, 10**9, "num_steps")
    if isinstance(schedule, str):
        if schedule not in _NAMED:
            raise ValueError(f"schedule: expected one of {sorted(_NAMED)}, a function or a tensor, got {schedule!r}")
        schedule = _NAMED[schedule]
    alpha_bar = schedule if isinstance(schedule, Tensor) else schedule(num_steps)
    check_constant(alpha_bar, "schedule")
    if alpha_bar.is_complex():
        raise ValueError(f"schedule: expected real numbers, got {alpha_bar.dtype}")
    alpha_bar = alpha_bar.detach().to(device="cpu", dtype=torch.float64)
    if alpha_bar.shape != (num_steps + 1,):
        raise ValueError(f"schedule: expected ᾱ_0 … ᾱ_T with shape ({num_steps + 1},), got {tuple(alpha_bar.shape)}")
    if alpha_bar[0] != 1 or not bool((alpha_bar.diff() < 0).all()) or not alpha_bar[-1] > 0:
        raise ValueError("schedule: expected ᾱ to start at ᾱ_0 = 1 and to decrease strictly towards ᾱ_T > 0")
    return alpha_bar
