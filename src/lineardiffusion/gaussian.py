"""Gaussian distributions of events, and the marginals of a linear diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lineardiffusion._checks import check_event, check_kind, check_same_batch, draw_noise
from lineardiffusion.covariance import Covariance, NoiseLevel, as_covariance, as_noise_level
from lineardiffusion.operators.base import LinearOperator


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) on events; the mean has shape (*batch, *event).

    Raises:
        TypeError, ValueError: no covariance, or a mean that does not fit it.

    Attributes:
        mean: with shape (*batch, *event).
        covariance: a symmetric operator on events with `sqrt`, `solve` and `logdet`.
    """

    mean: Tensor
    covariance: Covariance

    def __post_init__(self) -> None:
        check_kind(self.covariance, Covariance, "covariance", "a Covariance, such as ld.GramCovariance(operator)")
        check_event(self.mean, self.covariance.in_shape, "mean")

    def sample(self, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """mean + Σ^{1/2} noise, with standard normal noise of the mean's shape where none is given."""
        return self.covariance.sample(self.mean, draw_noise(self.mean, noise, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x, with shape (*batch), in float64 where the device has it: a sum over a large event has few
        digits left in float32.

        Raises:
            ValueError: x does not fit, or the covariance is singular.
        """
        event = self.covariance.in_shape
        check_event(x, event, "x")
        check_same_batch(x, event, "x", self.mean, event, "the mean")
        difference = _wide(x) - _wide(self.mean)
        dims = tuple(range(-len(event), 0))
        mahalanobis = (difference * self.covariance.solve(difference)).sum(dims)
        return -0.5 * (mahalanobis + self.covariance.logdet() + math.prod(event) * math.log(2 * math.pi))


@dataclass(frozen=True)
class GaussianMarginal:
    r"""q(x_t | x_0) = N(M_{1:t} x_0, σ_t² I), Eq. 3 of Scale Space Diffusion, or N(M_{1:t} x_0, Σ_t).

    Attributes:
        operator: M_{1:t}.
        sigma: σ_t ≥ 0, or a Covariance Σ_t.

    Raises:
        ValueError: a negative or non-finite σ_t.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> marginal = ld.GaussianMarginal(ld.Resize((1, 4), 2), sigma=0.5)
        >>> marginal.sample(torch.zeros(8, 1, 4), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([8, 1, 2])
    """

    operator: LinearOperator
    sigma: NoiseLevel

    def __post_init__(self) -> None:
        check_kind(self.operator, LinearOperator, "operator", "a LinearOperator M_{1:t}")
        object.__setattr__(self, "sigma", as_noise_level(self.sigma, self.operator.out_shape, "sigma"))

    def mean(self, x0: Tensor) -> Tensor:
        """M_{1:t} x_0, with shape (*batch, *out_shape)."""
        return self.operator(x0)

    def sample(self, x0: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """M_{1:t} x_0 + Σ_t^{1/2} ε; ε is `noise`, or drawn from `generator`."""
        mean = self.mean(x0)
        noise = draw_noise(mean, noise, generator)
        if isinstance(self.sigma, Covariance):
            return self.sigma.sample(mean, noise)
        return torch.add(mean, noise, alpha=self.sigma)

    def log_prob(self, x: Tensor, x0: Tensor) -> Tensor:
        """log q(x | x_0), with shape (*batch).

        Raises:
            ValueError: x does not fit, or σ_t = 0.
        """
        if self.sigma == 0:
            raise ValueError("log_prob: expected sigma > 0, got 0: the marginal has no density")
        covariance = as_covariance(self.sigma, self.operator.out_shape)
        check_event(x0, self.operator.in_shape, "x0")
        return Gaussian(self.mean(_wide(x0)), covariance).log_prob(x)


def _wide(x: Tensor) -> Tensor:
    """In float64, or in float32 on devices that have no more."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)
