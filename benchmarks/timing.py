"""Times measured side by side: the two rivals take turns in one process, so that both see the same machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any


def ratio(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 15, chunk: float = 0.01
) -> dict[str, float]:
    """Times of one call in milliseconds, medians over the rounds, and the median over the rounds of their ratio.

    In each round both run for `chunk` seconds or once, whichever is longer, one after the other in changing order.
    """
    repeats = [_repeats(function, chunk) for function in (ours, theirs)]
    times: list[tuple[float, float]] = []
    for turn in range(rounds):
        pair = [0.0, 0.0]
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            pair[which] = _time((ours, theirs)[which], repeats[which])
        times.append((pair[0], pair[1]))
    return {
        "ours_ms": round(1e3 * statistics.median(a for a, _ in times), 4),
        "theirs_ms": round(1e3 * statistics.median(b for _, b in times), 4),
        "ratio": round(statistics.median(a / b for a, b in times), 3),
    }


def _repeats(function: Callable[[], Any], chunk: float) -> int:
    function()
    return max(1, round(chunk / max(_time(function, 2), 1e-9)))


def _time(function: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
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
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "commit": commit.stdout.strip(),
        "command": " ".join(["python", *sys.argv]),
    }


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
