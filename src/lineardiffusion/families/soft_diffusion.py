"""Soft Diffusion: images are blurred away while a little noise is added, and scores are learned through the blur."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_flag, as_index, as_number, column, compute_dtype, full_precision, to_device
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family, check_loss
from lineardiffusion.families.ihdm import Difference, LogSpacedBlur
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.times import Uniform


class SoftDiffusion(Family):
    r"""x_t = C_t x_0 + σ_t ε with C_t a Gaussian blur, here the heat equation with insulated borders, of σ_B(t) pixels.

    The network φ returns what is missing, x_0 − x_t, so that h = x_t + φ(x_t, t) restores x_0; it is trained by soft
    score matching, ‖C_t (h − x_0)‖²/σ_t² (here a mean over pixels), a score matching of (C_t h − x_t)/σ_t² that asks
    nothing of h where C_t lets nothing through.

    Exact: momentum sampling (`MomentumSampler`) and the posterior (`ld.AncestralSampler`) both keep the marginals.
    Samples start from blurred images, `sampler(n, prior=images)`.

    References:
        | Soft Diffusion: Score Matching for General Corruptions (Daras et al., 2022), https://arxiv.org/abs/2209.05442

    The authors published no code. Their blurs are found from the data, so that neighbouring distributions are equally
    far apart; the default here, log-spaced from 0.1 to 23 pixels over 1000 steps, is ours. So is how the noise rises,
    log-spaced from 0.01 at t = 1 to 0.1 at T/4 and constant from there: the shape is that of the paper as others read
    its figure. Its other corruption, masks, is left out.

    Arguments:
        shape: event shape, channels first.
        num_steps: T ≥ 4.
        blur_sigma_min, blur_sigma_max: σ_B(1) and σ_B(T), in pixels.
        sigma_min, sigma_max: σ_1 and the greatest σ_t.

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.SoftDiffusion((1, 8, 8), num_steps=20, blur_sigma_max=5.0)
        >>> d = p.denoiser(lambda x, index: torch.zeros_like(x))
        >>> p.sampler(d)(2, prior=torch.rand(5, 1, 8, 8), seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="Daras et al., 2022",
        url="https://arxiv.org/abs/2209.05442",
        degradation="Gaussian blur, up to 23 pixels",
        noise="white",
        schedule=r"$a_t = 1$, $\sigma_t$ from 0.01 to 0.1",
        prediction="$x_0 - x_t$",
        sampler=r"momentum: shared noise, $\gamma = \sigma_s^2/\sigma_t^2$",
        exact="exact; schedules of ours",
    )
    prediction = Difference("data")
    drawn_times = Uniform()

    def __init__(
        self,
        shape: Sequence[int],
        num_steps: int = 1000,
        blur_sigma_max: float = 23.0,
        blur_sigma_min: float = 0.1,
        sigma_max: float = 0.1,
        sigma_min: float = 0.01,
    ) -> None:
        steps = as_index(num_steps, 4, 2**31, "num_steps")
        low, high = as_number(sigma_min, "sigma_min"), as_number(sigma_max, "sigma_max")
        if not 0 < low <= high < math.inf:
            raise ValueError(f"sigma_min, sigma_max: expected 0 < least ≤ greatest, got {low} and {high}")
        rise = (torch.arange(steps, dtype=torch.float64) / max(steps // 4 - 1, 1)).clamp(max=1)
        levels = schedules.table([1.0] * (steps + 1), [0.0, *(low * (high / low) ** rise).tolist()])
        blur = LogSpacedBlur(steps, blur_sigma_min, blur_sigma_max)
        super().__init__(paths.heat(shape, blur, floor=0.0), levels)

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> MomentumSampler:
        return MomentumSampler(denoiser, steps, **settings)

    def loss(
        self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None, **conditioning: Any
    ) -> Tensor:
        check_loss(self, denoiser, x0)
        t, x0 = self.drawn_times.sample(self, len(x0), generator), x0.to(compute_dtype(x0.dtype))
        estimate, r = denoiser.estimate(self.diffuse(x0, t, generator=generator), t, **conditioning)
        restored = denoiser.carry(estimate, r, 0)
        error = self.clean(restored - x0, t)
        return (error / column(self.sigma(to_device(t, x0.device)), error)).square().flatten(1).mean(1)


@configured("families.MomentumSampler")
class MomentumSampler(Sampler):
    r"""x_s = μ_s + (σ_s²/σ_t²) (x_t − μ_t) + σ_s (1 − σ_s²/σ_t²)^{1/2} z, and x_0 = x̂_0.

    The kernel of shared noise with γ = σ_s²/σ_t², which keeps the marginals. Where nothing is blurred it is the
    posterior.

    Arguments:
        denoiser: estimates c_t and c_s from x_t.
        steps: as for `ld.DDIMSampler`.
        euler: draw (σ_t² − σ_s²)^{1/2} z, σ_t/σ_s times as much, as in the paper: a step of the reverse SDE by the rule
            of Euler and Maruyama, which makes states a little too noisy.
        clip: range of the estimates, such as (−1, 1) for images.

    References:
        | Soft Diffusion: Score Matching for General Corruptions (Daras et al., 2022), momentum sampler
        | https://arxiv.org/abs/2209.05442

    Raises:
        TypeError, ValueError: as there; in a step, noise that is not isotropic, shapes that differ, or σ_s > σ_t.
    """

    def __init__(
        self, denoiser: Denoiser, steps: Steps = None, euler: bool = False, clip: tuple[float, float] | None = None
    ) -> None:
        super().__init__(denoiser, steps, clip)
        self.euler = as_flag(euler, "euler")
        if not denoiser.process.is_isotropic:
            raise ValueError(f"denoiser: expected one of a process with isotropic noise, got {denoiser.process}")

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        process = self.denoiser.process
        estimate, r = self.denoiser.estimate(x_t, t, **conditioning)
        with full_precision(x_t):
            clean_t, clean_s = (self.clipped(self.denoiser.carry(estimate, r, u)) for u in (t, s))
            if s == 0:
                return clean_s, clean_s
            mean_t, mean_s = process.signal_scale(t) * clean_t, process.signal_scale(s) * clean_s
            sigma_t, sigma_s = process.sigma(t), process.sigma(s)
            kernel = process.shared_step_kernel(t, s, (sigma_s / sigma_t) ** 2)
            if kernel.is_deterministic:
                return kernel.mean(x_t, mean_t, mean_s), clean_s
            noise = draws.kernel(clean_s)
            return kernel.sample(x_t, mean_t, mean_s, sigma_t / sigma_s * noise if self.euler else noise), clean_s
