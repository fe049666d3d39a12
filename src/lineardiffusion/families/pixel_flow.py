"""PixelFlow: a flow in stages on the pixels themselves, from a small image to a large one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card
from lineardiffusion.families.jumps import JumpSampler
from lineardiffusion.families.stages import StagedFlow, Stages, StageVelocity
from lineardiffusion.schedules.grids import Steps


class PixelFlow(StagedFlow):
    r"""Four stages k of size 1/2^k, in each of which a ratio r goes from 0 to 1 and x from a less to a more noisy and
    more pixelated end, for the mean P of 2 × 2 pixels

        x = [(1 − r)(1 − e_k) I + r (1 − s_k) P] D_k x_0 + ((1 − r) e_k + r s_k) ε,    e_k = k/4 .

    They are the quarters of t in [0, 1], noise at t = 1; the paper's time runs the other way, 1 − r within a stage. The
    network predicts −v = x_{r=0} − x_{r=1}. Exact: the jump between stages is the posterior, Euler's step the kernel of
    η = 0. Theirs adds 10⁻⁶ to the variances of the jump's noise, its batches mix the stages, and dopri5 is an
    alternative to Euler's method there.

    References:
        | PixelFlow: Pixel-Space Generative Models with Flow (Chen et al., 2025), https://arxiv.org/abs/2504.07963

    Arguments:
        shape: event shape, channels first, each size a multiple of 8.
        ends: e_0 = 0 < e_1 < …, the noise at the clean end of each stage, finest first.

    Raises:
        ValueError: levels that are not so, or sizes that cannot be halved as often.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.PixelFlow((3, 16, 16))
        >>> p.shape(0.2), p.shape(1.0), p.timestep(torch.tensor([1.0]))
        ((3, 16, 16), (3, 2, 2), tensor([0.], dtype=torch.float64))
        >>> d = p.denoiser(lambda x, timestep: torch.zeros_like(x))
        >>> p.sampler(d, p.stage_times([2, 2, 2, 2]))(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 3, 16, 16])
    """

    card = Card(
        paper="Chen et al., 2025",
        url="https://arxiv.org/abs/2504.07963",
        degradation=r"$2 \times 2$ means between stages; within one the detail fades linearly",
        noise="white",
        schedule=r"$a_t = 1 - \sigma_t$, linear in a stage: $\sigma$ from 0 to 0.4, 1/4 to 2/3, 1/2 to 6/7, 3/4 to 1",
        prediction=r"the velocity $x_{r=0} - x_{r=1}$ of a stage",
        sampler="Euler's method, 30 steps in each stage, and a jump between stages",
        exact="exact",
    )
    prediction = StageVelocity(toward_data=True)

    def __init__(self, shape: Sequence[int], ends: Sequence[float] = (0.0, 0.25, 0.5, 0.75)) -> None:
        super().__init__(shape, ends, _timesteps)

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> JumpSampler:
        return JumpSampler(denoiser, self.stage_times([30] * self.stages.count) if steps is None else steps, **settings)


def _timesteps(stages: Stages) -> list[tuple[float, float]]:
    """0 for noise, 999 at the last of 1000 ratios, 0.001."""
    *bounds, last = stages.bounds()
    pairs = itertools.pairwise([*bounds, bounds[-1] + (last - bounds[-1]) / 0.999])
    return [(clean, noisy) for noisy, clean in pairs][::-1]
