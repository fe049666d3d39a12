"""Denoising Diffusion Restoration Models: a kernel of its own for each singular direction of A."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.inverse.base import InverseSampler, check_undegraded, check_white, reciprocal
from lineardiffusion.kernels import as_eta
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.samplers.draws import Draws, Source
from lineardiffusion.schedules.grids import Steps


@configured("inverse.DDRM", without=["A", "y"])
class DDRM(InverseSampler):
    r"""With A = U diag(s) Vᵀ, in units of the data (x̃ = x/a, L = σ/a), ȳ = Uᵀy/s is Vᵀx_0 with noise of r = σ_y/s. In
    each direction, from t to s with levels L and L′, m = Vᵀx̂_0 and ε̂ = Vᵀ(x_t − a_t x̂_0)/σ_t,

        s = 0      x̃′ = m + √(1 − η²) L′ ε̂ + η L′ z            A does not see it: DDIM
        r > L′     x̃′ = m + √(1 − η²) L′ (ȳ − m)/r + η L′ z     y is noisier than the state
        r ≤ L′     x̃′ = η_b ȳ + (1 − η_b) m + (L′² − η_b² r²)^{1/2} z

    x̃_T is ȳ + (L² − r²)^{1/2} z where r ≤ L and noise elsewhere. With σ_y = 0 the result fits y exactly.

    No derivative of the network. Functions of AᵀA, by its structure (see `lineardiffusion.inverse.base`); there need be
    no singular value decomposition.

    References:
        | Denoising Diffusion Restoration Models (Kawar et al., 2022), Eq. 4–8
        | https://arxiv.org/abs/2201.11793

    Arguments:
        denoiser, A, y, sigma_y, steps, clip: see `InverseSampler`.
        eta, eta_b: η and η_b in [0, 1]; by default those of the paper's experiments; with few steps η = 1 is
            better.

    Raises:
        TypeError, ValueError: as `InverseSampler`, an argument out of range, or a process that does more to an image
            than to scale it and add white noise.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> d = ld.Denoiser(lambda x, index: 0.5 * x, ld.DDPM((1, 8, 8)), "data")
        >>> pool, y = ld.AveragePool((1, 8, 8), (2, 2)), torch.ones(1, 4, 4)
        >>> pool(ld.inverse.DDRM(d, pool, y, 0.0, steps=10)(1, seeds=[0], progress=False)).sub(y).abs().max() < 1e-6
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
        eta_b: float = 1.0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, A, y, sigma_y, steps, clip)
        why = "a singular direction of A has to be one of the process"
        check_undegraded(denoiser, self.times, why)
        check_white(denoiser, why)
        self.eta, self.eta_b = as_eta(eta), as_eta(eta_b, "eta_b")

    def first_state(self, n: int, prior: Tensor | None, source: Source) -> Tensor:
        x = super().first_state(n, prior, source)
        process, t = self.denoiser.process, self.times[0]
        a_t, sigma_t = process.signal_scale(t), process.sigma(t)
        if prior is not None or a_t == 0:
            return x
        least = a_t * self.sigma_y / sigma_t  # r ≤ L where singular values are no less

        def gain(values: Tensor) -> Tensor:  # of a_t ȳ
            return torch.where(values >= least, reciprocal(values), 0)

        def deviation(values: Tensor) -> Tensor:  # (L² − r²)^{1/2}/L, as x has the noise of L
            return (1 - (least * gain(values)) ** 2).clamp(min=0).sqrt()

        return self.by_directions(torch.zeros_like(x), a_t * self.measurement(x), gain, deviation, x)

    def move(self, x_t: Tensor, t: float, s: float, draws: Draws, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        process = self.denoiser.process
        a_t, a_s, sigma_t = process.signal_scale(t), process.signal_scale(s), process.sigma(t)
        level, kept = process.sigma(s) / a_s, math.sqrt(1 - self.eta**2)  # L′
        clean = self.estimate(x_t, t, given)
        y = self.measurement(clean)

        def gain(values: Tensor) -> Tensor:  # of ȳ − m
            r = self.sigma_y * reciprocal(values)
            return reciprocal(values) * torch.where(r > level, kept * level * reciprocal(r), self.eta_b)

        if s == 0:
            return self.by_directions(clean, y, gain, None, None), clean

        def deviation(values: Tensor) -> Tensor:
            r = self.sigma_y * reciprocal(values)
            rest = (level**2 - self.eta_b**2 * r**2).clamp(min=0).sqrt()
            return torch.where((r > level) | (values == 0), self.eta * level, rest)

        eps = (x_t - a_t * clean) / sigma_t
        unseen = self.in_directions(lambda values: kept * level * (values == 0).to(values.dtype), eps)
        seen = self.by_directions(clean, y, gain, deviation, draws.kernel(clean))
        return a_s * (seen + unseen), clean
