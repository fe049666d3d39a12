r"""The conditional distributions between two states s < t of a linear diffusion, x_t = M x_s + η with M = M_{s→t}.

With isotropic noise σ² I (Eq. 4–6 of Scale Space Diffusion):

    transition   q(x_t | x_s) = N( M x_s,  σ_t² I − σ_s² MMᵀ )
    posterior    q(x_s | x_t, x_0) = N( μ_s + (σ_s²/σ_t²) Mᵀ (x_t − M μ_s),  σ_s² I − (σ_s⁴/σ_t²) MᵀM )

where μ_s = M_{1:s} x_0. The two need not be consecutive states. More generally, every kernel with mean
μ_s + K (x_t − M μ_s) and covariance C carries the marginal of t to that of s if σ_t² KKᵀ + C = σ_s² I.

Any other noise Σ = LLᵀ is isotropic in whitened states L⁻¹x, between which the operator is W = L_t⁻¹ M L_s. The above
holds of W with σ_s = σ_t = 1, hence

    transition   L_t (I − WWᵀ) L_tᵀ,     K = L_s Wᵀ g(WWᵀ) L_t⁻¹,     C = L_s f(WᵀW) L_sᵀ .

References:
    | Scale Space Diffusion (Mukhopadhyay et al., 2026), https://arxiv.org/abs/2603.08709
    | Denoising Diffusion Implicit Models (Song et al., 2021), https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_number, check_event, compute_dtype
from lineardiffusion.covariance import (
    FEASIBILITY,
    Covariance,
    GramCovariance,
    NoiseLevel,
    Sandwich,
    as_covariance,
    as_noise_level,
)
from lineardiffusion.gaussian import Gaussian
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import LinearOperator, StepMap
from lineardiffusion.operators.scalar import Identity

# 1 − ρλ below this is zero: noise levels that are feasible with equality give it no more than rounding.
_ROUNDING = 1e-12

# A share of the variance that is nothing: what Lanczos' method finds to be zero costs least.
_NEGLIGIBLE = 1e-16


def transition(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel) -> Covariance:
    r"""Covariance Σ_t − M Σ_s Mᵀ of q(x_t | x_s), Eq. 4 of Scale Space Diffusion.

    Arguments:
        operator: M = M_{s→t}.
        sigma_s: σ_s ≥ 0, or a Covariance Σ_s.
        sigma_t: σ_t > 0, or a Covariance Σ_t.

    Returns:
        A symmetric operator on the space of x_t, with `sqrt`, `solve` and `logdet`.

    Raises:
        ValueError: σ_t² < σ_s² λmax(MMᵀ): no such Gaussian exists. The error states the smallest feasible σ_t.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> covariance = ld.transition(0.8 * ld.Identity((2,)), sigma_s=0.5, sigma_t=0.5)
        >>> covariance(torch.ones(2))
        tensor([0.0900, 0.0900])
    """
    sigma_s, sigma_t = _noise_levels(operator, sigma_s, sigma_t)
    check_feasible(operator, sigma_s, sigma_t)
    if not isinstance(sigma_s, Covariance) and not isinstance(sigma_t, Covariance):
        variance, rho = sigma_t**2, sigma_s**2 / sigma_t**2
        return GramCovariance(operator.T, lambda values: variance * (1 - _carried(rho, values, _ROUNDING)))
    cov_s, cov_t = _covariances(operator, sigma_s, sigma_t)
    white = whitened(operator, cov_s, cov_t)
    return Sandwich(cov_t, GramCovariance(white.T, lambda values: 1 - _carried(1.0, values, _ROUNDING)))


def posterior(
    x_t: Tensor, mean_s: Tensor, operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel
) -> Gaussian:
    r"""q(x_s | x_t, x_0), Eq. 6 of Scale Space Diffusion.

    Arguments:
        x_t: the noisier state, with shape (*batch, *operator.out_shape).
        mean_s: μ_s = M_{1:s} x_0, with shape (*batch, *operator.in_shape).
        operator: M = M_{s→t}.
        sigma_s: σ_s ≥ 0, or a Covariance Σ_s; at 0 the posterior is the point μ_s.
        sigma_t: σ_t > 0, or a Covariance Σ_t.

    Raises:
        ValueError: shapes that do not fit, or infeasible noise levels.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> q = ld.posterior(torch.ones(1, 2), torch.zeros(1, 4), ld.Resize((1, 4), 2, mode="area"), 0.5, 1.0)
        >>> q.mean
        tensor([[0.1250, 0.1250, 0.1250, 0.1250]])
    """
    return ddim_kernel(x_t, mean_s, operator, sigma_s, sigma_t, eta=1.0)


def ddim_kernel(
    x_t: Tensor, mean_s: Tensor, operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel, eta: float
) -> Gaussian:
    r"""The Markov kernel of `MarkovKernel`, given x_t and μ_s.

    Arguments:
        x_t, mean_s, operator, sigma_s, sigma_t: as in `posterior`.
        eta: η in [0, 1]; at 1 the posterior.

    Raises:
        ValueError: shapes that do not fit, infeasible noise levels, or η outside [0, 1].
    """
    sigma_s, sigma_t = _noise_levels(operator, sigma_s, sigma_t)
    check_feasible(operator, sigma_s, sigma_t)
    return MarkovKernel(operator, sigma_s, sigma_t, eta).gaussian(x_t, mean_s)


class MarkovKernel:
    r"""N(μ_s + K (x_t − M μ_s), C) for any linear operator, prepared for many states: in the singular basis of M,

        C(λ) = η² σ_s² (1 − λσ_s²/σ_t²)   where λ > 0,        C(0) = σ_s²,
        K = Mᵀ(MMᵀ)^{−1/2} k(MMᵀ),   k(λ)² = (σ_s² − C(λ)) / σ_t².

    η = 1 is the posterior. At η = 0 nothing is drawn in the directions that M sees, where K is σ_s/σ_t times the polar
    factor Mᵀ(MMᵀ)^{−1/2}, while those it does not see (the new ones where a resolution grows) need fresh noise: without
    it the marginal at s would be wrong. For M = √(ᾱ_t/ᾱ_s) I this is DDIM (Song et al., 2021, Eq. 12 and 16).

    With `carried`, an M that is diagonal in a basis of its events is taken for the limit of one that sees all of them:
    C(λ) = η² σ_s² (1 − λσ_s²/σ_t²) at λ = 0 too, and the noise of a direction whose gain is zero is carried on. So it is
    in a flow, which starts at a_t = 0.

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
            return Gaussian(mean, _nothing(self.operator.in_shape))
        covariance = self._for(x_t).covariance
        return Gaussian(mean, covariance if self._levels is None else Sandwich(self._levels[0], covariance))

    def _draw(self, x_t: Tensor, mean_s: Tensor, noise: Tensor | None) -> Tensor:
        check_event(x_t, self.operator.out_shape, "x_t")
        check_event(mean_s, self.operator.in_shape, "mean_s")
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
        """What depends on the functions alone; of operators of unknown structure, which may be learned, nothing is kept."""
        if not self._white.has_exact_functions:
            return self._prepare(compute_dtype(x_t.dtype))
        if self._prepared is None:
            self._prepared = self._prepare(torch.float64)
        return self._prepared

    def _prepare(self, dtype: torch.dtype) -> _Prepared:
        operator, eta = self._white, self.eta
        sigma_s, sigma_t = self._numbers
        rounding, smoothing, deterministic = _ROUNDING, 0.0, False
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
            _nothing(operator.in_shape) if deterministic else covariance,
        )


