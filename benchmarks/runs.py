"""What the benchmarks share: runs in processes of their own, not done twice, and tables in the documentation."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lineardiffusion.samplers import Sampler

CHUNK = 100


def slug(model: str) -> str:
    """The name of a model as part of a path."""
    return model.lower().replace(", ", "-").replace(" ", "-")


def kept_result(script: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """The result.json that a script leaves in a folder, run in a process of its own on one core; the kept one if it is
    there."""
    if not (folder / "result.json").exists():
        run_on_one_core(script, arguments, folder)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def rows_by(results: Path, *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of a results file by what they have under some keys: where runs are not at hand, a report goes on from
    them."""
    rows = read(results).get("rows", [])
    return {tuple(row[key] for key in keys): row for row in rows}


@cache
def read(results: Path) -> dict[str, Any]:
    """A results file; nothing where there is none."""
    return json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}


def run_on_one_core(script: str, arguments: list[str], folder: Path) -> None:
    """Run a script in a process of its own with --folder, where log.txt says what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, script, *arguments, "--folder", str(folder)]
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run(command, env={**os.environ, **threads}, stdout=log, stderr=log, check=True)


def run_arguments(doc: str | None, models: Iterable[str], minutes: float) -> argparse.Namespace:
    """The arguments of a benchmark of models that train for equal times: all of its runs, or one alone."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    parser.add_argument("--minutes", type=float, default=minutes, help="of processor time per training (%(default)s)")
    parser.add_argument("--model", choices=models, help="one run alone, with --seed and --folder")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--folder", type=Path)
    return parser.parse_args()


def launch(model: str, seed: int, script: str, runs: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of one run of such a benchmark, in a folder of its own."""
    options = [
        "--data",
        str(arguments.data),
        "--minutes",
        str(arguments.minutes),
        "--model",
        model,
        "--seed",
        str(seed),
    ]
    result = kept_result(script, options, runs / f"{slug(model)}-seed-{seed}")
    print(json.dumps(result, ensure_ascii=False), flush=True)
    return result


def timed_draws(sampler: Sampler, count: int, first: int = 0) -> tuple[torch.Tensor, float]:
    """Samples of `count` seeds from the first on, drawn CHUNK at a time, and the processor time of a thousand in
    seconds."""
    cpu, starts = time.process_time(), range(first, first + count, CHUNK)
    drawn = torch.cat([sampler(CHUNK, seeds=range(start, start + CHUNK), progress=False) for start in starts])
    return drawn, round((time.process_time() - cpu) * 1000 / count, 1)


def write_table(page: Path, name: str, table: str) -> None:
    """Put a table between the marks <!-- name: begin --> and <!-- name: end --> of a page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}\n{table}\n{end}{tail}", encoding="utf-8")
