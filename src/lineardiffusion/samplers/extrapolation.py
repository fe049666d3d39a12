r"""The estimate x* that a step uses in the place of the network's own: estimates at several times, by the moment rule.

Every direction has a log-SNR of its own, λ_k(t) = ln(a_t r_t,k/σ_t) with r_t the gains of the path in its frame, and so
its own nodes and weights: numbers for DDPM and within a resolution, a filter for heat and spectral paths. Where the
shape changes the directions are those of the operator M between the two times, and h = −½ ln(λ σ_s²/σ_t²) a function of
the eigenvalues λ of MᵀM:

    into the new shape     c* = ĉ_s + R⁺ w(MMᵀ) (ĉ_j − R ĉ_s),    ĉ_j an estimate at the old shape
    the step after that    c* = ĉ_s + w(MᵀM) (ĉ_j − ĉ_s),         ĉ_j the one which led to this shape

with the weight w of second order, and nothing where λ = 0, of which the state before knows nothing. The former belongs
to a sampler of third order; one of second order takes that step to first order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lineardiffusion.caches import BoundedCache
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.operators.base import LinearOperator, prepared_bytes
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.history import Estimate
from lineardiffusion.samplers.multistep import Rule, weights

Decay = Callable[[Tensor], Tensor]

# F = h_i/h_{i−1} at most where a change of shape is one of the two steps: an eigenvalue makes that as long, or as
# short, as it likes, which says nothing of how estimates change. Beyond it, on grids, x* = 2 m_i − m_{i−1}, as of the
# midpoint rule at F = 2. Eight uniform steps of DDPM end with one of F = 4.7; data of (1, 64) pixels with a power law
# are left at a W2 distance of 0.45 √tr C where the moment rule follows it all the way, 0.14 with this, 0.25 at order 1.
_MAX_RATIO = 2.0
# What a change of shape passes by less than a twentieth of its norm is not extrapolated: a pseudoinverse would multiply
# the errors of a network by more than that.
_REMOVED = 0.05
_CACHE_BYTES = 2**28


def log_ratio(process: LinearDiffusion, t: float) -> Tensor:
    """λ(t) = ln(a_t r_t/σ_t) of every direction of the frame, up to a constant of each shape; float64."""
    return 0.5 * torch.as_tensor(process.schedule.log_snr(t), dtype=torch.float64) + process.path.gains(t).log()


class Extrapolation:
    """x* of any step; what depends on the times alone is computed once and kept.

    Arguments:
        denoiser: which carries estimates from time to time.
        decay: H as a function of h.
        rule: "moment" or "midpoint".
        clip: range of the estimates.
        across: H where the shape changes, if that is another function.
        limited: where a step is more than twice as long as the one before, x* is the estimate one step of before ahead.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        decay: Decay,
        rule: Rule = "moment",
        clip: tuple[float, float] | None = None,
        across: Decay | None = None,
        limited: bool = False,
    ) -> None:
        self.denoiser, self.process, self.limited = denoiser, denoiser.process, limited
        self.decay, self.across, self.rule, self.clip = decay, across or decay, rule, clip
        self._combinations: BoundedCache[_Combination] = BoundedCache(_CACHE_BYTES, _bytes)
        self._alike: dict[tuple[float, float], bool] = {}  # for changes of shape, of which there are few

    def carried(self, estimate: Estimate, s: float) -> Tensor:
        """ĉ_s, clipped."""
        clean = self.denoiser.carry(estimate.clean, estimate.r, s)
        return clean if self.clip is None else clean.clamp(*self.clip)

    def reach(self, estimates: Sequence[Estimate], s: float, order: int) -> int:
        """How many of the first estimates a step from the first one's time to s uses.

        Into a new shape it is of an order less, which leaves a sampler its order, since there are few such steps. The
        estimates at both shapes are answers of a network to different questions: they differ by more than the time
        between them accounts for, and what is extrapolated of that does not vanish with the steps.
        """
        path, t = self.process.path, estimates[0].t
        if s == 0 or order == 1:
            return 1
        alike = 0
        while alike < len(estimates) and path.shape(estimates[alike].t) == path.shape(t):
            alike += 1
        crossing = path.shape(s) != path.shape(t)
        if not crossing and (alike > 1 or len(estimates) == 1):
            return min(order, alike)
        # From here on, across a change of shape: second order, where directions have nothing but the operator's gains.
        if (t, s) not in self._alike:
            self._alike[t, s] = path.gains(t).ndim == 0 and path.gains(s).ndim == 0
        if not self._alike[t, s]:
            return 1
        return min(order - 1, 2, alike) if crossing else min(2, len(estimates))

    def __call__(self, estimates: Sequence[Estimate], s: float, at: float | None = None) -> Tensor:
        """c* of a step from the first estimate's time to s, as a clean image of time `at`, by default s.

        Arguments:
            estimates: no more than `reach` allows; for a corrector, one at s may be the second.
            s: where the step leads.
            at: s or, where the shape stays, the time where it begins.
        """
        first, *others = estimates
        at = s if at is None else at
        if not others:
            return self.carried(first, at)
        times = tuple(estimate.t for estimate in others)
        combination = self._combinations.get((first.t, s, at, times), lambda: self._combination(first.t, s, at, times))
        # Where the shape grows estimates of before stay at the shape they have.
        crossing = self.process.path.shape(s) != self.process.path.shape(first.t)
        past = first.t if crossing else at
        return combination.function([self.carried(first, at), *(self.carried(estimate, past) for estimate in others)])

    def _combination(self, t: float, s: float, at: float, others: tuple[float, ...]) -> _Combination:
        process, shape = self.process, self.process.path.shape
        if shape(s) != shape(t):
            return self._into_new_shape(t, s, others[0])
        start, h = log_ratio(process, t), log_ratio(process, s) - log_ratio(process, t)
        if shape(others[0]) != shape(t):
            change = process.operator(t, others[0])
            scale = process.sigma(t) / process.sigma(others[0])

            def second(values: Tensor) -> Tensor:
                ratio = (_length(values, scale) / h).clamp(min=1 / _MAX_RATIO)
                return weights(self.decay(h), [-ratio], self.rule)[1]

            add = change.gram_map(second)
            return _Combination(lambda estimates: add(estimates[1] - estimates[0], estimates[0]), [change])
        h = torch.where(h > 0, h, math.nan)  # chains of operators may have any number here
        nodes = [(log_ratio(process, u) - start) / h for u in others]
        nodes = [torch.where((node < 0) | (u == s), node, math.nan) for node, u in zip(nodes, others, strict=True)]
        found = weights(self.decay(h), nodes, self.rule)
        if self.limited and s not in others:
            far = (nodes[0] > -1 / _MAX_RATIO) & (nodes[0] < 0)
            ahead = [2.0, -1.0, *(0.0 for _ in others[1:])]
            found = [torch.where(far, number, weight) for number, weight in zip(ahead, found, strict=True)]
        if all(weight.ndim == 0 for weight in found):
            return _weighted([float(weight) for weight in found])
        return _filtered([process.path.filter(at, weight) for weight in found[1:]])

    def _into_new_shape(self, t: float, s: float, before: float) -> _Combination:
        process = self.process
        degradation = process.degradation(s, t)
        length = log_ratio(process, t) - log_ratio(process, before)
        scale = process.signal_scale(t) / process.signal_scale(s) * process.sigma(s) / process.sigma(t)
        removed = (_REMOVED * degradation.norm()) ** 2

        def gain(values: Tensor) -> Tensor:
            h = _length(values, scale)
            weight = weights(self.across(h), [-(length / h).clamp(min=1 / _MAX_RATIO)], self.rule)[1]
            return torch.where(values > removed, weight * values.rsqrt(), 0.0)

        correct = degradation.step_map(gain, None)
        return _Combination(lambda estimates: correct(estimates[0], estimates[1], None), [degradation])


def _length(values: Tensor, scale: float) -> Tensor:
    """h of each eigenvalue of an operator: e^{−h} = scale · √λ."""
    return -math.log(scale) - 0.5 * values.log() if scale else torch.full_like(values, math.inf)


def _weighted(numbers: Sequence[float]) -> _Combination:
    def combine(estimates: Sequence[Tensor]) -> Tensor:
        total = numbers[0] * estimates[0]
        for number, estimate in zip(numbers[1:], estimates[1:], strict=True):
            total = torch.add(total, estimate, alpha=number)
        return total

    return _Combination(combine, [])


def _filtered(filters: Sequence[LinearOperator]) -> _Combination:
    def combine(estimates: Sequence[Tensor]) -> Tensor:
        total = estimates[0]
        for operator, estimate in zip(filters, estimates[1:], strict=True):
            total = total + operator(estimate - estimates[0])
        return total

    return _Combination(combine, filters)


class _Combination(NamedTuple):
    """x* from estimates, and the operators that it keeps for that."""

    function: Callable[[Sequence[Tensor]], Tensor]
    operators: Sequence[LinearOperator]


def _bytes(combination: _Combination) -> int:
    return 1024 + sum(map(prepared_bytes, combination.operators))
