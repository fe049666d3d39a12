"""Noise schedules that are formulas of a time in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lineardiffusion._checks import as_positive
from lineardiffusion.config import configured
from lineardiffusion.schedules.noise import Schedule


@configured("schedules.flow")
class flow(Schedule):
    r"""Rectified flow: a_t = 1 − σ_t, σ_t = shift · t/(1 + (shift − 1) t), so that x_1 is noise alone.

    References:
        | Flow Straight and Fast (Liu et al., 2023), https://arxiv.org/abs/2209.03003
        | Scaling Rectified Flow Transformers (Esser et al., 2024), Sec. 5.3.2 (shift), https://arxiv.org/abs/2403.03206

    Arguments:
        shift: above 1, more of the time is spent in much noise, as large images need.

    Raises:
        ValueError: a shift that is not positive.

    Examples:
        >>> import lineardiffusion as ld
        >>> from lineardiffusion import schedules
        >>> schedules.flow().sigma(0.25), schedules.flow(shift=3.0).sigma(0.25)
        (0.25, 0.5)
    """

    def __init__(self, shift: float = 1.0) -> None:
        self.shift = as_positive(shift, "shift")

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = 1 + (self.shift - 1) * t
        return (1 - t) / total, self.shift * t / total

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr - math.log(self.shift))  # σ/a = shift · t/(1 − t)


@configured("schedules.edm")
class edm(Schedule):
    r"""EDM: a_t = 1, σ_t = σ_max t^ρ. Times that are uniform in t are nearly Karras' grid, which is uniform in σ^{1/ρ}
    too, but ends at σ_min in the place of 0; `grids.karras` is that grid itself. The first time of a grid is that of
    EDM's σ_min = 0.002.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), Eq. 5,
        | https://arxiv.org/abs/2206.00364

    Arguments:
        sigma_max: σ_1, above 0.002.
        rho: ρ > 0.

    Raises:
        ValueError: numbers outside these ranges.

    Examples:
        >>> from lineardiffusion import schedules
        >>> schedules.edm().sigma(0.5), round(schedules.edm().sigma(schedules.edm().first), 9)
        (0.625, 0.002)
    """

    def __init__(self, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        self.sigma_max, self.rho = as_positive(sigma_max, "sigma_max"), as_positive(rho, "rho")
        if not sigma_max > 0.002:
            raise ValueError(f"sigma_max: expected a level above the least of a grid, 0.002, got {sigma_max}")
        self.first = (0.002 / self.sigma_max) ** (1 / self.rho)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t**self.rho

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return ((-0.5 * log_snr - math.log(self.sigma_max)) / self.rho).exp()


@configured("schedules.vp")
class vp(Schedule):
    r"""Variance preserving: a_t = exp(−¼ t² (β_max − β_min) − ½ t β_min), σ_t² = 1 − a_t².

    References:
        | Score-Based Generative Modeling through SDEs (Song et al., 2021), Eq. 33, https://arxiv.org/abs/2011.13456

    Arguments:
        beta_min, beta_max: rates of noise at t = 0 and 1, 0 < β_min ≤ β_max.

    Raises:
        ValueError: rates that are not in this order.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min, self.beta_max = as_positive(beta_min, "beta_min"), as_positive(beta_max, "beta_max")
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min: expected at most beta_max = {beta_max}, got {beta_min}")

    def _exponent(self, t: Tensor) -> Tensor:
        """−ln a_t"""
        return 0.25 * t.square() * (self.beta_max - self.beta_min) + 0.5 * t * self.beta_min

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        exponent = self._exponent(t)
        return (-exponent).exp(), (-torch.expm1(-2 * exponent)).sqrt()

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return self._time(0.5 * torch.logaddexp(torch.zeros_like(log_snr), -log_snr))  # σ²/a² = exp(2 exponent) − 1

    def _time(self, exponent: Tensor) -> Tensor:
        half = 0.5 * self.beta_min
        root = (half**2 + (self.beta_max - self.beta_min) * exponent).sqrt()
        # At log-SNR −∞ this is ∞/∞ and stands for ∞.
        return (2 * exponent / (half + root)).nan_to_num(nan=math.inf, posinf=math.inf)


@configured("schedules.sub_vp")
class sub_vp(vp):
    r"""Variance below that of `vp`: the same a_t, and σ_t = 1 − a_t².

    References:
        | Score-Based Generative Modeling through SDEs (Song et al., 2021), Eq. 29, https://arxiv.org/abs/2011.13456

    Arguments:
        beta_min, beta_max: as for `vp`.

    Examples:
        >>> from lineardiffusion import schedules
        >>> signal, sigma = schedules.sub_vp()(0.5)
        >>> round(signal, 4), round(sigma, 4), round(signal**2 + sigma, 9)
        (0.2812, 0.9209, 1.0)
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        exponent = self._exponent(t)
        return (-exponent).exp(), -torch.expm1(-2 * exponent)

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return self._time(torch.asinh(0.5 * torch.exp(-0.5 * log_snr)))  # σ/a = 2 sinh(exponent)


@configured("schedules.ve")
class ve(Schedule):
    r"""Variance exploding: a_t = 1, σ_t = σ_min (σ_max/σ_min)^t for t > 0. At 0 data are clean by convention; the first
    time of a grid is Song's 1e-5, whose level is σ_min to four digits.

    References:
        | Score-Based Generative Modeling through SDEs (Song et al., 2021), Eq. 31, https://arxiv.org/abs/2011.13456

    Arguments:
        sigma_min, sigma_max: 0 < σ_min < σ_max.

    Raises:
        ValueError: levels that are not in this order.
    """

    first = 1e-5

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        self.sigma_min, self.sigma_max = as_positive(sigma_min, "sigma_min"), as_positive(sigma_max, "sigma_max")
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min: expected less than sigma_max = {sigma_max}, got {sigma_min}")

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (t * math.log(self.sigma_max / self.sigma_min)).exp()

    def _inverse(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)
