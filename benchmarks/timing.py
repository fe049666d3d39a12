"""Times measured side by side: the two rivals take turns in one process, so that both see the same machine."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import metadata
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)


def ratio(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 15, chunk: float = 0.01
) -> dict[str, float]:
    """Times of one call in milliseconds, medians over the rounds, and the median over the rounds of their ratio; they
    take `turns`."""
    times = turns({"ours": ours, "theirs": theirs}, rounds, chunk)
    return {
        "ours_ms": round(1e3 * statistics.median(times["ours"]), 4),
        "theirs_ms": round(1e3 * statistics.median(times["theirs"]), 4),
        "ratio": round(statistics.median(a / b for a, b in zip(times["ours"], times["theirs"], strict=True)), 3),
    }


def turns(
    functions: Mapping[Key, Callable[[], Any]],
    rounds: int,
    chunk: float = 0.01,
    finish: Callable[[], None] = lambda: None,
) -> dict[Key, list[float]]:
    """Seconds of one call of each function, for every round. In a round each runs for `chunk` seconds or once,
    whichever is longer, one after the other, and every round begins with another.

    Arguments:
        finish: waits for what functions have left to a device.
    """
    repeats = {name: _repeats(function, chunk, finish) for name, function in functions.items()}
    names = list(functions)
    times: dict[Key, list[float]] = {name: [] for name in names}
    for first in range(rounds):
        for name in (names[(first + i) % len(names)] for i in range(len(names))):
            times[name].append(_time(functions[name], repeats[name], finish))
    return times


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and an interval that holds the median of their distribution, whatever it is, in at least 95 of 100
    cases: its ends are two of the values, equally far from the ends of their order. Of fewer than six values all."""
    ordered, count = sorted(values), len(values)
    outside, below = 0.0, 0
    while below < count // 2:  # both ends may be left out where that many values seldom lie on one side
        outside += 2 * math.comb(count, below) / 2**count
        if outside > 0.05:
            break
        below += 1
    low = max(0, below - 1)
    return statistics.median(ordered), ordered[low], ordered[count - 1 - low]


def _repeats(function: Callable[[], Any], chunk: float, finish: Callable[[], None]) -> int:
    function()
    return max(1, round(chunk / max(_time(function, 2, finish), 1e-9)))


def _time(function: Callable[[], Any], repeats: int, finish: Callable[[], None]) -> float:
    finish()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    finish()
    return (time.perf_counter() - start) / repeats


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(*packages: str) -> dict[str, Any]:
    """Machine and versions, to be kept with the results."""
    versions = {}
    for package in ("lineardiffusion", "torch", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "commit": _commit(),
        "command": " ".join(["python", *sys.argv]),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    except OSError:  # there is no git
        return "unknown"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def import_time(module: str, beyond: str, rounds: int = 7) -> float:
    """Milliseconds that importing `module` takes in a fresh interpreter which has imported `beyond`; the median. As
    after an installation, bytecode is there: the first run, which may have to compile it, does not count."""
    code = f"import {beyond}, time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(rounds)
    ]
    return round(1e3 * statistics.median(float(run.stdout) for run in runs), 2)
