r"""Noise schedules of networks that were trained on integer times 1…T: tables of a_t and σ_t.

Between integers, where grids of sampling times may go, a table is continued by λ = ln(a/σ) linear in t; next to clean
data, where λ is infinite, by σ/a linear, and next to pure noise by a/σ linear. Where variance is preserved it stays so,
a² + σ² = 1; other tables have ln a linear, so that a scale of 1 stays 1, and next to pure noise ln(a² + σ²).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_choice, as_constant, as_list, as_number, check_constant, got
from lineardiffusion.config import configured
from lineardiffusion.covariance import Covariance, NoiseLevel, as_noise_level
from lineardiffusion.schedules.noise import Constants, Schedule, crossing, no_single_time

Between = Literal["log_snr", "ratio"]


class Tabulated(Schedule):
    """A schedule given by a_0, …, a_T and σ_0, …, σ_T, in float64 on the CPU; at integers exactly these."""

    first = 1

    def __init__(self, signal: Tensor, sigma: Tensor, between: Between = "log_snr") -> None:
        as_choice(between, get_args(Between), "between")
        _check_levels(signal, sigma)
        self.end = self.num_steps = len(signal) - 1
        self._nodes = Constants(torch.stack([signal, sigma]))
        self._numbers: list[list[float]] = self._nodes.values.tolist()
        nodes = signal.log() - sigma.log()
        self._falls = bool((nodes[1:] < nodes[:-1]).all())
        self._sorted = Constants(-nodes)
        total = signal.square() + sigma.square()
        self._preserves_variance = bool(((total - 1).abs() < 1e-9).all())
        straight = ~(nodes[:-1].isfinite() & nodes[1:].isfinite()) | (between == "ratio")
        self._intervals = Constants(
            _intervals(signal, sigma, nodes, straight, total if self._preserves_variance else None)
        )

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self._intervals.on(t.device)
        index = t.floor().clamp(0, table.shape[1] - 1).long()
        is_straight, *ends, total, next_total = table[:, index]
        w = t - index
        node, next_node, signal, next_signal, sigma, next_sigma = ends
        straight = torch.lerp(signal, next_signal, w).log() - torch.lerp(sigma, next_sigma, w).log()
        ratio = 2 * torch.where(is_straight > 0, straight, torch.lerp(node, next_node, w))
        size = (0.5 * torch.lerp(total, next_total, w)).exp()
        if not self._preserves_variance:  # there it is the size of a, but next to pure noise
            size = torch.where(next_node.isinf() & (next_node < 0), size, size * torch.sigmoid(ratio).rsqrt())
        nearest = t.round().long()
        exact = self._nodes.on(t.device)[:, nearest]
        at_integer = t == nearest
        return (
            torch.where(at_integer, exact[0], size * torch.sigmoid(ratio).sqrt()),
            torch.where(at_integer, exact[1], size * torch.sigmoid(-ratio).sqrt()),
        )

    def __call__(self, t: Any) -> tuple[Any, Any]:
        if isinstance(t, Tensor):
            if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
                return super().__call__(t)
            self._check_range(t)
            signal, sigma = self._nodes.on(t.device)[:, t.long()]
            return signal, sigma
        time = self._check_time(t)
        if not time.is_integer():
            return super().__call__(time)
        return self._numbers[0][int(time)], self._numbers[1][int(time)]

    def _inverse(self, log_snr: Tensor) -> Tensor:
        if not self._falls:
            raise no_single_time(self)
        value, table = 0.5 * log_snr, self._intervals.on(log_snr.device)
        below = torch.searchsorted(self._sorted.on(log_snr.device), -value.contiguous(), right=True) - 1
        index = below.clamp(0, table.shape[1] - 1)
        is_straight, node, next_node, signal, next_signal, sigma, next_sigma, *_ = table[:, index]
        straight = crossing(value, signal, next_signal, sigma, next_sigma)
        w = torch.where(is_straight > 0, straight, (node - value) / (node - next_node))
        return index + w.clamp(0, 1)


def _check_levels(signal: Tensor, sigma: Tensor) -> None:
    if signal.shape != sigma.shape or len(signal) < 2:
        raise ValueError(
            f"signal, sigma: expected a_t and σ_t for t = 0 … T with T ≥ 1, got {len(signal)} and {len(sigma)} numbers"
        )
    if signal[0] != 1 or sigma[0] != 0:
        raise ValueError(
            f"signal, sigma: expected a_0 = 1 and σ_0 = 0 (clean data), got {float(signal[0])} and {float(sigma[0])}"
        )
    if not bool((signal[:-1] > 0).all()) or signal[-1] < 0:
        raise ValueError(f"signal: expected a_t > 0 for t < T and a_T ≥ 0, got a least one of {float(signal.min())}")
    if not bool((sigma >= 0).all()) or signal[-1] == sigma[-1] == 0:
        raise ValueError(f"sigma: expected σ_t ≥ 0, and σ_T > 0 where a_T = 0, got a least one of {float(sigma.min())}")


def _intervals(signal: Tensor, sigma: Tensor, nodes: Tensor, straight: Tensor, total: Tensor | None) -> Tensor:
    """What `levels` needs for each of [0, 1], …, [T − 1, T]: whether (a : σ) is straight there, λ at its ends, (a : σ)
    at its ends as it is where it is straight, and ln(a² + σ²), or ln a² where there is no `total` and a signal at both
    ends."""
    size = (signal.square() + sigma.square()).log() if total is None else total.log()
    size = torch.stack([size[:-1], size[1:]])
    if total is None:
        size = torch.where(signal[1:] > 0, torch.stack([signal[:-1], signal[1:]]).square().log(), size)
    # σ/a linear where there is a signal at both ends, else a/σ, else from (1 : 0) to (0 : 1).
    by = torch.where(signal[1:] > 0, 0, torch.where(sigma[:-1] > 0, 1, 2))
    ends = []
    for values in (signal, sigma):
        for part in (slice(None, -1), slice(1, None)):
            a, s = signal[part], sigma[part]
            ends.append(values[part] / torch.where(by == 0, a, torch.where(by == 1, s, a + s)))
    return torch.stack([straight.double(), nodes[:-1], nodes[1:], *ends, *size])


_ROW = "numbers in a row"


def as_levels(values: Sequence[float] | np.ndarray[Any, Any] | Tensor, name: str) -> Tensor:
    """Numbers in a row, as float64 on the CPU.

    Raises:
        TypeError: no numbers.
        ValueError: not in a row, not finite, not real, or being learned.
    """
    if not isinstance(values, (Tensor, np.ndarray)):
        for value in (values := as_list(values, name, _ROW)):
            check_constant(value, name)
        values = np.asarray([as_number(value, name) for value in values])
    if isinstance(values, np.ndarray) and values.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected {_ROW}, got {got(values)} of {values.dtype}")
    levels = as_constant(torch.as_tensor(values), name)
    if levels.ndim != 1:
        raise ValueError(f"{name}: expected {_ROW}, got shape {tuple(levels.shape)}")
    return levels


@configured("schedules.table")
class table(Tabulated):
    r"""a_t and σ_t as they are given.

    Arguments:
        signal: a_0 = 1, a_1, …, a_T > 0; a_T may be 0.
        sigma: σ_0 = 0, σ_1, …, σ_T ≥ 0.

    Raises:
        ValueError: levels that are not so; from `time`, where a²/σ² does not fall strictly.

    Examples:
        >>> from lineardiffusion import schedules
        >>> t = schedules.table(signal=[1.0, 1.0, 1.0], sigma=[0.0, 0.1, 0.4])
        >>> t.sigma(2), round(t.sigma(0.5), 4)
        (0.4, 0.05)
    """

    def __init__(self, signal: Sequence[float] | Tensor, sigma: Sequence[float] | Tensor) -> None:
        signals, sigmas = as_levels(signal, "signal"), as_levels(sigma, "sigma")
        self._given = {"signal": tuple(signals.tolist()), "sigma": tuple(sigmas.tolist())}
        super().__init__(signals, sigmas)

    def arguments(self) -> dict[str, object]:
        return dict(self._given)


@configured("schedules.CovarianceTable")
class CovarianceTable(Tabulated):
    r"""Noise that is not isotropic: x_t = a_t R_t x_0 + Σ_t^{1/2} ε. σ_t is then √(tr Σ_t / n).

    Arguments:
        levels: Σ_0 = 0, Σ_1, …, Σ_T, each a Covariance, or a number σ for σ² I.
        signal: a_0 = 1, a_1, …, a_T > 0; all 1 by default.

    Raises:
        TypeError: a level that is neither.
        ValueError: as `table`; from `noise`, a time that is no integer.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> from lineardiffusion import schedules
        >>> blue = ld.GramCovariance(ld.Diagonal(torch.tensor([1.0, 7.0])))
        >>> schedules.CovarianceTable([0.0, 2.0, blue]).sigma(2)
        5.0
    """

    def __init__(self, levels: Sequence[NoiseLevel], signal: Sequence[float] | Tensor | None = None) -> None:
        self._noise = tuple(
            level if isinstance(level, Covariance) else as_noise_level(level, (), "levels", at=f" at t = {t}")
            for t, level in enumerate(as_list(levels, "levels", "Σ_0, …, Σ_T, such as [0.0, 1.0, covariance]"))
        )
        self.is_isotropic = not any(isinstance(level, Covariance) for level in self._noise)
        sigmas = [math.sqrt(level.mean_variance()) if isinstance(level, Covariance) else level for level in self._noise]
        scales = torch.ones(len(sigmas), dtype=torch.float64) if signal is None else as_levels(signal, "signal")
        self._scales = None if signal is None else tuple(scales.tolist())
        super().__init__(scales, torch.tensor(sigmas, dtype=torch.float64))

    def arguments(self) -> dict[str, object]:
        return {"levels": self._noise, "signal": self._scales}

    def noise(self, t: float, shape: Shape) -> NoiseLevel:
        time = self._check_time(t)
        if not time.is_integer():
            raise ValueError(
                f"t: expected an integer, since covariances are known at t = 0 … {self.end} alone, got {t}"
            )
        return as_noise_level(self._noise[int(time)], shape, "levels", at=f" at t = {int(time)}")


class VariancePreserving(Tabulated):
    """a_t = √ᾱ_t, σ_t = √(1 − ᾱ_t) for ᾱ_0, …, ᾱ_T."""

    def __init__(self, alpha_bar: Tensor, between: Between = "log_snr") -> None:
        super().__init__(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), between)


@configured("schedules.from_alpha_bar")
class from_alpha_bar(VariancePreserving):
    r"""a_t = √ᾱ_t, σ_t = √(1 − ᾱ_t) for ᾱ as it is given.

    Arguments:
        alpha_bar: ᾱ_0 = 1 > ᾱ_1 > … > ᾱ_T ≥ 0, as a sequence, an array or a tensor. The `alphas_cumprod` of diffusers
            begin with ᾱ_1: put a 1 before them.
        between: what is linear in t between integers: "log_snr", or "ratio" for σ/a, as in diffusers' Euler and Heun.

    Raises:
        ValueError: values that are not so.

    Examples:
        >>> from lineardiffusion import schedules
        >>> schedules.from_alpha_bar([1.0, 0.64, 0.25]).signal(1)
        0.8
    """

    def __init__(
        self, alpha_bar: Sequence[float] | np.ndarray[Any, Any] | Tensor, between: Between = "log_snr"
    ) -> None:
        values = as_levels(alpha_bar, "alpha_bar")
        if len(values) < 2 or values[0] != 1 or not bool((values.diff() < 0).all()) or values[-1] < 0:
            first = f", got {float(values[0])} … {float(values[-1])}" if len(values) else ", got none"
            raise ValueError(
                f"alpha_bar: expected ᾱ to start at ᾱ_0 = 1 and to decrease strictly towards ᾱ_T ≥ 0{first}"
            )
        self.alpha_bar, self.between = tuple(values.tolist()), between
        super().__init__(values, between)


@configured("schedules.zero_terminal_snr")
class zero_terminal_snr(VariancePreserving):
    r"""√ᾱ_t ↦ (√ᾱ_t − √ᾱ_T) · √ᾱ_1/(√ᾱ_1 − √ᾱ_T): a_1 stays, a_T becomes 0, so that x_T is noise alone.

    References:
        | Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2024), Algorithm 1,
        | https://arxiv.org/abs/2305.08891

    Arguments:
        schedule: one of at least two steps that preserves variance, a² + σ² = 1, such as `linear(1000)`.

    Raises:
        TypeError: not a schedule.
        ValueError: another schedule.

    Examples:
        >>> from lineardiffusion import schedules
        >>> schedule = schedules.zero_terminal_snr(schedules.linear(1000))
        >>> schedule.signal(1000), schedule.sigma(1000), round(schedule.signal(1), 5)
        (0.0, 1.0, 0.99995)
    """

    def __init__(self, schedule: Schedule) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule: expected a schedule, such as schedules.linear(1000), got {schedule!r}")
        if schedule.num_steps is None or schedule.num_steps < 2:
            raise ValueError(f"schedule: expected at least two steps, as of schedules.linear(1000), got {schedule}")
        self.schedule = schedule
        signal, sigma = schedule(torch.arange(schedule.num_steps + 1))
        if bool(((signal.square() + sigma.square() - 1).abs() > 1e-9).any()):
            raise ValueError(f"schedule: expected a² + σ² = 1, as of schedules.linear(1000), got {schedule}")
        rescaled = (signal - signal[-1]) * (signal[1] / (signal[1] - signal[-1]))
        rescaled[0] = 1
        super().__init__(rescaled.square())
