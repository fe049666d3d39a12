"""RePaint: what is known is put into every state, with the noise that it has there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.inverse.base import InverseSampler, check_undegraded, check_white, reciprocal
from lineardiffusion.kernels import as_eta
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.schedules.grids import Steps


@configured("inverse.Inpaint", without=["A", "y"])
class Inpaint(InverseSampler):
    r"""A step is one of the Markov kernel, by default ancestral; then known pixels are drawn from q(x_s | x_0):

        x_s = mask · (a_s y + σ_s z) + (1 − mask) · x_s′,

    each step `repeats` times with noise back to x_t between, so that what is unknown comes to fit what is known.

    A is the mask, ld.Diagonal(mask), or any operator: then known directions V of A = U diag(s) Vᵀ take the place of
    pixels. Measured with noise σ_y, Uᵀy/s has noise of r = a_s σ_y/s in x_s; where r ≤ σ_s it is put in with
    (σ_s² − r²)^{1/2} z, so that the state has its marginal given x_0 in these directions. With σ_y = 0 the result fits
    y exactly.

    No derivative of the network. Functions of AᵀA as in `DDRM`.

    References:
        | RePaint: Inpainting using Denoising Diffusion Probabilistic Models (Lugmayr et al., 2022), Algorithm 1
        | https://arxiv.org/abs/2201.09865

    Arguments:
        denoiser, A, y, sigma_y, steps, clip: see `InverseSampler`.
        eta: η in [0, 1]; 1 is the paper's ancestral sampling.
        repeats: U, how often each step is taken, each time with a call of the network.

    Raises:
        TypeError, ValueError: as `InverseSampler`, an argument out of range, or a process that does more to an image
            than to scale it and add white noise.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> d = ld.Denoiser(lambda x, index: 0.5 * x, ld.DDPM((1, 8, 8)), "data")
        >>> mask, image = torch.ones(8, 8), torch.ones(1, 8, 8)
        >>> mask[2:6, 2:6] = 0
        >>> sampler = ld.inverse.Inpaint(d, ld.Diagonal(mask.expand(1, 8, 8)), mask * image, steps=10, repeats=2)
        >>> (mask * sampler(1, seeds=[0], progress=False)).sum() == mask.sum()
        tensor(True)
    """

    def __init__(
        self,
        denoiser: Denoiser,
        A: LinearOperator,
        y: Tensor,
        sigma_y: float = 0.0,
        steps: Steps = None,
        eta: float = 1.0,
        repeats: int = 1,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, A, y, sigma_y, steps, clip, repeats)
        why = "a pixel or direction that A tells of has to be one of the process"
        check_undegraded(denoiser, self.times, why)
        check_white(denoiser, why)
        self.eta = as_eta(eta)

    def move(self, x_t: Tensor, t: float, s: float, draws: Draws, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        process = self.denoiser.process
        a_s, sigma_s = process.signal_scale(s), process.sigma(s)
        clean = self.estimate(x_t, t, given)
        x_s = self.markov_step(x_t, t, s, self.eta, clean, draws)

        def gain(values: Tensor) -> Tensor:  # 1/s where r ≤ σ_s
            return torch.where(a_s * self.sigma_y <= sigma_s * values, reciprocal(values), 0)

        def deviation(values: Tensor) -> Tensor:
            known = gain(values)
            return torch.where(known > 0, (sigma_s**2 - (a_s * self.sigma_y * known) ** 2).clamp(min=0).sqrt(), 0)

        y = a_s * self.measurement(x_s)
        if s == 0:
            return self.by_directions(x_s, y, gain, None, None), clean
        return self.by_directions(x_s, y, gain, deviation, draws.other(x_s)), clean


RePaint = Inpaint
"""Inpaint, by the name of its paper."""
