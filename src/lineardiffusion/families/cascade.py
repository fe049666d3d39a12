"""Cascaded Diffusion: a small image first, and then larger ones given the smaller."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lineardiffusion import schedules
from lineardiffusion._checks import as_index
from lineardiffusion.families.base import Card
from lineardiffusion.families.stacks import Stacked
from lineardiffusion.schedules import NoiseSchedule, Schedule, as_schedule


class CascadedDiffusion(Stacked):
    r"""A chain of models as one process: the finest of L resolutions is diffused for t = 1…T, the next for t = T + 1…2T
    and so on,

        x_t^l = √ᾱ_u D_l x_0 + √(1 − ᾱ_u) ε^l,   u = t − lT, no less than s (0 for l = 0) and no more than T.

    What is coarse stays at the level s of conditioning augmentation while what is finer is diffused; run backward, the
    coarse image comes first, and each finer model sees it with a little noise. A network is given the vector of all
    resolutions, `data` and `split` lead there and back; what waits, at either end, needs none of its estimate.

    Exact, where conditioning is augmented by noise (the paper's truncated and non-truncated augmentation) and the
    coarse image is the mean of blocks; augmentation by blur is not covered.

    References:
        | Cascaded Diffusion Models (Ho et al., 2021), Sec. 4.2, https://arxiv.org/abs/2106.15282

    Arguments:
        shape: event shape of the images, channels first.
        levels: number of resolutions.
        num_steps, schedule: T and ᾱ of each model, as for `DDPM`.
        augmentation: s, in 1…T; the paper searches it for every model, and 100 is none of its.

    Raises:
        ValueError: sizes that cannot be halved so often, s out of range, or as `DDPM`.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.families.CascadedDiffusion((1, 8, 8))
        >>> p.num_steps, p.shape(0)
        (2000, (80,))
    """

    card = Card(
        paper="Ho et al., 2021",
        url="https://arxiv.org/abs/2106.15282",
        degradation=r"$(D_0, D_1, \dots)$, one resolution after the other",
        noise="white within a resolution, of a level for each",
        schedule="DDPM's for each resolution in turn; what is coarser waits at the level of augmentation",
        prediction="noise of all resolutions",
        sampler="ancestral, 250 steps",
        exact="exact",
    )

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 2,
        num_steps: int = 1000,
        schedule: NoiseSchedule = "cosine",
        augmentation: int = 100,
    ) -> None:
        one, levels = (
            as_schedule(schedule, as_index(num_steps, 1, 2**31, "num_steps")),
            as_index(levels, 1, 64, "levels"),
        )
        waits = as_index(augmentation, 1, num_steps, "augmentation")
        super().__init__(shape, [in_turn(one, level, levels, waits) for level in range(levels)])


def in_turn(schedule: Schedule, level: int, levels: int, waits: int) -> Schedule:
    """The levels of one resolution over the time of all of them."""
    steps = schedule.num_steps or 0
    t = torch.arange(1, levels * steps + 1)
    u = (t - level * steps).clamp(waits if level else 0, steps)
    signal, sigma = schedule(torch.cat([torch.zeros(1, dtype=u.dtype), u]))
    return schedules.table(signal, sigma)
