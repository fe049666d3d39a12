"""Matryoshka Diffusion: all resolutions of an image at once, the fine ones noisier than the coarse."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lineardiffusion import schedules
from lineardiffusion._checks import as_index
from lineardiffusion.families.base import Card
from lineardiffusion.families.stacks import Stacked
from lineardiffusion.schedules import NoiseSchedule, Schedule, as_schedule


class Matryoshka(Stacked):
    r"""x_t^l = √ᾱ_t^l D_l x_0 + √(1 − ᾱ_t^l) ε^l for l = 0, 1, … at once, with D_l the image at 1/2^l of its size, and
    signal-to-noise ratios that fall with the resolution,

        SNR_t^l = SNR_t / 2^{L − l},   L the coarsest level,

    the shift of the authors' code (`schedule_shifted`). One network, nested from coarse to fine, predicts the noise of
    all of them; it is given the vector of all resolutions, `data` and `split` lead there and back.

    Exact: the vector is a linear image of x_0 whose coordinates have schedules of their own.

    References:
        | Matryoshka Diffusion Models (Gu et al., 2023), Sec. 3.2, https://arxiv.org/abs/2310.15111

    Arguments:
        shape: event shape of the images, channels first.
        levels: number of resolutions; the paper's 256 × 256 model has two, its 1024 × 1024 model three.
        num_steps, schedule: as for `DDPM`, of the coarsest resolution.

    Raises:
        ValueError: sizes that cannot be halved so often, or as `DDPM`.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.Matryoshka((1, 8, 8))
        >>> p.shape(0), [tuple(part.shape) for part in p.split(p.data(torch.zeros(2, 1, 8, 8)))]
        ((80,), [(2, 1, 8, 8), (2, 1, 4, 4)])
        >>> d = p.denoiser(lambda x, index: torch.zeros_like(x))
        >>> p.images(p.sampler(d, 4)(2, seeds=[0, 1], progress=False)).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="Gu et al., 2023",
        url="https://arxiv.org/abs/2310.15111",
        degradation=r"$(D_0, D_1, \dots)$, all resolutions at once",
        noise="white within a resolution, of a level for each",
        schedule=r"DDPM's for the coarsest, $\mathrm{SNR}^l_t = \mathrm{SNR}_t / 2^{L-l}$",
        prediction="noise of all resolutions",
        sampler="ancestral, 250 steps",
        exact="exact",
    )

    def __init__(
        self, shape: Sequence[int], levels: int = 2, num_steps: int = 1000, schedule: NoiseSchedule = "linear"
    ) -> None:
        coarsest = as_schedule(schedule, as_index(num_steps, 1, 2**31, "num_steps"))
        levels = as_index(levels, 1, 64, "levels")
        super().__init__(shape, [shifted(coarsest, 2 ** (levels - 1 - level)) for level in range(levels)])


def shifted(schedule: Schedule, ratio: float) -> Schedule:
    """The variance-preserving schedule whose SNR is so much smaller: ᾱ' = ᾱ / (ᾱ + ratio (1 − ᾱ))."""
    if ratio == 1:
        return schedule
    alpha_bar = schedule.signal(torch.arange((schedule.num_steps or 0) + 1)).square()
    return schedules.from_alpha_bar(alpha_bar / (alpha_bar + ratio * (1 - alpha_bar)))
