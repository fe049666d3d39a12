r"""A diffusion process with linear degradations: x_t = M_{1:t} x_0 + σ_t ε for t = 0, …, T (Eq. 3 of Scale Space
Diffusion), with x_0 the data: M_{1:0} = I and σ_0 = 0."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import (
    Shape,
    as_index,
    check_constant,
    check_event,
    check_finite,
    check_real,
    column,
    compute_dtype,
    draw_noise,
    full_precision,
)
from lineardiffusion.covariance import Covariance, NoiseLevel, as_covariance, as_noise_level
from lineardiffusion.gaussian import Gaussian, GaussianMarginal
from lineardiffusion.operators.base import LinearOperator, apply_each
from lineardiffusion.operators.chain import OperatorChain
from lineardiffusion.posterior import check_feasible, feasible_kernel, transition
from lineardiffusion.processes.times import Time, Times

# Most of the signal, ‖Σ_T^{-1/2} M_{1:T}‖², that x_T may hold and still be taken for noise. What is in use as such has
# less: 4e-5 (β from 1e-4 to 0.02 in 1000 steps, a log-SNR of −10), 2e-4 (EDM's σ = 80), 1e-3 (β_T = 0.999). Stable
# Diffusion's schedule has 5e-3, and for this reason its images are known to be of medium brightness
# (https://arxiv.org/abs/2305.08891).
_TERMINAL_SNR = 2e-3
# Standardised values and latents are of either sign, and images in [0, 1] stay below this.
_PIXELS = 10.0


class LinearDiffusion(Times):
    r"""Any linear diffusion: a chain of operators and the noise level of each state.

    Arguments:
        chain: M_1, …, M_T, an OperatorChain or a sequence of operators.
        sigmas: σ_0 = 0, σ_1, …, σ_T. Any of them but the first may be a Covariance Σ_t instead, for noise that is not
            isotropic: x_t = M_{1:t} x_0 + Σ_t^{1/2} ε; σ_t is then √(tr Σ_t / n).
        signal_scales: a_0 = 1, a_1, …, a_T, such that c_t = M_{1:t} x_0 / a_t is in data range; all 1 by default.

    Raises:
        ValueError: lengths that do not fit, or noise levels for which some step has no Gaussian transition: σ_t² must
            be at least σ_{t−1}² λmax(M_t M_tᵀ), or Σ_t ⪰ M_t Σ_{t−1} M_tᵀ. Where every step is feasible, so is every
            longer transition.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> blur = ld.Convolution(torch.tensor([0.25, 0.5, 0.25]), (1, 8))
        >>> p = ld.LinearDiffusion([blur] * 3, sigmas=[0.0, 0.1, 0.2, 0.3])
        >>> p.diffuse(torch.zeros(4, 1, 8), t=2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 1, 8])
    """

    def __init__(
        self,
        chain: OperatorChain | Sequence[LinearOperator],
        sigmas: Sequence[NoiseLevel] | Tensor,
        signal_scales: Sequence[float] | Tensor | None = None,
    ) -> None:
        self.chain = chain if isinstance(chain, OperatorChain) else OperatorChain(chain)
        shapes = [self.chain.shape(t) for t in range(len(self.chain) + 1)]
        self._noise = _noise_levels(sigmas, shapes)
        super().__init__(
            shapes,
            [math.sqrt(level.mean_variance()) if isinstance(level, Covariance) else level for level in self._noise],
            signal_scales,
        )
        self.is_isotropic = not any(isinstance(level, Covariance) for level in self._noise)  # Σ_t = σ_t² I for all t
        if self._noise[0] != 0:
            raise ValueError(f"sigmas: expected σ_0 = 0 (state 0 is clean data), got {self._noise[0]}")
        for t in range(1, len(shapes)):
            check_feasible(self.chain.step(t), self._noise[t - 1], self._noise[t], at=f" at t = {t}")
        self._signal: LinearOperator | None = None
        self._warned: set[str] = set()  # of what there was a warning
        self._looked = False  # at data on an accelerator

    # ------------------------------------------------------------------ noise

    def noise_covariance(self, t: int) -> Covariance:
        """Σ_t, the covariance of x_t given x_0."""
        t = as_index(t, 0, self.num_steps, "t")
        return as_covariance(self._noise[t], self._shapes[t])

    def add_noise(self, mean: Tensor, t: Time, noise: Tensor) -> Tensor:
        """mean + Σ_t^{1/2} noise, for white noise of the shape of the mean; t as in `diffuse`."""
        check_real(mean, "mean")
        check_real(noise, "noise")
        with full_precision(mean):
            return self._add_noise(mean, self._times(t), noise)

    def _add_noise(self, mean: Tensor, times: int | list[int], noise: Tensor) -> Tensor:
        if isinstance(times, list) and len(set(times)) == 1:
            times = times[0]
        if isinstance(times, int):
            level = self._noise[times]
            return level.sample(mean, noise) if isinstance(level, Covariance) else torch.add(mean, noise, alpha=level)
        levels = [self._noise[u] for u in times]
        if not self.is_isotropic:
            return mean + apply_each([as_covariance(level, tuple(mean.shape[1:])).root() for level in levels], noise)
        work = mean.to(compute_dtype(mean.dtype))
        sigmas = column(torch.tensor(levels, dtype=torch.float64), work)
        return torch.addcmul(work, sigmas, noise.to(work.dtype)).to(mean.dtype)

    # ------------------------------------------------------------------ distributions

    def marginal(self, t: int) -> GaussianMarginal:
        """q(x_t | x_0) = N(M_{1:t} x_0, σ_t² I), Eq. 3."""
        return GaussianMarginal(self.chain.cumulative(t), self._noise[as_index(t, 0, self.num_steps, "t")])

    def transition(self, t: int, s: int | None = None) -> Covariance:
        """Covariance of q(x_t | x_s), Eq. 4, for any s < t (by default t − 1); its mean is chain.between(s, t)(x_s)."""
        t, s = self._pair(t, s)
        return transition(self.chain.between(s, t), self._noise[s], self._noise[t])

    def posterior(self, x_t: Tensor, mean_s: Tensor, t: int, s: int | None = None) -> Gaussian:
        """q(x_s | x_t, x_0), Eq. 6, for any s < t; s = t − 1 by default.

        Arguments:
            x_t: the state at t, with shape (*batch, *shape(t)).
            mean_s: μ_s = M_{1:s} x_0 = a_s c_s, with shape (*batch, *shape(s)).
            t, s: the two times.
        """
        return self.kernel(x_t, mean_s, t, s, eta=1.0)

    def kernel(self, x_t: Tensor, mean_s: Tensor, t: int, s: int | None, eta: float) -> Gaussian:
        """The DDIM kernel from x_t to x_s (see `ddim_kernel`), at η = 1 the posterior; other arguments as there."""
        t, s = self._pair(t, s)
        return feasible_kernel(x_t, mean_s, self.chain.between(s, t), self._noise[s], self._noise[t], eta)

    def prior(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """n samples of N(0, σ_T² I), with shape (n, *shape(T)): where sampling starts. Warns as `check_prior`.

        Arguments:
            n: how many.
            generator: the source of the noise; the global one by default.
            noise: standard normal noise of the shape of the result, in the place of a generator.
            dtype, device: of the result; torch's defaults where they are not given.
        """
        self.check_prior()
        zeros = torch.zeros(n, *self.shape(self.num_steps), dtype=dtype, device=device)
        return self.add_noise(zeros, self.num_steps, draw_noise(zeros, noise, generator))

    def terminal_snr(self) -> float:
        r"""‖Σ_T^{−1/2} M_{1:T}‖²: the largest signal-to-noise ratio that is left in x_T, of a direction in which the
        data have variance 1. For DDPM and Blurring Diffusion a_T²/σ_T²."""
        operator, level = self.chain.cumulative(self.num_steps), self._noise[self.num_steps]
        if not isinstance(level, Covariance):
            return (operator.norm() / level) ** 2
        if self._signal is None:  # it keeps its norm, for as long as what it is made of stays
            self._signal = level.inverse_root() @ operator
        return self._signal.norm() ** 2

    def check_prior(self) -> None:
        """Warn, once for each process, where `terminal_snr` is above 0.002: x_T is then not the noise that samplers
        start from, and their samples are drawn towards a mean of zero."""
        if "prior" in self._warned or self.terminal_snr() <= _TERMINAL_SNR:
            return
        self._warn(
            "prior",
            f"x_T is not noise: a signal-to-noise ratio of ‖M_(1:T)‖²/σ_T² = {self.terminal_snr():.3g} is left in it, "
            f"expected at most {_TERMINAL_SNR}. Samples that start from N(0, σ_T² I) are drawn towards zero. Use a "
            f"schedule that ends in noise, more of its steps, or start from x_T = process.diffuse(images, "
            f"{self.num_steps}) and take the steps of a sampler one by one.",
        )

    # ------------------------------------------------------------------ training pairs

    def diffuse(
        self, x0: Tensor, t: Time, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""x_t = M_{1:t} x_0 + σ_t ε.

        Arguments:
            x0: data, with shape (*batch, *shape(0)); (B, *shape(0)) where t is a tensor of B times.
            t: one time for all, or a LongTensor (B,) whose entries share one shape(t).
            noise: ε, with the shape of the result; drawn from `generator` where it is not given.

        Warns, once for each process, of data that look like images of 0…255: none below 0 and some above 10. Schedules
        are made for values of about ±1. On an accelerator only the first batch is looked at.

        Raises:
            ValueError: t outside 0…T, times of different shapes, x0 of a wrong shape; on the CPU also NaN or infinite
                values in x0.
        """
        check_event(x0, self.shape(0), "x0")
        if x0.device.type == "cpu":  # elsewhere the answer would have to be waited for
            check_finite(x0, "x0")
        self._check_range(x0)
        times = self._times(t)
        with full_precision(x0):
            mean = self._mean(x0, times)
            return self._add_noise(mean, times, draw_noise(mean, noise, generator))

    def clean(self, x0: Tensor, t: Time) -> Tensor:
        """c_t = M_{1:t} x_0 / a_t: the degraded image in data range, what denoisers predict. Arguments as `diffuse`."""
        check_event(x0, self.shape(0), "x0")
        times = self._times(t)
        with full_precision(x0):
            mean = self._mean(x0, times)
            return mean / column(self._at(self._scales, times), mean)

    # ------------------------------------------------------------------ helpers

    def _check_range(self, x0: Tensor) -> None:
        """Warn of images of 0…255. On an accelerator the answer has to be waited for: there it is asked for once."""
        if "pixels" in self._warned or not x0.numel() or x0.is_meta or torch.compiler.is_compiling():
            return
        if x0.device.type != "cpu":
            if self._looked:
                return
            self._looked = True
        low, high = x0.detach().aminmax()
        if bool((low >= 0) & (high > _PIXELS)):
            self._warn(
                "pixels",
                f"x0: expected values of about ±1, got {float(low):.4g}…{float(high):.4g}, as of images in 0…255: "
                f"scale those by x / 127.5 - 1",
            )

    def _warn(self, of: str, message: str) -> None:
        """Warn of what is legal but probably wrong, once."""
        self._warned.add(of)
        warnings.warn(message, stacklevel=4)

    def _pair(self, t: int, s: int | None) -> tuple[int, int]:
        t = as_index(t, 1, self.num_steps, "t")
        s = t - 1 if s is None else as_index(s, 0, self.num_steps, "s")
        if s >= t:
            raise ValueError(f"s: expected s < t = {t}, got {s}")
        return t, s

    def _mean(self, x0: Tensor, times: int | list[int]) -> Tensor:
        """M_{1:t} x_0"""
        if isinstance(times, int):
            return self.chain.cumulative(times)(x0)
        if x0.ndim != len(self._shapes[0]) + 1 or x0.shape[0] != len(times):
            raise ValueError(
                f"x0: expected shape {(len(times), *self._shapes[0])} for {len(times)} times, got {tuple(x0.shape)}"
            )
        shapes = {self._shapes[u] for u in times}
        if len(shapes) > 1:
            raise ValueError(f"t: expected times of one shape, got times of the shapes {sorted(shapes)}")
        return self.chain.apply_cumulative(times, x0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape(0)} → {self.shape(self.num_steps)}, num_steps={self.num_steps})"


def _noise_levels(sigmas: Sequence[NoiseLevel] | Tensor, shapes: Sequence[Shape]) -> list[NoiseLevel]:
    check_constant(sigmas, "sigmas")
    values: list[NoiseLevel] = list(sigmas.detach().cpu()) if isinstance(sigmas, Tensor) else list(sigmas)
    if len(values) != len(shapes):
        raise ValueError(f"sigmas: expected {len(shapes)} values, for t = 0 … {len(shapes) - 1}, got {len(values)}")
    return [
        as_noise_level(level, shape, "sigmas", at=f" at t = {t}")
        for t, (level, shape) in enumerate(zip(values, shapes, strict=True))
    ]
