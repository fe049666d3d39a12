"""The least error for a budget on Gaussian data: DDPM against levels, each with its best grid, changes and solver.

    python benchmarks/frontier.py --data mnist10k.npz

By `ld.lab.optimise`, whose errors are exact: on power-law spectra (1 + |k|)^{−p} and on the covariance of 10 000 digits
of 32 × 32 pixels. A budget is counted in calls of a network at full size; a call costs the mean of the shares of pixels
that it reads and writes. Some chains of budgets side by side, each on one core; what is finished is kept in
runs/benchmark-frontier and not done again. `--report` makes the tables and the figures of what is there, and of what
the results have of the rest.

Writes results/frontier.json, docs/images/frontier*.png and the tables in docs/frontier.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.runs import rows_by, run_on_one_core, slug, write_table
from benchmarks.small_models import digits
from benchmarks.timing import environment

import lineardiffusion as ld
from lineardiffusion.paths import Path as DiffusionPath

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmark-frontier"
RESULTS = ROOT / "benchmarks" / "results" / "frontier.json"
PAGE, IMAGES = ROOT / "docs" / "frontier.md", ROOT / "docs" / "images"
FIRST = "first order"  # a search among samplers of first order alone
CORRECTED = "corrected"
STATIONARY = "for the stationary part"  # of a covariance, on all of which it is judged
CHEAP, ALL, MOST, FEW = (2, 3, 4, 5, 7, 10, 15, 25), (2, 3, 4, 5, 7, 10, 15, 25, 50, 100), (2, 3, 5, 7, 10), (3, 5, 10)
# Data, path and budgets. With levels a point takes minutes, and more of them the larger the events are.
JOBS: dict[tuple[str, str], tuple[int, ...]] = {
    ("power 2, side 64", "DDPM"): CHEAP,
    ("power 2, side 64", "DDPM, first order"): (*ALL, 150),
    ("power 2, side 64", "Haar, 3 levels, first order"): (*MOST, 15, 25, 50, 100),
    ("power 2, side 64", "Haar, 3 levels"): CHEAP[:6],
    ("digits", "DDPM"): CHEAP[:5],
    ("digits", "DDPM, first order"): CHEAP,
    ("digits", "Haar, 3 levels, first order"): (*MOST, 15, 25),
    ("digits", "Haar, 3 levels"): CHEAP[:5],
    ("digits", f"DDPM, {STATIONARY}"): CHEAP[:5],
    ("digits", "Blurring Diffusion, first order"): (3, 5, 7, 10),
    ("power 3, side 64", "DDPM"): FEW,
    ("power 3, side 64", "DDPM, first order"): (*CHEAP, 50),
    ("power 3, side 64", "Haar, 3 levels, first order"): FEW,
    ("power 2, side 32", "DDPM, first order"): CHEAP,
    ("power 2, side 32", "Haar, 3 levels, first order"): FEW,
    ("power 2, side 32", "bilinear, 3 levels, first order"): (3, 5),
    ("power 2, side 32", "Haar, 3 levels, corrected, first order"): (3, 5),
    ("power 2, side 32", "bilinear, 3 levels, corrected, first order"): (3,),
}
# As images grow. Their greatest variance grows too, and x_T is to hold none of it.
LEVELS, GROWING, TO_NOISE = f"Haar, 3 levels, {FIRST}", (3, 5), "to log-SNR −20"
POWERS, SIDES = (2, 3), (64, 128, 256, 512, 1024)
JOBS |= {
    (f"power {power}, side {side}, {TO_NOISE}", name): budgets
    for side, power in product(SIDES, POWERS)
    for name, budgets in ((f"DDPM, {FIRST}", (*MOST[1:], 15, 25, 50)), (LEVELS, GROWING))
}
SHOWN = ("power 2, side 64", "power 3, side 64", "digits")


def path_of(data: str, name: str, side: int) -> tuple[DiffusionPath, ld.schedules.Schedule]:
    """R_t, whose times of change are left to be found, and the schedule."""
    if name.startswith("Blurring"):
        process = ld.BlurringDiffusion((1, side, side))
        return process.path, process.schedule
    schedule = ld.schedules.vp(beta_max=40 if TO_NOISE in data else 20)
    if name.startswith("DDPM"):
        return ld.paths.identity((1, side, side)), schedule
    mode: Any = name.split(",")[0].lower()
    return ld.paths.pyramid((1, side, side), levels=int(name.split(", ")[1][0]), mode=mode), schedule


def data_of(name: str, file: Path) -> tuple[int, Any, Any, float | torch.Tensor]:
    """Side, covariance, one for searches with levels or blur, and mean. Of digits that is the stationary part of
    theirs, for which changes of shape cost a hundredth."""
    if name == "digits":
        images = digits(file)[0].double()
        return 32, torch.cov(images.flatten(1).T), ld.lab.estimate(images)[0], images.mean(0)
    power, side = (int(word.split()[1]) for word in name.split(", ")[:2])
    spectrum = ld.lab.power_law((1, side, side), float(power))
    return side, spectrum, spectrum, 0.0


def chain(data: str, name: str, file: Path, folder: Path) -> None:
    """The optima of one path for its budgets, in a file each; a search also begins from that of the budget before."""
    side, covariance, stationary, mean = data_of(data, file)
    searched = covariance if name.startswith("DDPM") and STATIONARY not in name else stationary
    before: ld.lab.Optimum | None = None
    folder.mkdir(parents=True, exist_ok=True)
    for budget in JOBS[data, name]:
        kept, began = folder / f"{budget}.json", time.process_time()
        if kept.exists():
            continue
        best = before = ld.lab.optimise(
            *path_of(data, name, side),
            searched,
            budget,
            order=1 if FIRST in name else (1, 2, 3),
            correction="exact-shape-changes" if CORRECTED in name else None,
            start=before,
            progress=False,
        )
        process = best.process
        report = ld.lab.evaluate(
            process, covariance, mean, "ddim", best.eta, best.times, best.correction, order=best.order
        )
        row = {
            "data": data,
            "path": name,
            "budget": budget,
            "relative_w2": report.relative_w2,
            "cost": best.cost,
            "order": best.order,
            "eta": best.eta,
            "calls": [
                {"side": process.shape(t)[-1], "log_snr": round(process.schedule.log_snr(t), 3)} for t in best.times
            ],
            "cpu_s": round(time.process_time() - began, 1),
        }
        kept.write_text(json.dumps(row) + "\n", encoding="utf-8")
        print(budget, row["relative_w2"], row["cpu_s"], flush=True)


def times_of(row: dict[str, Any], schedule: ld.schedules.Schedule) -> list[float]:
    return [1.0, *(float(schedule.time(call["log_snr"])) for call in row["calls"][1:])]


def points() -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of all points that are there, in the order of JOBS: of runs, else of the results."""
    found, rows = rows_by(RESULTS, "data", "path", "budget"), {}
    for point in ((*job, budget) for job, budgets in JOBS.items() for budget in budgets):
        if (file := folder_of(*point[:2]) / f"{point[2]}.json").exists():
            rows[point] = json.loads(file.read_text(encoding="utf-8"))
        elif point in found:
            rows[point] = found[point]
    return rows


