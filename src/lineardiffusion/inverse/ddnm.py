"""Denoising Diffusion Null-space Models: the range of A from y, its null space from the network."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.inverse.base import InverseSampler, reciprocal
from lineardiffusion.inverse.ddrm import DDRM
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.schedules.grids import Steps


@configured("inverse.DDNM", without=["A", "y"])
class DDNM(InverseSampler):
    r"""σ_y = 0, DDNM: DDIM around x̂_0 + A⁺(y − A x̂_0), but with the noise ε̂ = (x_t − a_t x̂_0)/σ_t of x̂_0 itself,

        x_s = a_s (x̂_0 + A⁺(y − A x̂_0)) + σ_s (√(1 − η²) ε̂ + η z),

    and the result fits y exactly. σ_y > 0, DDNM+: with A = U diag(s) Vᵀ, ȳ = Uᵀy/s, which has noise of r = a_s σ_y/s in
    x_s, m = Vᵀx̂_0 and Vᵀε̂, in each direction

        s = 0      a_s m + σ_s (√(1 − η²) ε̂ + η z)             A does not see it
        r ≤ σ_s    a_s ȳ + (σ_s² − r²)^{1/2} z                 the noise of y is a part of that of x_s
        r > σ_s    a_s m + a_s λ (ȳ − m) + η σ_s z,   λ = √(1 − η²) σ_s/r

    which are the steps of `DDRM` with η_b = 1. No derivative of the network.

    References:
        | Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model (Wang et al., 2023)
        | https://arxiv.org/abs/2212.00490

    Arguments:
        denoiser, A, y, sigma_y, steps, clip, repeats: see `InverseSampler`.
        eta: η in [0, 1]; by default that of the paper's experiments; with few steps 1 is better.

    Raises:
        TypeError, ValueError: as `InverseSampler`, an argument out of range, or a process that does more to an image
            than to scale it and add white noise.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> d = ld.Denoiser(lambda x, index: 0.5 * x, ld.DDPM((1, 8, 8)), "data")
        >>> pool, y = ld.AveragePool((1, 8, 8), (2, 2)), torch.ones(1, 4, 4)
        >>> pool(ld.inverse.DDNM(d, pool, y, 0.0, steps=10)(1, seeds=[0], progress=False)).sub(y).abs().max() < 1e-6
        tensor(True)
    """

    def __init__(
        self,
        denoiser: Denoiser,
        A: LinearOperator,
        y: Tensor,
        sigma_y: float = 0.0,
        steps: Steps = None,
        eta: float = 0.85,
        repeats: int = 1,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, A, y, sigma_y, steps, clip, repeats)
        self._noisy = DDRM(denoiser, A, y, sigma_y, steps, eta, 1.0, clip)  # which refuses what does not fit either
        self.eta = self._noisy.eta

    def move(self, x_t: Tensor, t: float, s: float, draws: Draws, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if self.sigma_y > 0:
            return self._noisy.move(x_t, t, s, draws, given)
        process = self.denoiser.process
        clean = self.estimate(x_t, t, given)
        corrected = self.by_directions(clean, self.measurement(clean), reciprocal, None, None)
        if s == 0:
            return corrected, clean
        eps, noise = (x_t - process.signal_scale(t) * clean) / process.sigma(t), draws.kernel(clean)
        direction = math.sqrt(1 - self.eta**2) * eps + self.eta * noise
        return process.signal_scale(s) * corrected + process.sigma(s) * direction, clean
