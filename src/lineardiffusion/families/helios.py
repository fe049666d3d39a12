"""Helios: the stages of Pyramidal Flow Matching, sampled by a predictor and corrector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card
from lineardiffusion.families.jumps import JumpSampler
from lineardiffusion.families.stages import StagedFlow, Stages
from lineardiffusion.schedules.grids import Steps


class Helios(StagedFlow):
    r"""The three stages of `PyramidFlow`, with levels cut from a table that begins at 0.999,

        x = [(1 − r)(1 − e_k) I + r (1 − s_k) P] D_k x_0 + ((1 − r) e_k + r s_k) ε,    e_k = 0.999 · (0, 0.334, 0.667) .

    The network predicts v = x_{r=1} − x_{r=0}. Approximates the sampler: UniPC of second order in the noise level of
    the process, where theirs has r in its place, takes the state after a jump for one of r = 0.999 and tells the
    network whole timesteps. The process and its jumps are exact. Missing are the shift of r by the length of a sequence
    and the sampler of the distilled model; what the model conditions on is passed on to the network.

    References:
        | Helios: Real Real-Time Long Video Generation Model (Yuan et al., 2026), https://arxiv.org/abs/2603.04379
        | HeliosScheduler and HeliosPyramidPipeline of diffusers, for the constants

    Arguments:
        shape: event shape, channels first, each size a multiple of 4; frames count as channels.
        ends: e_0 = 0 < e_1 < …, the noise at the clean end of each stage, finest first.

    Raises:
        ValueError: levels that are not so, or sizes that cannot be halved as often.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.Helios((4, 16, 24))
        >>> p.shape(1.0), round(p.sigma(2 / 3), 6)
        ((4, 4, 6), 0.666333)
        >>> d = p.denoiser(lambda x, timestep: torch.zeros_like(x))
        >>> p.sampler(d, p.stage_times([2, 2, 2]))(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 4, 16, 24])
    """

    card = Card(
        paper="Yuan et al., 2026",
        url="https://arxiv.org/abs/2603.04379",
        degradation=r"$2 \times 2$ means between stages; within one the detail fades linearly",
        noise="white",
        schedule=r"$a_t = 1 - \sigma_t$, linear in a stage: $\sigma$ from 0 to 0.50, 0.33 to 0.80, 0.67 to 1",
        prediction=r"the velocity $x_{r=1} - x_{r=0}$ of a stage",
        sampler="UniPC of second order, 10 steps in each stage, and a jump between stages",
        exact=r"process and jumps exact; theirs has UniPC in $r$",
    )

    def __init__(self, shape: Sequence[int], ends: Sequence[float] = (0.0, 0.333666, 0.666333)) -> None:
        super().__init__(shape, ends, _timesteps)

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> JumpSampler:
        steps = self.stage_times([10] * self.stages.count) if steps is None else steps
        return JumpSampler(denoiser, steps, **{"order": 2, "rule": "midpoint", "corrector": True, **settings})


def _timesteps(stages: Stages) -> list[tuple[float, float]]:
    """999 for noise, 0.999 for data."""
    return list(itertools.pairwise(0.999 * (1000 - bound) for bound in reversed(stages.bounds(0.999))))
