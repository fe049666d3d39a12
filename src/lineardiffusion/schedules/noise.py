r"""Noise schedules: the signal scale a_t and the noise level σ_t of x_t = a_t R_t x_0 + σ_t ε at times t in [0, end].

At t = 0 data are clean: a_0 = 1 and σ_0 = 0, for every schedule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import overload

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_number
from lineardiffusion.config import Configured
from lineardiffusion.covariance import NoiseLevel

_MAX_DEVICES = 8
_HALVINGS = 64  # of [0, end], beyond the digits of a float64


class Schedule(Configured, ABC):
    r"""a_t and σ_t = schedule(t). A subclass gives `levels`; where its signal-to-noise ratio falls strictly, so that it
    has an inverse, `time` follows.

    Times are a number, for which floats come, or a tensor of any shape, for which float64 tensors come on its device
    (float32 where a device has no more), without waiting for it. Numbers and tensors on the CPU are checked to be in
    [0, end].

    Attributes:
        end: T, the last time.
        num_steps: T where networks are trained on the integer times 1…T, else None.
        first: the least noisy time, before 0, that a grid of sampling times visits.
        is_isotropic: whether the noise of x_t is σ_t² I for all t.
        by_value: whether `levels` looks at the values of times, so that those on an accelerator are waited for.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> from lineardiffusion import schedules
        >>> class Cosine(schedules.Schedule):
        ...     def levels(self, t):
        ...         return (torch.pi / 2 * t).cos(), (torch.pi / 2 * t).sin()
        >>> round(Cosine().signal(1 / 3), 4), round(Cosine().time(0.0), 4)
        (0.866, 0.5)
        >>> Cosine().sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.7071, 1.0000], dtype=torch.float64)
    """

    end: float = 1.0
    num_steps: int | None = None
    first: float = 1e-3
    is_isotropic: bool = True
    by_value: bool = False

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and σ_t at times in (0, end], of the shape, dtype and device of t; at 0 they are not asked for."""

    @overload
    def __call__(self, t: float) -> tuple[float, float]: ...
    @overload
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def __call__(self, t: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
        """a_t and σ_t.

        Raises:
            TypeError: neither a number nor a tensor.
            ValueError: a time outside [0, end].
        """
        if isinstance(t, Tensor):
            times = _work(t, "t")
            self._check_range(times)
            return self._from_zero(times)
        signal, sigma = self._from_zero(torch.tensor(self._check_time(t), dtype=torch.float64))
        return float(signal), float(sigma)

    @overload
    def signal(self, t: float) -> float: ...
    @overload
    def signal(self, t: Tensor) -> Tensor: ...
    def signal(self, t: float | Tensor) -> float | Tensor:
        """a_t; raises as `schedule(t)`."""
        return self(t)[0]

    @overload
    def sigma(self, t: float) -> float: ...
    @overload
    def sigma(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: float | Tensor) -> float | Tensor:
        """σ_t; raises as `schedule(t)`."""
        return self(t)[1]

    @overload
    def log_snr(self, t: float) -> float: ...
    @overload
    def log_snr(self, t: Tensor) -> Tensor: ...
    def log_snr(self, t: float | Tensor) -> float | Tensor:
        """ln a_t²/σ_t², infinite at 0, and −∞ where a_t = 0; raises as `schedule(t)`."""
        if isinstance(t, Tensor):
            return _log_ratio(*self(t))
        signal, sigma = self(t)
        return 2 * (math.log(signal) - math.log(sigma)) if signal and sigma else math.inf if signal else -math.inf

    @overload
    def time(self, log_snr: float) -> float: ...
    @overload
    def time(self, log_snr: Tensor) -> Tensor: ...
    def time(self, log_snr: float | Tensor) -> float | Tensor:
        """The t at which ln a_t²/σ_t² has this value; 0 or `end` where it is beyond all, the time of a jump where it is
        jumped over.

        Raises:
            TypeError: neither a number nor a tensor.
            ValueError: NaN, or a signal-to-noise ratio that does not fall strictly, so that there is no such t.
        """
        if isinstance(log_snr, Tensor):
            return self._inverse(_work(log_snr, "log_snr")).clamp(0, self.end)
        number = as_number(log_snr, "log_snr")
        if math.isnan(number):
            raise ValueError("log_snr: expected a number, got NaN")
        return float(self._inverse(torch.tensor(number, dtype=torch.float64)).clamp(0, self.end))

    def noise(self, t: float, shape: Shape) -> NoiseLevel:
        """The noise of x_t, of event shape `shape`: σ_t, or a covariance Σ_t where it is not isotropic."""
        return self.sigma(t)

    # ------------------------------------------------------------------ helpers

    def _from_zero(self, t: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self.levels(t)
        clean = t == 0
        return torch.where(clean, 1.0, signal), torch.where(clean, 0.0, sigma)

    def _check_time(self, t: object) -> float:
        number = as_number(t, "t")
        if not 0 <= number <= self.end:
            raise ValueError(f"t: expected 0 ≤ t ≤ {self.end}, got {t}")
        return number

    def _check_range(self, t: Tensor) -> None:
        """Elsewhere than on the CPU the answer would have to be waited for."""
        if t.device.type != "cpu" or not t.numel() or torch.compiler.is_compiling():
            return
        low, high = t.detach().aminmax()
        if not bool((low >= 0) & (high <= self.end)):
            raise ValueError(f"t: expected 0 ≤ t ≤ {self.end}, got values in {float(low)}…{float(high)}")

    def _inverse(self, log_snr: Tensor) -> Tensor:
        """`time` of a tensor, before it is clamped: here by bisection."""
        low, high = torch.zeros_like(log_snr), torch.full_like(log_snr, self.end)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            earlier = _log_ratio(*self._from_zero(middle)) > log_snr
            low, high = torch.where(earlier, middle, low), torch.where(earlier, high, middle)
        return low


def crossing(value: Tensor, signal: Tensor, next_signal: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """How far between two levels, a and σ linear, ln(a/σ) has a value that it passes through: from 0 to 1."""
    p, q = value.clamp(max=0).exp(), (-value).clamp(max=0).exp()  # a : σ = p : q, neither beyond 1
    return (signal * q - sigma * p) / ((next_sigma - sigma) * p - (next_signal - signal) * q)


def no_single_time(schedule: Schedule) -> ValueError:
    return ValueError(
        f"log_snr: expected a schedule whose signal-to-noise ratio falls strictly with t, got {schedule}, where it "
        f"rises or stays in places: no single time has this log-SNR"
    )


class Constants:
    """A tensor that is kept on every device it was asked for on."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        dtype = _real_dtype(device)
        kept = self._kept.get((device, dtype))
        if kept is None:
            if len(self._kept) >= _MAX_DEVICES:
                self._kept.clear()
            with torch.inference_mode(False):  # what is kept may be used where gradients are
                kept = self._kept[device, dtype] = self.values.to(dtype).to(device)
        return kept

    def __getstate__(self) -> dict[str, object]:
        return {"values": self.values, "_kept": {}}


def _log_ratio(signal: Tensor, sigma: Tensor) -> Tensor:
    return 2 * (signal.log() - sigma.log())


def _real_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no double precision


def _work(values: Tensor, name: str) -> Tensor:
    if values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name}: expected real numbers, got {values.dtype}")
    return values.to(_real_dtype(values.device))
