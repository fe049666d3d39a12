"""The samplers of the frontier on digits: what they cost, and which of them are tried for a budget."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks.frontier_training import BLURRING, DDPM, PYRAMID, SHAPE, SSD, denoiser_of, network_of, process_of
from benchmarks.levels_report import CORRECTIONS
from examples.flops import Pair, call_gflops, pairs_of
from torch import Tensor, nn

import lineardiffusion as ld
from lineardiffusion.training import keyed_generator

LABORATORY = Path(__file__).resolve().parent / "results" / "frontier.json"
FEW = 10  # up to so many calls more is tried, since samplers differ there
RANK = CORRECTIONS["components"]
MEANS, COARSE = (1, 16, 16), (1, 8, 8)


class Way(NamedTuple):
    """A sampler: times of change, those of the calls, its order, how its grid was made, and η."""

    changes: tuple[int, ...]
    times: tuple[float, ...]
    order: int
    grid: str
    eta: float = 0.0


# ---------------------------------------------------------------------- costs


@cache
def gflops(model: str, here: tuple[int, ...], there: tuple[int, ...]) -> float:
    with torch.device("meta"):
        network = network_of(model)
    return call_gflops(network, here, there)


def in_calls(model: str, here: tuple[int, ...], there: tuple[int, ...]) -> float:
    """What a call costs, in calls of DDPM."""
    return gflops(model, here, there) / gflops(DDPM, SHAPE, SHAPE)


def calls_of(model: str, way: Way) -> Counter[Pair]:
    """How many calls lead from a shape to a shape; the jump of a flow comes before its call."""
    calls = Counter[Pair]()
    for (here, there), count in pairs_of(process_of(model, way.changes), way.times).items():
        calls[there if model == PYRAMID else here, there] += count
    return calls


def cost(model: str, way: Way) -> float:
    return sum(count * in_calls(model, *pair) for pair, count in calls_of(model, way).items())


# ---------------------------------------------------------------------- what is tried


def power(count: int, exponent: float, start: float = 1000, end: float = 0) -> list[int]:
    """`count` times from start, without end, at equal distances of t^(1/exponent): more of them late for > 1."""
    low, high = (end / 1000) ** (1 / exponent), (start / 1000) ** (1 / exponent)
    return [round(1000 * (high + (low - high) * i / count) ** exponent) for i in range(count)]


@cache
def laboratory(model: str) -> dict[int, list[int]]:
    """The grids of the least W2 for the covariance of digits at first order, by `frontier.py`, of each budget."""
    schedule, grids = process_of(model).schedule, {}
    for row in json.loads(LABORATORY.read_text(encoding="utf-8"))["rows"]:
        if (row["data"], row["path"]) == ("digits", f"{model}, first order"):
            inner = [round(float(schedule.time(call["log_snr"]))) for call in row["calls"][1:]]
            grids[row["budget"]] = [1000, *(max(1, t) for t in inner)]
    return grids


def tried(model: str, budget: int) -> list[Way]:
    """The samplers of a model for a budget: more of them for a few calls, where they differ."""
    if model == SSD:
        return list(_levels(budget))
    if model == PYRAMID:
        return list(_stages(budget))
    if model == BLURRING:  # whose detail comes late: grids are denser there, and noise is tried
        exponent, orders, etas = 1.5, (2, 3) if budget <= FEW else (2,), (0.0, 0.5)
    else:
        exponent, orders, etas = 0.8, (1, 2, 3) if budget <= FEW else (2, 3) if budget <= 25 else (2,), (0.0,)
    grids = {
        "uniform": power(budget, 1.0),
        f"power {exponent}": power(budget, exponent),
        "laboratory": laboratory(model).get(budget),
    }
    kinds = product(grids.items(), orders, etas)
    return [Way((), tuple(times), order, grid, eta) for (grid, times), order, eta in kinds if times]


def _levels(budget: int) -> Iterator[Way]:
    """Of Scale Space Diffusion: times of change, and numbers of calls at each size that use the budget. At each size
    the times are uniform, the last one at the change."""
    kinds = [((392,), 3), ((340,), 3), ((392,), 2), ((392, 750), 3)]
    full, means, grows = (in_calls(SSD, *shapes) for shapes in ((SHAPE, SHAPE), (MEANS, MEANS), (MEANS, SHAPE)))
    for changes, order in kinds if budget <= FEW else kinds[:2] if budget <= 25 else kinds[:1]:
        start = [1000, changes[1]] if len(changes) == 2 else []
        begun = sum(in_calls(SSD, *shapes) for shapes in ((COARSE, COARSE), (COARSE, MEANS))[: len(start)])
        found = []
        for fine in range(1, budget):
            middle = math.floor((budget - begun - grows - fine * full) / means + 1e-9)  # beside the call at the change
            if fine - 1 <= middle <= 5 * fine + 4:
                found.append((fine, middle))
        for fine, middle in found[:: math.ceil(len(found) / (3 if budget <= FEW else 2))]:
            inner = (
                power(middle + 1, 1.0, changes[1], changes[0])[1:] if start else power(middle, 1.0, 1000, changes[0])
            )
            times = (*start, *inner, changes[0], *power(fine + 1, 1.0, changes[0])[1:])
            yield Way(changes, times, order, f"{len(start)} / {middle + 1} / {fine}")
    # The states of Haar levels are parts of DDPM's: its grid, with the change at a time of the grid.
    grids = [times for count, times in laboratory(DDPM).items() if count >= budget]
    halves = [Way((min(times, key=lambda t: abs(t - 392)),), tuple(times), 3, "laboratory") for times in grids]
    affordable = [way for way in halves if cost(SSD, way) <= budget]
    if affordable:
        yield from (affordable[-1], affordable[-1]._replace(order=2))


def _stages(budget: int) -> Iterator[Way]:
    """Of a pyramidal flow: shares of calls at each resolution, the coarsest first, at uniform times of each stage."""
    stages = process_of(PYRAMID).stages  # type: ignore[attr-defined]
    of_call = [in_calls(PYRAMID, (1, side, side), (1, side, side)) for side in (8, 16, 32)]
    shares = ((8, 4, 1), (4, 2, 1), (2, 1, 1), (3, 2, 1), (1, 1, 1))
    for share in shares if budget <= FEW else shares[: 3 if budget <= 25 else 2]:
        unit = budget / sum(number * price for number, price in zip(share, of_call, strict=True))
        calls = [max(1, math.floor(unit * number + 1e-9)) for number in share]
        pieces = zip(reversed(list(pairwise(stages.knots))), calls, strict=True)
        times = [high - (high - low) * i / n for (low, high), n in pieces for i in range(n)]
        for order in (1, 2, 3) if budget <= FEW else (2, 3) if budget <= 25 else (3,):
            yield Way((), tuple(times), order, " / ".join(map(str, calls)))


def sampler_of(model: str, network: nn.Module, way: Way, measured: Tensor | None) -> Any:
    """The sampler, corrected where there are images to measure residuals on: levels at their changes, others at all
    steps."""
    denoiser = denoiser_of(model, network, way.changes)
    if model == PYRAMID:
        return denoiser.process.sampler(denoiser, way.times, order=way.order)  # type: ignore[attr-defined]
    residual = None
    if measured is not None:
        generator = keyed_generator("calibrate")
        residual = ld.calibrate(
            denoiser,
            measured,
            way.times,
            shape_changes_only=model == SSD,
            rank=RANK,
            clip=(-1, 1),
            generator=generator,
        )
    return ld.DDIMSampler(denoiser, way.times, way.eta, way.order, clip=(-1, 1), residual=residual)
