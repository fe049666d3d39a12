r"""The steps of a sampler with the optimal denoiser, as matrices.

With G_j the gain of E[c | x_j] of a state x_j at t_j (`lineardiffusion.lab.marginals`), a step from t to s is, but for
means,

    x_s = K x_t + T Σ_j W_j G_j x_j + noise,     T = a_s I − a_t K R_{s→t},

with K and the covariance of the noise those of its kernel and W_j the weights of its order: 1 for the present state
alone at first order. A corrector adds T Σ_j (W'_j − W_j) G_j x_j to x_s, and the next step starts from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lineardiffusion.kernels import isotropic_kernel
from lineardiffusion.lab.frames import in_frames, matrix_of
from lineardiffusion.lab.joint import Joint, Name, Terms
from lineardiffusion.lab.marginals import Marginals
from lineardiffusion.lab.matrices import plus, times, transposed
from lineardiffusion.operators.orthogonal import OrthogonalRows
from lineardiffusion.operators.scalar import without_scale
from lineardiffusion.samplers import Estimate, HeunSampler, Sampler, SharedNoiseSampler
from lineardiffusion.samplers.extrapolation import Extrapolation
from lineardiffusion.samplers.heun import heun_weight
from lineardiffusion.samplers.multistep import Rule, markov_decay, shared_noise_decay


class Affine(NamedTuple):
    """x_s = Σ_k A_k x_k + noise.

    Attributes:
        start: the name of x_t.
        terms: k ↦ A_k.
        noise: its covariance.
        passed: T; the identity where s = 0 and x_0 is the estimate.
    """

    start: Name
    terms: Terms
    noise: Tensor
    passed: Tensor


class Recursion:
    """The steps of a sampler, one after the other.

    States have the names ("x", t) and, where a corrector has changed them, ("y", t); a network is called at ("x", t).

    Arguments:
        marginals: of the data.
        sampler: with a denoiser of their process.
    """

    def __init__(self, marginals: Marginals, sampler: Sampler) -> None:
        self.marginals, self.sampler, self.process = marginals, sampler, marginals.process
        self.is_heun, self.shares = isinstance(sampler, HeunSampler), isinstance(sampler, SharedNoiseSampler)
        self.eta = getattr(sampler, "eta", 0.0)
        self.order, self.corrects = getattr(sampler, "order", 1), getattr(sampler, "corrector", False)
        decay = shared_noise_decay if self.shares else markov_decay
        rule: Rule = getattr(sampler, "rule", "moment")
        decay, across = (partial(function, eta=self.eta) for function in (decay, markov_decay))
        self._extrapolation = Extrapolation(sampler.denoiser, decay, rule, across=across, limited=sampler.on_grid)
        self._times: list[float] = []  # of the states that estimates are made of, the newest first
        self._taken: tuple[Tensor, Terms] | None = None  # T and W_j G_j of a step to be corrected

    def names(self) -> list[Name]:
        """The states that the next step may need, beside the one where it starts."""
        return [("x", t) for t in self._times[: self.order + self.corrects - 1]]

    def step(self, joint: Joint, t: float, s: float) -> Affine:
        """The step from t to s; before it, the corrected x_t joins the states where there is a corrector."""
        self._times = [t, *self._times][: self.order + self.corrects]
        start: Name = ("x", t)
        if self._taken is not None:
            start = ("y", t)
            joint.add(start, self._corrected(t))
        estimate = self._estimate(self._times[: self._order(s)], s)
        if s == 0:
            ones = torch.ones(self.marginals.frame(0).size, dtype=torch.float64)
            return Affine(start, estimate, 0 * ones, ones)
        kernel, noise = self._kernel(t, s)
        scaled = self.process.signal_scale(t) * times(kernel, self.marginals.degradation(s, t))
        ones = torch.ones(self.marginals.frame(s).size, dtype=torch.float64)
        passed = plus(self.process.signal_scale(s) * ones, -scaled)
        terms = added({start: kernel}, through(passed, estimate))
        if self.is_heun and self.process.step_kernel(t, s, 0.0).is_deterministic:
            terms = self._heun(t, s, terms, passed, estimate[start])
        keep = self.corrects and self.process.shape(s) == self.process.shape(t)
        self._taken = (passed, estimate) if keep else None
        return Affine(start, terms, noise, passed)

    def _order(self, s: float) -> int:
        """How many estimates the step to s uses."""
        estimates = [Estimate(torch.empty(0), t, t) for t in self._times]
        return self._extrapolation.reach(estimates, s, self.sampler.lowered(self.order, s))

    def _corrected(self, t: float) -> Terms:
        """The terms of x_t once there is an estimate made of it."""
        assert self._taken is not None
        passed, estimate = self._taken
        now, before, *older = self._times
        older = [u for u in older if self.process.shape(u) == self.process.shape(t)]
        again = self._estimate([before, now, *older[: len(estimate) - 1]], now)
        change = added(again, {name: -matrix for name, matrix in estimate.items()})
        unchanged = torch.ones(self.marginals.frame(t).size, dtype=torch.float64)
        return added({("x", t): unchanged}, through(passed, change))

    def _heun(self, t: float, s: float, euler: Terms, passed: Tensor, estimate: Tensor) -> Terms:
        """x_s once there is an estimate made of the end of Euler's step."""
        frame, weight = self.marginals.frame(s), heun_weight(self.process, t, s)
        more = weight * passed if isinstance(weight, float) else times(passed, in_frames(weight, frame, frame))
        at_end = through(times(more, self.marginals.gain(s, s)), euler)
        return added(added(euler, at_end), {("x", t): -times(more, estimate)})

    def _estimate(self, at: Sequence[float], s: float) -> Terms:
        """W_j G_j of a step from the first of some times to s."""
        first, *others = at
        shape, marginals = self.process.shape, self.marginals
        crossing = shape(first) != shape(s)
        targets = [s, *(first if crossing else s for _ in others)]
        gains = [marginals.gain(u, target) for u, target in zip(at, targets, strict=True)]
        if not others:
            return {("x", first): gains[0]}
        alike = not crossing and all(shape(u) == shape(s) for u in others)

        def part(j: int, clean: Tensor) -> Tensor:
            """c* of an estimate at the j-th time, and zeros at the others."""
            estimates = [
                Estimate(clean if i == j else clean.new_zeros(len(clean), *shape(target)), target, u)
                for i, (u, target) in enumerate(zip(at, targets, strict=True))
            ]
            return self._extrapolation(estimates, s)

        if alike and self.process.path.gains(s).ndim == 0:  # W_j is a number
            one = torch.ones(1, *shape(s), dtype=torch.float64)
            return {
                ("x", u): part(j, one).flatten()[0] * gain for j, (u, gain) in enumerate(zip(at, gains, strict=True))
            }
        diagonal = alike and marginals.degradation(s, first).ndim == 1
        result: Terms = {}
        for j, (u, target) in enumerate(zip(at, targets, strict=True)):
            weight = matrix_of(partial(part, j), marginals.frame(target), marginals.frame(s), diagonal=diagonal)
            result["x", u] = times(weight, gains[j])
        return result

    def _kernel(self, t: float, s: float) -> tuple[Tensor, Tensor]:
        """K, and the covariance of the noise."""
        process, degradation = self.process, self.marginals.degradation(s, t)
        sigma_s, sigma_t, stays = process.sigma(s), process.sigma(t), process.shape(s) == process.shape(t)
        if self.shares and stays:
            gamma = math.sqrt(1 - self.eta**2) * sigma_s / sigma_t
            ones = torch.ones(self.marginals.frame(s).size, dtype=torch.float64)
            return gamma * ones, max(0.0, sigma_s**2 - gamma**2 * sigma_t**2) * ones
        prepared = process.step_kernel(t, s, self.eta)
        if degradation.ndim == 1:
            scale = process.signal_scale(s)
            values = (process.signal_scale(t) / scale * degradation if scale else 0 * degradation).square()
            gain, variance = isotropic_kernel(sigma_s, sigma_t, self.eta, carried=True)
            return torch.where(degradation < 0, -1.0, 1.0) * gain(values), variance(values)
        here, there, operator = self.marginals.frame(t), self.marginals.frame(s), process.degradation(s, t)
        if isinstance(without_scale(operator), OrthogonalRows):
            # R Rᵀ = c² I, and M is a multiple of R.
            c, kernel = operator.norm(), isotropic_kernel(sigma_s, sigma_t, self.eta)
            values = torch.tensor([0.0, prepared.operator.norm() ** 2], dtype=torch.float64)
            (unseen, seen), back = kernel.variance(values), transposed(degradation)
            drawn = unseen * torch.ones(there.size, dtype=torch.float64)
            return kernel.gain(values)[1] / c * back, plus((seen - unseen) / c**2 * times(back, degradation), drawn)

        def mean(x_t: Tensor) -> Tensor:
            return prepared.mean(x_t, x_t.new_zeros(len(x_t), *there.shape))

        zero = torch.zeros(1, *here.shape, dtype=torch.float64), torch.zeros(1, *there.shape, dtype=torch.float64)
        noise = in_frames(prepared.gaussian(*zero).covariance, there, there)
        return matrix_of(mean, here, there), noise if noise.ndim == 1 else (noise + noise.mT) / 2


def added(a: Terms, b: Terms) -> Terms:
    """The terms of a sum."""
    result = dict(a)
    for name, matrix in b.items():
        result[name] = plus(result[name], matrix) if name in result else matrix
    return result


def through(matrix: Tensor, terms: Terms) -> Terms:
    """The terms of a matrix times a sum."""
    return {name: times(matrix, a) for name, a in terms.items()}