def folder_of(data: str, name: str) -> Path:
    return RUNS / f"{slug(data)}-{slug(name)}"


def launch(data: str, name: str, file: Path) -> None:
    run_on_one_core(__file__, ["--data", str(file), "--case", data, name], folder_of(data, name))
    print(data, name, flush=True)


def elsewhere(row: dict[str, Any]) -> dict[str, float]:
    """The error that a sampler of DDPM has on spectra it was not made for."""
    side, schedule = row["calls"][-1]["side"], ld.schedules.vp()
    process = ld.LinearDiffusion(ld.paths.identity((1, side, side)), schedule)
    times = times_of(row, schedule)
    reports = {
        power: ld.lab.evaluate(
            process, ld.lab.power_law((1, side, side), power), 0.0, "ddim", row["eta"], times, order=row["order"]
        )
        for power in (1.5, 2.5, 3.0)
    }
    return {f"power {power}": report.relative_w2 for power, report in reports.items()}


# ---------------------------------------------------------------------- showing


def of(rows: list[dict[str, Any]], data: str, name: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["data"], row["path"]) == (data, name)]


def find(rows: list[dict[str, Any]], data: str, name: str, budget: int) -> dict[str, Any] | None:
    return next((row for row in of(rows, data, name) if row["budget"] == budget), None)


