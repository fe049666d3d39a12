r"""A diffusion process is a path and a schedule: x_t = a_t R_t x_0 + σ_t ε for times t in [0, T], x_0 the data.

With M_{s→t} = (a_t/a_s) R_{s→t} and M_{1:t} = M_{0→t} it is q(x_t | x_0) = N(M_{1:t} x_0, σ_t² I), Eq. 3 of Scale Space
Diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args, overload

import torch
from torch import Tensor

from lineardiffusion._checks import (
    Shape,
    as_choice,
    as_index,
    as_list,
    as_number,
    check_constant,
    check_event,
    check_finite,
    check_real,
    check_tensor,
    column,
    compute_dtype,
    draw_noise,
    full_precision,
    got,
    is_batch,
    to_device,
)
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import Configured, configured
from lineardiffusion.covariance import Covariance, NoiseLevel, as_covariance, as_noise_level
from lineardiffusion.gaussian import Gaussian, GaussianMarginal
from lineardiffusion.kernels import MarkovKernel, as_eta, check_feasible
from lineardiffusion.operators.base import LinearOperator, apply_each, operator_bytes, prepared_bytes
from lineardiffusion.operators.chain import OperatorChain
from lineardiffusion.paths import Path, chain
from lineardiffusion.posterior import transition
from lineardiffusion.processes.doubts import Doubts
from lineardiffusion.processes.feasibility import check_every_step, times_to_check
from lineardiffusion.schedules import CovarianceTable, Schedule, table
from lineardiffusion.shared_noise import SharedNoiseKernel
from lineardiffusion.times import ByShape, group_by_shape

Time = float | Tensor
Coupling = Literal["markov", "shared"]

# Operators and kernels that are kept: a sampler visits the same pairs of times again and again.
_OPERATOR_BYTES = 2**28
_KERNEL_BYTES = 2**29
# In the place of a_t/a_s where a_t = 0: it makes M zero to all digits and leaves it the polar factor of R, which is
# what kernels tend to where the signal fades.
_VANISHING = 1e-18


@configured("LinearDiffusion")
class LinearDiffusion(Configured):
    r"""Any linear diffusion: a path and a schedule, or a chain of operators and the noise level of each state.

    Times are numbers in [0, T], T = `end`. Where the schedule has steps, integers are the states that networks are
    trained on. Processes with the same path, schedule and coupling are equal.

    Arguments:
        path: R_{s→t}, from `ld.paths`; or the whole operators M_1, …, M_T, as an OperatorChain or a sequence.
        schedule: a_t and σ_t, from `ld.schedules`; or σ_0 = 0, σ_1, …, σ_T, any of which but the first may be a
            Covariance Σ_t, for noise that is not isotropic: x_t = M_{1:t} x_0 + Σ_t^{1/2} ε; σ_t is then √(tr Σ_t / n).
        signal_scales: with σ_0, …, σ_T: a_0 = 1, a_1, …, a_T, such that c_t = M_{1:t} x_0 / a_t is in data range; all 1
            by default.
        coupling: "markov" promises a Gaussian transition between any two times: σ_t² must be at least
            σ_s² λmax(M_{s→t} M_{s→t}ᵀ), or Σ_t ⪰ M Σ_s Mᵀ. "shared" does not: samplers that share noise
            (`SharedNoiseSampler`) need none.

    Raises:
        ValueError: lengths that do not fit, or noise that a "markov" coupling does not allow. The error names the time
            and the smallest feasible σ_t; `ld.feasible_sigmas` raises all of them as far as necessary.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.LinearDiffusion(ld.paths.heat((1, 8), blur_sigma=2.0), ld.schedules.cosine(100))
        >>> p.diffuse(torch.zeros(4, 1, 8), t=2.5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 1, 8])
        >>> blur = ld.Convolution(torch.tensor([0.25, 0.5, 0.25]), (1, 8))
        >>> p = ld.LinearDiffusion([blur] * 3, [0.0, 0.1, 0.2, 0.3])
        >>> p.posterior(torch.ones(1, 8), torch.zeros(1, 8), t=2).mean.shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        path: Path | OperatorChain | Sequence[LinearOperator],
        schedule: Schedule | Sequence[NoiseLevel] | Tensor,
        signal_scales: Sequence[float] | Tensor | None = None,
        *,
        coupling: Coupling = "markov",
    ) -> None:
        as_choice(coupling, get_args(Coupling), "coupling")
        if not isinstance(schedule, Schedule):
            schedule = _as_table(schedule, signal_scales)
        elif signal_scales is not None:
            raise ValueError("signal_scales: expected None beside a schedule, which has its own")
        if not isinstance(path, Path):
            if isinstance(path, LinearOperator):
                raise TypeError(f"path: expected a path or a sequence of operators, got one operator: [{path}]")
            if not isinstance(path, OperatorChain):
                expected = "a path such as ld.paths.identity(shape), or operators M_1, …, M_T"
                path = OperatorChain(as_list(path, "path", expected))
            path = chain(path, [schedule.signal(t) for t in range((schedule.num_steps or 0) + 1)])
        self.path, self.schedule, self.coupling = path.on(schedule), schedule, coupling
        self._operators: BoundedCache[LinearOperator] = BoundedCache(_OPERATOR_BYTES, operator_bytes)
        self._kernels: BoundedCache[MarkovKernel] = BoundedCache(_KERNEL_BYTES, _kernel_bytes)
        self._shared_kernels: BoundedCache[SharedNoiseKernel] = BoundedCache(_KERNEL_BYTES, _kernel_bytes)
        self._signal: tuple[float, LinearOperator] | None = None  # at a time, of white noise
        self._doubts = Doubts()
        self._levels: dict[float, NoiseLevel] = {}
        self._scales: dict[float, tuple[float, float]] = {}
        self.is_isotropic = schedule.is_isotropic  # Σ_t = σ_t² I for all t
        if self.num_steps or coupling == "markov":
            times = times_to_check(self)
            self._fill(times)
            if coupling == "markov":
                check_every_step(self, times)

    def arguments(self) -> dict[str, object]:
        return {"path": self.path, "schedule": self.schedule, "coupling": self.coupling}

    # ------------------------------------------------------------------ times

    @property
    def end(self) -> float:
        """T"""
        return self.schedule.end

    @property
    def num_steps(self) -> int | None:
        """T where there are steps, else None."""
        return self.schedule.num_steps

    def shape(self, t: float) -> Shape:
        """Event shape of x_t."""
        return self.path.shape(self.time(t))

    def shape_changes(self) -> list[float]:
        """The t_j, ascending, at which the shape changes: x_t has the new one from t_j on."""
        return [int(t) if self.num_steps and t == int(t) else t for t in self.path.changes() if t <= self.end]

    def before(self, t: float) -> float:
        """The time of the clean image that a network predicts from x_t: t − 1 where there are steps, else the number
        just below t. So it has the shape that a step from t leads to."""
        t = self.time(t, low="above")
        return max(t - 1, 0) if self.num_steps else math.nextafter(t, 0)

    def time(self, t: Time, name: str = "t", low: Literal["from", "above"] = "from") -> float:
        """One time, checked: an int where it is one in a process with steps, so that equal times are the same.

        Raises:
            TypeError: not a number.
            ValueError: outside 0…T, or not an integer where a path knows integers alone.
        """
        steps = self.schedule.num_steps
        if type(t) is int and steps is not None:
            number: float = t
        else:
            number = as_number(t, name)
            if steps is not None and number.is_integer():
                number = int(number)
        if not 0 <= number <= self.schedule.end or (low == "above" and number == 0):
            bound = "<" if low == "above" else "≤"
            raise ValueError(f"{name}: expected 0 {bound} {name} ≤ {self.schedule.end}, got {number}")
        if self.path.integral and type(number) is not int:
            raise ValueError(
                f"{name}: expected an integer, as a chain of operators has no states between, got {number}"
            )
        return number

    def times(self, t: Tensor, count: int | None = None, low: Literal["from", "above"] = "from") -> Tensor:
        """Times (B,) of a batch, checked as far as that needs no waiting: where the shape changes their values have to
        be known, elsewhere those on an accelerator are not looked at.

        Raises:
            ValueError: not (B,) numbers, another number of them than there are events, outside 0…T.
        """
        check_tensor(t, "t")
        if t.ndim != 1 or t.dtype == torch.bool or t.is_complex() or t.numel() == 0:
            raise ValueError(f"t: expected a tensor of shape (B,), got {t.dtype} of shape {tuple(t.shape)}")
        if count is not None and len(t) != count:
            raise ValueError(f"t: expected one time, or one for each of {count} events, got {len(t)}")
        if t.device.type == "cpu":
            least, integral = 0.0 if low == "from" else math.nextafter(0, 1), self.path.integral
            for value in t.tolist():
                if not least <= value <= self.end or (integral and value % 1):
                    self.time(value, low=low)  # which refuses it
        return t

    def times_for(self, t: Tensor, device: torch.device) -> Tensor:
        """Times of a batch where their levels are found: on the device that these are for, or where they are if the
        schedule looks at their values, which would be waited for."""
        return t if self.schedule.by_value else to_device(t, device)

    def common_shape(self, t: Tensor) -> Shape:
        """The shape that x_t has for all times of a batch.

        Raises:
            ValueError: there are several; `group_by_shape` finds the parts that go together.
        """
        check_tensor(t, "t")
        if not self.path.changes():
            return self.path.shape(0)
        shapes = {self.path.shape(u) for u in set(t.tolist())}
        if len(shapes) > 1:
            raise ValueError(
                f"t: expected times of one shape, got times of the shapes {sorted(shapes)}: draw them with "
                f"process.sample_timesteps (ld.times.ByShape), or take the parts of process.group_by_shape(t) in turn"
            )
        return shapes.pop()

    def sample_timesteps(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Times of a training batch by the rule of Scale Space Diffusion, `ld.times.ByShape`."""
        return ByShape().sample(self, batch_size, generator)

    def group_by_shape(self, t: Tensor) -> list[Tensor]:
        """The parts of a batch that can be stacked: see `ld.times.group_by_shape`."""
        return group_by_shape(self, t)

    # ------------------------------------------------------------------ signal and noise

    @overload
    def signal_scale(self, t: float) -> float: ...
    @overload
    def signal_scale(self, t: Tensor) -> Tensor: ...
    def signal_scale(self, t: Time) -> Time:
        """Signal scale a_t: a float for a number t, float64 for a tensor, on its device."""
        if is_batch(t):
            return self.schedule.signal(t) * self.path.gain(t)
        return self._scales_at(self.time(t))[0]

    @overload
    def sigma(self, t: float) -> float: ...
    @overload
    def sigma(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Time) -> Time:
        """Noise level σ_t (root mean square over an event); as `signal_scale`."""
        return self.schedule.sigma(t) if is_batch(t) else self._scales_at(self.time(t))[1]

    @overload
    def snr(self, t: float) -> float: ...
    @overload
    def snr(self, t: Tensor) -> Tensor: ...
    def snr(self, t: Time) -> Time:
        """Signal-to-noise ratio a_t² / σ_t², infinite at t = 0; as `signal_scale`."""
        if is_batch(t):
            return (self.signal_scale(t) / self.sigma(t)).square()
        sigma = self.sigma(t)
        return (self.signal_scale(t) / sigma) ** 2 if sigma else math.inf

    def noise_covariance(self, t: float) -> Covariance:
        """Σ_t, the covariance of x_t given x_0."""
        t = self.time(t)
        return as_covariance(self.noise_level(t), self.path.shape(t))

    def add_noise(self, mean: Tensor, t: Time, noise: Tensor) -> Tensor:
        """mean + Σ_t^{1/2} noise, for white noise of the shape of the mean; t as in `diffuse`."""
        check_tensor(mean, "mean")
        check_real(mean, "mean")
        with full_precision(mean):
            time = self.times(t, len(mean)) if is_batch(t) else self.time(t)
            return self._add_noise(mean, time, draw_noise(mean, noise, None))

    def _add_noise(self, mean: Tensor, t: Time, noise: Tensor) -> Tensor:
        if not isinstance(t, Tensor):
            level = self.noise_level(t)
            return level.sample(mean, noise) if isinstance(level, Covariance) else torch.add(mean, noise, alpha=level)
        if not self.is_isotropic:
            shape = self.common_shape(t)
            return mean + apply_each([as_covariance(self.noise_level(u), shape).root() for u in t.tolist()], noise)
        work = mean.to(compute_dtype(mean.dtype))
        sigmas = column(self.schedule.sigma(self.times_for(t, mean.device)), work)
        return torch.addcmul(work, sigmas, noise.to(work.dtype)).to(mean.dtype)

    # ------------------------------------------------------------------ operators and distributions

    def degradation(self, s: float, t: float) -> LinearOperator:
        """R_{s→t}, in data range: c_t = R_{s→t} c_s, s ≤ t; kept."""
        t, s = self._pair(t, s, equal=True)
        return self._operators.get(("R", s, t), lambda: self.path.between(s, t))

    def operator(self, s: float, t: float) -> LinearOperator:
        """M_{s→t} = (a_t/a_s) R_{s→t}, s ≤ t; kept.

        Raises:
            ValueError: a_s = 0 and a_t > 0: there is no such operator.
        """
        t, s = self._pair(t, s, equal=True)
        return self._operators.get(("M", s, t), lambda: self.path.scaled(s, t, self.signal_ratio(s, t)))

    def signal_ratio(self, s: float, t: float) -> float:
        """a_t/a_s, 0 where both are."""
        s, t = self.time(s, "s"), self.time(t)
        before, after = self.signal_scale(s), self.signal_scale(t)
        if before == 0 and after > 0:
            raise ValueError(
                f"s: expected a signal that never comes back, got a_s = 0 at s = {s} and a_t = {after:.6g} at t = {t}"
            )
        return after / before if before else 0.0

    def marginal(self, t: float) -> GaussianMarginal:
        """q(x_t | x_0) = N(M_{1:t} x_0, σ_t² I), Eq. 3."""
        return GaussianMarginal(self.operator(0, t), self.noise_level(self.time(t)))

    def transition(self, t: float, s: float | None = None) -> Covariance:
        """Covariance of q(x_t | x_s), Eq. 4, for any s < t, by default t − 1 where there are steps; its mean is
        `operator(s, t)(x_s)`.

        Raises:
            ValueError: no such Gaussian exists.
        """
        t, s = self._pair(t, s)
        return transition(self.operator(s, t), self.noise_level(s), self.noise_level(t))

    def posterior(self, x_t: Tensor, mean_s: Tensor, t: float, s: float | None = None) -> Gaussian:
        """q(x_s | x_t, x_0), Eq. 6, for any s < t, by default t − 1 where there are steps.

        Arguments:
            x_t: the state at t, with shape (*batch, *shape(t)).
            mean_s: μ_s = M_{1:s} x_0 = a_s c_s, with shape (*batch, *shape(s)).
            t, s: the two times.
        """
        return self.kernel(x_t, mean_s, t, s, eta=1.0)

    def kernel(self, x_t: Tensor, mean_s: Tensor, t: float, s: float | None, eta: float) -> Gaussian:
        """The Markov kernel from x_t to x_s (see `ld.ddim_kernel`), at η = 1 the posterior; other arguments as there.

        Where the shape stays, noise of directions whose gain is zero is carried on: at a_t = 0, where a flow begins,
        the kernel is the limit of those at small a_t.
        """
        t, s = self._pair(t, s)
        return self.step_kernel(t, s, eta).gaussian(x_t, mean_s)

    def step_kernel(self, t: float, s: float, eta: float, *, of: Literal["mean", "clean"] = "mean") -> MarkovKernel:
        """The kernel of `kernel`, prepared once and kept.

        Arguments:
            t, s, eta: as there.
            of: what the kernel is given beside x_t: μ_s, or the clean image c_s = μ_s / a_s, as samplers do.

        Raises:
            ValueError: times that do not fit, η outside [0, 1], or no such kernel exists for these times.
        """
        key = (t, s, eta, of)
        try:
            kernel = self._kernels.find(key)
        except TypeError:  # a list, which is no number and refused below
            kernel = None
        if kernel is None:
            (t, s), eta, of = self._pair(t, s), as_eta(eta), as_choice(of, ("mean", "clean"), "of")
            kernel = self._kernels.get((t, s, eta, of), lambda: self._make_kernel(t, s, eta, of))
        return kernel

    def _make_kernel(self, t: float, s: float, eta: float, of: str) -> MarkovKernel:
        operator, sigma_s, sigma_t = self.operator(s, t), self.noise_level(s), self.noise_level(t)
        if self.coupling == "shared" or not self.path.integral:  # products of feasible steps are feasible
            check_feasible(operator, sigma_s, sigma_t, at=f" from t = {t} to s = {s}")
        if self.signal_scale(t) == 0:
            operator = self.path.scaled(s, t, _VANISHING)
        carried = self.path.shape(s) == self.path.shape(t)
        scale = self.signal_scale(s) if of == "clean" else 1.0
        return MarkovKernel(operator, sigma_s, sigma_t, eta, carried=carried, scale=scale)

    def shared_noise_kernel(
        self, x_t: Tensor, mean_t: Tensor, mean_s: Tensor, t: float, s: float | None, gamma: float
    ) -> Gaussian:
        r"""N(μ_s + γ (x_t − μ_t), Σ_s − γ² Σ_t): the noise of x_t is kept by the factor γ, 0 ≤ γ ≤ σ_s/σ_t.

        Arguments:
            x_t: the state at t, with shape (*batch, *shape(t)).
            mean_t, mean_s: μ_t = M_{1:t} x_0 and μ_s, of the same shape.
            t, s: times of one shape, s < t.
            gamma: γ.

        Raises:
            ValueError: times of different shapes, or γ out of range.
        """
        return self.shared_step_kernel(t, s, gamma).gaussian(x_t, mean_t, mean_s)

    def shared_step_kernel(self, t: float, s: float | None, gamma: float) -> SharedNoiseKernel:
        """The kernel of `shared_noise_kernel`, prepared once and kept."""
        t, s = self._pair(t, s)
        if self.path.shape(t) != self.path.shape(s):
            raise ValueError(
                f"s: expected a time of the shape of t = {t}, {self.path.shape(t)}, got s = {s} of {self.path.shape(s)}"
            )
        gamma = as_number(gamma, "gamma")
        return self._shared_kernels.get(
            (t, s, gamma),
            lambda: SharedNoiseKernel(self.noise_level(s), self.noise_level(t), gamma, self.path.shape(t)),
        )

    def prior(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        t: float | None = None,
        noise: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """n samples of N(0, Σ_t), with shape (n, *shape(t)): where sampling starts. Warns as `check_prior`.

        Arguments:
            n: how many.
            generator: the source of the noise; the global one by default.
            t: the time, T by default.
            noise: standard normal noise of the shape of the result, in the place of a generator.
            dtype, device: of the result; torch's defaults where they are not given.
        """
        t = self.end if t is None else t
        self.check_prior(t)
        count = as_index(n, 0, 2**31, "n")
        if not (dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)):
            raise TypeError(f"dtype: expected a real floating-point one such as torch.float32, got {got(dtype)}")
        zeros = torch.zeros(count, *self.shape(t), dtype=dtype, device=device)
        return self.add_noise(zeros, t, draw_noise(zeros, noise, generator))

    def terminal_snr(self, t: float | None = None) -> float:
        r"""‖Σ_t^{−1/2} M_{1:t}‖², by default for t = T: the largest signal-to-noise ratio that is left in x_T, of a
        direction in which the data have variance 1. For DDPM and Blurring Diffusion a_T²/σ_T²."""
        t = self.time(self.end if t is None else t)
        level, scale = self.noise_level(t), self.signal_scale(t)
        if not isinstance(level, Covariance):
            if scale == 0:
                return 0.0
            return (scale * self.path.norm(0, t) / level) ** 2 if level else math.inf
        if self._signal is None or self._signal[0] != t:
            self._signal = t, level.inverse_root() @ self.operator(0, t)
        return self._signal[1].norm() ** 2  # it keeps its norm, for as long as what it is made of stays

    def check_prior(self, t: float | None = None) -> None:
        """Warn, once for each process, where `terminal_snr` is above 0.002: x_t, by default x_T, is then not the noise
        that samplers start from, and their samples are drawn towards a mean of zero."""
        self._doubts.prior(self, self.time(self.end if t is None else t))

    # ------------------------------------------------------------------ training pairs

    def diffuse(
        self, x0: Tensor, t: Time, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""x_t = a_t R_t x_0 + σ_t ε.

        Arguments:
            x0: data, with shape (*batch, *shape(0)); (B, *shape(0)) where t is a tensor of B times.
            t: one time for all, or a tensor (B,) whose entries share one shape(t).
            noise: ε, with the shape of the result; drawn from `generator` where it is not given.

        Warns, once for each process, of data that look like images of 0…255: none below 0 and some above 10. Schedules
        are made for values of about ±1. On an accelerator only the first batch is looked at.

        Raises:
            ValueError: t outside 0…T, times of different shapes, x0 of a wrong shape; on the CPU also NaN or infinite
                values in x0.
        """
        self.check_data(x0, "x0")
        time = self._time_of(x0, t)
        with full_precision(x0):
            if isinstance(time, Tensor):
                clean = self.path.apply_each(time, x0)
                mean = column(self.signal_scale(self.times_for(time, x0.device)), clean) * clean
            else:
                mean = self.operator(0, time)(x0)
            return self._add_noise(mean, time, draw_noise(mean, noise, generator))

    def check_data(self, x: Tensor, name: str = "x0", t: float = 0) -> None:
        """Raise unless x are data, or states at t, with shape (*batch, *shape(t)), and on the CPU finite; warn as
        `diffuse`. `name` is what messages call them."""
        check_event(x, self.shape(t), name)
        if x.device.type == "cpu":  # elsewhere the answer would have to be waited for
            check_finite(x, name)
        self._doubts.pixels(x, name)

    def clean(self, x0: Tensor, t: Time) -> Tensor:
        """c_t = R_t x_0: the degraded image in data range. Arguments as `diffuse`."""
        check_event(x0, self.path.shape(0), "x0")
        time = self._time_of(x0, t)
        with full_precision(x0):
            if isinstance(time, Tensor):
                return self.path.apply_each(time, x0)
            return self.degradation(0, time)(x0)

    # ------------------------------------------------------------------ helpers

    def _time_of(self, x0: Tensor, t: Time) -> Time:
        """One time, or one for each row of x0 where x0 is, checked."""
        if not is_batch(t):
            return self.time(t)
        count = x0.shape[0] if x0.ndim == len(self.path.shape(0)) + 1 else None
        if count is None:
            event = ", ".join(map(str, self.path.shape(0)))
            raise ValueError(f"x0: expected shape ({len(t)}, {event}) for as many times, got {tuple(x0.shape)}")
        self.common_shape(self.times(t, count))
        return t

    def _scales_at(self, t: float) -> tuple[float, float]:
        """a_t and σ_t, kept: a sampler asks for the same times again and again."""
        if t not in self._scales:
            if len(self._scales) > 4096:
                self._scales.clear()
            signal, sigma = self.schedule(t)
            self._scales[t] = float(signal * self.path.gain(t)), sigma
        return self._scales[t]

    def _fill(self, times: Sequence[float]) -> None:
        """Keep the levels of many times: a_t and σ_t, for which the schedule is asked once, or Σ_t of every step."""
        if not self.is_isotropic:
            for t in times if self.num_steps else ():
                self.noise_level(t)
            return
        signal, sigma = self.schedule(torch.tensor(times, dtype=torch.float64))
        for t, a, level in zip(times, signal.tolist(), sigma.tolist(), strict=True):
            self._scales[t] = float(a * self.path.gain(t)), level
            self._levels[t] = as_noise_level(level, self.path.shape(t), "sigmas", at=f" at t = {t}")

    def noise_level(self, t: float) -> NoiseLevel:
        """σ_t, or Σ_t where the noise is not isotropic."""
        t = self.time(t)
        if t not in self._levels:
            if len(self._levels) > 4096:  # of times between steps
                self._levels.clear()
            level = self.schedule.noise(t, self.path.shape(t))
            self._levels[t] = as_noise_level(level, self.path.shape(t), "sigmas", at=f" at t = {t}")
        return self._levels[t]

    def _pair(self, t: float, s: float | None, *, equal: bool = False) -> tuple[float, float]:
        t = self.time(t, low="from" if equal else "above")
        if s is None:
            if not self.num_steps:
                raise ValueError("s: expected a time, as this process has no steps")
            s = max(t - 1, 0)
        s = self.time(s, "s")
        if s > t or (s == t and not equal):
            raise ValueError(f"s: expected s {'≤' if equal else '<'} t = {t}, got {s}")
        return t, s

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LinearDiffusion):
            return NotImplemented
        return (self.path, self.schedule, self.coupling) == (other.path, other.schedule, other.coupling)

    def __hash__(self) -> int:
        return hash((self.path, self.schedule, self.coupling))

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.path!r} × {self.schedule!r}"


def _as_table(sigmas: Sequence[NoiseLevel] | Tensor, signal_scales: Sequence[float] | Tensor | None) -> Schedule:
    """The schedule of levels σ_t, or Σ_t, and scales a_t."""
    check_constant(sigmas, "sigmas")
    expected = "one such as ld.schedules.linear(1000), or the noise levels σ_0, …, σ_T"
    levels: list[NoiseLevel] = as_list(sigmas, "schedule", expected)
    if any(isinstance(level, Covariance) for level in levels):
        return CovarianceTable(levels, signal_scales)
    numbers = [as_noise_level(level, (), "sigmas", at=f" at t = {t}") for t, level in enumerate(levels)]
    scales = [1.0] * len(numbers) if signal_scales is None else signal_scales
    return table(scales, numbers)  # type: ignore[arg-type]


def _kernel_bytes(kernel: MarkovKernel | SharedNoiseKernel) -> int:
    """Of the spectra that a kernel keeps, about: a handful of numbers for each that its operator has."""
    operator = kernel.operator if isinstance(kernel, MarkovKernel) else kernel.covariance
    return prepared_bytes(operator)
