"""Error against calls of the network: orders, rules and grids of our samplers, and the solvers of diffusers.

    python benchmarks/solvers.py --data mnist10k.npz

First the exact distribution of samples of Gaussian data, from the laboratory (solvers_exact.py); then a thousand digits
of small networks (small_models.py), and their Fréchet distance to real ones in the features of a small classifier,
beside those of diffusers' solvers on the same network from the same noise (solvers_draws.py). About two hours on one
core; what is finished is kept in runs/benchmark-solvers and not done again.

Writes results/solvers.json, pictures, and the tables in docs/solvers.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import solvers_exact as exact
from benchmarks.frechet import REPLICATES, replicates, spread
from benchmarks.runs import write_table
from benchmarks.small_models import BATCH_SIZE, MODELS, RUNS, STEPS, digits
from benchmarks.solvers_draws import COUNT, MAIN, OURS, PEERS, drawn, jobs, kept
from benchmarks.timing import environment
from examples.experiment.features import Judge, Moments, frechet_of_moments, moments, train_judge

import lineardiffusion as ld

Case = tuple[str, str, int]
"""Model, solver and calls."""

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "solvers.json"
IMAGES, PAGE = ROOT / "docs" / "images", ROOT / "docs" / "solvers.md"
END = ("3, log_snr", 100, 250)
"""Where the flow of η = 0 leads: a solver and its calls, and of how many digits."""
DIVERGED = 1e3
"""Pixels beyond this are of no digit, whose pixels lie in [−1, 1]."""
FIRST = ("1, uniform", 25)
"""What ten calls should be as good as."""


# ---------------------------------------------------------------------- measuring


def measure_exact(images: Tensor, anew: bool) -> list[dict[str, Any]]:
    path = RUNS / "exact.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    known: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not anew:
        return known
    for row in exact.rows(images, known):
        rows.append(row)
        if row not in known:
            path.write_text(json.dumps([*known, *(r for r in rows if r not in known)]), encoding="utf-8")
    return rows


def measure_digits(cases: list[Case], data: Path, judge: Judge, reference: Moments, anew: bool) -> list[dict[str, Any]]:
    """A row for each model, solver and number of calls: the Fréchet distance; for η = 0 how far digits end from where
    many steps lead from the same noise (root mean square over pixels); for ours the best peer, and what they are above
    it; and at 10 calls what they are above FIRST."""
    rows: list[dict[str, Any]] = []
    resampled: list[Tensor] = []
    for model, name, calls in cases:
        found = drawn(model, name, calls, data)
        if found is None:
            continue
        images, used = found
        row: dict[str, Any] = {"model": model, "solver": name, "calls": calls, "used": used}
        if float(images.abs().max()) < DIVERGED:  # not NaN either
            features = judge.features(images)
            distance = frechet_of_moments(moments(features), reference)
            resampled.append(replicates(features, reference))
            row |= {"frechet": round(distance, 3), "interval": spread(resampled[-1], distance)}
        else:
            resampled.append(torch.full((REPLICATES,), torch.inf, dtype=torch.float64))
            row |= {"frechet": None, "interval": None}
        flows = not name.startswith("ancestral") and (anew or kept(model, *END).exists())
        end = drawn(model, *END[:2], data, END[2]) if flows else None
        if end is not None and row["interval"] is not None and float(end[0].abs().max()) < DIVERGED:
            row["off"] = round(float((images[: END[2]] - end[0]).square().mean().sqrt()), 4)
        rows.append(row)
    sound = [i for i, row in enumerate(rows) if row["interval"] is not None]
    for i in sound:
        row, own = rows[i], resampled[i]
        peers = [i for i in sound if rows[i]["solver"] in PEERS and rows[i]["calls"] == row["calls"]]
        if row["model"] == "DDPM" and row["solver"] in OURS and peers:
            best = min(peers, key=lambda i: rows[i]["frechet"])
            row["best_peer"] = rows[best]["solver"]
            row["above_best_peer"] = spread(own - resampled[best], row["frechet"] - rows[best]["frechet"])
        first = [i for i in sound if (rows[i]["model"], rows[i]["solver"], rows[i]["calls"]) == (row["model"], *FIRST)]
        if first and row["calls"] == 10:
            row["above_first_order"] = spread(own - resampled[first[0]], row["frechet"] - rows[first[0]]["frechet"])
    return rows


# ---------------------------------------------------------------------- showing


def exact_table(report: dict[str, Any]) -> str:
    """For each process the error of solvers on their grids."""
    shown = {"power law": exact.CALLS_WITH_LEVELS}
    lines = [
        "| process | solver | " + " | ".join(f"{n} calls" for n in shown["power law"]) + " |",
        "|---|---|" + "---|" * len(shown["power law"]),
    ]
    cases = [("1", "uniform"), ("1", "log_snr"), ("2", "uniform"), ("2", "log_snr")]
    cases += [("2, midpoint", "uniform"), ("2, midpoint", "trailing"), ("2, midpoint", "log_snr"), ("3", "log_snr")]
    for process in exact.PROCESSES:
        for solver, name in cases:
            values = []
            for calls in shown["power law"]:
                where = {"data": "power law", "process": process, "grid": name, "solver": solver, "calls": calls}
                found = [row["error"] for row in report["exact"] if all(row[k] == v for k, v in where.items())]
                values.append("" if not found or found[0] is None else f"{found[0]:.3f}")
            if any(values):
                lines.append(f"| {process} | {solver}, {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def digits_table(report: dict[str, Any], models: list[str]) -> str:
    """Fréchet distances, and how far from the end of the flow; peers in italics."""
    rows = {(row["model"], row["solver"], row["calls"]): row for row in report["digits"] if row["model"] in models}
    calls = sorted({n for _, _, n in rows})
    lines = ["| model | solver | " + " | ".join(f"{n} calls" for n in calls) + " |", "|---|---|" + "---|" * len(calls)]
    for model in models:
        for name in (*OURS, *PEERS):
            own = [rows.get((model, name, n)) for n in calls]
            if any(own):
                cells = ["" if row is None else _cell(row) for row in own]
                lines.append(f"| {model} | {f'*{name}*' if name in PEERS else name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    calls = f" ({row['used']} calls)" if row["used"] != row["calls"] else ""
    if row["interval"] is None:
        return "diverged" + calls
    half = (row["interval"][1] - row["interval"][0]) / 2
    return f"{row['frechet']:.2f} ± {half:.2f}" + (f"; {row['off']:.3f}" if "off" in row else "") + calls


def plot(report: dict[str, Any], path: Path) -> None:
    """Exact errors of DDPM and Blurring, and Fréchet distances of DDPM, against calls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    cases = [("1", "uniform"), ("1", "log_snr"), ("2", "log_snr"), ("2, midpoint", "trailing")]
    cases += [("2, midpoint", "log_snr"), ("3", "log_snr"), ("2, midpoint", "uniform")]
    for axis, process in zip(axes[:2], ("DDPM", "Blurring"), strict=True):
        for index, (solver, name) in enumerate(cases):
            where = {"data": "power law", "process": process, "grid": name, "solver": solver}
            found = [row for row in report["exact"] if all(row[k] == v for k, v in where.items()) and row["error"]]
            axis.plot(*_curve(found, "error"), ".-", color=f"C{index}", label=f"{solver}, {name}")
        axis.set(
            title=f"{process}, exact (power law)", xlabel="calls of the network", ylabel="W2 / √tr C", yscale="log"
        )
    for index, name in enumerate(MAIN):
        found = [row for row in report["digits"] if row["model"] == "DDPM" and row["solver"] == name]
        style = "x--" if name in PEERS else ".-"
        axes[2].plot(*_curve(found, "frechet"), style, color=f"C{index}", label=name)
    axes[2].set(title="DDPM, digits", ylabel="Fréchet distance (classifier features)")
    for axis in axes:
        axis.set(xscale="log", xlabel="calls of the network", xticks=exact.CALLS, xticklabels=exact.CALLS)
        axis.minorticks_off()
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def _curve(rows: list[dict[str, Any]], value: str) -> tuple[list[int], list[float]]:
    rows = sorted(rows, key=lambda row: row["calls"])
    return [row["calls"] for row in rows], [row[value] for row in rows]


