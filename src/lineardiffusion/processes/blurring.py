"""Blurring Diffusion: every M_t is diagonal in the cosine basis, so that high frequencies fade first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsIndex

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_index, as_shape, column, compute_dtype
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import dct_matrix
from lineardiffusion.operators.chain import OperatorChain
from lineardiffusion.operators.multipliers import cast
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.operators.separable import along_axes_each, outer
from lineardiffusion.operators.spectral import SpectralFilter, dct_frequencies
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import NoiseSchedule, as_alpha_bar, cosine_log_snr_schedule


class BlurringDiffusion(LinearDiffusion):
    r"""x_t = V diag(a_t d_t) Vᵀ x_0 + σ_t ε with Vᵀ the cosine transform, and for the frequency f_k of each coefficient

        d_t(k) = (1 − d_min) exp(−‖f_k‖² τ_t) + d_min,   τ_t = σ_B(t)²/2,   σ_B(t) = σ_B,max sin²(π t / 2T).

    exp(−‖f‖² τ) is the heat equation after the dissipation time τ, a Gaussian blur of σ_B(t) pixels; d_min keeps the
    posterior from amplifying what is lost. a_t = √ᾱ_t and σ_t = √(1 − ᾱ_t) follow the cosine log-SNR schedule.

    References:
        | Blurring Diffusion Models (Hoogeboom & Salimans, 2023), Sec. 4 and Appendix A
        | https://arxiv.org/abs/2209.05557

    Arguments:
        shape: event shape, channels first.
        num_steps: T.
        blur_sigma_max: σ_B,max ≥ 0, in pixels; 0 is DDPM.
        min_scale: d_min in (0, 1].
        schedule: the noise schedule: a function of T, ᾱ_0, …, ᾱ_T themselves, "linear" or "cosine".

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import lineardiffusion as ld
        >>> p = ld.BlurringDiffusion((1, 16, 16), num_steps=100)
        >>> p.chain.cumulative(50).gain.shape, p.chain.between(20, 80).basis
        (torch.Size([16, 16]), 'dct')
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_steps: int = 1000,
        blur_sigma_max: float = 20.0,
        min_scale: float = 1e-3,
        schedule: str | NoiseSchedule | Tensor = cosine_log_snr_schedule,
    ) -> None:
        event = as_shape(shape)
        if not 0 <= blur_sigma_max < math.inf:
            raise ValueError(f"blur_sigma_max: expected a number ≥ 0, in pixels, got {blur_sigma_max}")
        if not 0 < min_scale <= 1:
            raise ValueError(f"min_scale: expected a number in (0, 1], got {min_scale}")
        alpha_bar = as_alpha_bar(schedule, num_steps)
        time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
        blur_sigma = blur_sigma_max * (math.pi / 2 * time).sin().square()
        chain = _BlurChain(event, alpha_bar.sqrt(), blur_sigma.square() / 2, min_scale)
        super().__init__(chain, sigmas=(1 - alpha_bar).sqrt(), signal_scales=alpha_bar.sqrt())


class _BlurChain(OperatorChain):
    """The products in closed form, M_{s→t} = V diag(a_t d_t / a_s d_s) Vᵀ: nothing to accumulate or to keep."""

    def __init__(self, shape: Shape, signal_scales: Tensor, dissipation_times: Tensor, min_scale: float) -> None:
        self._shape, self._min_scale = shape, min_scale
        self._frequencies = dct_frequencies(shape)
        self._signal_scales, self._dissipation_times = signal_scales, dissipation_times

    def __len__(self) -> int:
        return len(self._signal_scales) - 1

    def step(self, t: SupportsIndex) -> LinearOperator:
        t = as_index(t, 1, len(self), "t")
        return self.between(t - 1, t)

    def between(self, s: SupportsIndex, t: SupportsIndex) -> LinearOperator:
        t = as_index(t, 0, len(self), "t")
        s = as_index(s, 0, t, "s")
        if s == t:
            return Identity(self._shape)
        return SpectralFilter(self._shape, self._scaling(t) / self._scaling(s), basis="dct")

    def shape(self, t: SupportsIndex) -> Shape:
        as_index(t, 0, len(self), "t")
        return self._shape

    def apply_cumulative(self, times: Sequence[int], x: Tensor) -> Tensor:
        # The heat equation acts on each axis by a matrix Vᵀ diag(exp(−f² τ)) V, so that
        #     M_{1:t} x = a_t ((1 − d_min) (B_1 ⊗ … ⊗ B_d) x + d_min x),
        # which are half as many products as a transform forth and back.
        work = x.to(compute_dtype(x.dtype))
        dissipation, scale = self._dissipation_times[list(times)], self._signal_scales[list(times)]
        blurs: dict[int, Tensor] = {}
        for axis in self._frequencies:
            if len(axis) not in blurs:
                decay = cast(torch.exp(-dissipation[:, None] * axis.square()), work)
                transform = dct_matrix(len(axis), work)
                blurs[len(axis)] = (transform.T * decay[:, None, :]) @ transform
        first, *others = (blurs[len(axis)] for axis in self._frequencies)
        scaled = cast((1 - self._min_scale) * scale, work)[:, None, None] * first
        floor = column(self._min_scale * scale, work)
        return along_axes_each([scaled, *others], work).addcmul_(floor, work).to(x.dtype)

    def _scaling(self, t: int) -> Tensor:
        """a_t d_t for every frequency."""
        heat = outer([torch.exp(-self._dissipation_times[t] * axis.square()) for axis in self._frequencies])
        return self._signal_scales[t] * ((1 - self._min_scale) * heat + self._min_scale)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
