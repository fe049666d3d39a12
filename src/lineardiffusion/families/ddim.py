"""Denoising Diffusion Implicit Models: DDPM's marginals, with less noise on the way back."""

from __future__ import annotations

from typing import Any

from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.ddpm import DDPM
from lineardiffusion.samplers.ddim import DDIMSampler
from lineardiffusion.schedules.grids import Steps, leading


class DDIM(DDPM):
    r"""The process of `DDPM`, sampled by kernels with the same marginals,

        x_s = a_s x̂_0 + (σ_s² − η²C)^{1/2} ε̂ + η C^{1/2} z,   C = σ_s² (1 − a_t²σ_s²/(a_s²σ_t²)),

    at η = 0 without any noise but x_T, in 50 steps or, where there are fewer, all of them. Exact.

    References:
        | Denoising Diffusion Implicit Models (Song et al., 2021), Eq. 12 and 16, https://arxiv.org/abs/2010.02502

    Arguments:
        shape, num_steps, schedule: as for `DDPM`.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.DDIM((1, 8, 8))
        >>> d = p.denoiser(lambda x, index: torch.zeros_like(x))
        >>> p.sampler(d)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = DDPM.card._replace(
        paper="Song et al., 2021",
        url="https://arxiv.org/abs/2010.02502",
        sampler=r"the kernel of $\eta = 0$, 50 of every 20th time",
    )

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> DDIMSampler:
        return DDIMSampler(denoiser, leading(min(50, self.num_steps or 50)) if steps is None else steps, **settings)