class _Prepared(NamedTuple):
    mean: StepMap
    sample: StepMap
    covariance: Covariance


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
                level = sigma_s * math.sqrt(rest) if rest > _ROUNDING else 0.0
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


def as_eta(eta: float) -> float:
    """η in [0, 1]."""
    number = as_number(eta, "eta")
    if not 0 <= number <= 1:
        raise ValueError(f"eta: expected a number in [0, 1], got {eta!r}")
    return number


def _nothing(shape: Shape) -> Covariance:
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
    rounding: float = _ROUNDING,
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
        return sigma_s**2 * (unseen(values) + eta**2 * seen(values) * (1 - _carried(rho, values, rounding)))

    def gain(values: Tensor) -> Tensor:
        kept = seen(values) * (1 - eta**2 + eta**2 * _carried(rho, values, rounding))
        return sigma_s / sigma_t * kept.sqrt()

    return Kernel(gain, variance)


def _carried(rho: float, values: Tensor, rounding: float) -> Tensor:
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
            ratio = whitened(operator, *_covariances(operator, sigma_s, sigma_t)).norm() ** 2
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


def _noise_levels(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel) -> tuple[NoiseLevel, NoiseLevel]:
    level_s = as_noise_level(sigma_s, operator.in_shape, "sigma_s")
    return level_s, as_noise_level(sigma_t, operator.out_shape, "sigma_t")


def _levels(
    operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel
) -> tuple[Covariance, Covariance] | None:
    """Covariances, where one of the levels is one."""
    if isinstance(sigma_s, Covariance) or isinstance(sigma_t, Covariance):
        return _covariances(operator, sigma_s, sigma_t)
    return None


def _covariances(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel) -> tuple[Covariance, Covariance]:
    return as_covariance(sigma_s, operator.in_shape), as_covariance(sigma_t, operator.out_shape)
