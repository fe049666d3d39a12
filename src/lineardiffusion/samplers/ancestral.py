"""Ancestral sampling: every step draws from the posterior."""

from __future__ import annotations

from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.residual import Residual
from lineardiffusion.samplers.markov import MarkovSampler
from lineardiffusion.samplers.multistep import Rule
from lineardiffusion.schedules.grids import Steps


@configured("AncestralSampler")
class AncestralSampler(MarkovSampler):
    r"""x_s ~ q(x_s | x_t, x_0 = x̂_0), the posterior of Eq. 6 of Scale Space Diffusion: DDPM's sampler for any linear
    degradation. With order=2 it is SDE-DPM-Solver++(2M).

    Arguments:
        denoiser: estimates c_s from x_t.
        steps: how many steps to take on a uniform grid, a grid (`ld.grids`), or the times themselves; see `Sampler`.
        order, rule, corrector, residual: see `MarkovSampler`.
        clip: range of the estimates, such as (−1, 1) for images.

    Raises:
        TypeError, ValueError: as there.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 8, 8), levels=2, num_steps=100)
        >>> d = ld.Denoiser(lambda x, t_index, size: x.new_zeros(len(x), 1, *size), p)
        >>> ld.AncestralSampler(d, steps=10)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: Steps = None,
        order: int = 1,
        rule: Rule = "moment",
        corrector: bool = False,
        clip: tuple[float, float] | None = None,
        residual: Residual | None = None,
    ) -> None:
        super().__init__(denoiser, steps, 1.0, order, rule, corrector, clip, residual)
