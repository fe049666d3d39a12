"""The design space of Karras et al.: noise is added to an image that is never scaled."""

from __future__ import annotations

from collections.abc import Sequence

from lineardiffusion import paths, schedules
from lineardiffusion.processes.base import LinearDiffusion


class EDM(LinearDiffusion):
    r"""x_t = x_0 + σ_t ε for t in [0, 1], σ_t = 80 t⁷: equal times are nearly the noise levels of the paper.

    Networks that are trained for it are preconditioned: `Denoiser(…, prediction=ld.EDMPrediction(0.5))`, with times drawn
    by `ld.times.LogNormalSigma()`.

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

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(paths.identity(shape), schedules.edm())
