"""Progressive Deblurring: fine detail turns into noise sooner than coarse detail, each direction on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lineardiffusion import paths
from lineardiffusion._checks import as_index, as_number, as_shape, full_precision
from lineardiffusion.config import Configured, configured
from lineardiffusion.covariance import GramCovariance
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.families.ihdm import BeforeLast
from lineardiffusion.losses import SNR
from lineardiffusion.operators.bases import Basis
from lineardiffusion.operators.multipliers import Casts
from lineardiffusion.operators.separable import along_axes, outer, spatial_axes
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules import CovarianceTable, NoiseSchedule, Schedule, as_schedule
from lineardiffusion.schedules.grids import Steps

# Singular values of a blur along an axis are taken for no less, as in the authors' code.
_LEAST = 0.03


class ProgressiveDeblurring(Family):
    r"""x_t = U B̄_t^{1/2} Uᵀ x_0 + U (I − B̄_t)^{1/2} Uᵀ ε, variance preserved in every direction, with

        B̄_t = Π_{k ≤ t} B_k,   B_k = (1 − β_k) D^{2 f_k},   f_k = (σ_max/σ_blur)² (k/T)⁴,

    and U D Uᵀ a Gaussian blur of σ_blur pixels with zeros beyond the borders: D^{f_k} is about one of σ_blur √f_k. The
    network predicts ε and is told t itself; t = T is neither trained nor visited, as in the authors' code.

    Exact: sampled by the posterior of these transitions, N(x_t; U B_t^{1/2} Uᵀ x_{t−1}, U (I − B_t) Uᵀ), which the
    paper's own step approximates (`DeblurringSampler`).

    References:
        | Progressive Deblurring of Diffusion Models for Coarse-to-Fine Image Synthesis (Lee et al., 2022)
        | https://arxiv.org/abs/2207.11192

    Arguments:
        shape: event shape, channels first.
        num_steps: T ≥ 2.
        blur_sigma: σ_blur > 0, in pixels.
        blur_sigma_max: σ_max ≥ 0, in pixels: about the blur of the last step.
        schedule: as for `DDPM`, of ᾱ_t = Π (1 − β_k).

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.ProgressiveDeblurring((1, 8, 8), num_steps=20)
        >>> d = p.denoiser(lambda x, t: torch.zeros_like(x))
        >>> ld.families.DeblurringSampler(d)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="Lee et al., 2022",
        url="https://arxiv.org/abs/2207.11192",
        degradation=r"Gaussian blur, 0.4 pixels to the power of $\sum_k f_k$, zeros beyond the borders",
        noise=r"$I - M_{1:t} M_{1:t}^\top$",
        schedule=r"$a_t^2 = \bar\alpha_t$; β linear from $10^{-4}$ to 0.02",
        prediction="noise",
        sampler="ancestral, 999 steps; the paper's is of first order",
        exact="exact",
    )
    prediction = "noise"
    drawn_times = BeforeLast()
    weighting = SNR()

    def __init__(
        self,
        shape: Sequence[int],
        num_steps: int = 1000,
        blur_sigma: float = 0.4,
        blur_sigma_max: float = 0.15,
        schedule: NoiseSchedule = "linear",
    ) -> None:
        num_steps = as_index(num_steps, 2, 2**31, "num_steps")
        modes, scales = BlurModes(shape, blur_sigma), as_schedule(schedule, num_steps)
        if not 0 <= as_number(blur_sigma_max, "blur_sigma_max") < math.inf:
            raise ValueError(f"blur_sigma_max: expected a number ≥ 0, in pixels, got {blur_sigma_max}")
        gains = BlurGains(modes, num_steps, (blur_sigma_max / blur_sigma) ** 2)
        super().__init__(paths.spectral(modes, gains), ComplementaryNoise(gains, scales))

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        return Denoiser(network, self, self.prediction, time_input="time")

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, range(int(self.end) - 1, 0, -1) if steps is None else steps, **settings)


