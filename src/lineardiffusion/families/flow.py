"""Flow matching: straight lines from data to noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lineardiffusion import paths, schedules
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import Flow
from lineardiffusion.samplers.ddim import DDIMSampler
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.times import LogitNormal


class FlowMatching(Family):
    r"""x_t = (1 − σ_t) x_0 + σ_t ε for t in [0, 1], σ_t = κ t / (1 + (κ − 1) t) with κ = `shift`.

    Networks that are trained for it predict the velocity ε − x_0: `Denoiser(…, prediction="flow")`.

    References:
        | Flow Matching for Generative Modeling (Lipman et al., 2023), https://arxiv.org/abs/2210.02747
        | Scaling Rectified Flow Transformers (Esser et al., 2024), https://arxiv.org/abs/2403.03206, for the shift

    Arguments:
        shape: event shape.
        shift: κ > 0; above 1 for more time at high noise, as large images need.

    Raises:
        ValueError: a shift that is not positive.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.FlowMatching((3, 64, 64), shift=3.0)
        >>> p.sigma(0.5), p.signal_scale(1.0)
        (0.75, 0.0)
    """

    card = Card(
        paper="Lipman et al., 2023; Esser et al., 2024",
        url="https://arxiv.org/abs/2210.02747",
        degradation="$I$",
        noise="white",
        schedule=r"$a_t = 1 - \sigma_t$, $\sigma_t = \kappa t/(1 + (\kappa - 1)t)$",
        prediction=r"flow, $\varepsilon - x_0$",
        sampler="Euler's method, 28 steps (Esser et al.)",
        exact="exact",
    )
    prediction = "flow"
    drawn_times = LogitNormal()
    weighting = Flow()

    def __init__(self, shape: Sequence[int], shift: float = 1.0) -> None:
        super().__init__(paths.identity(shape), schedules.flow(shift))

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> DDIMSampler:
        return DDIMSampler(denoiser, 28 if steps is None else steps, **settings)
