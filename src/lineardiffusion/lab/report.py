"""What a sampler makes of Gaussian data, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lineardiffusion._checks import Shape, as_number, check_function, check_process
from lineardiffusion.lab.frames import Frame
from lineardiffusion.lab.matrices import act, inverse, logdet, times, trace, wasserstein
from lineardiffusion.processes.base import LinearDiffusion

# Events above this size keep the covariance of their last state alone: one of 64 × 64 pixels takes 134 MB.
KEPT = 1024


@dataclass(frozen=True)
class Step:
    """A step t → s and the state it leads to.

    Arguments:
        t, s: its times.
        shape: of x_s.
        error: the W2 distance of the true marginal of s to what this step makes of the true marginal of t: what it
            contributes by itself. Where it uses states before x_t, these depend on x_t as the sampler's do.
        residual: tr E, the variance it leaves out.
        true_mean: of the marginal of s, with its shape.
        frame, deviation, own, true: the state's deviation from that mean, its covariance and the true one in a frame.
    """

    t: float
    s: float
    shape: Shape
    error: float
    residual: float
    true_mean: Tensor = field(repr=False)
    frame: Frame = field(repr=False)
    deviation: Tensor = field(repr=False)
    own: Tensor | None = field(repr=False)
    true: Tensor = field(repr=False)

    @property
    def mean(self) -> Tensor:
        """Mean of x_s, with its shape."""
        return self.true_mean + self.frame.events(self.deviation)

    @property
    def covariance(self) -> Tensor:
        """Covariance of x_s, with shape (n, n) over the flattened event."""
        return self.frame.dense(self._own())

    @property
    def w2(self) -> float:
        """W2 distance of x_s to the true marginal."""
        return wasserstein(self.deviation, self._own(), self.true)

    @property
    def kl(self) -> float:
        """KL(x_s ‖ true marginal) in nats; infinite where the marginal is degenerate."""
        if self.true.ndim == 1 and not bool((self.true > 0).all()):
            return math.inf
        own, precision = self._own(), inverse(self.true)
        quadratic = trace(times(precision, own)) + float(self.deviation @ act(precision, self.deviation))
        return 0.5 * (quadratic - len(self.deviation) + logdet(self.true) - logdet(own))

    def _own(self) -> Tensor:
        if self.own is None:
            raise ValueError(
                f"covariance: kept for every step up to {KEPT} numbers per event, and for the last step beyond; got "
                f"s = {self.s} of shape {self.shape}"
            )
        return self.own


@dataclass(frozen=True)
class Report:
    """What a sampler makes of Gaussian data.

    Arguments:
        per_step: from the first time down to 0.
        calls: the times of the network's calls.
    """

    per_step: list[Step]
    calls: list[float]

    @property
    def mean(self) -> Tensor:
        """Mean of the samples, with their shape."""
        return self.per_step[-1].mean

    @property
    def covariance(self) -> Tensor:
        """Covariance of the samples, with shape (n, n) over the flattened event."""
        return self.per_step[-1].covariance

    @property
    def w2(self) -> float:
        """Wasserstein-2 distance of the samples to the data, in the units of the data."""
        return self.per_step[-1].w2

    @property
    def relative_w2(self) -> float:
        """W2 / √tr C"""
        return self.w2 / math.sqrt(trace(self.per_step[-1].true))

    @property
    def kl(self) -> float:
        """KL(samples ‖ data) in nats."""
        return self.per_step[-1].kl

    def cost(self, of_call: Callable[[Shape, Shape], float], process: LinearDiffusion) -> float:
        """Cost of one sample: the sum over all network calls of `of_call(shape(t), shape just below t)`, e.g. in
        GFLOPs."""
        return sample_cost(process, self.calls, of_call)


def sample_cost(process: LinearDiffusion, calls: Sequence[float], of_call: Callable[[Shape, Shape], float]) -> float:
    """The sum of `of_call(shape(t), shape just below t)` over the times at which the network is called."""
    check_process(process)
    check_function(of_call, "of_call", "a function of the shapes of x_t and just below t, which returns the cost")
    costs = (of_call(process.shape(t), process.shape(process.before(t))) for t in calls)
    return sum(as_number(cost, "of_call") for cost in costs)
