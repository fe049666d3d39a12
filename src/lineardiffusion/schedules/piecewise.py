"""Noise schedules in pieces, as of the stages of pyramidal flows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion.config import configured
from lineardiffusion.schedules.noise import Constants, Schedule, crossing, no_single_time
from lineardiffusion.schedules.tables import as_levels


@configured("schedules.piecewise")
class piecewise(Schedule):
    r"""a and σ linear between knots. A time that comes twice is a jump: at this time a and σ are what comes after it,
    just below it what comes before.

    Arguments:
        times: 0 = t_0 ≤ t_1 ≤ … < end, none of them more than twice.
        signal: a at these times, a_0 = 1, the others ≥ 0.
        sigma: σ at these times, σ_0 = 0, the others ≥ 0, and not 0 where a is.

    Raises:
        ValueError: lengths, times or levels that are not so; from `time`, where a²/σ² does not fall strictly.

    Examples:
        >>> from lineardiffusion import schedules
        >>> stages = schedules.piecewise([0, 0.5, 0.5, 1], signal=[1, 0.5, 0.25, 0], sigma=[0, 0.5, 0.75, 1])
        >>> stages.sigma(0.25), stages.sigma(0.5), stages.signal(0.75)
        (0.25, 0.75, 0.125)
    """

    def __init__(self, times: Sequence[float], signal: Sequence[float], sigma: Sequence[float]) -> None:
        knots = [as_levels(times, "times"), as_levels(signal, "signal"), as_levels(sigma, "sigma")]
        self._given = dict(zip(("times", "signal", "sigma"), (tuple(values.tolist()) for values in knots), strict=True))
        _check_knots(*knots)
        t, a, s = knots
        self.end = float(t[-1])
        self.first = 1e-3 * self.end
        proper = t[1:] > t[:-1]
        columns = [part[proper] for values in knots for part in (values[:-1], values[1:])]
        self._pieces = Constants(torch.stack(columns))
        before, after = (a[:-1].log() - s[:-1].log())[proper], (a[1:].log() - s[1:].log())[proper]
        # Within a piece a/σ is monotone.
        self._falls = bool((after < before).all() and (before[1:] <= after[:-1]).all())
        self._starts, self._sorted = Constants(columns[0]), Constants(-before)

    def arguments(self) -> dict[str, object]:
        return dict(self._given)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.searchsorted(self._starts.on(t.device), t.contiguous(), right=True) - 1
        start, stop, signal, next_signal, sigma, next_sigma = self._pieces.on(t.device)[:, index.clamp(min=0)]
        w = (t - start) / (stop - start)
        return torch.lerp(signal, next_signal, w), torch.lerp(sigma, next_sigma, w)

    def _inverse(self, log_snr: Tensor) -> Tensor:
        if not self._falls:
            raise no_single_time(self)
        value = 0.5 * log_snr
        below = torch.searchsorted(self._sorted.on(log_snr.device), -value.contiguous(), right=True) - 1
        start, stop, signal, next_signal, sigma, next_sigma = self._pieces.on(log_snr.device)[:, below.clamp(min=0)]
        return torch.lerp(start, stop, crossing(value, signal, next_signal, sigma, next_sigma).clamp(0, 1))


def _check_knots(times: Tensor, signal: Tensor, sigma: Tensor) -> None:
    lengths = [len(times), len(signal), len(sigma)]
    if min(lengths) != max(lengths) or min(lengths) < 2:
        raise ValueError(f"times, signal, sigma: expected as many of each, at least 2, got {lengths}")
    steps = times.diff()
    if times[0] != 0 or bool((steps < 0).any()) or bool((steps[1:] + steps[:-1] == 0).any()) or steps[-1] == 0:
        raise ValueError(
            f"times: expected 0 ≤ … < end, ascending, none more than twice and the last once, got {times.tolist()}"
        )
    if signal[0] != 1 or sigma[0] != 0:
        raise ValueError(
            f"signal, sigma: expected a_0 = 1 and σ_0 = 0 (clean data), got {float(signal[0])} and {float(sigma[0])}"
        )
    if bool((signal < 0).any()) or bool((sigma < 0).any()) or bool((signal + sigma == 0).any()):
        raise ValueError("signal, sigma: expected levels ≥ 0 that are not both 0")
