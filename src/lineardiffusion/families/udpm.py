"""Upsampling Diffusion: every step halves the image, so that a handful of them lead to noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_choice, as_numbers_in_a_row
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import Uniform
from lineardiffusion.operators.bases import Haar
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules.grids import Steps

Kernel = Literal["norm", "sum"]


class UDPM(Family):
    r"""x_t = α_t H x_{t−1} + σ_t n, H a mean of 2 × 2 pixels, times 2 where its kernel has the norm 1:

        x_t = ᾱ_t Hᵗ x_0 + σ̄_t ε,   ᾱ_t = α_1 ⋯ α_t,   σ̄_t² = α_t² σ̄_{t−1}² + σ_t² .

    That is their σ̄_t for a kernel of sum 1 too, of which n is then a little more than σ_t, as a mean of four leaves a
    quarter of the variance. The network predicts the image of half the size t − 1 times in the range of the data, their
    H^{t−1} x_0 up to a power of 2, and the sampler draws from the exact posterior. Exact; the published step,
    `UDPMSampler`, approximates it. The published networks are given (Hᵀ)ᵗ x_t, and trained by perceptual and
    adversarial losses: neither is here, the loss is the mean squared error.

    References:
        | UDPM: Upsampling Diffusion Probabilistic Models (Abu-Hussein & Giryes, 2024),
        | https://arxiv.org/abs/2305.16269
        | https://github.com/shadyabh/UDPM, at 6df0411: the α_t, σ_t and kernels

    Arguments:
        shape: event shape, channels first, of sizes that can be halved as often as there are steps.
        alphas, sigmas: α_1, …, α_T and σ_1, …, σ_T, by default those of CIFAR-10.
        kernel: "norm" or "sum", which of the two is 1.

    Raises:
        ValueError: sizes that cannot be halved so often, numbers that are not positive or not as many, or an unknown
            kernel.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.families.UDPM((3, 32, 32))
        >>> [p.shape(t) for t in (1, 2, 3)], p.operator(1, 2).norm()
        ([(3, 16, 16), (3, 8, 8), (3, 4, 4)], 0.2)
    """

    card = Card(
        paper="Abu-Hussein & Giryes, 2024",
        url="https://arxiv.org/abs/2305.16269",
        degradation=r"$H^t$, $H$ twice the mean of 2 × 2 pixels",
        noise="white",
        schedule=r"$\alpha = 0.5, 0.2, 0.001$, $\sigma = 0.1, 0.2, 0.3$",
        prediction="$c_{t-1}$, the image of half the size $t-1$ times",
        sampler="ancestral, 3 steps; theirs: a posterior with a number for its covariance",
        exact="exact; theirs approximates the posterior in new directions",
    )
    prediction = "clean"
    weighting = Uniform()

    def __init__(
        self,
        shape: Sequence[int],
        alphas: Sequence[float] = (0.5, 0.2, 0.001),
        sigmas: Sequence[float] = (0.1, 0.2, 0.3),
        kernel: Kernel = "norm",
    ) -> None:
        as_choice(kernel, get_args(Kernel), "kernel")
        alphas = as_numbers_in_a_row(alphas, "alphas", "(0.5, 0.2, 0.001)")
        sigmas = as_numbers_in_a_row(sigmas, "sigmas", "(0.1, 0.2, 0.3)")
        if len(alphas) != len(sigmas) or not all(value > 0 for value in (*alphas, *sigmas)):
            raise ValueError(f"alphas, sigmas: expected as many positive numbers, got {alphas} and {sigmas}")
        basis, signal, noise = Haar(shape, len(alphas)), [1.0], [0.0]
        for alpha, sigma in zip(alphas, sigmas, strict=True):
            signal.append(alpha * signal[-1])
            noise.append(math.hypot(alpha * noise[-1], sigma))
        path = paths.truncated(basis, basis.halvings, list(range(1, len(signal))), orthonormal=kernel == "norm")
        super().__init__(path, schedules.table(signal, noise))

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, steps, **settings)


@configured("families.UDPMSampler")
class UDPMSampler(Sampler):
    r"""UDPM's published step, a posterior whose covariance is a number,

        x_s = S (α H^T x_t / ς² + μ̂_s / σ_s²) + S^{1/2} z,   1/S = α²/ς² + 1/σ_s²,   ς² = σ_t² − α² σ_s²,

    with M_{s→t} = α H, α the ratio of the scales of the schedule, μ̂_s = a_s ĉ_s, and ς the level of the noise that is
    added from s to t.

    With the kernel of norm 1 it is the exact posterior in the directions that M sees. In the new ones mean and variance
    are both S/σ_s² = 1/(1 + α²σ_s²/ς²) times what they should be, so that states are not those of the process
    any more. With the published numbers, of μ_s and of σ_s², both equal,

        kernel     t   new directions   where M sees
        "norm"     2   −0.0099          0
        "norm"     3   −4.5e-7          0
        "sum"      2   −0.0099          −0.0074
        "sum"      3   −4.5e-7          −3.4e-7

    References:
        | UDPM: Upsampling Diffusion Probabilistic Models (Abu-Hussein & Giryes, 2024),
        | https://arxiv.org/abs/2305.16269

    Arguments:
        denoiser: of a process with steps of a schedule, such as `UDPM`.
        steps, clip: as for `ld.DDIMSampler`.
    """

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        clean = self.clipped(self.denoiser(x_t, t, s, **conditioning))
        if s == 0:
            return clean, clean
        mean, variance = self.kernel(x_t, clean, t, s)
        return mean + variance**0.5 * draws.kernel(mean), clean

    def kernel(self, x_t: Tensor, clean: Tensor, t: float, s: float) -> tuple[Tensor, float]:
        """Mean and variance S of x_s.

        Arguments:
            x_t: states, with shape (*batch, *shape(t)).
            clean: ĉ_s, with shape (*batch, *shape(s)).
            t, s: the two times, s > 0.
        """
        process = self.denoiser.process
        ratio, sigma = process.schedule.signal(t) / process.schedule.signal(s), process.sigma(s)
        added = process.sigma(t) ** 2 - (ratio * sigma) ** 2
        variance = 1 / (ratio**2 / added + 1 / sigma**2)
        told = process.operator(s, t).transpose(x_t)
        return variance * (told / added + process.signal_scale(s) / sigma**2 * clean), variance
