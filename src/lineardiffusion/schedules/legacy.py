r"""Noise schedules, ᾱ as a function of t, and resolution schedules, the scale of x_t as a function of t.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239
    | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), https://arxiv.org/abs/2102.09672
    | Scale Space Diffusion (Mukhopadhyay et al., 2026), Sec. 8.3, https://arxiv.org/abs/2603.08709
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, check_constant
from lineardiffusion.information import diffusion_information

NoiseSchedule = Callable[[int], Tensor]
# (levels, alpha_bar) ↦ the level of x_t for t = 1, …, T: 0 is full size, each further level half of the one before.
ResolutionSchedule = Callable[[int, Tensor], Tensor]


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

    Example:
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


# ---------------------------------------------------------------------------------------------- resolution schedules


def equal_levels() -> ResolutionSchedule:
    """Every resolution for the same number of steps (Sec. 8.3.1)."""
    return _discretised(lambda time: time)


def convex_decay(power: float) -> ResolutionSchedule:
    r"""Level ⌊n (1 − (1 − τ)^power)⌋ at τ ∈ [0, 1] (Sec. 8.3.2): powers below 1 keep the full resolution longer.

    Raises:
        ValueError: a power that is not positive.

    Example:
        >>> import lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((3, 64, 64), levels=3, resolution_schedule=ld.convex_decay(0.5))
        >>> p.shape(555), p.shape(556), p.shape(1000)
        ((3, 64, 64), (3, 32, 32), (3, 16, 16))
    """
    _check_power(power)
    return _discretised(lambda time: 1 - (1 - time) ** power)


def changes_at(times: Sequence[int]) -> ResolutionSchedule:
    """Level l from the l-th of these times on; a time that comes twice passes over a level.

    Arguments:
        times: first t of each lower resolution, one fewer than levels, from 1 on and ascending. A time beyond T leaves
            its level out.

    Raises:
        ValueError: times that are not ascending; when it is used, a number of them that does not fit the levels.

    Example:
        >>> import lineardiffusion as ld
        >>> schedule = ld.changes_at([360, 570])
        >>> ld.ScaleSpaceDiffusion((1, 32, 32), levels=3, resolution_schedule=schedule).shape_changes()
        [360, 570]
    """
    changes = [as_index(t, 1, 10**9, "times") for t in times]
    if changes != sorted(changes):
        raise ValueError(f"times: expected ascending times, got {changes}")

    def schedule(levels: int, alpha_bar: Tensor) -> Tensor:
        if len(changes) != levels - 1:
            raise ValueError(f"times: expected {levels - 1} for {levels} levels, got {changes}")
        # Level of x_t: how many of the changes are at t or before.
        return torch.bucketize(torch.arange(1, len(alpha_bar)), torch.tensor(changes, dtype=torch.long), right=True)

    return schedule


def snr_matched(spectrum: Tensor, threshold: float = 0.1) -> ResolutionSchedule:
    r"""A resolution is left as soon as nothing is to be seen of what it adds: level l at the first t at which the
    signal-to-noise ratio ᾱ_t λ/(1 − ᾱ_t) of every frequency beyond level l is below the threshold.

    Level l of an axis of n pixels holds its first ⌈n/2^l⌉ frequencies.

    Arguments:
        spectrum: variances λ of the data in the cosine basis, with shape (…, *spatial), such as the gain of
            `ld.lab.estimate` or `ld.lab.power_law`; axes before the last two (one, for a single axis) are channels.
        threshold: greatest signal-to-noise ratio that may be dropped.

    Raises:
        ValueError: a negative variance, or a threshold that is not positive.

    Example:
        >>> import lineardiffusion as ld
        >>> spectrum = ld.lab.power_law((1, 64)).gain
        >>> ld.ScaleSpaceDiffusion((1, 64), 4, resolution_schedule=ld.snr_matched(spectrum)).shape_changes()
        [89, 167, 278]
    """
    if not threshold > 0:
        raise ValueError(f"threshold: expected a positive number, got {threshold}")
    if spectrum.ndim == 0 or not bool((spectrum >= 0).all() and spectrum.isfinite().all()):
        raise ValueError(f"spectrum: expected variances ≥ 0 of at least one axis, got shape {tuple(spectrum.shape)}")
    values = spectrum.detach().cpu().double()
    values = values.flatten(0, -3).amax(0) if values.ndim > 2 else values

    def levels_of(levels: int, alpha_bar: Tensor) -> Tensor:
        ratio = alpha_bar[1:] / (1 - alpha_bar[1:])
        reached = torch.zeros(len(ratio), dtype=torch.long)
        for level in range(1, levels):
            dropped = values.clone()
            dropped[tuple(slice(-(-n // 2**level)) for n in values.shape)] = 0
            reached += (ratio * dropped.max() < threshold).long()
        return reached

    return levels_of


def tanh_like(power: float) -> ResolutionSchedule:
    """Fast at both ends and slow between, with most steps at the middle resolutions (Sec. 8.3.3).

    Raises:
        ValueError: a power that is not positive.
    """
    _check_power(power)
    top = _cubic(_signed_power(0.5, power))
    return _discretised(lambda time: 1 - (0.5 + 0.5 * _cubic(_signed_power(0.5 - time, power)) / top))


def sigmoid_like(power: float) -> ResolutionSchedule:
    """The inverse function of `tanh_like`: slow at both ends, all changes around the middle (Sec. 8.3.4).

    Raises:
        ValueError: a power that is not positive.
    """
    _check_power(power)
    top = _cubic(_signed_power(0.5, power))

    def fraction(time: float) -> float:
        # The inverse of w ↦ 1.5 w − 2 w³ = sin(3 arcsin w) / 2.
        root = math.sin(math.asin(2 * top * (1 - 2 * time)) / 3)
        return 1 - (0.5 + _signed_power(root, 1 / power))

    return _discretised(fraction)


def information_matched() -> ResolutionSchedule:
    r"""The smallest resolution that holds the information of x_t: r² ≥ Info(t) (Sec. 3.2 of Scale Space Diffusion).

    Info(t) is the expected share of pixels in which the signal dominates the noise, r = 2^{−level} the normalised side.
    """

    def schedule(levels: int, alpha_bar: Tensor) -> Tensor:
        information = diffusion_information(alpha_bar[1:])
        return (-0.5 * information.log2()).floor().clamp(0, levels - 1).long()

    return schedule


def _discretised(fraction: Callable[[float], float]) -> ResolutionSchedule:
    """Level ⌊n · fraction(τ)⌋, at most n − 1, with τ = (t − 1)/(T − 1)."""

    def schedule(levels: int, alpha_bar: Tensor) -> Tensor:
        last = max(len(alpha_bar) - 2, 1)
        return torch.tensor([min(int(levels * fraction(i / last)), levels - 1) for i in range(len(alpha_bar) - 1)])

    return schedule


def _signed_power(value: float, power: float) -> float:
    return math.copysign(abs(value) ** power, value)


def _cubic(w: float) -> float:
    return 1.5 * w - 2 * w**3


def _check_power(power: float) -> None:
    if not 0 < power < math.inf:
        raise ValueError(f"power: expected a positive number, got {power}")
