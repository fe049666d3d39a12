r"""The distribution a sampler produces on Gaussian data, and the error of each of its steps.

For data N(m, C) the optimal denoiser is linear. With u_s = M_{1:s} x_0, M = M_{s→t} and S_s = M_{1:s} C M_{1:s}ᵀ,

    E[u_s | x_t] = M_{1:s} m + G (x_t − M_{1:t} m),   G = S_s Mᵀ (M S_s Mᵀ + σ_t² I)⁻¹.

A sampler puts it in the place of u_s in the kernel N(u_s + K (x_t − M u_s), Q) of a step. So every step is affine, and
the deviation e_t of the mean from M_{1:t} m and the covariance P_t of its states follow

    e_s = A e_t,   P_s = A P_t Aᵀ + Q,   A = G + K − K M G.

It takes u_s for known, and thereby leaves out

    E = (I − K M) (S_s − G M S_s) (I − K M)ᵀ,

the spread of u_s given x_t as far as the kernel passes it on: with Q + E in the place of Q, the marginal of t becomes
that of s exactly. The last step, which returns the estimate of x_0, has no kernel and is not corrected.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lineardiffusion._checks import Shape
from lineardiffusion.lab.frames import (
    Frame,
    act,
    bures,
    in_frames,
    inverse,
    logdet,
    plus,
    sandwich,
    times,
    trace,
)
from lineardiffusion.lab.marginals import Marginals
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.posterior import isotropic_kernel
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.residual import Residual
from lineardiffusion.sampling import kept_times

# Events above this size keep the covariance of their last state alone: one of 64 × 64 pixels takes 134 MB.
_KEPT = 1024


@dataclass(frozen=True)
class Step:
    """A step t → s and the state it leads to.

    Arguments:
        t, s: its times.
        shape: of x_s.
        error: the W2 distance of the true marginal of s to what this step makes of the true marginal of t: what it
            contributes by itself.
        residual: tr E, the variance it leaves out.
        true_mean: of the marginal of s, with its shape.
        frame, deviation, own, true: the state's deviation from that mean, its covariance and the true one in a frame.
    """

    t: int
    s: int
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
        return self.true_mean + (self.frame.vectors @ self.deviation).reshape(self.shape)

    @property
    def covariance(self) -> Tensor:
        """Covariance of x_s, with shape (n, n) over the flattened event."""
        own = self._own()
        return sandwich(self.frame.vectors, own)

    @property
    def w2(self) -> float:
        """W2 distance of x_s to the true marginal."""
        return math.sqrt(float(self.deviation.square().sum()) + bures(self._own(), self.true))

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
                f"covariance: kept for every step up to {_KEPT} numbers per event, and for the last step beyond; got "
                f"s = {self.s} of shape {self.shape}"
            )
        return self.own


@dataclass(frozen=True)
class Report:
    """What a sampler makes of Gaussian data.

    Arguments:
        per_step: from T down to 0.
    """

    per_step: list[Step]

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
        """Cost of one sample: the sum over all network calls of `of_call(shape(t), shape(t − 1))`, e.g. in GFLOPs."""
        return sample_cost(process, [step.t for step in self.per_step], of_call)


def evaluate(
    process: LinearDiffusion,
    covariance: Tensor | LinearOperator,
    mean: float | Tensor = 0.0,
    sampler: Literal["ancestral", "ddim"] = "ancestral",
    eta: float = 0.0,
    steps: int | Sequence[int] | None = None,
    correction: Literal["exact", "exact-shape-changes"] | Residual | None = None,
    prior: Literal["matched", "standard"] = "matched",
) -> Report:
    r"""The exact distribution of the samples of N(m, C) that a sampler draws with the optimal denoiser.

    Where every M_t is a number or a filter of the basis of C, or changes the shape, a step costs O(n), or O(n²) below a
    change of shape; changes of shape, other operators and the W2 distance cost O(n³). Events of 64 × 64 are practical.

    Arguments:
        process: the diffusion, with isotropic noise.
        covariance: C, dense with shape (n, n) over the flattened event, or a symmetric operator; a SpectralFilter of
            the cosine basis is never made dense.
        mean: m, broadcastable to shape(0).
        sampler: "ancestral", or "ddim" with `eta`.
        eta: η of DDIM in [0, 1].
        steps: as for samplers.
        correction: None takes the estimate of c_s for known; "exact" adds E to every step but the last,
            "exact-shape-changes" to those that change the shape; a Residual adds what samplers with it do.
        prior: the first state is N(0, σ_T² I) as in `process.prior`, or N(0, I) for "standard".

    Raises:
        ValueError: noise that is not isotropic, a covariance that does not fit or is not positive semi-definite,
            or an unknown option.

    Example:
        >>> import lineardiffusion as ld
        >>> report = ld.lab.evaluate(ld.DDPM((1, 16)), ld.lab.power_law((1, 16)), steps=50)
        >>> bool(0.01 < report.relative_w2 < 0.2), report.mean.shape
        (True, torch.Size([1, 16]))
    """
    _check_option(sampler, ("ancestral", "ddim"), "sampler")
    if not isinstance(correction, Residual):
        _check_option(correction, (None, "exact", "exact-shape-changes"), "correction")
    _check_option(prior, ("matched", "standard"), "prior")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: expected a number in [0, 1], got {eta}")
    eta = 1.0 if sampler == "ancestral" else eta
    if not process.is_isotropic:
        raise ValueError("process: expected isotropic noise, got covariances")
    times_down = kept_times(process, steps)
    marginals = Marginals(process, covariance, mean, times_down)

    last = times_down[0]
    variance = 1.0 if prior == "standard" else process.sigma(last) ** 2
    own = torch.full((math.prod(process.shape(last)),), variance, dtype=torch.float64)
    deviation = -marginals.coordinates(marginals.mean(last), last)
    per_step = []
    for t, s in itertools.pairwise(times_down):
        affine, noise, passed_on, unknown = _step(marginals, t, s, eta)
        residual = sandwich(passed_on, unknown)
        changes = process.shape(s) != process.shape(t)
        if isinstance(correction, Residual):
            if s > 0 and (t, s) in correction:
                spread = in_frames(correction.covariance(t, s), marginals.frame(s), marginals.frame(s))
                noise = plus(noise, process.signal_scale(s) ** 2 * sandwich(passed_on, spread))
        elif s > 0 and (correction == "exact" or (correction == "exact-shape-changes" and changes)):
            noise = plus(noise, residual)
        own, deviation = plus(sandwich(affine, own), noise), act(affine, deviation)
        alone = plus(sandwich(affine, marginals.covariance(t)), noise)
        keep = s == 0 or own.ndim == 1 or len(own) <= _KEPT
        per_step.append(
            Step(
                t,
                s,
                process.shape(s),
                math.sqrt(bures(alone, marginals.covariance(s))),
                trace(residual),
                marginals.mean(s),
                marginals.frame(s),
                deviation,
                own if keep else None,
                marginals.covariance(s),
            )
        )
    return Report(per_step)


def sample_cost(process: LinearDiffusion, times: Sequence[int], of_call: Callable[[Shape, Shape], float]) -> float:
    """The sum of `of_call(shape(t), shape(t − 1))` over the times at which the network is called."""
    return sum(of_call(process.shape(t), process.shape(t - 1)) for t in times)


def frontier(
    process: LinearDiffusion,
    covariance: Tensor | LinearOperator,
    steps: Sequence[int],
    of_call: Callable[[Shape, Shape], float],
    **options: object,
) -> list[dict[str, float]]:
    """Error against cost for several numbers of steps.

    Arguments:
        process, covariance: as `evaluate`.
        steps: numbers of steps.
        of_call: cost of a network call from x_t of a shape to the shape of x_{t−1}, e.g. in GFLOPs.
        options: passed on to `evaluate`.

    Returns:
        {"steps": kept steps, "cost": of one sample, "w2": …, "relative_w2": …} for each of them.
    """
    points = []
    for count in steps:
        report = evaluate(process, covariance, steps=count, **options)  # type: ignore[arg-type]
        points.append(
            {
                "steps": len(report.per_step),
                "cost": report.cost(of_call, process),
                "w2": report.w2,
                "relative_w2": report.relative_w2,
            }
        )
    return points


def _step(marginals: Marginals, t: int, s: int, eta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, Q, I − K M and Cov(u_s | x_t)."""
    process = marginals.process
    operator, gain, signal = marginals.operator(t, s), marginals.gain(t, s), marginals.signal(s)
    kernel, noise = _kernel(operator, process.sigma(s), process.sigma(t), eta)
    affine = plus(gain, plus(kernel, -times(kernel, times(operator, gain))))
    passed_on = plus(torch.ones(len(signal), dtype=signal.dtype), -times(kernel, operator))
    unknown = plus(signal, -times(gain, times(operator, signal)))
    return affine, noise, passed_on, unknown


def _kernel(operator: Tensor, sigma_s: float, sigma_t: float, eta: float) -> tuple[Tensor, Tensor]:
    """K and Q of `ld.ddim_kernel` for an operator in frames."""
    gain, variance = isotropic_kernel(sigma_s, sigma_t, eta)
    if operator.ndim == 1:
        values = operator.square()
        return operator.sgn() * gain(values), variance(values)
    left, singular, right = torch.linalg.svd(operator, full_matrices=False)
    singular = torch.where(singular > 1e-10 * singular.max(), singular, 0)  # of a rank that rounding hides
    values = singular.square()
    kernel = (right.T * gain(values)) @ left.T
    unseen = variance(values.new_zeros(1))
    noise = (right.T * (variance(values) - unseen)) @ right
    return kernel, plus(unseen.expand(len(noise)), noise)


def _check_option(value: object, allowed: tuple[object, ...], name: str) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {allowed}, got {value!r}")
