"""Blurring Diffusion: high frequencies fade first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lineardiffusion import paths
from lineardiffusion._checks import as_number
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import SNR
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.schedules import NoiseSchedule, as_schedule
from lineardiffusion.schedules.grids import Steps


class BlurringDiffusion(Family):
    r"""x_t = V diag(a_t d_t) Vᵀ x_0 + σ_t ε with Vᵀ the cosine transform, and for the frequency f_k of each coefficient

        d_t(k) = (1 − d_min) exp(−‖f_k‖² τ_t) + d_min,   τ_t = σ_B(t)²/2,   σ_B(t) = σ_B,max sin²(π t / 2T).

    exp(−‖f‖² τ) is the heat equation after the dissipation time τ, a Gaussian blur of σ_B(t) pixels; d_min keeps the
    posterior from amplifying what is lost. a_t = √ᾱ_t and σ_t = √(1 − ᾱ_t) follow the cosine log-SNR schedule. The
    paper's network predicts the noise: `Denoiser(…, prediction="noise")`.

    References:
        | Blurring Diffusion Models (Hoogeboom & Salimans, 2023), Sec. 4 and Appendix A
        | https://arxiv.org/abs/2209.05557

    Arguments:
        shape: event shape, channels first.
        num_steps: T.
        blur_sigma_max: σ_B,max ≥ 0, in pixels; 0 is DDPM.
        min_scale: d_min in (0, 1].
        schedule: as for `DDPM`.

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.BlurringDiffusion((1, 16, 16), num_steps=100)
        >>> p.operator(0, 50).gain.shape, p.degradation(20, 80).basis
        (torch.Size([16, 16]), 'dct')
    """

    card = Card(
        paper="Hoogeboom & Salimans, 2023",
        url="https://arxiv.org/abs/2209.05557",
        degradation=r"heat equation, $\sigma_B = 20 \sin^2(\pi t/2T)$ pixels, floor $10^{-3}$",
        noise="white",
        schedule="cosine log-SNR",
        prediction="noise",
        sampler="ancestral, 1000 steps",
        exact="exact",
    )
    prediction = "noise"
    weighting = SNR()

    def __init__(
        self,
        shape: Sequence[int],
        num_steps: int = 1000,
        blur_sigma_max: float = 20.0,
        min_scale: float = 1e-3,
        schedule: NoiseSchedule = "cosine_log_snr",
    ) -> None:
        if not 0 <= as_number(blur_sigma_max, "blur_sigma_max") < math.inf:
            raise ValueError(f"blur_sigma_max: expected a number ≥ 0, in pixels, got {blur_sigma_max}")
        if not 0 < as_number(min_scale, "min_scale") <= 1:
            raise ValueError(f"min_scale: expected a number in (0, 1], got {min_scale}")
        super().__init__(paths.heat(shape, blur_sigma_max, min_scale), as_schedule(schedule, num_steps))

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, steps, **settings)
