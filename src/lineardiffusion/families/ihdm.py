"""Inverse Heat Dissipation: images are blurred with hardly any noise, and sampling turns the heat equation back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_index, as_number, device_of, full_precision
from lineardiffusion.config import Configured, configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import Uniform
from lineardiffusion.predictions import ProcessPrediction, Time, as_prediction
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.times import TimeSampler


@configured("families.LogSpacedBlur")
@dataclass(frozen=True, eq=False, repr=False)
class LogSpacedBlur(Configured):
    r"""σ_B(t) = σ_min (σ_max/σ_min)^{(t − 1)/(T − 1)} from t = 1 on, and σ_min t before.

    Arguments:
        num_steps: T ≥ 2.
        sigma_min, sigma_max: σ_B(1) and σ_B(T), in pixels, 0 < σ_min ≤ σ_max.

    Raises:
        ValueError: widths that are not in this order.
    """

    num_steps: int
    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        low, high = as_number(self.sigma_min, "blur_sigma_min"), as_number(self.sigma_max, "blur_sigma_max")
        if not 0 < low <= high < math.inf:
            raise ValueError(f"blur_sigma_min, blur_sigma_max: expected 0 < least ≤ greatest, got {low} and {high}")

    def __call__(self, t: Tensor) -> Tensor:
        share = (t.clamp(min=1) - 1) / (self.num_steps - 1)
        return t.clamp(max=1) * self.sigma_min * (self.sigma_max / self.sigma_min) ** share


@configured("families.BeforeLast")
class BeforeLast(TimeSampler):
    """Every t in 1 … T − 1 with the same probability, each image on its own: the last time is never drawn."""

    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        count = as_index(batch_size, 1, 2**31, "batch_size")
        if process.num_steps is None or process.num_steps < 2:
            raise ValueError(f"process: expected one of at least two steps, got {process}")
        device = device_of(generator)
        return torch.randint(1, process.num_steps, (count,), generator=generator, device=device).cpu()


@configured("families.ihdm.Difference")
@dataclass(frozen=True, eq=False, repr=False)
class Difference(ProcessPrediction):
    """What is missing of an image, c_r − x_t: added to the state, what a network returns is ĉ_r.

    Arguments:
        of: "clean" for the image just below t, "data" for x_0.
    """

    of: Literal["clean", "data"]

    def time(self, process: LinearDiffusion, t: Time) -> Time | float:
        return as_prediction(self.of).time(process, t)

    def image(self, process: LinearDiffusion, t: float | Tensor, x_t: Tensor, output: Tensor) -> Tensor:
        return x_t + output

    def answer(self, process: LinearDiffusion, t: float | Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        return process.clean(x0, self.time(process, t)) - process.diffuse(x0, t, noise)

    def check(self, process: LinearDiffusion) -> None:
        if process.shape_changes():
            raise ValueError(f"prediction: expected 'clean' or 'data' for a process that changes shape, got {self}")


class InverseHeatDissipation(Family):
    r"""x_k = V diag(exp(−λ σ_B(k)²/2)) Vᵀ x_0 + σ ε with Vᵀ the cosine transform and λ its squared frequencies: the
    heat equation, and noise of one level σ for all k ≥ 1. σ_B(k) is log-spaced from σ_B,min at k = 1 to σ_B,max at K.

    The network returns the difference c_{k−1} − x_k to the clean image one blur less, for x_k and k itself; its loss
    ‖x_k + f(x_k, k) − c_{k−1}‖² (here a mean over pixels) has k from 1 … K − 1, as in the authors' code. A step is
    x_{k−1} = x_k + f + δ z with δ ≥ σ, and the last has no noise (`InverseHeatSampler`).

    Exact at δ = σ, where steps keep the marginals; approximates them with a greater δ, as the authors do.

    References:
        | Generative Modelling With Inverse Heat Dissipation (Rissanen et al., 2023), Sec. 3
        | https://arxiv.org/abs/2206.13397

    Arguments:
        shape: event shape, channels first.
        num_steps: K ≥ 2; 200, as for CIFAR-10 in the authors' code (100 for MNIST).
        blur_sigma_max: σ_B,max, in pixels; 24, as there (20 for MNIST, 32 for AFHQ of 64 pixels, 128 for 256).
        blur_sigma_min: σ_B,min.
        sigma: σ.

    Samples start from blurred training images, `sampler(n, prior=images)`, with the noise of x_K; the authors' script
    leaves that out, which is `start=(p.end, p.clean(images, p.end))`.

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.InverseHeatDissipation((1, 8, 8), num_steps=10, blur_sigma_max=4.0)
        >>> d = p.denoiser(lambda x, k: torch.zeros_like(x))
        >>> p.sampler(d)(2, prior=torch.rand(5, 1, 8, 8), seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="Rissanen et al., 2023",
        url="https://arxiv.org/abs/2206.13397",
        degradation=r"heat equation, $\sigma_B$ log-spaced from 0.5 to 24 pixels",
        noise="white",
        schedule=r"$a_t = 1$, $\sigma_t = 0.01$",
        prediction="$c_{t-1} - x_t$",
        sampler=r"$x_{t-1} = x_t + f + \delta z$, $\delta = 0.013$, 200 steps",
        exact=r"marginals are kept at $\delta = \sigma$ alone",
    )
    prediction = Difference("clean")
    drawn_times = BeforeLast()
    weighting = Uniform()

    def __init__(
        self,
        shape: Sequence[int],
        num_steps: int = 200,
        blur_sigma_max: float = 24.0,
        blur_sigma_min: float = 0.5,
        sigma: float = 0.01,
    ) -> None:
        steps = as_index(num_steps, 2, 2**31, "num_steps")
        if not 0 < as_number(sigma, "sigma") < math.inf:
            raise ValueError(f"sigma: expected a number > 0, got {sigma}")
        blur = LogSpacedBlur(steps, blur_sigma_min, blur_sigma_max)
        levels = schedules.table([1.0] * (steps + 1), [0.0] + [sigma] * steps)
        super().__init__(paths.heat(shape, blur, floor=0.0), levels, coupling="shared")

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        return Denoiser(network, self, self.prediction, time_input="time")

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> InverseHeatSampler:
        return InverseHeatSampler(denoiser, steps, **settings)


