r"""The training objective E[w(SNR_t) ‖ĉ_r − c_r‖²] (Eq. 7 of Scale Space Diffusion), and its weightings.

It is computed where the network returns, from what it returns, F, and from what it should return, F*: an error of F is
one of the clean image that is q times as large (see `predictions`), so that

    w(SNR) ‖ĉ_r − c_r‖² = w(SNR) q² ‖F − F*‖².

What is usual for a prediction, ‖F − F*‖² itself, is then one of the weightings: `SNR` for noise, `Uniform` for clean
and data, `Velocity` for velocity (where a² + σ² = 1), `Flow` for flow and `EDM` for EDM's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import (
    as_positive,
    check_batch,
    check_function,
    check_kind,
    compute_dtype,
    draw_noise,
    got,
    is_batch,
)
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.predictions import ProcessPrediction, combine, levels

Weighting = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MinSNR:
    """w = min(SNR, γ) (Hang et al., 2023, https://arxiv.org/abs/2303.09556).

    Raises:
        ValueError: γ is not positive.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        as_positive(self.gamma, "gamma")

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
        as_positive(self.gamma, "gamma")

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.clamp(min=self.gamma)


@dataclass(frozen=True)
class TruncatedSNR(MaxSNR):
    """w = max(SNR, 1) (Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512)."""

    gamma: float = field(default=1.0, init=False, repr=False)


@dataclass(frozen=True)
class SNR:
    """w = SNR: the mean squared error of the noise (Ho et al., 2020, https://arxiv.org/abs/2006.11239)."""

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


@dataclass(frozen=True)
class Velocity:
    """w = 1 + SNR: the mean squared error of the velocity, where a² + σ² = 1 (Salimans & Ho, 2022,
    https://arxiv.org/abs/2202.00512)."""

    def __call__(self, snr: Tensor) -> Tensor:
        return 1 + snr


@dataclass(frozen=True)
class Flow:
    """w = (1 + √SNR)²: the mean squared error of the flow ε − c (Lipman et al., 2023,
    https://arxiv.org/abs/2210.02747)."""

    def __call__(self, snr: Tensor) -> Tensor:
        return (1 + snr.sqrt()).square()


@dataclass(frozen=True)
class EDM:
    """w = SNR + 1/σ_d² = (σ² + σ_d²)/(σσ_d)² where a = 1: λ(σ) of Karras et al. (2022, Table 1,
    https://arxiv.org/abs/2206.00364).

    Arguments:
        sigma_data: σ_d, the standard deviation of the data.

    Raises:
        ValueError: σ_d is not positive.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        as_positive(self.sigma_data, "sigma_data")

    def __call__(self, snr: Tensor) -> Tensor:
        return snr + 1 / self.sigma_data**2


def denoising_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: float | Tensor,
    noise: Tensor | None = None,
    weighting: Weighting | None = None,
    generator: torch.Generator | None = None,
    **conditioning: Any,
) -> Tensor:
    r"""w(SNR_t) q_t² · mean (F(x_t, t) − F*)² for each sample, x_t = M_{1:t} x_0 + Σ_t^{1/2} ε; see this module.

    Arguments:
        denoiser: the Denoiser to train.
        x0: data, with shape (B, *shape(0)).
        t: one time for all, or a tensor (B,), as from `process.sample_timesteps`.
        noise: ε, with the shape of x_t; drawn from `generator` where it is not given.
        weighting: from a tensor of SNR_t to weights, such as ld.MinSNR(5.0), the default.
        conditioning: passed on to the network.

    Returns:
        Losses, with shape (B,), in the dtype of x0 or, where that is narrower, in float32, as all arithmetic is.

    Raises:
        TypeError: a weighting that is no function.
        ValueError: as `LinearDiffusion.diffuse` and `Denoiser`.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.DDPM((1, 8, 8), num_steps=100)
        >>> d = ld.Denoiser(lambda x, index: x, p)
        >>> t = p.sample_timesteps(4, torch.Generator().manual_seed(0))
        >>> ld.denoising_loss(d, torch.zeros(4, 1, 8, 8), t).shape
        torch.Size([4])
    """
    check_kind(denoiser, Denoiser, "denoiser", "an ld.Denoiser, made by ld.Denoiser(network, process, prediction)")
    process, prediction = denoiser.process, denoiser.prediction
    weighting = MinSNR() if weighting is None else _as_weighting(weighting)
    check_batch(x0, process.shape(0), "x0")
    x0 = x0.to(compute_dtype(x0.dtype))
    if is_batch(t):
        t = t.cpu() if process.shape_changes() else t  # where its values are needed they are waited for once
        shape = process.common_shape(t)
    else:
        shape = process.shape(t)
    noise = draw_noise(x0.new_empty(x0.shape[0], *shape), noise, generator)
    x_t = process.diffuse(x0, t, noise)
    a, sigma = levels(process, t, x0.device)
    if isinstance(prediction, ProcessPrediction):
        expected = prediction.answer(process, t, x0, noise)
    else:
        alpha, beta = prediction.target(a, sigma)
        # A clean image costs a degradation, and plays no part in the noise.
        clean = process.clean(x0, prediction.time(process, t)) if isinstance(alpha, Tensor) or alpha else x0
        expected = combine(alpha, clean, beta, noise)
    error = denoiser.output(x_t, t, **conditioning) - expected
    error = error.square().flatten(1).mean(1)
    ratio = a / sigma if isinstance(a, Tensor) else error.new_full((1,), math.sqrt(process.snr(t)))
    _, q = prediction.estimate(a, sigma)
    return (_weights(weighting, ratio**2) * q**2).to(error) * error


def _weights(weighting: Weighting, snr: Tensor) -> Tensor:
    weights = weighting(snr)
    if not isinstance(weights, Tensor) or weights.shape not in (snr.shape, ()):
        raise TypeError(
            f"weighting: expected a function that returns a tensor of the shape of the SNR, {tuple(snr.shape)}, got "
            f"{got(weights)}"
        )
    return weights


def _as_weighting(weighting: Any) -> Weighting:
    expected = "a function of the SNR, such as ld.MinSNR(5.0), ld.SNR(), ld.Uniform(), ld.Velocity() or ld.Flow()"
    check_function(weighting, "weighting", expected)
    return weighting  # type: ignore[no-any-return]
