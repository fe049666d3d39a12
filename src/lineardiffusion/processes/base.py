r"""A diffusion process with linear degradations: x_t = M_{1:t} x_0 + σ_t ε for t = 0, …, T (Eq. 3 of Scale Space
Diffusion), with x_0 the data: M_{1:0} = I and σ_0 = 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_index, check_event, check_finite, column, compute_dtype, draw_noise
from lineardiffusion.covariance import Covariance, NoiseLevel, as_covariance, as_noise_level
from lineardiffusion.gaussian import Gaussian, GaussianMarginal
from lineardiffusion.operators.base import LinearOperator, apply_each
from lineardiffusion.operators.chain import OperatorChain
from lineardiffusion.posterior import check_feasible, feasible_kernel, transition

Time = int | Tensor


class LinearDiffusion:
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
        count = len(self.chain) + 1
        self._shapes = [self.chain.shape(t) for t in range(count)]
        self._noise = self._noise_levels(sigmas, count)
        self.is_isotropic = not any(isinstance(level, Covariance) for level in self._noise)  # Σ_t = σ_t² I for all t
        self._sigmas = [
            math.sqrt(level.mean_variance()) if isinstance(level, Covariance) else level for level in self._noise
        ]
        self._scales = [1.0] * count if signal_scales is None else _levels(signal_scales, count, "signal_scales")
        if self._noise[0] != 0:
            raise ValueError(f"sigmas: expected σ_0 = 0 (state 0 is clean data), got {self._noise[0]}")
        if self._scales[0] != 1 or min(self._scales) <= 0:
            raise ValueError("signal_scales: expected a_0 = 1 and all of them > 0")
        for t in range(1, count):
            check_feasible(self.chain.step(t), self._noise[t - 1], self._noise[t], at=f" at t = {t}")

    def _noise_levels(self, sigmas: Sequence[NoiseLevel] | Tensor, count: int) -> list[NoiseLevel]:
        values: list[NoiseLevel] = list(sigmas.detach().cpu()) if isinstance(sigmas, Tensor) else list(sigmas)
        if len(values) != count:
            raise ValueError(f"sigmas: expected {count} values, for t = 0 … {count - 1}, got {len(values)}")
        return [
            as_noise_level(level, shape, "sigmas", at=f" at t = {t}")
            for t, (level, shape) in enumerate(zip(values, self._shapes, strict=True))
        ]

    # ------------------------------------------------------------------ schedule

    @property
    def num_steps(self) -> int:
        """T"""
        return len(self.chain)

    def shape(self, t: int) -> Shape:
        """Event shape of x_t."""
        return self._shapes[as_index(t, 0, self.num_steps, "t")]

    def shape_changes(self) -> list[int]:
        """The t for which x_t and x_{t−1} differ in shape, ascending."""
        return [t for t in range(1, self.num_steps + 1) if self._shapes[t] != self._shapes[t - 1]]

    @overload
    def sigma(self, t: int) -> float: ...
    @overload
    def sigma(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Time) -> float | Tensor:
        """Noise level σ_t (root mean square over an event): a float for an int t, a float64 tensor for a LongTensor."""
        return self._at(self._sigmas, t)

    @overload
    def signal_scale(self, t: int) -> float: ...
    @overload
    def signal_scale(self, t: Tensor) -> Tensor: ...
    def signal_scale(self, t: Time) -> float | Tensor:
        """Signal scale a_t: a float for an int t, a float64 tensor for a LongTensor."""
        return self._at(self._scales, t)

    @overload
    def snr(self, t: int) -> float: ...
    @overload
    def snr(self, t: Tensor) -> Tensor: ...
    def snr(self, t: Time) -> float | Tensor:
        """Signal-to-noise ratio a_t² / σ_t², infinite at t = 0."""
        if isinstance(t, Tensor) and t.ndim:
            return (self.signal_scale(t) / self.sigma(t)).square()
        sigma = self.sigma(t)
        return (self.signal_scale(t) / sigma) ** 2 if sigma else math.inf

    def noise_covariance(self, t: int) -> Covariance:
        """Σ_t, the covariance of x_t given x_0."""
        t = as_index(t, 0, self.num_steps, "t")
        return as_covariance(self._noise[t], self._shapes[t])

    def add_noise(self, mean: Tensor, t: Time, noise: Tensor) -> Tensor:
        """mean + Σ_t^{1/2} noise, for white noise of the shape of the mean; t as in `diffuse`."""
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
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """n samples of N(0, σ_T² I), with shape (n, *shape(T)): where sampling starts."""
        zeros = torch.zeros(n, *self.shape(self.num_steps), dtype=dtype, device=device)
        return self.add_noise(zeros, self.num_steps, draw_noise(zeros, None, generator))

    # ------------------------------------------------------------------ training pairs

    def diffuse(
        self, x0: Tensor, t: Time, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""x_t = M_{1:t} x_0 + σ_t ε.

        Arguments:
            x0: data, with shape (*batch, *shape(0)); (B, *shape(0)) where t is a tensor of B times.
            t: one time for all, or a LongTensor (B,) whose entries share one shape(t).
            noise: ε, with the shape of the result; drawn from `generator` where it is not given.

        Raises:
            ValueError: t outside 0…T, times of different shapes, x0 of a wrong shape; on the CPU also NaN or infinite
                values in x0.
        """
        check_event(x0, self.shape(0), "x0")
        if x0.device.type == "cpu":  # elsewhere the answer would have to be waited for
            check_finite(x0, "x0")
        times = self._times(t)
        mean = self._mean(x0, times)
        return self._add_noise(mean, times, draw_noise(mean, noise, generator))

    def clean(self, x0: Tensor, t: Time) -> Tensor:
        """c_t = M_{1:t} x_0 / a_t: the degraded image in data range, what denoisers predict. Arguments as `diffuse`."""
        check_event(x0, self.shape(0), "x0")
        times = self._times(t)
        mean = self._mean(x0, times)
        return mean / column(_pick(self._scales, times), mean)

    def sample_timesteps(
        self, batch_size: int, generator: torch.Generator | None = None, shape_change_fraction: float | None = None
    ) -> Tensor:
        r"""Times of a training batch that can be stacked, each t with probability 1/T in expectation.

        The rule of Scale Space Diffusion (Sec. 4.2): draw one t uniformly from 1…T. If x_t and x_{t−1} have the same
        shape, fill the batch uniformly with the t_i of that shape that keep it; otherwise repeat t.

        That trains each step that changes the shape with one batch in T. A `shape_change_fraction` draws one of them
        with this probability instead, and the others with what is left; `timestep_weights` are then the weights that
        keep the objective as it was.

        Arguments:
            batch_size: how many.
            generator: the source of randomness; the global one by default.
            shape_change_fraction: in (0, 1), for processes that change shape.

        Returns:
            LongTensor (batch_size,) on the CPU.

        Raises:
            ValueError: a fraction out of range, or for a process that does not change shape.
        """
        batch_size = as_index(batch_size, 1, 2**31, "batch_size")
        device = None if generator is None else generator.device
        if shape_change_fraction is None:
            candidates: Sequence[int] = range(1, self.num_steps + 1)
        else:
            self._check_fraction(shape_change_fraction)
            changes = self.shape_changes()
            coin = float(torch.rand((), generator=generator, device=device))
            kept = [u for u in range(1, self.num_steps + 1) if u not in changes]
            candidates = changes if coin < shape_change_fraction else kept
        t = candidates[int(torch.randint(len(candidates), (), generator=generator, device=device))]
        alike = self._alike(t)
        picks = torch.randint(len(alike), (batch_size,), generator=generator, device=device).cpu()
        return alike[picks]

    def timestep_weights(self, t: Tensor, shape_change_fraction: float) -> Tensor:
        r"""(1/T) / q(t), q(t) the probability of t under `sample_timesteps` with a `shape_change_fraction`: losses
        times these weights have the expectation they have with the paper's rule.

        Arguments:
            t: LongTensor (B,).
            shape_change_fraction: as in `sample_timesteps`.

        Returns:
            Weights (B,) in float64.

        Raises:
            ValueError: as `sample_timesteps`, or times outside 1…T.
        """
        self._check_fraction(shape_change_fraction)
        times, changes, last = self.check_times(t), set(self.shape_changes()), self.num_steps
        at_change = len(changes) / (last * shape_change_fraction)
        elsewhere = (last - len(changes)) / (last * (1 - shape_change_fraction))
        return torch.tensor([at_change if u in changes else elsewhere for u in times], dtype=torch.float64)

    # ------------------------------------------------------------------ helpers

    def _check_fraction(self, fraction: float) -> None:
        if not 0 < fraction < 1:
            raise ValueError(f"shape_change_fraction: expected a number in (0, 1), got {fraction}")
        if not 0 < len(self.shape_changes()) < self.num_steps:
            raise ValueError("shape_change_fraction: expected a process some of whose steps change the shape")

    def _alike(self, t: int) -> Tensor:
        """The times that may share a training batch with t."""
        shapes = self._shapes
        if shapes[t] != shapes[t - 1]:
            return torch.tensor([t])
        return torch.tensor([u for u in range(1, len(shapes)) if shapes[u] == shapes[u - 1] == shapes[t]])

    def _pair(self, t: int, s: int | None) -> tuple[int, int]:
        t = as_index(t, 1, self.num_steps, "t")
        s = t - 1 if s is None else as_index(s, 0, self.num_steps, "s")
        if s >= t:
            raise ValueError(f"s: expected s < t = {t}, got {s}")
        return t, s

    def _at(self, levels: list[float], t: Time) -> float | Tensor:
        return _pick(levels, self._times(t))

    def _times(self, t: Time) -> int | list[int]:
        """One time for all, or one for each sample, checked."""
        if isinstance(t, Tensor) and t.ndim:
            return self.check_times(t)
        return as_index(t, 0, self.num_steps, "t")

    def check_times(self, t: Tensor) -> list[int]:
        """Times (B,) as integers.

        Raises:
            ValueError: not integers, not one-dimensional, or outside 0…T.
        """
        if t.ndim != 1 or t.is_floating_point() or t.is_complex() or t.numel() == 0:
            raise ValueError(f"t: expected a LongTensor of shape (B,), got {t.dtype} of shape {tuple(t.shape)}")
        times: list[int] = t.tolist()
        if min(times) < 0 or max(times) > self.num_steps:
            raise ValueError(f"t: expected 0 ≤ t ≤ {self.num_steps}, got values in {min(times)}…{max(times)}")
        return times

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


def _pick(levels: list[float], times: int | list[int]) -> float | Tensor:
    return levels[times] if isinstance(times, int) else torch.tensor([levels[u] for u in times], dtype=torch.float64)


def _levels(values: Sequence[float] | Tensor, length: int, name: str) -> list[float]:
    levels = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    if levels.shape != (length,):
        raise ValueError(f"{name}: expected {length} values, for t = 0 … {length - 1}, got shape {tuple(levels.shape)}")
    check_finite(levels, name)
    return list(levels.tolist())
