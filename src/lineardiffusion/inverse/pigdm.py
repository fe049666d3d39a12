"""Pseudoinverse-guided diffusion: p(x_0 | x_t) taken for N(x̂_0, r² I)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lineardiffusion._checks import as_choice
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.inverse.base import InverseSampler, check_undegraded, check_white, regularised
from lineardiffusion.kernels import as_eta
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.schedules.grids import Steps

Weight = Literal["adaptive", "score"]


@configured("inverse.PiGDM", without=["A", "y"])
class PiGDM(InverseSampler):
    r"""With p(x_0 | x_t) ≈ N(x̂_0, r² I), r² = σ_t²/(a_t² + σ_t²), the likelihood has the gradient

        g = ∇_{x_t} log p(y | x_t) = Jᵀ Aᵀ (r² AAᵀ + σ_y² I)⁻¹ (y − A x̂_0),   J = ∂x̂_0/∂x_t .

    weight="score": x_s from the kernel around x* = x̂_0 + (σ_t²/a_t) g, which is E[x_0 | x_t, y] for data of unit
        covariance: the score of p(x_t | y), whose limit of many steps is that of its flow.
    weight="adaptive": x_s = x_s′ + a_s a_t r² g, with x_s′ from the kernel around x̂_0: the weights of the paper's
        sampler, in which x_t/a_t moves as far as x̂_0 does in Jᵀ A⁺ (y − A x̂_0), however short the step.

    With σ_y = 0 the inverse is the pseudoinverse. Where a_t = 0 the state says nothing and there is no guidance.
    Exact ("score", many steps) for x_0 ~ N(m, I).

    References:
        | Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023), Eq. 7, Algorithm 1
        | https://openreview.net/forum?id=9_gsMA8MRKQ

    Arguments:
        denoiser, A, y, sigma_y, steps, clip: see `InverseSampler`.
        eta: η in [0, 1].
        weight: see above.

    Raises:
        TypeError, ValueError: as `InverseSampler`, an argument out of range, or a process that does more to an image
            than to scale it and add white noise.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> d = ld.Denoiser(lambda x, index: 0.5 * x, ld.DDPM((1, 8, 8)), "data")
        >>> pool = ld.AveragePool((1, 8, 8), (2, 2))
        >>> ld.inverse.PiGDM(d, pool, torch.zeros(1, 4, 4), 0.05, steps=10)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        A: LinearOperator,
        y: Tensor,
        sigma_y: float = 0.0,
        steps: Steps = None,
        eta: float = 1.0,
        weight: Weight = "score",
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, A, y, sigma_y, steps, clip)
        why = "r² I is its covariance of x_0 given x_t"
        check_undegraded(denoiser, self.times, why)
        check_white(denoiser, why)
        self.eta, self.weight = as_eta(eta), as_choice(weight, get_args(Weight), "weight")

    def move(self, x_t: Tensor, t: float, s: float, draws: Draws, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        process = self.denoiser.process
        a_t, a_s, sigma_t = process.signal_scale(t), process.signal_scale(s), process.sigma(t)
        clean, pull = self.estimate_with_pullback(x_t, t, given)
        if a_t == 0:
            return self.markov_step(x_t, t, s, self.eta, clean, draws), clean
        r2 = sigma_t**2 / (a_t**2 + sigma_t**2)
        gain = regularised(self.sigma_y**2 / r2)
        ascent = pull(self.by_directions(torch.zeros_like(clean), self.misfit(clean), gain, None, None))  # r² g
        if self.weight == "score":
            towards = torch.add(clean, ascent, alpha=sigma_t**2 / (a_t * r2))
            return self.markov_step(x_t, t, s, self.eta, towards, draws), clean
        return torch.add(self.markov_step(x_t, t, s, self.eta, clean, draws), ascent, alpha=a_s * a_t), clean
