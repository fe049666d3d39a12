"""Pyramidal Flow Matching: one flow in stages, each at twice the resolution of the one before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card
from lineardiffusion.families.jumps import JumpSampler
from lineardiffusion.families.stages import StagedFlow, Stages
from lineardiffusion.schedules.grids import Steps


class PyramidFlow(StagedFlow):
    r"""Three stages k of size 1/2^k, in each of which a ratio r goes from 0 to 1 and x from a less to a more noisy and
    more pixelated end, for the mean P of 2 × 2 pixels

        x = [(1 − r)(1 − e_k) I + r (1 − s_k) P] D_k x_0 + ((1 − r) e_k + r s_k) ε,    e = 0, 0.334, 0.667 .

    They are the thirds of t in [0, 1], noise at t = 1. The network predicts v = x_{r=1} − x_{r=0}. Exact: the jump
    between stages is the posterior, Euler's step the kernel of η = 0. What the paper conditions on, the frames before
    at lower resolutions, is passed on to the network as any condition; its batches mix the stages, here each has one.

    References:
        | Pyramidal Flow Matching for Efficient Video Generative Modeling (Jin et al., 2024), Sec. 3.2
        | https://arxiv.org/abs/2410.05954

    Arguments:
        shape: event shape, channels first, each size a multiple of 4; frames count as channels.
        ends: e_0 = 0 < e_1 < …, the noise at the clean end of each stage, finest first. By default those of the
            authors' code, which cuts 1000 levels after 333 and 666.

    Raises:
        ValueError: levels that are not so, or sizes that cannot be halved as often.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.PyramidFlow((4, 16, 24))
        >>> p.shape(0.2), p.shape(0.5), p.shape(1.0)
        ((4, 16, 24), (4, 8, 12), (4, 4, 6))
        >>> d = p.denoiser(lambda x, timestep: torch.zeros_like(x))
        >>> p.sampler(d, p.stage_times([2, 2, 2]))(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 4, 16, 24])
    """

    card = Card(
        paper="Jin et al., 2024",
        url="https://arxiv.org/abs/2410.05954",
        degradation=r"$2 \times 2$ means between stages; within one the detail fades linearly",
        noise="white",
        schedule=r"$a_t = 1 - \sigma_t$, linear in a stage: $\sigma$ from 0 to 0.50, 0.33 to 0.80, 0.67 to 1",
        prediction=r"the velocity $x_{r=1} - x_{r=0}$ of a stage",
        sampler="Euler's method, 20 steps in each stage, and a jump between stages",
        exact="exact",
    )

    def __init__(self, shape: Sequence[int], ends: Sequence[float] = (0.0, 0.334, 0.667)) -> None:
        super().__init__(shape, ends, _timesteps)

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> JumpSampler:
        return JumpSampler(denoiser, self.stage_times([20] * self.stages.count) if steps is None else steps, **settings)


def _timesteps(stages: Stages) -> list[tuple[float, float]]:
    """1000 for noise, 1 for data."""
    bounds = [1000 - bound for bound in reversed(stages.bounds())]
    return list(itertools.pairwise(bounds))