@configured("families.InverseHeatSampler")
class InverseHeatSampler(Sampler):
    r"""x_s = a_s ĉ_s + δ z, and x_0 = ĉ_0: the noise of x_t is left behind, and new noise of any level added.

    With δ = σ_s it is `ld.SharedNoiseSampler` with eta=1, which keeps the marginals. A greater δ does not: the authors
    take 0.013 where networks were trained with σ = 0.01.

    Arguments:
        denoiser: estimates c_s from x_t.
        steps: as for `ld.DDIMSampler`.
        delta: δ ≥ 0; 0.013, for CIFAR-10 in the authors' code.
        clip: range of the estimates, such as (−1, 1) for images.

    Raises:
        TypeError, ValueError: as there, or δ out of range.
    """

    def __init__(
        self, denoiser: Denoiser, steps: Steps = None, delta: float = 0.013, clip: tuple[float, float] | None = None
    ) -> None:
        super().__init__(denoiser, steps, clip)
        self.delta = as_number(delta, "delta")
        if not 0 <= self.delta < math.inf:
            raise ValueError(f"delta: expected a number ≥ 0, got {delta}")

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        clean = self.clipped(self.denoiser(x_t, t, s, **conditioning))
        if s == 0:
            return clean, clean
        with full_precision(x_t):
            mean = self.denoiser.process.signal_scale(s) * clean
            return torch.add(mean, draws.kernel(mean), alpha=self.delta), clean
