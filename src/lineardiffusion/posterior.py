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

from torch import Tensor

from lineardiffusion._checks import check_kind
from lineardiffusion.covariance import (
    Covariance,
    GramCovariance,
    NoiseLevel,
    Sandwich,
    as_noise_level,
)
from lineardiffusion.gaussian import Gaussian
from lineardiffusion.kernels import ROUNDING, MarkovKernel, carried_share, check_feasible, covariances, whitened
from lineardiffusion.operators.base import LinearOperator


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
        return GramCovariance(operator.T, lambda values: variance * (1 - carried_share(rho, values, ROUNDING)))
    cov_s, cov_t = covariances(operator, sigma_s, sigma_t)
    white = whitened(operator, cov_s, cov_t)
    return Sandwich(cov_t, GramCovariance(white.T, lambda values: 1 - carried_share(1.0, values, ROUNDING)))


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


def _noise_levels(operator: LinearOperator, sigma_s: NoiseLevel, sigma_t: NoiseLevel) -> tuple[NoiseLevel, NoiseLevel]:
    check_kind(operator, LinearOperator, "operator", "a LinearOperator M_{s→t}")
    level_s = as_noise_level(sigma_s, operator.in_shape, "sigma_s")
    return level_s, as_noise_level(sigma_t, operator.out_shape, "sigma_t")
