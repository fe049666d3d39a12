r"""The sampler with the least error that a budget allows.

A sampler calls its network n_l times at each resolution l. Where the calls lie is told by a few numbers: the log-SNR
where a grid begins and that of the last call, and at a few places of each resolution the logarithms of the distances
between calls, which are interpolated between them. The first call is at the schedule's end, wherever that is. A
resolution is left at the last of its calls. The numbers are found by a quasi-Newton method (SciPy's L-BFGS-B), the n_l
by moving calls from one resolution to another as long as that helps.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lineardiffusion._checks import (
    Shape,
    as_choice,
    as_flag,
    as_index,
    as_list,
    as_positive,
    check_function,
    check_kind,
    missing,
)
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.lab.evaluate import Correction, evaluate, outcome
from lineardiffusion.lab.frames import in_frame
from lineardiffusion.lab.marginals import Marginals
from lineardiffusion.lab.matrices import largest
from lineardiffusion.lab.plans import DENSITIES, Plan
from lineardiffusion.lab.report import Report
from lineardiffusion.lab.spectra import OptimalDenoiser
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.paths import Path
from lineardiffusion.paths.levels import Levelled
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.progress import bar_kind
from lineardiffusion.samplers import DDIMSampler
from lineardiffusion.schedules import Schedule, changes_at
from lineardiffusion.schedules.grids import log_snr_range

# ln of how much closer than others calls may be.
_DENSEST = 6.0
# An error that is not less by this share is no better.
_GAIN = 1e-3
# A correction may add as much variance as the noise has, and how an error counts that comes with more: what it draws is
# Gaussian as the noise is, which the residual of other data is not, and where it is the larger part that shows.
_REACH, _STEEPNESS = 1.0, 20.0
# Shares of the noise's variance that levels do not know, in plans where a search begins.
_SHARES = (0.1, 1.0)
# Shares of the range of log-SNR that grids leave out at each of its ends, where a search begins, and how many of these
# grids, the best as they are, are searched.
_ENDS, _BEGUN = (0.0, 0.1, 0.2, 0.3, 0.4), 3
# Of the plans with a few calls elsewhere, how many are searched further, the best as they are; and for how long.
_POLISHED, _LOOKED_AT = 2, 4
# Of what is found, at each order, how many are searched with more numbers.
_REFINED = 3
# Events of so many numbers are searched with a part of the frequencies.
_MANY = 2**16


@dataclass(frozen=True)
class Optimum:
    """A sampler of a process, and what it makes of Gaussian data.

    Attributes:
        process: with the best times of change.
        times: of the calls, from noise to data.
        order, eta: of `ld.DDIMSampler`.
        correction: None, or "exact-shape-changes".
        report: what they come to.
        cost: of one sample.
    """

    process: LinearDiffusion
    times: list[float]
    order: int
    eta: float
    correction: Correction
    report: Report
    cost: float
    _plan: Plan = field(repr=False)

    def sampler(self, denoiser: Denoiser, **settings: Any) -> DDIMSampler:
        """This sampler for a denoiser of its process; a correction needs `residual=ld.calibrate(…, steps=times)`."""
        return DDIMSampler(denoiser, self.times, **{"eta": self.eta, "order": self.order, **settings})


def optimise(
    path: Path,
    schedule: Schedule,
    covariance: Tensor | LinearOperator,
    budget: float,
    order: int | Sequence[int] = (1, 2, 3),
    *,
    correction: Literal["exact-shape-changes"] | None = None,
    mean: float | Tensor = 0.0,
    of_call: Callable[[Shape, Shape], float] | None = None,
    start: Optimum | None = None,
    progress: bool = True,
) -> Optimum:
    r"""The times of change, the grid and the solver with the smallest W2 distance of samples to N(m, C) for a budget.

    The solver is DDIM of some order with some η (`ld.DDIMSampler`), and a denoiser the optimal one. What is found is a
    minimum that no small change of one number improves, and need not be the least of all. Steps of order 2 and 3 may
    cancel each other's errors in a way that other data need not share; with `order=1` they do not.

    Where W2 is a sum over independent groups of cosines (as for `ld.lab.evaluate`, or without changes of shape) and
    events have 65 536 numbers or more, the search has a part of the frequencies, each with the weight of its neighbours
    in a smooth spectrum (for power laws errors are right to 0.2 per cent); the report is of all. Images of 1024 × 1024
    pixels take minutes.

    Arguments:
        path: R_t; where it has levels (`ld.paths.pyramid`, `ld.paths.truncated`), when they change is chosen, and
            levels may go unused.
        schedule: a_t and σ_t, white.
        covariance, mean: C and m, as for `ld.lab.evaluate`.
        budget: greatest cost of a sample, in full calls unless `of_call` is given.
        order: of the solver, or orders to choose from.
        correction: None or "exact-shape-changes", as for `ld.lab.evaluate`, with changes where it draws no more
            variance than the noise has.
        of_call: cost of a network call from x_t of a shape to the shape just below t; by default the mean of the shares
            that both have of the numbers of x_0, as a network has one half for each.
        start: what was found for the same path and another budget, from which one more search begins; for no smaller
            budget and the same orders, what is found is no worse.
        progress: show how many samplers were looked at and the least error so far, where tqdm is installed.

    Raises:
        ModuleNotFoundError: SciPy is not installed.
        TypeError: no path or schedule.
        ValueError: a budget below the cost of the cheapest call, an order that there is not, or a start of a path with
            another number of resolutions.

    Examples:
        >>> import lineardiffusion as ld
        >>> data, schedule = ld.lab.power_law((1, 16)), ld.schedules.vp()
        >>> best = ld.lab.optimise(ld.paths.identity((1, 16)), schedule, data, budget=4, order=2, progress=False)
        >>> evenly = ld.lab.evaluate(best.process, data, sampler="ddim", order=2, steps=ld.grids.log_snr(4))
        >>> best.cost, len(best.times), best.report.w2 < 0.5 * evenly.w2
        (4.0, 4, True)
    """
    check_kind(path, Path, "path", "a path, such as ld.paths.pyramid(shape, 3, mode='haar')")
    check_kind(schedule, Schedule, "schedule", "a schedule such as schedules.cosine(1000)")
    orders = [order] if isinstance(order, int) else as_list(order, "order", "orders, such as (1, 2)")
    orders = [as_index(each, 1, 3, "order") for each in orders]
    if correction is not None:
        as_choice(correction, ("exact-shape-changes",), "correction")
    budget = as_positive(budget, "budget")
    if of_call is not None:
        check_function(of_call, "of_call", "a function of the shapes of x_t and just below t, which returns the cost")
    if start is not None:
        check_kind(start, Optimum, "start", "what optimise returned for another budget")
    search = _Search(path, schedule, covariance, mean, budget, correction, of_call)
    if start is not None and len(start._plan.calls) != len(search.shapes):
        got = f"{len(start._plan.calls)} resolutions and {len(search.shapes)}"
        raise ValueError(f"start: expected what was found for a path with as many resolutions as this one, got {got}")
    bar = bar_kind(as_flag(progress, "progress"))
    with nullcontext() if bar is None else bar(desc="optimise", unit="sampler") as search.bar:
        return search.best(orders, None if start is None else start._plan)


def _minimiser() -> Callable[..., Any]:
    try:
        from scipy.optimize import minimize
    except ModuleNotFoundError as error:
        raise missing("scipy", error) from error
    found: Callable[..., Any] = minimize
    return found


class _Search:
    """What is searched, and the errors of the plans that were looked at."""

    def __init__(
        self,
        path: Path,
        schedule: Schedule,
        covariance: Tensor | LinearOperator,
        mean: float | Tensor,
        budget: float,
        correction: Correction,
        of_call: Callable[[Shape, Shape], float] | None,
    ) -> None:
        self.path, self.schedule, self.mean, self.correction = path, schedule, mean, correction
        self.shapes = path.sizes if isinstance(path, Levelled) else [path.shape(0)]
        full, data = math.prod(self.shapes[0]), in_frame(covariance, self.shapes[0])
        self.whole = data.in_groups(path) or data
        thinned = data.in_groups(path, thinned=True) if full >= _MANY and not isinstance(mean, Tensor) else None
        self.covariance = thinned or self.whole  # once for all that are looked at
        self.of_call = of_call or (lambda here, there: (math.prod(here) + math.prod(there)) / (2 * full))
        self.budget, self.range, self._minimize = budget, log_snr_range(schedule), _minimiser()
        self._spread = math.sqrt(float(self.whole.values.sum()))
        self.bar: Any = None  # of progress, where it is shown
        self._errors: dict[tuple[Plan, int], float] = {}
        self._searched: set[tuple[tuple[int, ...], int]] = set()  # numbers of calls and orders

    # ------------------------------------------------------------------ plans

    def cost(self, calls: Sequence[int]) -> float:
        """Of a sample."""
        used = [(shape, n) for shape, n in zip(reversed(self.shapes), calls, strict=True) if n]
        below = [shape for shape, _ in used[1:]] + [self.shapes[0]]
        return sum(
            (n - 1) * self.of_call(shape, shape) + self.of_call(shape, there)
            for (shape, n), there in zip(used, below, strict=True)
        )

    def filled(self, calls: Sequence[int], level: int) -> tuple[int, ...] | None:
        """These calls, but at one level as many as the budget allows; None where they alone cost more, or there are
        none."""
        shape = self.shapes[len(self.shapes) - 1 - level]
        with_one = (*calls[:level], 1, *calls[level + 1 :])
        room = (self.budget - self.cost(with_one)) / self.of_call(shape, shape)
        n = 1 + math.floor(room + 1e-9)
        found = (*calls[:level], max(n, 0), *calls[level + 1 :])
        return found if any(found) and (n > 0 or self.cost(found) <= self.budget) else None

    def without_levels(self) -> Plan:
        """Evenly spaced calls at full size."""
        calls = self.filled([0] * len(self.shapes), len(self.shapes) - 1)
        if calls is None:
            least = self.of_call(self.shapes[0], self.shapes[0])
            raise ValueError(f"budget: expected at least {least:.6g}, the cost of one call, got {self.budget:.6g}")
        return Plan(calls, 0.0, 0.0, 0.0, (0.0,) * DENSITIES)

    def with_levels(self, plan: Plan, share: float) -> Plan | None:
        """A plan with the grid of one without levels, but with as many calls as the budget has room for, each at the
        least size at which a state knows of one of full size all but a share of the noise's variance."""
        found, n, limits = None, 1, self.limits(share)
        while True:
            n += 1
            grid = replace(plan, calls=(*plan.calls[:-1], n)).log_snr(*self.range)
            # The first call of a level is where its detail begins to tell, and takes the place of one just before.
            grid = [x for x in grid if not any(limit - 0.5 < x <= limit for limit in limits)]
            grid = sorted({*grid, *(limit for limit in limits if grid[0] < limit < grid[-1])})
            levels = [sum(x < limit for limit in limits) for x in grid]
            calls = tuple(levels.count(level) for level in reversed(range(len(self.shapes))))
            if self.cost(calls) > self.budget:
                return found
            passed = np.log(np.maximum(np.diff(grid, prepend=grid[0] - 1), 1e-3))
            densities = []
            for level in sorted(set(levels), reverse=True):
                own = passed[[other == level for other in levels]]
                slope, offset = np.polyfit(np.linspace(0, 1, len(own)), own, 1) if len(own) > 1 else (0.0, own[0])
                densities += [offset, offset + slope]
            found = Plan(calls, 0.0, plan.above, plan.below, tuple(np.clip(densities, -_DENSEST, _DENSEST).tolist()))

    def limits(self, share: float) -> list[float]:
        """For each level but that of full size, the log-SNR up to which what a state there does not know of one of full
        size is less than a share of the noise's variance."""
        low, high = self.range
        points = np.linspace(low, high, 40)[1:-1]
        times = self.schedule.time(torch.from_numpy(points)).tolist()
        result = []
        for level in range(1, len(self.shapes)):
            count = bisect_left(times, share, key=lambda t: self._unknown(level, t))
            result.append(float(points[count - 1]) if count else low)
        return result

    def _unknown(self, level: int, t: float) -> float:
        """The greatest variance of what x_t of a level does not know of c, in units of that of the noise."""
        assert isinstance(self.path, Levelled)
        t = round(t) if self.schedule.num_steps else t
        changes = [t] * level + [self.schedule.end + 1] * (len(self.shapes) - 1 - level)
        process = LinearDiffusion(self.path.changing(changes_at(changes)), self.schedule)
        marginals, s = Marginals(process, self.covariance, self.mean), process.before(t)
        return process.signal_scale(s) ** 2 * largest(marginals.unknown(t, s)) / process.sigma(s) ** 2

    def scaled(self, plan: Plan) -> Plan | None:
        """A plan of another budget, with more or fewer calls of all levels."""
        share = self.budget / self.cost(plan.calls)
        calls = self.filled([max(1, round(share * n)) if n else 0 for n in plan.calls], len(plan.calls) - 1)
        return None if calls is None else plan.with_calls(calls)

    def neighbours(self, plan: Plan) -> Iterator[Plan]:
        """Plans with levels that have a call or some more or fewer at one of the resolutions, or none, and at another
        as many as there then is room for."""
        if not any(plan.calls[:-1]):
            return
        found = {plan.calls}
        for level, other in itertools.permutations(range(len(plan.calls)), 2):
            n = plan.calls[level]
            for change in sorted({1, -1, n // 8, -(n // 8), n // 3, -(n // 3), -n, 2 if n < 2 else 0} - {0}):
                changed = (*plan.calls[:level], n + change, *plan.calls[level + 1 :])
                calls = self.filled(changed, other) if n + change >= 0 else None
                if calls is not None and calls not in found:
                    found.add(calls)
                    yield plan.with_calls(calls)

    def made(self, plan: Plan) -> tuple[LinearDiffusion, list[float]]:
        """The process and the times of a plan."""
        times = list(self.schedule.time(torch.tensor(plan.log_snr(*self.range), dtype=torch.float64)).tolist())
        times[0] = self.schedule.end
        path = self.path
        if isinstance(path, Levelled):
            changes = []
            for last in itertools.accumulate(plan.calls[:-1]):
                if last and self.schedule.num_steps:
                    times[last - 1] = round(times[last - 1])
                changes.append(times[last - 1] if last else self.schedule.end + 1)
            path = path.changing(changes_at(sorted(changes)))
        return LinearDiffusion(path, self.schedule), times

    # ------------------------------------------------------------------ search

    def error(self, plan: Plan, order: int) -> float:
        """W2; as of samples of the opposite sign for times that are not in order, as rounding may leave them."""
        if (plan, order) not in self._errors:
            process, times = self.made(plan)
            error = 2 * self._spread
            if all(s < t for t, s in itertools.pairwise([*times, 0.0])):
                denoiser = OptimalDenoiser(process, self.covariance, self.mean)
                sampler = DDIMSampler(denoiser, times, plan.eta, order)
                error, drawn = outcome(denoiser.marginals, sampler, self.correction)
                error *= math.exp(min(_STEEPNESS * math.log(max(drawn, _REACH) / _REACH) ** 2, 50.0))
            self._errors[plan, order] = error
            if self.bar is not None:
                self.bar.set_postfix({"W2": f"{min(self._errors.values()):.3g}"}, refresh=False)
                self.bar.update()
        return self._errors[plan, order]

    def ranked(self, plans: Iterable[Plan], order: int) -> list[Plan]:
        """The best first."""
        return sorted(plans, key=lambda plan: self.error(plan, order))

    def polished(self, plan: Plan, order: int, iterations: int = 40, *, with_eta: bool = False) -> Plan:
        """A plan whose numbers nothing near them improves, or what so many iterations make of it; η stays as it is, as
        samplers of second order are best without, or is one of the numbers."""
        found = self._minimize(
            lambda numbers: math.log(self.error(plan.with_numbers(numbers), order)),
            plan.numbers(),
            method="L-BFGS-B",
            bounds=[
                (0.0, 1.0) if with_eta else (plan.eta, plan.eta),
                *[(0.0, None)] * 2,
                *[(-_DENSEST, _DENSEST) for _ in plan.densities],
            ],
            options={"maxiter": iterations, "ftol": _GAIN / 10, "eps": 1e-4},
        )
        return plan.with_numbers(found.x.tolist())

    def begun(self, plan: Plan, order: int) -> list[Plan]:
        """Where to descend from: a plan as nothing near it is better, and the best of such with its grid elsewhere."""
        whole = self.range[1] - self.range[0]
        moved = [replace(plan, above=a * whole, below=b * whole) for a, b in itertools.product(_ENDS, _ENDS)]
        moved = [self.polished(other, order) for other in self.ranked(moved, order)[:_BEGUN]]
        return [self.polished(plan, order), self.ranked(moved, order)[0]]

    def descended(self, plan: Plan, order: int) -> Plan:
        """A plan that neither numbers nor calls improve."""
        while True:
            others = [other for other in self.neighbours(plan) if (other.calls, order) not in self._searched]
            for other in self.ranked(others, order)[:_POLISHED]:
                self._searched.add((other.calls, order))
                polished = self.polished(other, order, _LOOKED_AT)
                if self.error(polished, order) < (1 - _GAIN) * self.error(plan, order):
                    plan = self.polished(polished, order)
                    break
            else:
                return plan

    def best(self, orders: Sequence[int], start: Plan | None) -> Optimum:
        """For each order the best with levels and the best without; each of them is tried at all orders."""
        plans = [start] if start is not None and self.cost(start.calls) <= self.budget else []
        for order in orders:
            plan = self.ranked(self.begun(self.without_levels(), order), order)[0]
            starts = [self.with_levels(plan, share) for share in _SHARES] if len(self.shapes) > 1 else []
            starts += [] if start is None else [self.scaled(start)]
            begun = [each for other in starts if other is not None for each in self.begun(other, order)]
            levelled = [self.descended(other, order) for other in begun]
            plans += [plan, *self.ranked(levelled, order)[:1]]
        found = sorted(itertools.product(plans, orders), key=lambda each: self.error(*each))[:_REFINED]
        found += [(self.polished(plan.refined(), order, with_eta=True), order) for plan, order in found]
        plan, order = min(found, key=lambda each: self.error(*each))
        process, times = self.made(plan)
        report = evaluate(process, self.whole, self.mean, "ddim", plan.eta, times, self.correction, order=order)
        cost = report.cost(self.of_call, process)
        return Optimum(process, times, order, plan.eta, self.correction, report, cost, plan)
