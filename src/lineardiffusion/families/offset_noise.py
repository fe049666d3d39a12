"""Offset noise: the mean of an image is as noisy as the rest, so that dark and bright images can be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_number, as_shape
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import SNR
from lineardiffusion.operators.bases import Cosine
from lineardiffusion.predictions import ColouredNoise
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.schedules import NoiseSchedule, as_schedule
from lineardiffusion.schedules.grids import Steps


class OffsetNoise(Family):
    r"""x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) n with n = ε + s ξ, one number ξ for all pixels of a channel, so that

        Σ_t = (1 − ᾱ_t)(I + s² 11ᵀ) in each channel.

    A network predicts n, as it does where white noise is exchanged for n in a program that trains DDPM; the loss is its
    mean square error relative to 1 + s², the mean square of n. Exact: x_T, transitions and posteriors have this
    covariance, where such programs draw white noise when they sample. That ξ gets a schedule of its own, as Kutsuna
    derives, is not here.

    References:
        | Diffusion with Offset Noise (Guttenberg, 2023), https://www.crosslabs.org/blog/diffusion-with-offset-noise
        | Generalized Diffusion Model with Adjusted Offset Noise (Kutsuna, 2024), https://arxiv.org/abs/2412.03134

    Arguments:
        shape: event shape, channels first.
        strength: s ≥ 0, 0.1 there.
        num_steps, schedule: as for `DDPM`.

    Raises:
        ValueError: a strength that is negative.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.OffsetNoise((1, 2, 2), strength=1.0)
        >>> p.diffuse(torch.zeros(1, 2, 2), 1000, noise=torch.ones(1, 2, 2)).round(decimals=2)  # √(1 + 4 s²)
        tensor([[[2.2400, 2.2400],
                 [2.2400, 2.2400]]])
    """

    card = Card(
        paper="Guttenberg, 2023",
        url="https://www.crosslabs.org/blog/diffusion-with-offset-noise",
        degradation="$I$",
        noise=r"$\sigma_t^2(I + s^2 11^\top)$ in each channel, $s = 0.1$",
        schedule="that of DDPM",
        prediction=r"the noise as it is, $\varepsilon + s\xi$",
        sampler="ancestral, 1000 steps",
        exact="exact; programs that start from white noise approximate it",
    )
    weighting = SNR()

    def __init__(
        self,
        shape: Sequence[int],
        strength: float = 0.1,
        num_steps: int = 1000,
        schedule: NoiseSchedule = "linear",
    ) -> None:
        if not 0 <= as_number(strength, "strength") < math.inf:
            raise ValueError(f"strength: expected a number ≥ 0, got {strength}")
        event = as_shape(shape)
        deviations = torch.ones(event[1:] or event, dtype=torch.float64)
        # The mean is the first coordinate, of which 11ᵀ has the variance of all pixels.
        deviations.view(-1)[0] = math.sqrt(1 + strength**2 * deviations.numel())
        self.prediction = ColouredNoise(math.sqrt(1 + strength**2))
        noise = schedules.coloured(as_schedule(schedule, num_steps), Cosine(event), deviations)
        super().__init__(paths.identity(event), noise)

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, steps, **settings)
