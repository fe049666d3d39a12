"""Noise schedules whose noise is not white: a spectrum in some basis, the same at all times or not."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_numbers, check_function, check_kind
from lineardiffusion.config import configured
from lineardiffusion.covariance import Covariance, GramCovariance, Multiple, NoiseLevel
from lineardiffusion.operators.bases import Basis
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.schedules.noise import Schedule


@configured("schedules.coloured")
class coloured(Schedule):
    r"""Noise that is diagonal in a basis V: with a_t and s_t of another schedule

        Σ_t = s_t² V diag(n_t²) Vᴴ,     σ_t = s_t √(mean of n_t²).

    Noise of one spectrum, n_t = n, is feasible wherever s_t² I is.

    Arguments:
        schedule: a_t and s_t.
        basis: V, one of `ld.bases` that spans all events.
        deviations: n > 0, a tensor that broadcasts to the coordinates of V; or a function of t > 0, a number, that
            returns n_t.

    Raises:
        TypeError: a schedule or a basis that is none.
        ValueError: a basis that leaves something out, deviations that do not fit it or are not positive; from `time`,
            as the other schedule.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> pink = ld.schedules.coloured(ld.schedules.flow(), ld.bases.Cosine((1, 4)), torch.tensor([2.0, 1.0, 1, 1]))
        >>> p = ld.LinearDiffusion(ld.paths.identity((1, 4)), pink)
        >>> p.noise_covariance(0.5)(torch.ones(1, 4)), round(p.sigma(0.5), 4)
        (tensor([[1., 1., 1., 1.]]), 0.6614)
    """

    is_isotropic = False

    def __init__(self, schedule: Schedule, basis: Basis, deviations: Tensor | Callable[[float], Tensor]) -> None:
        check_kind(schedule, Schedule, "schedule", "a schedule such as schedules.flow()")
        check_kind(basis, Basis, "basis", "one of ld.bases, such as bases.Cosine(shape)")
        if not basis.is_complete:
            raise ValueError(
                f"basis: expected one of all events, since what it leaves out would have no noise, got {basis}"
            )
        self.schedule, self.basis = schedule, basis
        self.end, self.num_steps, self.first = schedule.end, schedule.num_steps, schedule.first
        if callable(deviations):
            check_function(deviations, "deviations", "numbers, or a function of t that returns them")
        self.deviations = deviations if callable(deviations) else as_numbers(deviations, "deviations")
        self.by_value = schedule.by_value or callable(deviations)
        self._fixed, self._rms = None, 1.0
        if not callable(self.deviations):
            self._fixed = self._spectrum(self._checked(self.deviations, ""))
            self._rms = _rms(self.deviations)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self.schedule.levels(t)
        if self._fixed is not None:
            return signal, sigma * self._rms
        rms = [_rms(self._at(u)) if u else 1.0 for u in t.flatten().tolist()]
        return signal, sigma * torch.tensor(rms, dtype=t.dtype, device=t.device).reshape(t.shape)

    def noise(self, t: float, shape: Shape) -> NoiseLevel:
        if self._check_time(t) == 0:
            return 0.0
        covariance = self._spectrum(self._at(t)) if self._fixed is None else self._fixed
        return Multiple(covariance, self.schedule.sigma(t))

    def _at(self, t: float) -> Tensor:
        """n_t of deviations that are a function."""
        assert callable(self.deviations)
        return self._checked(as_numbers(self.deviations(t), "deviations"), f" at t = {t}")

    def _spectrum(self, deviations: Tensor) -> Covariance:
        """V diag(n²) Vᴴ"""
        return GramCovariance(SpectralFilter(self.basis.shape, deviations, self.basis))

    def _checked(self, deviations: Tensor, at: str) -> Tensor:
        if not bool((deviations > 0).all()):
            raise ValueError(f"deviations: expected positive numbers{at}, got a least one of {float(deviations.min())}")
        try:
            deviations.broadcast_to(self.basis.coordinates)
        except RuntimeError:
            raise ValueError(
                f"deviations: expected a shape that broadcasts to the coordinates {self.basis.coordinates} of "
                f"{self.basis}{at}, got {tuple(deviations.shape)}"
            ) from None
        return deviations

    def _inverse(self, log_snr: Tensor) -> Tensor:
        if self._fixed is None:
            return super()._inverse(log_snr)
        return self.schedule._inverse(log_snr + 2 * math.log(self._rms))


def _rms(deviations: Tensor) -> float:
    """√(mean of n²), that of all coordinates, among which it is repeated."""
    return float(deviations.square().mean().sqrt())
