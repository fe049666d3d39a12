"""Scale Space Diffusion: very noisy states hold no more than small images do, and are small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lineardiffusion import paths
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import MinSNR
from lineardiffusion.operators.separable import Mode
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.schedules import NoiseSchedule, ResolutionSchedule, as_schedule
from lineardiffusion.schedules.grids import Steps


class ScaleSpaceDiffusion(Family):
    r"""x_t = √ᾱ_t R_t x_0 + √(1 − ᾱ_t) ε with R_t x_0 the image at the resolution r(t), resized level by level:

        M_t = √α_t I                      where r(t) = r(t − 1),
        M_t = √α_t Resize(r(t − 1) → r(t))   otherwise.

    Level l of an axis of n pixels has ⌈n / 2^l⌉. With mode "haar" the levels are orthonormal, which keeps white noise
    white, so that the coarse state is a projection of the fine one and loses nothing of what it shows; a_t then has a
    factor 2^{d/2} for each level.

    References:
        | Scale Space Diffusion (Mukhopadhyay et al., 2026), Sec. 4.1, https://arxiv.org/abs/2603.08709

    Arguments:
        shape: event shape of the data, channels first.
        levels: number of resolutions; 1 is DDPM.
        num_steps: T.
        schedule: as for `DDPM`.
        resolution_schedule, mode, factor: as for `ld.paths.pyramid`.

    Raises:
        ValueError: levels beyond what the shape holds, odd sizes for "haar", or a resolution schedule that is not
            monotone.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((3, 48, 64), levels=2)
        >>> p.shape(0), p.shape(1000), p.shape_changes()
        ((3, 48, 64), (3, 24, 32), [751])
    """

    card = Card(
        paper="Mukhopadhyay et al., 2026",
        url="https://arxiv.org/abs/2603.08709",
        degradation="resized to the resolution of $t$, level by level",
        noise="white",
        schedule=r"$a_t^2 = \bar\alpha_t$, $\sigma_t^2 = 1 - \bar\alpha_t$, as DDPM",
        prediction="$c_{t-1}$, the clean image just below $t$",
        sampler="ancestral, 1000 steps",
        exact="exact",
    )
    prediction = "clean"
    weighting = MinSNR(5.0)

    def __init__(
        self,
        shape: Sequence[int],
        levels: int = 4,
        num_steps: int = 1000,
        schedule: NoiseSchedule = "linear",
        resolution_schedule: ResolutionSchedule | Sequence[int] | None = None,
        mode: Mode | Literal["haar"] = "bilinear",
        factor: float | Sequence[Any] = 2,
    ) -> None:
        path = paths.pyramid(shape, levels, resolution_schedule, mode, factor)
        super().__init__(path, as_schedule(schedule, num_steps))

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, steps, **settings)
