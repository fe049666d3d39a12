"""Denoising Diffusion Probabilistic Models: every M_t is a number."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lineardiffusion.operators.chain import OperatorChain
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import NoiseSchedule, as_alpha_bar


class DDPM(LinearDiffusion):
    r"""x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, that is M_t = √α_t I with α_t = ᾱ_t/ᾱ_{t−1}.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239

    Arguments:
        shape: event shape, e.g. (3, 64, 64).
        num_steps: T.
        schedule: "linear", "cosine", a function of T, or ᾱ_0, …, ᾱ_T themselves.

    Raises:
        ValueError: a schedule that is unknown or does not decrease from 1.

    Example:
        >>> import lineardiffusion as ld
        >>> p = ld.DDPM((3, 64, 64))
        >>> round(p.signal_scale(1000), 4), round(p.snr(1), 1)
        (0.0064, 9999.0)
    """

    def __init__(
        self, shape: Sequence[int], num_steps: int = 1000, schedule: str | NoiseSchedule | Tensor = "linear"
    ) -> None:
        alpha_bar = as_alpha_bar(schedule, num_steps)
        identity = Identity(shape)
        steps = [float(alpha) ** 0.5 * identity for alpha in alpha_bar[1:] / alpha_bar[:-1]]
        super().__init__(OperatorChain(steps), sigmas=(1 - alpha_bar).sqrt(), signal_scales=alpha_bar.sqrt())
