"""Moment matching: p(x_0 | x_t) with the covariance that the network itself implies."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lineardiffusion._checks import as_choice, as_index
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.inverse.base import InverseSampler, check_undegraded
from lineardiffusion.inverse.solve import conjugate_gradients, minimal_residual
from lineardiffusion.kernels import as_eta
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.schedules.grids import Steps

Solver = Literal["cg", "gmres"]
SOLVERS = {"cg": conjugate_gradients, "gmres": minimal_residual}


@configured("inverse.MMPS", without=["A", "y"])
class MMPS(InverseSampler):
    r"""x_s from the Markov kernel around x* = E[x_0 | x_t, y], with p(x_0 | x_t) ≈ N(x̂_0, V):

        x* = x̂_0 + V Aᵀ (A V Aᵀ + σ_y² I)⁻¹ (y − A x̂_0),   V = Cov(x_0 | x_t) = Σ_t Jᵀ/a_t ,

    Tweedie's covariance, in which Jᵀ is the network's, by a pass back through it for every iteration of the solver and
    one more. V is symmetric for the optimal denoiser, and nearly so for a network: "gmres" does not need it to be.

    Exact for Gaussian data, with as many iterations as A V Aᵀ needs: x* is then E[x_0 | x_t, y], and the limit of many
    steps p(x_0 | y). Noise of any covariance Σ_t. Where a_t = 0 the state says nothing and there is no guidance.

    References:
        | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al., 2024), Sec. 4.2
        | https://arxiv.org/abs/2405.13712

    Arguments:
        denoiser, A, y, sigma_y, steps, clip: see `InverseSampler`.
        eta: η in [0, 1].
        solver: "cg", conjugate gradients, or "gmres", the least residual in the Krylov space.
        iterations: of the solver.

    Raises:
        TypeError, ValueError: as `InverseSampler`, an argument out of range, or a process that does more to an image
            than to scale it and add noise.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> d = ld.Denoiser(lambda x, index: 0.5 * x, ld.DDPM((1, 8, 8)), "data")
        >>> pool = ld.AveragePool((1, 8, 8), (2, 2))
        >>> ld.inverse.MMPS(d, pool, torch.zeros(1, 4, 4), 0.05, steps=10)(2, seeds=[0, 1], progress=False).shape
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
        solver: Solver = "cg",
        iterations: int = 3,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, A, y, sigma_y, steps, clip)
        check_undegraded(denoiser, self.times, "its covariance of x_0 given x_t is Σ_t Jᵀ/a_t there alone")
        self.eta, self.solver = as_eta(eta), as_choice(solver, get_args(Solver), "solver")
        self.iterations = as_index(iterations, 1, 2**31, "iterations")

    def move(self, x_t: Tensor, t: float, s: float, draws: Draws, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        process, A = self.denoiser.process, self.A
        a_t, sigma_t = process.signal_scale(t), process.noise_covariance(t)
        clean, pull = self.estimate_with_pullback(x_t, t, given)
        if a_t == 0:
            return self.markov_step(x_t, t, s, self.eta, clean, draws), clean

        def covariance(u: Tensor) -> Tensor:  # V Aᵀ u
            return sigma_t(pull(A.transpose(u))) / a_t

        def marginal(u: Tensor) -> Tensor:  # (A V Aᵀ + σ_y² I) u
            return torch.add(A(covariance(u)), u, alpha=self.sigma_y**2)

        u = SOLVERS[self.solver](marginal, self.misfit(clean), self.iterations)
        return self.markov_step(x_t, t, s, self.eta, clean + covariance(u), draws), clean
