"""EqualSNR: noise with the spectrum of the data, so that all frequencies fade together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_numbers, as_shape
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import SNR
from lineardiffusion.operators.bases import Fourier
from lineardiffusion.samplers.ddim import DDIMSampler
from lineardiffusion.schedules import NoiseSchedule, as_schedule
from lineardiffusion.schedules.grids import Steps


class EqualSNR(Family):
    r"""x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) V diag(C/mean C)^{1/2} Vᴴ ε with V the Fourier basis and C_k the variance of the
    data at each frequency, so that the signal-to-noise ratio is mean(C) ᾱ_t/(1 − ᾱ_t) at all of them: the mean of those
    that DDPM has with the same ᾱ_t. Exact.

    The network predicts ε, white, as here it is the error of x̂_0 relative to the data at each frequency: this choice,
    the schedule and the sampler's steps are ours, and so is the spectrum of the default, a power law |f|⁻², which the
    paper measures in its data.

    References:
        | A Fourier Space Perspective on Diffusion Models (Falck et al., 2025), Sec. 4, https://arxiv.org/abs/2505.11278

    Arguments:
        shape: event shape, channels first.
        spectrum: C_k > 0, a tensor that broadcasts to the shape, in the order of `torch.fft.fftfreq` along the axes but
            the first: (of images without their mean) the mean of |`ld.bases.Fourier(shape).analyse(images)`|².
        num_steps, schedule: as for `DDPM`.

    Raises:
        ValueError: a spectrum that does not fit, is not positive or not that of real images, C_k = C_{−k}.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.families.EqualSNR((1, 8, 8))
        >>> noise, data = p.noise_covariance(500), ld.families.EqualSNR.power_law((1, 8, 8))
        >>> gains = noise.root().operator.gain ** 2 / data  # up to a number
        >>> bool((gains - gains[0, 0]).abs().max() < 1e-12)
        True
    """

    card = Card(
        paper="Falck et al., 2025",
        url="https://arxiv.org/abs/2505.11278",
        degradation="$I$",
        noise=r"$\sigma_t^2 V \operatorname{diag}(C) V^*/\operatorname{mean} C$, the spectrum of the data",
        schedule=r"cosine, $a_t^2 = \bar\alpha_t$, $\sigma_t^2 = 1 - \bar\alpha_t$ (ours)",
        prediction="white noise (ours)",
        sampler=r"the kernel of $\eta = 0$, 100 steps (ours)",
        exact="exact",
    )
    prediction = "noise"
    weighting = SNR()

    def __init__(
        self,
        shape: Sequence[int],
        spectrum: Tensor | None = None,
        num_steps: int = 1000,
        schedule: NoiseSchedule = "cosine",
    ) -> None:
        spectrum = self.power_law(shape) if spectrum is None else as_numbers(spectrum, "spectrum")
        if not bool((spectrum > 0).all()):
            raise ValueError(f"spectrum: expected positive variances, got a least of {float(spectrum.min())}")
        deviations = (spectrum / spectrum.mean()).sqrt()
        noise = schedules.coloured(as_schedule(schedule, num_steps), Fourier(shape), deviations)
        super().__init__(paths.identity(shape), noise)

    @staticmethod
    def power_law(shape: Sequence[int]) -> Tensor:
        """|f|⁻² for frequencies f in cycles, and 1 for that of 0."""
        axes = [n * torch.fft.fftfreq(n, dtype=torch.float64) for n in as_shape(shape)[1:] or as_shape(shape)]
        return 1 / torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).clamp(min=1)

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> DDIMSampler:
        return DDIMSampler(denoiser, min(100, self.num_steps or 100) if steps is None else steps, **settings)
