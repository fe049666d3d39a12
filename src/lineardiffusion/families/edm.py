"""The design space of Karras et al.: noise is added to an image that is never scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lineardiffusion import paths, schedules
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import EDM as EDMWeighting
from lineardiffusion.predictions import EDMPrediction
from lineardiffusion.samplers.heun import HeunSampler
from lineardiffusion.schedules.grids import Steps, karras
from lineardiffusion.times import LogNormalSigma


class EDM(Family):
    r"""x_t = x_0 + σ_t ε for t in [0, 1], σ_t = 80 t⁷: equal times are nearly the noise levels of the paper.

    Networks that are trained for it are preconditioned, `Denoiser(…, prediction=ld.EDMPrediction(0.5))`, with times
    drawn by `ld.times.LogNormalSigma()`.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
        | https://arxiv.org/abs/2206.00364

    Arguments:
        shape: event shape.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.EDM((3, 64, 64))
        >>> p.sigma(1.0), p.signal_scale(0.5)
        (80.0, 1.0)
    """

    card = Card(
        paper="Karras et al., 2022",
        url="https://arxiv.org/abs/2206.00364",
        degradation="$I$",
        noise="white",
        schedule=r"$a_t = 1$, $\sigma_t = 80\,t^7$",
        prediction=r"preconditioned $F$ of Table 1, $\sigma_d = 0.5$",
        sampler=r"Heun's method, Karras' grid of 18 steps from 80 to 0.002",
        exact="exact",
    )
    prediction = EDMPrediction(0.5)
    drawn_times = LogNormalSigma()
    weighting = EDMWeighting(0.5)

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(paths.identity(shape), schedules.edm())

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> HeunSampler:
        return HeunSampler(denoiser, karras(18) if steps is None else steps, **settings)