@configured("families.DeblurringSampler")
class DeblurringSampler(Sampler):
    r"""x_s = x_t + (I − W) x_t + (I − WWᵀ) score + (I − WWᵀ)^{1/2} z with W = M_{s→t} and the score −Σ_t⁻¹(x_t − μ_t):
    an unsharp mask, the noise removed, and new noise where s > 1.

    Approximates, to first order in I − W, the posterior of a process with Σ_t = I − M_{1:t} M_{1:t}ᵀ, where WWᵀ is how
    much of its variance a direction keeps: a discretisation of the reverse SDE, made for steps from t to t − 1.

    Arguments:
        denoiser: estimates c_t from x_t.
        steps: as for `ld.DDIMSampler`; the paper visits T − 1, …, 1.
        clip: range of the estimates, such as (−1, 1) for images.
    """

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        process = self.denoiser.process
        estimate, r = self.denoiser.estimate(x_t, t, **conditioning)
        with full_precision(x_t):
            clean, own = (self.clipped(self.denoiser.carry(estimate, r, u)) for u in (t, s))
            score = process.noise_covariance(t).solve(process.signal_scale(t) * clean - x_t)
            blur = process.operator(s, t)
            mean = 2 * x_t - blur(x_t) + blur.cogram_function(lambda values: 1 - values, score)
            if s <= 1:
                return mean, own
            noise = blur.cogram_function(lambda values: (1 - values).clamp(min=0).sqrt(), draws.kernel(own))
            return mean + noise, own


@configured("families.BlurModes")
class BlurModes(Basis):
    r"""U of the symmetric blur U D Uᵀ by a Gaussian along every axis but the channels, with zeros beyond the borders.

    Arguments:
        shape: event shape, channels first.
        blur_sigma: its standard deviation, in pixels.

    Attributes:
        singular_values: D, of the shape of the spatial axes.

    Raises:
        ValueError: a width that is not positive.
    """

    def __init__(self, shape: Sequence[int], blur_sigma: float) -> None:
        self.shape = self.coordinates = as_shape(shape)
        self.blur_sigma = as_number(blur_sigma, "blur_sigma")
        if not 0 < self.blur_sigma < math.inf:
            raise ValueError(f"blur_sigma: expected a number > 0, in pixels, got {blur_sigma}")
        found = [self._modes(n) for n in self.shape[-spatial_axes(self.shape) :]]
        self.singular_values = outer([values.abs().clamp(min=_LEAST) for values, _ in found]).clamp(max=1)
        self._matrices = [Casts(vectors) for _, vectors in found]

    def _modes(self, n: int) -> tuple[Tensor, Tensor]:
        taps = torch.exp(-0.5 * (torch.arange(1 - n, n, dtype=torch.float64) / self.blur_sigma).square())
        position = torch.arange(n)
        values, vectors = torch.linalg.eigh((taps / taps.sum())[position - position[:, None] + n - 1])
        return values, vectors

    def _analyse(self, x: Tensor) -> Tensor:
        return along_axes([matrix(x).T for matrix in self._matrices], x)

    def _synthesise(self, z: Tensor) -> Tensor:
        return along_axes([matrix(z) for matrix in self._matrices], z)


@configured("families.BlurGains")
@dataclass(frozen=True, eq=False, repr=False)
class BlurGains(Configured):
    r"""D^{F_t}, F_t = strength · Σ_{k ≤ t} (k/T)⁴.

    Arguments:
        modes: of the blur.
        num_steps: T.
        strength: f_T.
    """

    modes: BlurModes
    num_steps: int
    strength: float

    def exponent(self, t: float) -> float:
        """F_t, linear between integers."""
        k = np.arange(self.num_steps + 1)
        return float(np.interp(t, k, self.strength * np.cumsum((k / self.num_steps) ** 4)))

    def __call__(self, t: float) -> Tensor:
        return self.modes.singular_values ** self.exponent(t)


@configured("families.ComplementaryNoise")
class ComplementaryNoise(CovarianceTable):
    r"""Σ_t = I − M_{1:t} M_{1:t}ᵀ with M_{1:t} = a_t U D^{F_t} Uᵀ: data of variance 1 keep it in every direction.

    Arguments:
        gains: D^{F_t}.
        schedule: of a_t, with steps.
    """

    def __init__(self, gains: BlurGains, schedule: Schedule) -> None:
        self.gains, self.schedule = gains, schedule
        blur = SpectralFilter(gains.modes.shape, gains.modes.singular_values, gains.modes)
        signal = [schedule.signal(t) for t in range(gains.num_steps + 1)]
        variances = [
            partial(_variance, log_alpha=2 * math.log(a), exponent=gains.exponent(t)) for t, a in enumerate(signal)
        ]
        super().__init__([0.0, *(GramCovariance(blur, variance) for variance in variances[1:])], signal)

    def arguments(self) -> dict[str, object]:
        return {"gains": self.gains, "schedule": self.schedule}


def _variance(values: Tensor, log_alpha: float, exponent: float) -> Tensor:
    """1 − ᾱ λ^F of the eigenvalues λ of the blur's square."""
    return -torch.expm1(log_alpha + exponent * values.log())
