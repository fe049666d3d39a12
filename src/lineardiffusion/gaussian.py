r"""Gaussians whose covariance is a function of MᵀM.

Every covariance of a linear diffusion with isotropic marginals is f(MᵀM) or f(MMᵀ) for one step's operator M and a
scalar function f: the transition has f(λ) = σ_t² − σ_s²λ, the posterior f(λ) = σ_s² − (σ_s⁴/σ_t²) λ. Its square root,
inverse and determinant are then √f, 1/f and Σ log f of the same operator: no matrix is ever formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lineardiffusion._checks import check_event, draw_noise
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.rules import rule

# How far below zero, relative to the largest variance, rounding may push an eigenvalue of a covariance: float32 Lanczos
# knows λ to about 1e-6 λmax, and 1 − ρλ inherits that absolute error.
_ROUNDING = 1e-5


class GramCovariance(LinearOperator):
    r"""The symmetric positive semi-definite operator Σ = f(MᵀM) on the input space of M.

    Arguments:
        operator: M; its transpose M.T gives f(MMᵀ).
        variance: f, from a float64 tensor of eigenvalues λ ≥ 0 to variances, element by element.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> covariance = GramCovariance(ld.Diagonal(torch.tensor([1.0, 2.0])), lambda values: 5.0 - values)
        >>> covariance.sqrt(torch.ones(2))
        tensor([2., 1.])
    """

    def __init__(self, operator: LinearOperator, variance: SpectralFunction) -> None:
        super().__init__(in_shape=operator.in_shape, out_shape=operator.in_shape)
        self.operator = operator
        self.variance = variance

    def apply(self, x: Tensor) -> Tensor:
        return self.operator.gram_function(self.variance, x)

    def transpose(self, y: Tensor) -> Tensor:
        return self.apply(y)

    def sqrt(self, v: Tensor) -> Tensor:
        """Σ^{1/2} v: noise of covariance Σ from white noise v.

        Raises:
            ValueError: Σ has a negative eigenvalue, beyond rounding.
        """
        return self.operator.gram_function(lambda values: self._variances(values).sqrt(), v)

    def solve(self, v: Tensor) -> Tensor:
        """Σ⁻¹ v.

        Raises:
            ValueError: Σ is singular.
        """
        return self.operator.gram_function(lambda values: 1 / self._positive(values), v)

    def logdet(self) -> float:
        """log det Σ.

        Raises:
            ValueError: Σ is singular, or M is of unknown structure and too large to be factorised.
        """
        values = self._gram_eigenvalues()
        return float(self._positive(values).log().sum())

    def singular_values(self) -> Tensor:
        return self._variances(self._gram_eigenvalues())

    def _gram_eigenvalues(self) -> Tensor:
        squared = self.operator.singular_values().square()
        return torch.cat([squared, squared.new_zeros(math.prod(self.in_shape) - squared.numel())])

    def _variances(self, values: Tensor) -> Tensor:
        variances = self.variance(values)
        scale = variances.abs().max()
        if bool((variances < -_ROUNDING * scale).any()):
            raise ValueError(
                f"covariance: expected eigenvalues ≥ 0, got {float(variances.min()):.6g} beside {float(scale):.6g}"
            )
        return variances.clamp(min=0)

    def _positive(self, values: Tensor) -> Tensor:
        variances = self._variances(values)
        if bool((variances <= 0).any()):
            raise ValueError("covariance: expected a positive definite one, got an eigenvalue of zero")
        return variances


@rule("transpose", GramCovariance)
def _transpose(operator: GramCovariance) -> LinearOperator:
    return operator


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) on events; the mean has shape (*batch, *event).

    Attributes:
        mean: with shape (*batch, *event).
        covariance: a symmetric operator on events with `sqrt`, `solve` and `logdet`.
    """

    mean: Tensor
    covariance: GramCovariance

    def sample(self, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """mean + Σ^{1/2} noise, with standard normal noise of the mean's shape where none is given."""
        return self.mean + self.covariance.sqrt(draw_noise(self.mean, noise, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x, with shape (*batch).

        Raises:
            ValueError: x does not fit, or the covariance is singular.
        """
        event = self.covariance.in_shape
        check_event(x, event, "x")
        difference = x - self.mean
        dims = tuple(range(-len(event), 0))
        mahalanobis = (difference * self.covariance.solve(difference)).sum(dims)
        return -0.5 * (mahalanobis + self.covariance.logdet() + math.prod(event) * math.log(2 * math.pi))


@dataclass(frozen=True)
class GaussianMarginal:
    r"""q(x_t | x_0) = N(M_{1:t} x_0, σ_t² I), Eq. 3 of Scale Space Diffusion.

    Attributes:
        operator: M_{1:t}.
        sigma: σ_t ≥ 0.

    Raises:
        ValueError: a negative or non-finite σ_t.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> marginal = ld.GaussianMarginal(ld.Resize((1, 4), 2), sigma=0.5)
        >>> marginal.sample(torch.zeros(8, 1, 4), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([8, 1, 2])
    """

    operator: LinearOperator
    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"sigma: expected a finite number ≥ 0, got {self.sigma}")

    def mean(self, x0: Tensor) -> Tensor:
        """M_{1:t} x_0, with shape (*batch, *out_shape)."""
        return self.operator(x0)

    def sample(self, x0: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """M_{1:t} x_0 + σ_t ε; ε is `noise`, or drawn from `generator`."""
        mean = self.mean(x0)
        return mean + self.sigma * draw_noise(mean, noise, generator)

    def log_prob(self, x: Tensor, x0: Tensor) -> Tensor:
        """log q(x | x_0), with shape (*batch).

        Raises:
            ValueError: x does not fit, or σ_t = 0.
        """
        event = self.operator.out_shape
        check_event(x, event, "x")
        if self.sigma == 0:
            raise ValueError("log_prob: expected sigma > 0, got 0: the marginal has no density")
        dims = tuple(range(-len(event), 0))
        squared = ((x - self.mean(x0)) / self.sigma).square().sum(dims)
        return -0.5 * squared - math.prod(event) * (math.log(self.sigma) + 0.5 * math.log(2 * math.pi))
