"""The Markov kernels from one state to an earlier one: what K and C are, and both prepared for many states."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_number, check_event, check_same_batch, compute_dtype
from lineardiffusion.covariance import (
    FEASIBILITY,
    Covariance,
    GramCovariance,
    NoiseLevel,
    Sandwich,
    as_covariance,
)
from lineardiffusion.gaussian import Gaussian
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import LinearOperator, StepMap
from lineardiffusion.operators.scalar import Identity

# 1 − ρλ below this is zero: noise levels that are feasible with equality give it no more than rounding.
ROUNDING = 1e-12

# A share of the variance that is nothing: what Lanczos' method finds to be zero costs least.
_NEGLIGIBLE = 1e-16


class MarkovKernel:
    r"""N(μ_s + K (x_t − M μ_s), C) for any linear operator, prepared for many states: in the singular basis of M,

        C(λ) = η² σ_s² (1 − λσ_s²/σ_t²)   where λ > 0,        C(0) = σ_s²,
        K = Mᵀ(MMᵀ)^{−1/2} k(MMᵀ),   k(λ)² = (σ_s² − C(λ)) / σ_t².

    η = 1 is the posterior. At η = 0 nothing is drawn in the directions that M sees, where K is σ_s/σ_t times the polar
    factor Mᵀ(MMᵀ)^{−1/2}, while those it does not see (the new ones where a resolution grows) need fresh noise: without
    it the marginal at s would be wrong. For M = √(ᾱ_t/ᾱ_s) I this is DDIM (Song et al., 2021, Eq. 12 and 16).

    With `carried`, an M that is diagonal in a basis of its events is taken for the limit of one that sees all of them:
    C(λ) = η² σ_s² (1 − λσ_s²/σ_t²) at λ = 0 too, and the noise of a direction whose gain is zero is carried on. So it
    is in a flow, which starts at a_t = 0.

    Where the structure of M is unknown, Lanczos' method evaluates these functions, which no polynomial follows through
    the jump of C at λ = 0. With η < 1 the two cases then pass into one another,

        C(λ) = σ_s² [ q + (1 − q) η² (1 − λσ_s²/σ_t²) ],      q = exp(−λ/δ),

    with δ a fiftieth of the largest eigenvalue, so that components which M lets through by less than a seventh are
    drawn anew in part; or a fortieth of the least λ > 0 where that is no less than a hundredth of the largest: then
    q = 0 to all digits there. δ is rounded down to a power of two, and to gradients it is a constant. K follows from C
    as above: the marginal is kept exactly.

    Arguments:
        operator: M = M_{s→t}.
        sigma_s, sigma_t: feasible noise levels, or Covariances.
        eta: η in [0, 1].
        carried: see above.
        scale: a number a_s by which what is given as the mean is multiplied, at no cost: with it, clean images c_s.

    Raises:
        ValueError: η outside [0, 1].
    """

    def __init__(
        self,
        operator: LinearOperator,
        sigma_s: NoiseLevel,
        sigma_t: NoiseLevel,
        eta: float,
        *,
        carried: bool = False,
        scale: float = 1.0,
    ) -> None:
        self.operator, self.sigma_s, self.sigma_t, self.eta = operator, sigma_s, sigma_t, as_eta(eta)
        self.scale = scale
        self._levels = None if sigma_s == 0 else _levels(operator, sigma_s, sigma_t)
        # Of white noise, which whitened states have with σ = 1.
        self._numbers = (1.0, 1.0)
        if not isinstance(sigma_s, Covariance) and not isinstance(sigma_t, Covariance):
            self._numbers = sigma_s, sigma_t
        self._white = operator if self._levels is None else whitened(operator, *self._levels)
        self._complete = carried and self._white.has_frame
        self._prepared: _Prepared | None = None
        self._rows, self._columns = len(operator.out_shape), len(operator.in_shape)

    @property
    def is_deterministic(self) -> bool:
        """Whether nothing is drawn, as far as that is known without looking at a spectrum."""
        return self.sigma_s == 0 or (self.eta == 0 and self._complete)

    def mean(self, x_t: Tensor, mean_s: Tensor) -> Tensor:
        """μ_s + K (x_t − M μ_s)"""
        return self._draw(x_t, mean_s, None)

    def sample(self, x_t: Tensor, mean_s: Tensor, noise: Tensor) -> Tensor:
        """μ_s + K (x_t − M μ_s) + C^{1/2} noise

        Arguments:
            x_t: with shape (*batch, *shape of x_t).
            mean_s, noise: with shape (*batch, *shape of x_s); the noise is white.
        """
        return self._draw(x_t, mean_s, noise)

    def gaussian(self, x_t: Tensor, mean_s: Tensor) -> Gaussian:
        """The distribution of x_s."""
        mean = self.mean(x_t, mean_s)
        if self.sigma_s == 0:
            return Gaussian(mean, nothing(self.operator.in_shape))
        covariance = self._for(x_t).covariance
        return Gaussian(mean, covariance if self._levels is None else Sandwich(self._levels[0], covariance))

    def _draw(self, x_t: Tensor, mean_s: Tensor, noise: Tensor | None) -> Tensor:
        if (
            type(x_t) is not Tensor
            or type(mean_s) is not Tensor
            or x_t.shape[-self._rows :] != self.operator.out_shape
            or mean_s.shape[-self._columns :] != self.operator.in_shape
            or x_t.shape[: -self._rows] != mean_s.shape[: -self._columns]
            or x_t.device != mean_s.device
        ):
            check_event(x_t, self.operator.out_shape, "x_t")
            check_event(mean_s, self.operator.in_shape, "mean_s")
            check_same_batch(mean_s, self.operator.in_shape, "mean_s", x_t, self.operator.out_shape, "x_t")
        if self.sigma_s == 0:
            return mean_s if self.scale == 1 else self.scale * mean_s
        prepared = self._for(x_t)
        step = prepared.mean if noise is None else prepared.sample
        if self._levels is None:
            return step(mean_s, x_t, noise)
        cov_s, cov_t = self._levels
        mean_s = mean_s if self.scale == 1 else self.scale * mean_s
        residual = cov_t.inverse_root()(x_t - self.operator(mean_s))
        return mean_s + cov_s.root()(step(torch.zeros_like(mean_s), residual, noise))

    def _for(self, x_t: Tensor) -> _Prepared:
        """What depends on the functions alone; of operators of unknown structure, which may be learned, it is not
        kept."""
        if not self._white.has_exact_functions:
            return self._prepare(compute_dtype(x_t.dtype))
        if self._prepared is None:
            with torch.inference_mode(False):  # what is kept may be needed for gradients later
                self._prepared = self._prepare(torch.float64)
        return self._prepared

    def _prepare(self, dtype: torch.dtype) -> _Prepared:
        operator, eta = self._white, self.eta
        sigma_s, sigma_t = self._numbers
        rounding, smoothing, deterministic = ROUNDING, 0.0, False
        if not operator.has_exact_functions:
            rounding = max(rounding, 10 * torch.finfo(dtype).eps)
            if eta < 1:
                least, largest, singular = operator.spectrum_bounds()
                separated = least >= largest / 100 > 0  # of zero, if that is an eigenvalue
                # In powers of two, so that it stays what it is where the operator is learned.
                smoothing = 2.0 ** math.floor(math.log2(least / 40 if separated else largest / 50)) if largest else 0.0
                injective = not singular and math.prod(operator.in_shape) <= math.prod(operator.out_shape)
                deterministic = eta == 0 and separated and injective
        gain, variance = isotropic_kernel(sigma_s, sigma_t, eta, smoothing, rounding, self._complete)
        covariance = GramCovariance(operator, variance)
        deterministic = deterministic or self.is_deterministic
        deviation = None if deterministic else covariance.deviations
        told = sigma_s**2 / sigma_t**2 if eta == 1 else gain
        of = self.scale if self._levels is None else 1.0
        return _Prepared(
            operator.step_map(told, None, complete=self._complete, of=of),
            operator.step_map(told, deviation, complete=self._complete, of=of),
            nothing(operator.in_shape) if deterministic else covariance,
        )


class _Prepared(NamedTuple):
    mean: StepMap
    sample: StepMap
    covariance: Covariance


def as_eta(eta: float, name: str = "eta") -> float:
    """η in [0, 1]."""
    number = as_number(eta, name)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {eta!r}")
    return number


def nothing(shape: Shape) -> Covariance:
    """The covariance of what is not random."""
    return GramCovariance(0.0 * Identity(shape))


class Kernel(NamedTuple):
    """k and C as functions of λ."""

    gain: SpectralFunction
    variance: SpectralFunction


def isotropic_kernel(
    sigma_s: float,
    sigma_t: float,
    eta: float,
    smoothing: float = 0.0,
    rounding: float = ROUNDING,
    carried: bool = False,
) -> Kernel:
    """k and C of `MarkovKernel`.

    Arguments:
        sigma_s, sigma_t, eta, carried: as there.
        smoothing: δ; 0 for the jump.
        rounding: 1 − ρλ up to which equality is meant.
    """
    rho = sigma_s**2 / sigma_t**2

    def unseen(values: Tensor) -> Tensor:
        if carried:
            return torch.zeros_like(values)
        q = torch.exp(-values / smoothing) if smoothing else (values <= 0).to(values.dtype)
        return torch.where(q > _NEGLIGIBLE, q, 0)

    def seen(values: Tensor) -> Tensor:
        if carried:
            return torch.ones_like(values)
        return -torch.expm1(-values / smoothing) if smoothing else (values > 0).to(values.dtype)

    def variance(values: Tensor) -> Tensor:
        return sigma_s**2 * (unseen(values) + eta**2 * seen(values) * (1 - carried_share(rho, values, rounding)))

    def gain(values: Tensor) -> Tensor:
        kept = seen(values) * (1 - eta**2 + eta**2 * carried_share(rho, values, rounding))
        return sigma_s / sigma_t * kept.sqrt()

    return Kernel(gain, variance)


def carried_share(rho: float, values: Tensor, rounding: float) -> Tensor:
    """ρλ, which is at most 1 where noise levels are feasible, and 1 where it is so within rounding."""
    carried = rho * values
    return torch.where(carried < 1 - rounding, carried, 1)


def whitened(operator: LinearOperator, cov_s: Covariance, cov_t: Covariance) -> LinearOperator:
    """W = L_t⁻¹ M L_s, the operator between states whose noise is white."""
    return cov_t.inverse_root() @ operator @ cov_s.root()


def check_feasible(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel, at: str = "") -> None:
    """Raise unless Σ_t − M Σ_s Mᵀ is positive semi-definite and Σ_t definite; `at` says where, for the message."""
    if isinstance(sigma_s, Covariance) or isinstance(sigma_t, Covariance):
        if sigma_s != 0:
            ratio = whitened(operator, *covariances(operator, sigma_s, sigma_t)).norm() ** 2
            if ratio > 1 + FEASIBILITY:
                raise ValueError(
                    f"sigma: expected Σ_t ⪰ M Σ_s Mᵀ{at}, got λmax(Σ_t⁻¹ M Σ_s Mᵀ) = {ratio:.6g}; "
                    f"the smallest feasible multiple of Σ_t is {ratio:.9g} Σ_t"
                )
        return
    if sigma_t == 0:
        raise ValueError(f"sigma: expected finite σ_s ≥ 0 and σ_t > 0{at}, got σ_s = {sigma_s} and σ_t = {sigma_t}")
    if sigma_s == 0:
        return
    largest = operator.norm() ** 2
    ratio = sigma_s**2 * largest / sigma_t**2
    if ratio > 1 + FEASIBILITY:
        raise ValueError(
            f"sigma: expected σ_t² ≥ σ_s² λmax(MMᵀ){at}, got σ_s = {sigma_s:.6g}, σ_t = {sigma_t:.6g}, "
            f"λmax = {largest:.6g}, ratio σ_s² λmax / σ_t² = {ratio:.6g}; "
            f"the smallest feasible σ_t is {sigma_s * math.sqrt(largest):.9g}"
        )


def _levels(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel) -> tuple[Covariance, Covariance] | None:
    """Covariances, where one of the levels is one."""
    if isinstance(sigma_s, Covariance) or isinstance(sigma_t, Covariance):
        return covariances(operator, sigma_s, sigma_t)
    return None


def covariances(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel) -> tuple[Covariance, Covariance]:
    return as_covariance(sigma_s, operator.in_shape), as_covariance(sigma_t, operator.out_shape)