def pictures(cases: list[Case], data: Path, report: dict[str, Any]) -> dict[str, list[str]]:
    """Digits of the same seeds, a row for each solver; what each row is."""
    shown: dict[str, list[Case]] = {"solvers_ddpm": [], "solvers_ssd": []}
    for calls in (5, 10):
        peers = [row for row in report["digits"] if row["solver"] in PEERS and row["calls"] == calls]
        best = [min(peers, key=lambda row: row["frechet"])["solver"]] if peers else []
        for name in ("1, uniform", "2 midpoint, log_snr", "3, log_snr", *best):
            shown["solvers_ddpm"].append(("DDPM", name, calls))
    for model in ("SSD, bilinear", "SSD, Haar"):
        for name in ("1, uniform", "1, log_snr", "2 midpoint, uniform", "2 midpoint, log_snr"):
            shown["solvers_ssd"].append((model, name, 10))
    shown = {file: [case for case in rows if case in cases] for file, rows in shown.items()}
    for file, rows in shown.items():
        parts = [found[0][:20] for case in rows if (found := drawn(*case, data)) is not None]
        if parts:
            ld.save_images(torch.cat(parts), IMAGES / f"{file}.png", columns=20)
    return {file: [f"{model}: {name}, {calls} calls" for model, name, calls in rows] for file, rows in shown.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    parser.add_argument("--kept", action="store_true", help="show what is finished; train and draw nothing")
    arguments = parser.parse_args()
    data, cases = arguments.data, [job for job in jobs() if not arguments.kept or kept(*job).exists()]
    torch.set_num_threads(1)
    images, labels = digits(data)
    judge = train_judge(images, labels, 10, RUNS / "cache")
    reference = moments(judge.learnt(images))
    held_out = frechet_of_moments(moments(judge.features(images, judge.held_out)), reference)
    report: dict[str, Any] = {
        "environment": environment("diffusers"),
        "training": {"steps": STEPS, "batch_size": BATCH_SIZE, "seed": 0},
        "count": COUNT,
        "judge_accuracy": judge.accuracy,
        "held_out_real_digits": round(held_out, 3),
        "exact": measure_exact(images, not arguments.kept),
        "digits": measure_digits(cases, data, judge, reference, not arguments.kept),
    }
    report["pictures"] = pictures(cases, data, report)
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    plot(report, IMAGES / "solvers.png")
    write_table(PAGE, "solvers", digits_table(report, ["DDPM"]))
    write_table(PAGE, "solvers of other models", digits_table(report, [model for model in MODELS if model != "DDPM"]))
    write_table(PAGE, "solvers, exact", exact_table(report))


if __name__ == "__main__":
    main()
