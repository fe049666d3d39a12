"""Pyramid noise: white noise of several resolutions, one upon the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_index, as_number, as_shape
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import SNR
from lineardiffusion.operators.bases import Haar, first
from lineardiffusion.predictions import ColouredNoise
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.schedules import NoiseSchedule, as_schedule
from lineardiffusion.schedules.grids import Steps


class PyramidNoise(Family):
    r"""x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) n with n white noise at full size and, with weights d^l, at every halved one, each
    pixel of which is repeated 2^l × 2^l times,

        n ∝ ε + Σ_{l=0}^{L} d^l U_l ε_l,      Σ_t ∝ (1 − ᾱ_t) (2 I + Σ_{l=1}^{L} (4 d²)^l P_l),

    P_l the projection on means of blocks of 2^l × 2^l pixels (with other numbers of axes, 2^{axes} for 4), scaled to a
    mean variance of 1. A network predicts n. Exact, as a process of this noise. Approximates what people train with,
    which draws the ratio between sizes in [2, 4] anew for each batch, interpolates bilinearly and divides each batch by
    its own deviation; this noise has one covariance, diagonal in Haar's basis.

    References:
        | Multi-Resolution Noise for Diffusion Model Training (Whitaker, 2023),
        | https://wandb.ai/johnowhitaker/multires_noise/reports/Multi-Resolution-Noise-for-Diffusion-Model-Training--VmlldzozNjYyOTU2

    Arguments:
        shape: event shape, channels first.
        discount: d in [0, 1]; 0.9 there, 0.8 in copies.
        levels: L, how often the size is halved; as often as it is even by default.
        num_steps, schedule: as for `DDPM`.

    Raises:
        ValueError: a discount out of range, or more levels than the sizes allow.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.families.PyramidNoise((1, 4, 4))
        >>> round(p.sigma(1000), 4), p.schedule.basis
        (1.0, Haar((1, 4, 4), levels=2))
    """

    card = Card(
        paper="Whitaker, 2023",
        url="https://wandb.ai/johnowhitaker/multires_noise/reports/"
        "Multi-Resolution-Noise-for-Diffusion-Model-Training--VmlldzozNjYyOTU2",
        degradation="$I$",
        noise=r"$\sigma_t^2(2I + \sum_l (4d^2)^l P_l)$, scaled to a mean variance of 1, $d = 0.9$",
        schedule="that of DDPM",
        prediction="the noise as it is",
        sampler="ancestral, 1000 steps",
        exact="exact for halved sizes; there ratios are random and interpolation bilinear",
    )
    prediction = ColouredNoise()
    weighting = SNR()

    def __init__(
        self,
        shape: Sequence[int],
        discount: float = 0.9,
        levels: int | None = None,
        num_steps: int = 1000,
        schedule: NoiseSchedule = "linear",
    ) -> None:
        if not 0 <= as_number(discount, "discount") <= 1:
            raise ValueError(f"discount: expected a number in [0, 1], got {discount}")
        event = as_shape(shape)
        sizes = event[1:] or event
        if levels is None:
            levels = min((n & -n).bit_length() - 1 for n in sizes)
        basis = Haar(event, as_index(levels, 0, 64, "levels"))
        variances = torch.full(sizes, 2.0, dtype=torch.float64)
        for level in range(1, levels + 1):
            first(variances, [n >> level for n in sizes]).add_((2 ** len(sizes) * discount**2) ** level)
        deviations: Tensor = (variances / variances.mean()).sqrt()
        super().__init__(paths.identity(event), schedules.coloured(as_schedule(schedule, num_steps), basis, deviations))

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, steps, **settings)
