"""Denoising Diffusion Probabilistic Models: an image does not change, and noise is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lineardiffusion import paths
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import SNR
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.schedules import NoiseSchedule, as_schedule
from lineardiffusion.schedules.grids import Steps


class DDPM(Family):
    r"""x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, that is M_t = √α_t I with α_t = ᾱ_t/ᾱ_{t−1}.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239

    Arguments:
        shape: event shape, e.g. (3, 64, 64).
        num_steps: T.
        schedule: a name ("linear", "cosine", "cosine_log_snr"), a schedule, a function of T that makes one, or
            ᾱ_0, …, ᾱ_T.

    Raises:
        ValueError: a schedule that is unknown or does not decrease from 1.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.DDPM((3, 64, 64))
        >>> round(p.signal_scale(1000), 4), round(p.snr(1), 1)
        (0.0064, 9999.0)
    """

    card = Card(
        paper="Ho et al., 2020",
        url="https://arxiv.org/abs/2006.11239",
        degradation="$I$",
        noise="white",
        schedule=r"$a_t^2 = \bar\alpha_t$, $\sigma_t^2 = 1 - \bar\alpha_t$; β linear from $10^{-4}$ to 0.02",
        prediction="noise",
        sampler="ancestral, 1000 steps",
        exact="exact",
    )
    prediction = "noise"
    weighting = SNR()

    def __init__(self, shape: Sequence[int], num_steps: int = 1000, schedule: NoiseSchedule = "linear") -> None:
        super().__init__(paths.identity(shape), as_schedule(schedule, num_steps))

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> Sampler:
        return AncestralSampler(denoiser, steps, **settings)
