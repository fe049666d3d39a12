"""Steps that keep the noise of x_t by a factor, whatever becomes of the signal."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor

from lineardiffusion._checks import as_index, full_precision
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.kernels import as_eta
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.extrapolation import Extrapolation
from lineardiffusion.samplers.history import Estimate, History
from lineardiffusion.samplers.multistep import markov_decay, shared_noise_decay
from lineardiffusion.schedules.grids import Steps


@configured("SharedNoiseSampler")
class SharedNoiseSampler(Sampler):
    r"""x_s = a_s R_s x̂_0 + γ (x_t − a_t R_t x̂_0) + (σ_s² − γ²σ_t²)^{1/2} z,   γ = √(1 − η²) σ_s/σ_t.

    No transition from s to t need exist, so that this samples every process, also with coupling="shared". At η = 0
    nothing is drawn; at η = 1 the noise is drawn anew in each step. Where there is no noise, σ_t = 0, the ratio σ_s/σ_t
    counts as 1, in the last step too. Where a process has Markov kernels and the shape changes, one of those is used
    with the same η.

    Arguments:
        denoiser: estimates c_t and c_s from x_t.
        steps: how many steps to take on a uniform grid, a grid (`ld.grids`), or the times themselves; see `Sampler`.
        eta: η in [0, 1].
        order: 1, 2 or 3, by the moment rule (see `lineardiffusion.samplers.multistep`).
        clip: range of the estimates, such as (−1, 1) for images.

    References:
        | Relay Diffusion (Teng et al., 2024), https://arxiv.org/abs/2309.03350
        | Inverse Heat Dissipation (Rissanen et al., 2023), https://arxiv.org/abs/2206.13397: η = 1
        | Cold Diffusion (Bansal et al., 2023), https://arxiv.org/abs/2208.09392

    Raises:
        TypeError, ValueError: as `Sampler`, or an argument out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> schedule = ld.schedules.table([1.0] * 11, [0.0] + [0.01] * 10)
        >>> p = ld.LinearDiffusion(ld.paths.heat((1, 8, 8), blur_sigma=4.0), schedule, coupling="shared")
        >>> d = ld.Denoiser(lambda x, t_index: x, p, "data")
        >>> ld.SharedNoiseSampler(d)(2, prior=torch.rand(2, 1, 8, 8), seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: Steps = None,
        eta: float = 0.0,
        order: int = 1,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, steps, clip)
        self.eta, self.order = as_eta(eta), as_index(order, 1, 3, "order")
        decay, across = (partial(function, eta=self.eta) for function in (shared_noise_decay, markov_decay))
        self._extrapolation = Extrapolation(denoiser, decay, clip=self.clip, across=across, limited=self.on_grid)

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        process = self.denoiser.process
        estimate = Estimate(*self.denoiser.estimate(x_t, t, **conditioning), t)
        history.estimates = [estimate, *history.estimates][: self.order]
        with full_precision(x_t):
            own = self._extrapolation.carried(estimate, s)
            # No noise is left at 0. What differs from μ_t in a state without noise is none, and is kept there too.
            if s == 0 and (process.sigma(t) > 0 or process.shape(s) != process.shape(t)):
                return own, own
            order = self._extrapolation.reach(history.estimates, s, self.lowered(self.order, s))
            used = history.estimates[:order]
            if process.shape(s) != process.shape(t):
                mean_s = process.signal_scale(s) * self._extrapolation(used, s)
                return process.step_kernel(t, s, self.eta).sample(x_t, mean_s, draws.kernel(own)), own
            mean_t, mean_s = (process.signal_scale(u) * self._extrapolation(used, s, at=u) for u in (t, s))
            kernel = process.shared_step_kernel(t, s, self._factor(t, s))
            if kernel.is_deterministic:
                return kernel.mean(x_t, mean_t, mean_s), own
            return kernel.sample(x_t, mean_t, mean_s, draws.kernel(own)), own

    def _factor(self, t: float, s: float) -> float:
        """γ; where there is no noise, the ratio is 1."""
        sigma_t = self.denoiser.process.sigma(t)
        ratio = self.denoiser.process.sigma(s) / sigma_t if sigma_t else 1.0
        return math.sqrt(1 - self.eta**2) * ratio
