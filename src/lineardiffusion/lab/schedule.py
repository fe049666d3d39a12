"""The resolution schedule with the least error that a budget allows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_index, as_number, as_positive, check_function, check_process
from lineardiffusion.lab.evaluate import evaluate, network_calls
from lineardiffusion.lab.report import Report, sample_cost
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import ResolutionSchedule, changes_at
from lineardiffusion.schedules.grids import as_times


def optimise_schedule(
    process_of: Callable[[ResolutionSchedule], LinearDiffusion],
    levels: int,
    end: float,
    covariance: Tensor | LinearOperator,
    of_call: Callable[[Shape, Shape], float],
    budget: float,
    grid: int = 12,
    **options: Any,
) -> tuple[list[float], Report]:
    """The times at which to change the resolution, for the smallest W2 distance within a budget.

    Every choice of `levels` − 1 increasing times from a uniform grid is looked at, those within the budget are
    evaluated: at most binomial(grid, levels − 1) evaluations.

    Arguments:
        process_of: from a resolution schedule to the process, such as
            `lambda schedule: ld.ScaleSpaceDiffusion(shape, levels, resolution_schedule=schedule)`.
        levels: number of resolutions, at least 2.
        end: T; an int where processes have steps, whose times of change are integers then, else a float.
        covariance: C of the data.
        of_call: cost of a network call from x_t of a shape to the shape just below t.
        budget: greatest cost of a sample.
        grid: how many times to choose from.
        options: of `evaluate`: sampler, steps, correction, …

    Returns:
        The best times, for `ld.changes_at`, and what they come to.

    Raises:
        ValueError: no schedule of the grid is within the budget; the error names the smallest cost.

    Examples:
        >>> import lineardiffusion as ld
        >>> def process_of(schedule):
        ...     return ld.ScaleSpaceDiffusion((1, 16), 2, num_steps=50, resolution_schedule=schedule)
        >>> times, report = ld.lab.optimise_schedule(
        ...     process_of, 2, 50, ld.lab.power_law((1, 16)), lambda here, there: there[-1] / 16, budget=40, steps=50
        ... )
        >>> report.cost(lambda here, there: there[-1] / 16, process_of(ld.changes_at(times))) <= 40
        True
    """
    levels, budget = as_index(levels, 2, 64, "levels"), as_number(budget, "budget")
    check_function(process_of, "process_of", "a function from a resolution schedule to a process")
    end = end if isinstance(end, int) else as_positive(end, "end")
    if isinstance(end, int):
        count = as_index(grid, levels - 1, end - 1, "grid")
        times: list[float] = sorted({int(t) for t in torch.linspace(2, end, count).round()})
    else:
        count = as_index(grid, levels - 1, 2**31, "grid")
        times = [end * k / count for k in range(1, count + 1)]
    best: tuple[float, list[float], Report] | None = None
    cheapest = float("inf")
    for changes in itertools.combinations(times, levels - 1):
        process = process_of(changes_at(changes))
        check_process(process)
        visited = as_times(process, options.get("steps"))
        cost = sample_cost(process, network_calls(process, visited, options.get("sampler", "ancestral")), of_call)
        cheapest = min(cheapest, cost)
        if not cost <= budget:
            continue
        report = evaluate(process, covariance, **options)
        if best is None or report.w2 < best[0]:
            best = report.w2, list(changes), report
    if best is None:
        raise ValueError(
            f"budget: expected at least {cheapest:.6g}, the cost of the cheapest schedule, got {budget:.6g}"
        )
    return best[1], best[2]
