"""Diffusion Posterior Sampling: a gradient of the misfit beside every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import as_number
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.inverse.base import InverseSampler, check_fixed_shape
from lineardiffusion.kernels import as_eta
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.schedules.grids import Steps


@configured("inverse.DPS", without=["A", "y"])
class DPS(InverseSampler):
    r"""x_s = x_s′ − ζ ∇_{x_t} ‖y − A x̂_0(x_t)‖,   x_s′ from the Markov kernel around x̂_0, by default the posterior.

    The norm is that of each image, and not squared. It does not know σ_y, nor how long a step is: fewer steps need a
    greater ζ. The default is 300 over their number, the 0.3 of the paper's thousand.

    Holds for every process of one shape: a blurred or coloured one too, as the gradient is with respect to the state.
    Not exact for any data.

    References:
        | Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023), Algorithm 1
        | https://arxiv.org/abs/2209.14687

    Arguments:
        denoiser, A, y, sigma_y, steps, clip: see `InverseSampler`; σ_y plays no part.
        scale: ζ ≥ 0; None for 300 over the number of steps.
        eta: η in [0, 1]; 1 is the paper's ancestral sampling.

    Raises:
        TypeError, ValueError: as `InverseSampler`, ζ or η out of range, or a process that changes shape.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> d = ld.Denoiser(lambda x, index: 0.5 * x, ld.DDPM((1, 8, 8)), "data")
        >>> pool = ld.AveragePool((1, 8, 8), (2, 2))
        >>> ld.inverse.DPS(d, pool, torch.zeros(1, 4, 4), 0.05, steps=10)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        A: LinearOperator,
        y: Tensor,
        sigma_y: float = 0.0,
        steps: Steps = None,
        scale: float | None = None,
        eta: float = 1.0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, A, y, sigma_y, steps, clip)
        check_fixed_shape(denoiser, "the gradient is of the shape of x_t, and a step over a change is not")
        self.scale, self.eta = scale, as_eta(eta)
        self._zeta = 300 / (len(self.times) - 1) if scale is None else as_number(scale, "scale")
        if not 0 <= self._zeta < math.inf:
            raise ValueError(f"scale: expected a number ≥ 0, got {scale}")

    def move(self, x_t: Tensor, t: float, s: float, draws: Draws, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        clean, pull = self.estimate_with_pullback(x_t, t, given)
        misfit = self.misfit(clean)
        norm = torch.linalg.vector_norm(misfit.flatten(1), dim=1).reshape(-1, *[1] * (misfit.ndim - 1))
        unit = misfit / torch.where(norm > 0, norm, 1)
        downhill = pull(self.A.transpose(unit))  # −∇‖y − A x̂_0‖
        return torch.add(self.markov_step(x_t, t, s, self.eta, clean, draws), downhill, alpha=self._zeta), clean
