"""Kernels that keep the noise of a state by a factor, whatever becomes of its signal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_number, check_event, check_same_batch, compute_dtype
from lineardiffusion.covariance import (
    FEASIBILITY,
    Covariance,
    NoiseLevel,
    as_covariance,
)
from lineardiffusion.gaussian import Gaussian
from lineardiffusion.kernels import ROUNDING, whitened
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.posterior import transition


class SharedNoiseKernel:
    r"""N(μ_s + γ (x_t − μ_t), Σ_s − γ² Σ_t): the noise of x_t, kept by a factor, and new noise beside it.

    It carries the marginal of t to that of s whatever becomes of the signal between them, so that no transition need
    exist. γ = 0 draws the noise anew; γ = σ_s/σ_t draws none.

    Arguments:
        sigma_s, sigma_t: σ ≥ 0, or Covariances.
        gamma: γ ≥ 0.
        shape: of x_s and x_t.

    Raises:
        ValueError: γ² Σ_t ⪯ Σ_s does not hold.
    """

    def __init__(self, sigma_s: NoiseLevel, sigma_t: NoiseLevel, gamma: float, shape: Shape) -> None:
        self.gamma, self.shape = as_number(gamma, "gamma"), shape
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma: expected a number ≥ 0, got {gamma}")
        most = _most_shared(sigma_s, sigma_t, shape)
        if self.gamma > most * math.sqrt(1 + FEASIBILITY):
            raise ValueError(f"gamma: expected γ ≤ {most:.9g}, so that γ² Σ_t ⪯ Σ_s, got γ = {self.gamma:.9g}")
        level: NoiseLevel = sigma_s
        if self.gamma and sigma_t != 0:
            if isinstance(sigma_s, Covariance) or isinstance(sigma_t, Covariance):
                level = transition(self.gamma * Identity(shape), sigma_t, sigma_s)
            else:
                rest = (1 - self.gamma / most) * (1 + self.gamma / most)
                level = sigma_s * math.sqrt(rest) if rest > ROUNDING else 0.0
        self.covariance = as_covariance(level, shape)
        self.is_deterministic = level == 0  # nothing is drawn

    def mean(self, x_t: Tensor, mean_t: Tensor, mean_s: Tensor) -> Tensor:
        """μ_s + γ (x_t − μ_t)"""
        return self._mean(x_t, mean_t, mean_s).to(mean_s.dtype)

    def sample(self, x_t: Tensor, mean_t: Tensor, mean_s: Tensor, noise: Tensor) -> Tensor:
        """μ_s + γ (x_t − μ_t) + (Σ_s − γ² Σ_t)^{1/2} noise; all with one shape (*batch, *event)."""
        check_event(noise, self.shape, "noise")
        mean = self._mean(x_t, mean_t, mean_s)
        if not self.is_deterministic:
            mean = self.covariance.sample(mean, noise.to(mean.dtype))
        return mean.to(mean_s.dtype)

    def _mean(self, x_t: Tensor, mean_t: Tensor, mean_s: Tensor) -> Tensor:
        """In at least single precision."""
        for value, name in ((x_t, "x_t"), (mean_t, "mean_t"), (mean_s, "mean_s")):
            check_event(value, self.shape, name)
            if value.shape != x_t.shape or value.device != x_t.device:
                check_same_batch(value, self.shape, name, x_t, self.shape, "x_t")
        dtype = compute_dtype(mean_s.dtype)
        return torch.add(mean_s.to(dtype), x_t.to(dtype) - mean_t.to(dtype), alpha=self.gamma)

    def gaussian(self, x_t: Tensor, mean_t: Tensor, mean_s: Tensor) -> Gaussian:
        """The distribution of x_s."""
        return Gaussian(self.mean(x_t, mean_t, mean_s), self.covariance)


def _most_shared(sigma_s: NoiseLevel, sigma_t: NoiseLevel, shape: Shape) -> float:
    """The largest γ with γ² Σ_t ⪯ Σ_s."""
    if sigma_t == 0 or sigma_s == 0:
        return math.inf if sigma_t == 0 else 0.0
    if not isinstance(sigma_s, Covariance) and not isinstance(sigma_t, Covariance):
        return sigma_s / sigma_t
    white = whitened(Identity(shape), as_covariance(sigma_t, shape), as_covariance(sigma_s, shape))
    return 1 / white.norm()
