r"""The distribution a sampler produces on Gaussian data, and the error of each of its steps.

For data N(m, C) the optimal denoiser is linear (`lineardiffusion.lab.marginals`). A sampler puts its estimates, or a
combination of several, in the place of c_s in the kernel N(a_s c_s + K (x_t − a_t R_{s→t} c_s), Q) of a step. So every
step is affine, and the deviations of means from the true ones and the joint covariance of x_t and of the states before
it, of which estimates were made, follow a linear recursion (`lineardiffusion.lab.steps`). At first order that is

    e_s = A e_t,   P_s = A P_t Aᵀ + Q,   A = K + T G,   T = a_s I − a_t K R_{s→t},

with G the gain of E[c_s | x_t]. A sampler takes c_s for known, and thereby leaves out

    E = T Cov(c_s | x_t) Tᵀ,

the spread of c_s given x_t as far as the kernel passes it on: with Q + E in the place of Q, a step of first order
carries the marginal of t to that of s exactly. The last step, which returns the estimate of x_0, has no kernel and is
not corrected.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_list, check_function, got
from lineardiffusion.lab.frames import in_frames
from lineardiffusion.lab.joint import Joint, Name, Terms
from lineardiffusion.lab.marginals import Marginals
from lineardiffusion.lab.matrices import bures, largest, plus, sandwich, trace, wasserstein
from lineardiffusion.lab.report import KEPT, Report, Step
from lineardiffusion.lab.spectra import OptimalDenoiser
from lineardiffusion.lab.steps import Recursion
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.residual import Residual
from lineardiffusion.samplers import AncestralSampler, DDIMSampler, HeunSampler, Sampler, SharedNoiseSampler
from lineardiffusion.samplers.multistep import Rule
from lineardiffusion.schedules.grids import Steps

SamplerName = Literal["ancestral", "ddim", "shared_noise", "heun"]
Correction = Literal["exact", "exact-shape-changes"] | Residual | None


def evaluate(
    process: LinearDiffusion,
    covariance: Tensor | LinearOperator,
    mean: float | Tensor = 0.0,
    sampler: SamplerName = "ancestral",
    eta: float = 0.0,
    steps: Steps = None,
    correction: Correction = None,
    prior: Literal["matched", "standard"] = "matched",
    order: int = 1,
    rule: Rule = "moment",
    corrector: bool = False,
) -> Report:
    r"""The exact distribution of the samples of N(m, C) that a sampler draws with the optimal denoiser.

    Where every R_t is a number or a filter of the basis of C, a step costs O(n), and so does the W2 distance. Changes
    of shape, other operators and all that comes after them cost O(n³ / g²), where coordinates fall into g groups that
    do not mix: for C diagonal in the cosine basis n / 4^(L − 1) groups with L levels of images that are halved by
    "haar", "area" or a cut of cosines, four with other modes of an even size, else one. Events of 1024 × 1024 pixels
    with three Haar levels take seconds, and of 64 × 64 with any are practical.

    Arguments:
        process: the diffusion, with isotropic noise.
        covariance: C, dense with shape (n, n) over the flattened event, or a symmetric operator; a SpectralFilter of
            a real basis is never made dense.
        mean: m, broadcastable to shape(0).
        sampler: "ancestral", "ddim", "shared_noise" or "heun".
        eta: η of DDIM and of shared noise, in [0, 1].
        steps: as for samplers.
        correction: None takes the estimate of c_s for known; "exact" adds E to every step but the last,
            "exact-shape-changes" to those that change the shape; a Residual adds what samplers with it do.
        prior: the first state is N(0, σ² I) with the noise level of its time, as samplers start; or N(0, I) for
            "standard".
        order: of all but Heun's method.
        rule, corrector: of ancestral sampling and DDIM.

    Raises:
        ValueError: noise that is not isotropic, a covariance that does not fit or is not positive semi-definite, an
            unknown option, or one that the sampler has not.

    Examples:
        >>> import lineardiffusion as ld
        >>> data = ld.lab.power_law((1, 16))
        >>> report = ld.lab.evaluate(ld.DDPM((1, 16)), data, steps=50)
        >>> bool(0.01 < report.relative_w2 < 0.2), report.mean.shape
        (True, torch.Size([1, 16]))
        >>> second = ld.lab.evaluate(ld.FlowMatching((1, 16)), data, sampler="ddim", steps=10, order=2)
        >>> second.relative_w2 < ld.lab.evaluate(ld.FlowMatching((1, 16)), data, sampler="ddim", steps=10).relative_w2
        True
    """
    if not isinstance(correction, Residual):
        _check_option(correction, (None, "exact", "exact-shape-changes"), "correction")
    _check_option(prior, ("matched", "standard"), "prior")
    denoiser = OptimalDenoiser(process, covariance, mean)
    residual = correction if isinstance(correction, Residual) else None
    made = _sampler(sampler, denoiser, steps, eta=eta, order=order, rule=rule, corrector=corrector, residual=residual)
    # A measured residual may mix what the path does not.
    marginals = denoiser.marginals if residual is None else Marginals(process, covariance, mean, apart=False)
    per_step: list[Step] = []
    for move in moves(marginals, made, correction, prior):
        t, s, frame, joint = move.t, move.s, marginals.frame(move.s), move.joint
        own, true = joint.covariance(("x", s), ("x", s)), marginals.covariance(s)
        before = per_step[-1].true if per_step else marginals.covariance(t)
        alone = joint.had(move.start, before, move.terms).image(move.terms, move.noise)
        error, residue = math.sqrt(bures(alone, true)), trace(sandwich(move.passed, marginals.unknown(t, s)))
        kept = own if s == 0 or own.numel() <= KEPT**2 else None
        shape, mean_s = process.shape(s), marginals.mean(s)
        per_step.append(Step(t, s, shape, error, residue, mean_s, frame, joint.means["x", s], kept, true))
    return Report(per_step, network_calls(process, made.times, sampler))


class Move(NamedTuple):
    """A step t → s.

    Attributes:
        t, s: its times.
        start, terms, noise, passed: as of `Affine`, the noise with what a correction adds.
        added: what it adds, if anything.
        joint: x_s, and the states that it is made of.
    """

    t: float
    s: float
    start: Name
    terms: Terms
    noise: Tensor
    passed: Tensor
    added: Tensor | None
    joint: Joint


def moves(
    marginals: Marginals, sampler: Sampler, correction: Correction, prior: Literal["matched", "standard"] = "matched"
) -> Iterator[Move]:
    """The steps of a sampler with a denoiser of these marginals, from the first time down to 0."""
    process, recursion, first = marginals.process, Recursion(marginals, sampler), sampler.times[0]
    variance, frame = 1.0 if prior == "standard" else process.sigma(first) ** 2, marginals.frame(first)
    own = torch.full((frame.size,), variance, dtype=torch.float64)
    joint = Joint(("x", first), -marginals.centre(first), own)
    for t in reversed(sampler.times):
        marginals.clean(t)  # from 0 on, so that each is found from the one before
    for t, s in itertools.pairwise(sampler.times):
        start, terms, noise, passed = recursion.step(joint, t, s)
        added = None
        if isinstance(correction, Residual):
            if (t, s) in correction:
                spread = in_frames(correction.covariance(t, s), marginals.frame(s), marginals.frame(s))
                added = sandwich(passed, spread)
        elif s > 0 and (correction == "exact" or (correction and process.shape(s) != process.shape(t))):
            added = sandwich(passed, marginals.unknown(t, s))
        noise = noise if added is None else plus(noise, added)
        joint.add(("x", s), terms, noise)
        yield Move(t, s, start, terms, noise, passed, added, joint)
        joint.keep([*recursion.names(), ("x", s)])


def outcome(marginals: Marginals, sampler: Sampler, correction: Correction) -> tuple[float, float]:
    """The W2 distance of the samples to the data, without anything of the steps that lead there; and the greatest
    variance, in units of that of the noise, which the correction adds to x_s."""
    share, part = 0.0, marginals.frame(0).part
    for move in moves(marginals, sampler, correction):
        joint = move.joint
        if move.added is not None:
            share = max(share, largest(move.added) / marginals.process.sigma(move.s) ** 2)
    own, true, weights = joint.covariance(("x", 0), ("x", 0)), marginals.covariance(0), part and part.weights
    return wasserstein(joint.means["x", 0], own, true, weights), share


def network_calls(process: LinearDiffusion, visited: Sequence[float], sampler: SamplerName) -> list[float]:
    """The times at which a sampler calls its network: those that it visits, and for Heun's method the ends of steps."""
    pairs = list(itertools.pairwise(visited))
    ends = (
        [s for t, s in pairs if s > 0 and process.step_kernel(t, s, 0.0).is_deterministic] if sampler == "heun" else []
    )
    return sorted([t for t, _ in pairs] + ends, reverse=True)


