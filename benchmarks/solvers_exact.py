"""Errors of solvers without a network: the exact distribution of samples of Gaussian data (part of solvers.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

import lineardiffusion as ld

CALLS = (3, 4, 5, 7, 10, 15, 25, 50)
CALLS_WITH_LEVELS = (5, 10, 25)
GRIDS = ("uniform", "trailing", "karras", "log_snr")

# Of ld.lab.evaluate.
SETTINGS: dict[str, dict[str, Any]] = {
    "1": {"sampler": "ddim"},
    "2": {"sampler": "ddim", "order": 2},
    "2, midpoint": {"sampler": "ddim", "order": 2, "rule": "midpoint"},
    "3": {"sampler": "ddim", "order": 3},
    "2, corrector": {"sampler": "ddim", "order": 2, "corrector": True},
    "2, midpoint, corrector": {"sampler": "ddim", "order": 2, "rule": "midpoint", "corrector": True},
    "3, corrector": {"sampler": "ddim", "order": 3, "corrector": True},
    "ancestral 1": {"sampler": "ancestral"},
    "ancestral 2": {"sampler": "ancestral", "order": 2},
    "ancestral 2, midpoint": {"sampler": "ancestral", "order": 2, "rule": "midpoint"},
}
# A process with changes of resolution is not diagonal in any basis: minutes, where the others take seconds.
DATA_WITH_LEVELS, GRIDS_WITH_LEVELS = ("power law",), ("uniform", "log_snr")
SETTINGS_WITH_LEVELS = ("1", "2", "2, midpoint", "3")

Process = Callable[[tuple[int, int, int]], ld.LinearDiffusion]

PROCESSES: dict[str, Process] = {
    "DDPM": ld.DDPM,
    "Blurring": ld.BlurringDiffusion,
    "SSD, bilinear": lambda shape: ld.ScaleSpaceDiffusion(shape, levels=4),
    "SSD, Haar": lambda shape: ld.ScaleSpaceDiffusion(
        shape, levels=4, mode="haar", resolution_schedule=ld.changes_at([620, 780, 938])
    ),
}


def rows(images: Tensor, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each data set, process, grid, setting and number of calls: its error, W2/√tr C.

    Arguments:
        images: (N, 1, 32, 32), of which mean and covariance are those of the second data set.
        known: rows that need not be measured again.
    """
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    covariance, mean = ld.lab.estimate(images)
    data: dict[str, tuple[ld.SpectralFilter, float | Tensor]] = {
        "power law": (ld.lab.power_law(shape), 0.0),
        "digits": (covariance, mean),
    }
    done = {tuple(row[key] for key in ("data", "process", "grid", "solver", "calls")): row for row in known}
    for source, (spectrum, centre) in data.items():
        for name, make in PROCESSES.items():
            process = make(shape)
            levels = bool(process.shape_changes())
            if levels and source not in DATA_WITH_LEVELS:
                continue
            for solver in SETTINGS_WITH_LEVELS if levels else SETTINGS:
                for grid in GRIDS_WITH_LEVELS if levels else GRIDS:
                    for calls in CALLS_WITH_LEVELS if levels else CALLS:
                        key = (source, name, grid, solver, calls)
                        row = dict(zip(("data", "process", "grid", "solver", "calls"), key, strict=True))
                        yield done.get(key) or {**row, "error": _error(process, spectrum, centre, grid, solver, calls)}


def _error(
    process: ld.LinearDiffusion, covariance: ld.SpectralFilter, mean: float | Tensor, grid: str, solver: str, calls: int
) -> float | None:
    """W2/√tr C; None where the grid has not so many different times."""
    try:
        steps = getattr(ld.grids, grid)(calls)
        steps.times(process)
    except ValueError:
        return None
    report = ld.lab.evaluate(process, covariance, mean, steps=steps, **SETTINGS[solver])
    return round(report.relative_w2, 5)
