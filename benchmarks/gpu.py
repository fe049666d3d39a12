"""What the library does on a GPU: samplers, the paper's training and sampling times, waits, a minute of training.

    python benchmarks/gpu.py                                # six minutes; results/gpu.json and the table in docs/gpu.md
    python benchmarks/gpu.py --seconds 1500 --sections compiled                     # all compiled steps; takes longer
    python benchmarks/gpu.py --device cpu --tiny --output /tmp/gpu.json             # a rehearsal: figures of nothing

Every figure is kept as soon as it is measured: a run that is cut leaves what it has, and one of some sections leaves
the others as they were. What does not fit into the time, or the memory, is named. Rivals take turns in one process;
their ratio is the median over the rounds, with an interval that holds the true one in at least 95 of 100 cases.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu_bench import FULL, TINY, Bench, Cell, Row
from benchmarks.gpu_learning import PICTURE, learning
from benchmarks.gpu_report import table
from benchmarks.gpu_samplers import samplers
from benchmarks.gpu_training import compiled, sampling, training
from benchmarks.gpu_waits import waits
from benchmarks.runs import write_table
from benchmarks.timing import environment

from lineardiffusion.training import whole_file

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE, IMAGES = ROOT / "benchmarks" / "results" / "gpu.json", ROOT / "docs" / "gpu.md", ROOT / "docs" / "images"
SEED = 0
IMPORTING = 10.0
"""Seconds until a measurement begins, of those there are."""

SECTIONS: dict[str, tuple[Callable[[Bench], Iterator[Cell]], float]] = {
    "waits": (waits, 35),
    "samplers": (samplers, 40),
    "learning": (learning, 75),
    "training": (training, 60),
    "sampling": (sampling, 30),
    "compiled": (compiled, 90),
}
"""In this order, with their shares of the time; what one leaves is for those after it."""


Keep = Callable[[str, dict[str, Any]], None]


def describe(device: torch.device) -> dict[str, Any]:
    """The device, and what PyTorch was told about precision: its defaults."""
    found: dict[str, Any] = {
        "type": device.type,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def measure(bench: Bench, names: list[str], seconds: float, keep: Keep) -> list[str]:
    """Measure sections, one cell after the other; `keep` takes what there is of a section so far.

    Returns:
        What went wrong.
    """
    failures, end = [], time.monotonic() + seconds
    for place, name in enumerate(names):
        section, share = SECTIONS[name]
        began, later = time.monotonic(), sum(SECTIONS[other][1] for other in names[place:])
        bench.deadline = began + (end - began) * share / later
        rows: list[Row] = []
        for cell in section(bench):
            if bench.left() <= 0:
                new: list[Row] = [{"note": "not reached in the time there was"}]
            else:
                torch.manual_seed(SEED)
                new, failure = attempt(cell)
                failures += [f"{name}, {cell.case}: {failure}"] if failure else []
                bench.free()
            rows += [{**cell.case, **row} for row in new]
            keep(name, {"seconds": round(time.monotonic() - began, 1), "rows": rows})
            left = end - time.monotonic()
            print(f"[{left:4.0f} s left] {name}: {brief(cell.case)}: {brief_rows(new)}", flush=True)
    return failures


def attempt(cell: Cell) -> tuple[list[Row], str | None]:
    """Rows of a cell, or one that says why there are none; and what went wrong, if that should not."""
    try:
        return list(cell.measure()), None
    except torch.cuda.OutOfMemoryError:
        return [{"note": "out of memory"}], None
    except TimeoutError as error:
        return [{"note": str(error)}], None
    except Exception as error:  # the other cells are worth having
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [{"note": reason}], reason


def brief(case: Row) -> str:
    return ", ".join(str(value) for value in case.values())


def brief_rows(rows: list[Row]) -> str:
    found = [f"{row['ratio']:.3g}" for row in rows if "ratio" in row] or [row["note"] for row in rows if "note" in row]
    return " ".join(found) or f"{len(rows)} rows"


def write(report: dict[str, Any], path: Path) -> None:
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def publish(report: dict[str, Any], folder: Path) -> None:
    """Put results into the documentation."""
    if (folder / PICTURE).exists():
        shutil.copyfile(folder / PICTURE, IMAGES / PICTURE)
    write_table(PAGE, "gpu", table(report))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: %(default)s)")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="all by default")
    parser.add_argument("--seconds", type=float, default=340.0, help="of it all (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="a .npz file with images (N, 28, 28) and labels, to learn from")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal with small networks")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where results go (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="only write the page from the results that are there")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.table:
        publish(json.loads(given.output.read_text(encoding="utf-8")), given.output.parent)
        return 0
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "--device: expected one that PyTorch can use, got cuda without a GPU; --device cpu --tiny is a rehearsal"
        )
    given.output.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(given.output.read_text(encoding="utf-8")) if given.output.exists() else {}
    report: dict[str, Any] = {
        "environment": environment("diffusers", "triton"),
        "device": describe(device),
        "seed": SEED,
        "tiny": given.tiny,
        "sections": known.get("sections", {}) if known.get("tiny") == given.tiny else {},
    }

    def keep(name: str, section: dict[str, Any]) -> None:
        report["sections"][name] = {"commit": report["environment"]["commit"], **section}
        write(report, given.output)

    bench = Bench(device, TINY if given.tiny else FULL, given.output.parent, given.data)
    names = [name for name in SECTIONS if name in given.sections]
    failures = measure(bench, names, given.seconds - IMPORTING, keep)
    if given.output == RESULTS and device.type == "cuda" and not given.tiny:
        publish(report, given.output.parent)
    for failure in failures:
        print("FAILED", failure, file=sys.stderr)
    return min(1, len(failures))


if __name__ == "__main__":
    sys.exit(main())
