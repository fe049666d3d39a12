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

import torch
from torch import Tensor

from lineardiffusion._checks import check_event
from lineardiffusion.covariance import Covariance, GramCovariance, NoiseLevel, Sandwich, as_covariance, as_noise_level
from lineardiffusion.gaussian import Gaussian
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import LinearOperator

# σ_t² ≥ σ_s² λmax may be missed by rounding where a process is feasible with equality.
FEASIBILITY_ROUNDING = 1e-9


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

    Example:
        >>> import torch, lineardiffusion as ld
        >>> covariance = ld.transition(0.8 * ld.Identity((2,)), sigma_s=0.5, sigma_t=0.5)
        >>> covariance(torch.ones(2))
        tensor([0.0900, 0.0900])
    """
    sigma_s, sigma_t = _noise_levels(operator, sigma_s, sigma_t)
    check_feasible(operator, sigma_s, sigma_t)
    if not isinstance(sigma_s, Covariance) and not isinstance(sigma_t, Covariance):
        variances = sigma_s**2, sigma_t**2
        return GramCovariance(operator.T, lambda values: variances[1] - variances[0] * values)
    cov_s, cov_t = _covariances(operator, sigma_s, sigma_t)
    white = whitened(operator, cov_s, cov_t)
    return Sandwich(cov_t, GramCovariance(white.T, lambda values: 1 - values))


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

    Example:
        >>> import torch, lineardiffusion as ld
        >>> q = ld.posterior(torch.ones(1, 2), torch.zeros(1, 4), ld.Resize((1, 4), 2, mode="area"), 0.5, 1.0)
        >>> q.mean
        tensor([[0.1250, 0.1250, 0.1250, 0.1250]])
    """
    return ddim_kernel(x_t, mean_s, operator, sigma_s, sigma_t, eta=1.0)


def ddim_kernel(
    x_t: Tensor, mean_s: Tensor, operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel, eta: float
) -> Gaussian:
    r"""The DDIM kernel for any linear operator: N(μ_s + K (x_t − M μ_s), C) with, in the singular basis of M,

        C(λ) = η² σ_s² (1 − λσ_s²/σ_t²)   where λ > 0,        C(0) = σ_s²,
        K = Mᵀ g(MMᵀ),   g(λ)² = (σ_s² − C(λ)) / (σ_t² λ).

    η = 1 is the posterior. At η = 0 nothing is drawn in the directions that M sees, where K is σ_s/σ_t times the polar
    factor Mᵀ(MMᵀ)^{−1/2}, while those it does not see (the new ones where a resolution grows) need fresh noise: without
    it the marginal at s would be wrong. For M = √(ᾱ_t/ᾱ_s) I this is DDIM (Song et al., 2021, Eq. 12 and 16).

    Arguments:
        x_t, mean_s, operator, sigma_s, sigma_t: as in `posterior`.
        eta: η in [0, 1].

    Raises:
        ValueError: shapes that do not fit, infeasible noise levels, or η outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: expected a number in [0, 1], got {eta}")
    sigma_s, sigma_t = _noise_levels(operator, sigma_s, sigma_t)
    check_feasible(operator, sigma_s, sigma_t)
    return feasible_kernel(x_t, mean_s, operator, sigma_s, sigma_t, eta)


def feasible_kernel(
    x_t: Tensor, mean_s: Tensor, operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel, eta: float
) -> Gaussian:
    """`ddim_kernel` for the noise levels of a process, which were found feasible when it was built: λmax of the product
    of an operator of unknown structure is not estimated again in every step of a sampler."""
    check_event(x_t, operator.out_shape, "x_t")
    check_event(mean_s, operator.in_shape, "mean_s")
    if not isinstance(sigma_s, Covariance) and not isinstance(sigma_t, Covariance):
        gain, variance = isotropic_kernel(sigma_s, sigma_t, eta)
        return Gaussian(operator.correct(gain, mean_s, x_t), GramCovariance(operator, variance))
    cov_s, cov_t = _covariances(operator, sigma_s, sigma_t)
    white = whitened(operator, cov_s, cov_t)
    gain, variance = isotropic_kernel(1.0, 1.0, eta)
    residual = cov_t.inverse_root()(x_t - operator(mean_s))
    mean = mean_s + cov_s.root()(white.correct(gain, torch.zeros_like(mean_s), residual))
    return Gaussian(mean, Sandwich(cov_s, GramCovariance(white, variance)))


def isotropic_kernel(sigma_s: float, sigma_t: float, eta: float) -> tuple[float | SpectralFunction, SpectralFunction]:
    """g and C as functions of λ."""
    rho = sigma_s**2 / sigma_t**2
    if eta == 1:
        return rho, lambda values: sigma_s**2 * (1 - rho * values)

    def variance(values: Tensor) -> Tensor:
        seen = eta**2 * sigma_s**2 * (1 - rho * values).clamp(min=0)
        return torch.where(values > 0, seen, sigma_s**2)

    def gain(values: Tensor) -> Tensor:
        positive = torch.where(values > 0, values, 1)
        return torch.where(values > 0, ((sigma_s**2 - variance(values)) / positive).sqrt() / sigma_t, 0)

    return gain, variance


def whitened(operator: LinearOperator, cov_s: Covariance, cov_t: Covariance) -> LinearOperator:
    """W = L_t⁻¹ M L_s, the operator between states whose noise is white."""
    return cov_t.inverse_root() @ operator @ cov_s.root()


def check_feasible(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel, at: str = "") -> None:
    """Raise unless Σ_t − M Σ_s Mᵀ is positive semi-definite and Σ_t definite; `at` says where, for the message."""
    if isinstance(sigma_s, Covariance) or isinstance(sigma_t, Covariance):
        if sigma_s != 0:
            ratio = whitened(operator, *_covariances(operator, sigma_s, sigma_t)).norm() ** 2
            if ratio > 1 + FEASIBILITY_ROUNDING:
                raise ValueError(
                    f"sigma: expected Σ_t ⪰ M Σ_s Mᵀ{at}, got λmax(Σ_t⁻¹ M Σ_s Mᵀ) = {ratio:.6g}; "
                    f"the smallest feasible multiple of Σ_t is {ratio:.6g} Σ_t"
                )
        return
    if sigma_t == 0:
        raise ValueError(f"sigma: expected finite σ_s ≥ 0 and σ_t > 0{at}, got σ_s = {sigma_s} and σ_t = {sigma_t}")
    if sigma_s == 0:
        return
    largest = operator.norm() ** 2
    ratio = sigma_s**2 * largest / sigma_t**2
    if ratio > 1 + FEASIBILITY_ROUNDING:
        raise ValueError(
            f"sigma: expected σ_t² ≥ σ_s² λmax(MMᵀ){at}, got σ_s = {sigma_s:.6g}, σ_t = {sigma_t:.6g}, "
            f"λmax = {largest:.6g}, ratio σ_s² λmax / σ_t² = {ratio:.6g}; "
            f"the smallest feasible σ_t is {sigma_s * math.sqrt(largest):.6g}"
        )


def _noise_levels(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel) -> tuple[NoiseLevel, NoiseLevel]:
    level_s = as_noise_level(sigma_s, operator.in_shape, "sigma_s")
    return level_s, as_noise_level(sigma_t, operator.out_shape, "sigma_t")


def _covariances(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel) -> tuple[Covariance, Covariance]:
    return as_covariance(sigma_s, operator.in_shape), as_covariance(sigma_t, operator.out_shape)
