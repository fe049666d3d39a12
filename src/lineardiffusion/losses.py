r"""The training objective E[w(SNR_t) ‖ĉ_{t−1} − c_{t−1}‖²] (Eq. 7 of Scale Space Diffusion), and its weightings.

The error is always that of the clean image; what is usual for other predictions is a weighting of it. Where c_{t−1} is
c_t, as for DDPM and between the changes of shape of Scale Space Diffusion, `SNR` is the mean squared error of the
noise, the "simple" loss of DDPM. Where a step degrades the image, or noise is not isotropic, it is not: the error of
c_{t−1} is then that of the noise coloured, and with the step undone, and no weighting by t alone takes that back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import compute_dtype
from lineardiffusion.denoiser import Denoiser

Weighting = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MinSNR:
    """w = min(SNR, γ) (Hang et al., 2023, https://arxiv.org/abs/2303.09556).

    Raises:
        ValueError: γ is not positive.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.clamp(max=self.gamma)


@dataclass(frozen=True)
class MaxSNR:
    """w = max(SNR, γ), max-SNR-γ of the original implementation of Scale Space Diffusion: no time weighs less than γ.

    Raises:
        ValueError: γ is not positive.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.clamp(min=self.gamma)


@dataclass(frozen=True)
class TruncatedSNR(MaxSNR):
    """w = max(SNR, 1) (Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512)."""

    gamma: float = field(default=1.0, init=False, repr=False)


@dataclass(frozen=True)
class SNR:
    """w = SNR: where c_{t−1} = c_t, the mean squared error of the noise (Ho et al., 2020,
    https://arxiv.org/abs/2006.11239)."""

    def __call__(self, snr: Tensor) -> Tensor:
        return snr


@dataclass(frozen=True)
class InverseSNR:
    """w = 1/SNR, and 1 where the SNR is 0, as inv-SNR of the original implementation of Scale Space Diffusion: noisy
    times weigh most."""

    def __call__(self, snr: Tensor) -> Tensor:
        return torch.where(snr == 0, 1.0, 1 / snr)


@dataclass(frozen=True)
class Uniform:
    """w = 1: the mean squared error of the clean image."""

    def __call__(self, snr: Tensor) -> Tensor:
        return torch.ones_like(snr)


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma: expected a positive number, got {gamma}")


def denoising_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: int | Tensor,
    noise: Tensor | None = None,
    weighting: Weighting | None = None,
    generator: torch.Generator | None = None,
    **conditioning: Any,
) -> Tensor:
    r"""w(SNR_t) · mean (ĉ_{t−1}(x_t, t) − c_{t−1})² for each sample, x_t = M_{1:t} x_0 + σ_t ε.

    Arguments:
        denoiser: the Denoiser to train.
        x0: data, with shape (B, *shape(0)).
        t: one time for all, or a LongTensor (B,), as from `process.sample_timesteps`.
        noise: ε, with the shape of x_t; drawn from `generator` where it is not given.
        weighting: from SNR_t to weights; MinSNR(5.0) by default.
        conditioning: passed on to the network.

    Returns:
        Losses, with shape (B,), in the dtype of x0 or, where that is narrower, in float32, as all arithmetic is.

    Raises:
        ValueError: as `LinearDiffusion.diffuse` and `Denoiser`.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.DDPM((1, 8, 8), num_steps=100)
        >>> d = ld.Denoiser(lambda x, t_index: x, p)
        >>> t = p.sample_timesteps(4, torch.Generator().manual_seed(0))
        >>> ld.denoising_loss(d, torch.zeros(4, 1, 8, 8), t).shape
        torch.Size([4])
    """
    process = denoiser.process
    x0 = x0.to(compute_dtype(x0.dtype))
    x_t = process.diffuse(x0, t, noise, generator)
    error: Tensor = (denoiser(x_t, t, **conditioning) - process.clean(x0, t - 1)).square().flatten(1).mean(1)
    snr = torch.as_tensor(process.snr(t), dtype=torch.float64)
    return (MinSNR() if weighting is None else weighting)(snr).to(error) * error
