"""What is legal but likely wrong: a process warns of it, once."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lineardiffusion.processes.base import LinearDiffusion

# Most of the signal, ‖Σ_T^{-1/2} M_{1:T}‖², that x_T may hold and still be taken for noise. What is in use as such has
# less: 4e-5 (β from 1e-4 to 0.02 in 1000 steps, a log-SNR of −10), 2e-4 (EDM's σ = 80), 1e-3 (β_T = 0.999). Stable
# Diffusion's schedule has 5e-3, and for this reason its images are known to be of medium brightness
# (https://arxiv.org/abs/2305.08891).
_TERMINAL_SNR = 2e-3
# Standardised values and latents are of either sign, and images in [0, 1] stay below this.
_PIXELS = 10.0


class Doubts:
    """What a process has warned of."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._looked = False  # at data on an accelerator

    def prior(self, process: LinearDiffusion, t: float) -> None:
        """Samples that start from noise at t, where x_t is more than that."""
        if "prior" in self._warned or (ratio := process.terminal_snr(t)) <= _TERMINAL_SNR:
            return
        state, remedy = f"x_t at t = {t}", "grid that starts later"
        if t == process.end:
            state, remedy = "x_T", "schedule that ends in noise, more of its steps"
        self._warn(
            "prior",
            f"{state} is not noise: a signal-to-noise ratio of ‖M_(1:t)‖²/σ_t² = {ratio:.3g} is left in it, expected "
            f"at most {_TERMINAL_SNR}. Samples that start from N(0, σ_t² I) are drawn towards zero. Use a {remedy}, or "
            f"give the sampler prior=images, which start from process.diffuse(images, {t}).",
        )

    def pixels(self, x0: Tensor, name: str) -> None:
        """Images of 0…255. On an accelerator the answer has to be waited for: there it is asked for once."""
        if "pixels" in self._warned or not x0.numel() or x0.is_meta or torch.compiler.is_compiling():
            return
        if x0.device.type != "cpu":
            if self._looked:
                return
            self._looked = True
        message = of_pixels(x0, name)
        if message:
            self._warn("pixels", message, stacklevel=6)  # one call further away

    def _warn(self, of: str, message: str, stacklevel: int = 5) -> None:
        self._warned.add(of)
        warnings.warn(message, stacklevel=stacklevel)


def of_pixels(x: Tensor, name: str) -> str | None:
    """What there is to say of images in 0…255, if these look like some."""
    low, high = x.detach().aminmax()
    if not bool((low >= 0) & (high > _PIXELS)):
        return None
    return (
        f"{name}: expected values of about ±1, got {float(low):.4g}…{float(high):.4g}, as of images in 0…255: scale "
        f"those by x / 127.5 - 1"
    )