def saved(rows: list[dict[str, Any]], row: dict[str, Any]) -> float | None:
    """DDPM's budget for the error of a row, over its own cost; by interpolation of logarithms."""
    name = f"DDPM, {FIRST}" if FIRST in row["path"] else "DDPM"
    ddpm = sorted((each["relative_w2"], each["cost"]) for each in of(rows, row["data"], name))
    errors, costs = zip(*ddpm, strict=True)
    if not errors[0] <= row["relative_w2"] <= errors[-1]:
        return None
    return math.exp(np.interp(math.log(row["relative_w2"]), np.log(errors), np.log(costs))) / float(row["cost"])


def used(row: dict[str, Any]) -> str:
    """Its calls at each size, the finest first."""
    side, levels = int(row["data"].split()[-1]) if "side" in row["data"] else 32, int(row["path"].split(", ")[1][0])
    return " / ".join(str(sum(call["side"] == side >> level for call in row["calls"])) for level in range(levels))


def table(rows: list[dict[str, Any]], data: str) -> str:
    """The error for each budget, with the order, the calls at each size and DDPM's budget for the same error over that
    of the path."""
    mine = [row for row in rows if row["data"] == data]
    budgets = sorted({row["budget"] for row in mine})
    lines = [f"| {data} | " + " | ".join(map(str, budgets)) + " |", "|---" * (1 + len(budgets)) + "|"]
    for name in dict.fromkeys(row["path"] for row in mine):
        cells = []
        for budget in budgets:
            row = find(rows, data, name, budget)
            if row is None:
                cells.append("–")
                continue
            notes = [] if FIRST in name else [f"order {row['order']}"]
            notes += [used(row)] if "levels" in name else []
            if not name.startswith("DDPM") and (ratio := saved(rows, row)) is not None:
                notes.append(f"×{ratio:.2f}")
            cells.append(f"{row['relative_w2']:.2g}" + (f" ({', '.join(notes)})" if notes else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sizes_table(rows: list[dict[str, Any]]) -> str:
    """The error for a few calls at each size of images, and DDPM's budget for the same error over that of levels."""
    lines = [f"| pixels | | {' | '.join(map(str, SIDES))} |", "|---" * (2 + len(SIDES)) + "|"]
    for power, budget, name in product(POWERS, GROWING, (f"DDPM, {FIRST}", LEVELS)):
        cells = []
        for side in SIDES:
            row = find(rows, f"power {power}, side {side}, {TO_NOISE}", name, budget)
            ratio = saved(rows, row) if row and name == LEVELS else None
            notes = "" if ratio is None else f" (×{ratio:.2f})"
            cells.append("–" if row is None else f"{row['relative_w2']:.2g}{notes}")
        lines.append(f"| power {power}, {budget} calls | {name.removesuffix(f', {FIRST}')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def transferred(rows: list[dict[str, Any]]) -> str:
    """Errors of DDPM's samplers on other spectra, beside those on the one they were made for."""
    known = [row for row in rows if "elsewhere" in row]
    lines = [
        "| made for power 2, side 64 | calls | power 2 | " + " | ".join(known[0]["elsewhere"]) + " |",
        "|---" * 6 + "|",
    ]
    for row in known:
        errors = [row["relative_w2"], *row["elsewhere"].values()]
        order = "" if FIRST in row["path"] else f", order {row['order']}"
        lines.append(
            f"| {row['path']}{order} | {row['budget']} | " + " | ".join(f"{error:.2g}" for error in errors) + " |"
        )
    return "\n".join(lines)


def plot_budgets(rows: list[dict[str, Any]]) -> None:
    """The error against the budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, len(SHOWN), sharex=True, sharey=True)
    for axis, data in zip(axes, SHOWN, strict=True):
        for name in dict.fromkeys(row["path"] for row in rows if row["data"] == data):
            mine = of(rows, data, name)
            color = {"DDPM": "C0", "Haar": "C1", "Blurring Diffusion": "C2"}[name.split(",")[0]]
            style = {"color": color, "linestyle": "--" if FIRST in name else ":" if STATIONARY in name else "-"}
            axis.loglog(
                [row["cost"] for row in mine],
                [row["relative_w2"] for row in mine],
                marker="o",
                ms=3,
                label=name,
                **style,
            )
        axis.set(title=data, xlabel="budget in calls at full size")
        axis.set_xticks([2, 3, 5, 10, 20, 50, 100], labels=["2", "3", "5", "10", "20", "50", "100"])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("W2 / √tr C")
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    axes[-1].legend(handles=list(lines.values()), loc="lower left", fontsize="small")
    figure.savefig(IMAGES / "frontier.png", dpi=120)


def plot_sizes(rows: list[dict[str, Any]]) -> None:
    """How many times its budget DDPM needs for the error of levels, against the size of images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for (color, power), (marker, budget) in product(
        zip(("C0", "C1"), POWERS, strict=True), zip("os", GROWING, strict=True)
    ):
        found = {side: find(rows, f"power {power}, side {side}, {TO_NOISE}", LEVELS, budget) for side in SIDES}
        ratios = {side: saved(rows, row) for side, row in found.items() if row}
        known = {side: ratio for side, ratio in ratios.items() if ratio is not None}
        label = f"(1 + |k|)$^{{-{power}}}$, {budget} calls"
        axis.loglog([*known], [*known.values()], marker=marker, ms=4, color=color, label=label)
    axis.set_xticks(SIDES, labels=map(str, SIDES))
    axis.set_yticks(ticks := [1, 2, 3, 5, 7, 10], labels=map(str, ticks))
    axis.tick_params(which="minor", length=0, labelleft=False, labelbottom=False)
    axis.set(xlabel="pixels of a side", ylabel="DDPM's calls for the same error, over the budget")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(IMAGES / "frontier_sizes.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    parser.add_argument("--cores", type=int, default=2, help="chains side by side (%(default)s)")
    parser.add_argument("--report", action="store_true", help="tables and figures of what is there; run nothing")
    parser.add_argument("--case", nargs=2, help="one chain alone, with --folder")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.case:
        torch.set_num_threads(1)
        chain(arguments.case[0], arguments.case[1], arguments.data, arguments.folder)
        return
    if not arguments.report:
        with ThreadPoolExecutor(arguments.cores) as pool:
            list(pool.map(lambda job: launch(*job, arguments.data), JOBS))
    rows = list(points().values())
    for row in rows:
        if row["data"] == "power 2, side 64" and row["path"].startswith("DDPM") and row["budget"] <= 25:
            row["elsewhere"] = elsewhere(row)
    report = {"environment": environment("scipy"), "rows": rows}
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_table(PAGE, "frontier", "\n\n".join(table(rows, data) for data in (*SHOWN, "power 2, side 32")))
    write_table(PAGE, "frontier-sizes", sizes_table(rows))
    write_table(PAGE, "frontier-elsewhere", transferred(rows))
    plot_budgets(rows)
    plot_sizes(rows)


if __name__ == "__main__":
    main()
