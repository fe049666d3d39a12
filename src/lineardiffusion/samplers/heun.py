"""Heun's method: two calls of the network a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import full_precision
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.operators.base import LinearOperator, prepared_bytes
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.extrapolation import log_ratio
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules import flow
from lineardiffusion.schedules.grids import Steps

_CACHE_BYTES = 2**28
UNSEEN = 1e4


@configured("HeunSampler")
class HeunSampler(Sampler):
    r"""Heun's method for the probability-flow ODE: a step of Euler's, an estimate m₂ where it leads, and the step again
    from the same state with

        x* = m + ½ e^h (m₂ − m),   e^h = (σ_t/a_t r_t) / (σ_s/a_s r_s)

    in every direction of the path's frame: slopes d(x/a)/d(σ/a) are averaged, as in EDM. With `schedules.flow` those of
    dx/dt are, which is e^h = σ_t/σ_s. Euler's method is what is left for the step to s = 0, over a change of shape,
    and in directions that x_t does not see (e^h > 10⁴, where m₂ − m is rounding and error).

    Arguments:
        denoiser: estimates c_s from x_t.
        steps: how many steps to take on a uniform grid, a grid (`ld.grids`), or the times themselves; see `Sampler`.
        clip: range of the estimates, such as (−1, 1) for images.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), Algorithm 1
        | https://arxiv.org/abs/2206.00364

    Raises:
        TypeError, ValueError: as `Sampler`.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> d = ld.Denoiser(lambda x, c_noise: torch.zeros_like(x), ld.EDM((1, 8, 8)), ld.EDMPrediction())
        >>> ld.HeunSampler(d, ld.grids.karras(18))(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, denoiser: Denoiser, steps: Steps = None, clip: tuple[float, float] | None = None) -> None:
        super().__init__(denoiser, steps, clip)
        self._weights: BoundedCache[float | LinearOperator] = BoundedCache(_CACHE_BYTES, _bytes)

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        process = self.denoiser.process
        clean = self._estimate(x_t, t, s, conditioning)
        if s == 0:
            return clean, clean
        kernel = process.step_kernel(t, s, 0.0, of="clean")
        with full_precision(x_t):
            if not kernel.is_deterministic:
                return kernel.sample(x_t, clean, draws.kernel(clean)), clean
            euler = kernel.mean(x_t, clean)
        following = self._estimate(euler, s, s, conditioning)
        with full_precision(x_t):
            weight = self._weights.get((t, s), lambda: heun_weight(process, t, s))
            change = following - clean
            star = clean + (weight(change) if isinstance(weight, LinearOperator) else weight * change)
            return kernel.mean(x_t, star), clean

    def calls(self, t: float, s: float) -> list[float]:
        twice = s > 0 and self.denoiser.process.step_kernel(t, s, 0.0, of="clean").is_deterministic
        return [t, s] if twice else [t]

    def _estimate(self, x: Tensor, t: float, s: float, conditioning: dict[str, Any]) -> Tensor:
        return self.clipped(self.denoiser.carry(*self.denoiser.estimate(x, t, **conditioning), s))


def heun_weight(process: LinearDiffusion, t: float, s: float) -> float | LinearOperator:
    """The weight ½ e^h of m₂ − m in a step from t to s: a number, or a filter where directions differ."""
    if isinstance(process.schedule, flow):
        return 0.5 * process.sigma(t) / process.sigma(s)
    ratio = (log_ratio(process, s) - log_ratio(process, t)).exp()
    weight = 0.5 * torch.where(ratio < UNSEEN, ratio, 0.0)
    return float(weight) if weight.ndim == 0 else process.path.filter(s, weight)


def _bytes(weight: float | LinearOperator) -> int:
    return 1024 + (prepared_bytes(weight) if isinstance(weight, LinearOperator) else 0)
