"""DiffPIR: the estimate goes to the nearest image that fits the measurement, plug and play."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lineardiffusion._checks import as_positive
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.inverse.base import InverseSampler, check_white, regularised
from lineardiffusion.kernels import as_eta
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.schedules.grids import Steps


@configured("inverse.DiffPIR", without=["A", "y"])
class DiffPIR(InverseSampler):
    r"""x* = argmin_x ‖y − A x‖² + τ ‖x − x̂_0‖² = x̂_0 + Aᵀ(AAᵀ + τI)⁻¹ (y − A x̂_0),   τ = λ σ_y² a_t²/σ_t² ,

    and the step keeps a part of the noise of x_t that x* leaves (`ld.SharedNoiseSampler` with η² = ζ):

        x_s = a_s x* + σ_s ( √(1 − ζ) (x_t − a_t x*)/σ_t + √ζ z ) .

    No derivative of the network. With σ_y = 0, τ = 0: x* fits y exactly, and so does the result.

    The only method here for processes that change shape: x* is an image of full size whatever the size of x_t, and the
    step takes R_s x* for known. For that the network has to tell of x_0 (prediction "data"), or the denoiser to have a
    `lift`. Exact nowhere: τ is what x_0 ~ N(x̂_0, (σ_t²/(λ a_t²)) I) would have.

    References:
        | Denoising Diffusion Models for Plug-and-Play Image Restoration (Zhu et al., 2023), Algorithm 1
        | https://arxiv.org/abs/2305.08995

    Arguments:
        denoiser, A, y, sigma_y, steps, clip: see `InverseSampler`.
        lambda_: λ > 0. The authors' code has the σ_y of images in [0, 1]: its λ is four of these.
        zeta: ζ in [0, 1]; at 1 the noise is drawn anew.

    Raises:
        TypeError, ValueError: as `InverseSampler`, an argument out of range, a process whose noise is not isotropic, or
            one that changes shape with a network that does not tell of x_0.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 8, 8), levels=2)
        >>> d = ld.Denoiser(lambda x, index, size: x.new_zeros(len(x), 1, *size), p, "data")
        >>> pool, y = ld.AveragePool((1, 8, 8), (2, 2)), torch.ones(1, 4, 4)
        >>> pool(ld.inverse.DiffPIR(d, pool, y, 0.0, steps=10)(1, seeds=[0], progress=False)).sub(y).abs().max() < 1e-6
        tensor(True)
    """

    def __init__(
        self,
        denoiser: Denoiser,
        A: LinearOperator,
        y: Tensor,
        sigma_y: float = 0.0,
        steps: Steps = None,
        lambda_: float = 1.0,
        zeta: float = 1.0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, A, y, sigma_y, steps, clip)
        check_white(denoiser, "σ_t²/a_t² is its variance of x_0 given x_t")
        changes = denoiser.process.shape_changes()
        if changes and denoiser.prediction.time(denoiser.process, changes[-1]) != 0 and denoiser.lift is None:
            raise ValueError(
                f"denoiser: expected one whose network tells of x_0 (prediction 'data'), or with a lift, as the shape "
                f"changes and A is of whole images, got {denoiser.prediction!r}"
            )
        self.lambda_, self.zeta = as_positive(lambda_, "lambda_"), as_eta(zeta, "zeta")

    def move(self, x_t: Tensor, t: float, s: float, draws: Draws, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        process = self.denoiser.process
        clean = self.estimate(x_t, t, given)
        tau = self.lambda_ * self.sigma_y**2 * process.snr(t)
        towards = self.by_directions(clean, self.measurement(clean), regularised(tau), None, None)
        return self._step(x_t, t, s, towards, draws), clean

    def _step(self, x_t: Tensor, t: float, s: float, clean: Tensor, draws: Draws) -> Tensor:
        """x_s around an estimate of x_0, keeping noise by √(1 − ζ)."""
        process = self.denoiser.process
        if process.shape(s) != process.shape(t):
            return self.markov_step(x_t, t, s, math.sqrt(self.zeta), clean, draws)
        if s == 0:
            return clean
        mean_t, mean_s = (process.signal_scale(u) * process.clean(clean, u) for u in (t, s))
        kernel = process.shared_step_kernel(t, s, math.sqrt(1 - self.zeta) * process.sigma(s) / process.sigma(t))
        if kernel.is_deterministic:
            return kernel.mean(x_t, mean_t, mean_s)
        return kernel.sample(x_t, mean_t, mean_s, draws.kernel(mean_s))