def _sampler(name: SamplerName, denoiser: OptimalDenoiser, steps: Steps, **options: Any) -> Sampler:
    """The sampler of a name; options that it has not must be left alone."""
    kinds: dict[str, tuple[type[Sampler], set[str]]] = {
        "ancestral": (AncestralSampler, {"order", "rule", "corrector", "residual"}),
        "ddim": (DDIMSampler, {"eta", "order", "rule", "corrector", "residual"}),
        "shared_noise": (SharedNoiseSampler, {"eta", "order"}),
        "heun": (HeunSampler, set()),
    }
    _check_option(name, tuple(kinds), "sampler")
    kind, known = kinds[name]
    defaults = {"eta": 0.0, "order": 1, "rule": "moment", "corrector": False, "residual": None}
    for option, default in defaults.items():
        if option not in known and options[option] != default:
            told = "correction" if option == "residual" else option
            raise ValueError(f"{told}: expected {default!r}, as {kind.__name__} has no other, got {options[option]!r}")
    return kind(denoiser, steps, **{option: options[option] for option in known})


def frontier(
    process: LinearDiffusion,
    covariance: Tensor | LinearOperator,
    steps: Sequence[Steps],
    of_call: Callable[[Shape, Shape], float],
    **options: object,
) -> list[dict[str, float]]:
    """Error against cost for several numbers of steps.

    Arguments:
        process, covariance: as `evaluate`.
        steps: numbers of steps, or grids.
        of_call: cost of a network call from x_t of a shape to the shape just below t, e.g. in GFLOPs.
        options: passed on to `evaluate`.

    Returns:
        {"steps": their number, "cost": of one sample, "w2": …, "relative_w2": …} for each of them.
    """
    points = []
    check_function(of_call, "of_call", "a function of the shapes of x_t and just below t, which returns the cost")
    for count in as_list(steps, "steps", "numbers of steps or grids, such as [10, 20, 50]"):
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


def _check_option(value: object, allowed: tuple[object, ...], name: str) -> None:
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {got(value)}")
