"""Tables and figures from the runs that `levels.py` has kept, whatever part of them is there: results/levels.json, the
tables of docs/levels.md and the pictures beside it.

The Fréchet distance of N draws lies above that of the distribution they come from, by about as much as the distance of
N draws from these draws lies above theirs. So the bootstrap tells the excess: the distance is given as 2 d − mean(d*),
d* that of draws with repetitions, and its 95 % interval as [2 d − q_97.5(d*), 2 d − q_2.5(d*)]. Over seeds, d and d*
are means.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.runs import slug, write_table
from benchmarks.timing import environment
from examples.experiment.features import Judge, frechet_of_moments, moments

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "levels.json"
PAGE, IMAGES = ROOT / "docs" / "levels.md", ROOT / "docs" / "images"
BOOTSTRAP = 200
DDPM, EARLY = "DDPM", "SSD, from the data"
HAAR = ["SSD, late, Haar", "SSD, 4 levels, Haar", "SSD, from the data, Haar", "SSD, from the data, Haar, long"]
MIXED = [
    "SSD, late, Haar, mixed",
    "SSD, 4 levels, Haar, mixed",
    "SSD, half, Haar, mixed, shares, wider",
    "SSD, from the data, Haar, mixed, shares, wider",
]
PAPER = [f"SSD, {levels} levels" for levels in (2, 3, 4)]
LABORATORY = [DDPM, *PAPER, EARLY, "SSD, 4 levels, Haar", "SSD, from the data, Haar"]
CORRECTIONS = {"spectrum": 0, "components": 64}  # principal components beside the spectrum
EVERYWHERE = "everywhere"  # components at all steps, not at the changes of shape alone
# Times at which the states of Haar levels have 16 × 16 or 32 × 32 pixels.
COMPARED = (380, 440, 500, 560, 620, 680, 740)
CORRECTED = {"": "", "-spectrum": ", corrected by spectra", "-components": ", corrected"}

Row = dict[str, Any]


def distance(sets: list[Tensor], real: Tensor) -> Row:
    """Fréchet distance of each set of features to the real ones, their mean without its excess, and its interval."""
    generator = torch.Generator().manual_seed(0)
    known = moments(real)
    resampled = []
    for _ in range(BOOTSTRAP):
        picks = [features[torch.randint(len(features), (len(features),), generator=generator)] for features in sets]
        resampled.append(statistics.fmean(frechet_of_moments(moments(features), known) for features in picks))
    plain = [frechet_of_moments(moments(features), known) for features in sets]
    values = torch.tensor(resampled, dtype=torch.float64)
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    twice = 2 * statistics.fmean(plain)
    return {
        "plain": [round(value, 3) for value in plain],
        "frechet": round(twice - float(values.mean()), 3),
        "interval": [round(twice - high, 3), round(twice - low, 3)],
    }


def collect(runs: Path, real: Tensor) -> list[Row]:
    """For each model: its cells, over all seeds that have them, its training, and its changes of shape."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(runs.glob("*-seed-*/result.json"))]
    models: dict[str, list[Row]] = {}
    for result in results:
        models.setdefault(result["model"], []).append(result)
    rows = []
    for model, seeds in models.items():
        cells: dict[str, list[tuple[Row, Tensor]]] = {}
        for result in seeds:
            folder = runs / f"{slug(model)}-seed-{result['seed']}" / "features"
            for row in result["samples"]:
                features = torch.from_numpy(np.load(folder / f"{row['cell']}.npy")).double()
                cells.setdefault(row["cell"], []).append(({**row, "seed": result["seed"]}, features))
        rows.append(
            {
                "model": model,
                "iterations": seeds[0]["iterations"],
                "training_cpu_s": [result["training_cpu_s"] for result in seeds],
                "changes": [result["changes"] for result in seeds if "changes" in result],
                "errors": [result["errors"] for result in seeds if "errors" in result],
                "cells": {
                    cell: {
                        **{key: value for key, value in entries[0][0].items() if key not in ("cell", "seed")},
                        "cpu_s_per_1000_images": [entry.get("cpu_s_per_1000_images") for entry, _ in entries],
                        "seeds": [entry["seed"] for entry, _ in entries],
                        **distance([features for _, features in entries], real),
                    }
                    for cell, entries in sorted(cells.items())
                },
            }
        )
    return rows


def laboratory(processes: dict[str, ld.LinearDiffusion], images: Tensor, held_out: Tensor) -> list[Row]:
    """What the optimal linear denoiser of these images leaves, W2 / √tr C: not corrected, corrected exactly, and by
    what is measured on the held-out images."""
    data, mean = torch.cov(images.flatten(1).double().T), images.double().mean(0)
    rows = []
    for name, process in processes.items():
        denoiser = ld.lab.OptimalDenoiser(process, data, mean)
        labels = ["none", *([*CORRECTIONS, "exact"] if process.shape_changes() else [])]

        def correction(label: str, steps: int, denoiser: ld.Denoiser = denoiser) -> Any:
            if label in CORRECTIONS:
                generator = torch.Generator().manual_seed(0)
                return ld.calibrate(denoiser, held_out.double(), steps, rank=CORRECTIONS[label], generator=generator)
            return "exact-shape-changes" if label == "exact" else None

        for label in labels:
            errors = {}
            for steps in (25, 100, 1000):
                evaluated = ld.lab.evaluate(process, data, mean, steps=steps, correction=correction(label, steps))
                errors[str(steps)] = round(evaluated.relative_w2, 4)
            rows.append({"model": name, "correction": label, "relative_w2": errors})
    return rows


def linear_errors(images: Tensor, times: Sequence[int]) -> dict[str, Row]:
    """What `errors` of a run are for the best linear estimate: from the whole state of DDPM, and from its averages over
    2 × 2 pixels."""
    shape = tuple(images.shape[1:])
    data = torch.cov(images.flatten(1).double().T)
    process = ld.DDPM(shape)
    means = (2 * ld.AveragePool(shape, [2, 2])).to_dense()  # orthonormal rows
    coarse = means @ data @ means.T
    found = {}
    for t in times:
        gain, noise = process.signal_scale(t) ** 2, process.sigma(t) ** 2
        row = {}
        for name, seen in (("error", torch.eye(len(data), dtype=torch.float64)), ("blind", means)):
            state = gain * seen @ data @ seen.T + noise * torch.eye(len(seen), dtype=torch.float64)
            cross = means @ data @ seen.T
            left = coarse - gain * cross @ torch.linalg.solve(state, cross.T)
            row[name] = round(float(left.trace()) / (4 * len(means)), 5)  # averages are half of orthonormal rows
        found[str(t)] = row
    return found


# ---------------------------------------------------------------------- tables


def short(cell: Row | None) -> str:
    if cell is None:
        return "–"
    low, high = cell["interval"]
    return f"{cell['frechet']:.2f} [{low:.2f}, {high:.2f}]"


def table(header: list[str], lines: list[list[str]]) -> str:
    ruled = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled)


def levels_table(report: Row) -> str:
    """The models as in the paper, and with other levels, ancestral, at every number of steps."""
    by_model = {row["model"]: row for row in report["models"]}
    steps = (10, 25, 100, 1000)
    lines = []
    for model in (DDPM, *PAPER, EARLY, *HAAR, *MIXED):
        for suffix, added in CORRECTED.items():
            cells = by_model[model]["cells"] if model in by_model else {}
            found = [cells.get(f"ancestral-{count}{suffix}") for count in steps]
            middle = cells.get(f"ancestral-100{suffix}")
            if middle:
                share = middle["gflops_per_image"] / by_model[DDPM]["cells"]["ancestral-100"]["gflops_per_image"]
                seconds = statistics.fmean(middle["cpu_s_per_1000_images"])
                costs = [f"{100 * share:.0f} %", f"{seconds:.0f}"]
                lines.append([model + added, *costs, *map(short, found), str(len(middle["seeds"]))])
    header = ["", "GFLOPs, 100 steps", "s per 1000 images", *(f"{count} steps" for count in steps), "seeds"]
    return table(header, lines)


def few_steps_table(report: Row) -> str:
    """Samples with few steps, by what they cost: every sampler, and what is drawn beside it."""
    ways = {
        "ancestral": "ancestral-{}",
        "corrected": "ancestral-{}-components",
        "corrected at all steps": "ancestral-{}-" + EVERYWHERE,
        "DDIM, η = 0": "ddim-{}",
        "DDIM, η = 0, corrected": "ddim-{}-components",
    }
    by_model = {row["model"]: row["cells"] for row in report["models"]}
    lines = []
    for model in (DDPM, *MIXED[2:]):
        for steps in range(1, 26):
            found = [by_model.get(model, {}).get(cell.format(steps)) for cell in ways.values()]
            if found[0]:
                lines.append([model, str(steps), f"{found[0]['gflops_per_image']:.2f}", *map(short, found)])
    return table(["", "steps", "GFLOPs per image", *ways], lines)


def causes_table(report: Row) -> str:
    """What changes with one thing changed, ancestral."""
    lines = []
    for row in report["models"]:
        known = [seconds for seconds in row["training_cpu_s"] if seconds is not None]
        plain, corrected = (row["cells"].get(f"ancestral-100{suffix}") for suffix in ("", "-components"))
        if plain and row["model"] not in PAPER[:2]:
            lines.append(
                [
                    row["model"],
                    f"{statistics.fmean(known):.0f}" if known else "–",
                    f"{plain['gflops_per_image']:.1f}",
                    short(plain),
                    short(corrected),
                    str(len(plain["seeds"])),
                ]
            )
    header = ["", "s of training", "GFLOPs per image", "100 steps", "100 steps, corrected", "seeds"]
    return table(header, lines)


def traces_table(report: Row) -> str:
    """Samplers that start from real states."""
    lines = []
    for row in report["models"]:
        started = [cell for cell in row["cells"].values() if "started_at" in cell]
        if started:
            reached = {cell["started_at"]: cell for cell in started}
            whole = row["cells"].get("ancestral-100")
            listed = ", ".join(f"t = {t}: {short(reached[t])}" for t in sorted(reached))
            lines.append([row["model"], listed, short(whole)])
    return table(["", "from real states at", "from noise"], lines)


def changes_table(report: Row) -> str:
    """What the network knows at the changes of shape, the first seed: as the paper draws times, and with more draws."""
    lines = []
    shown = {name + drawn for name in (PAPER[2], EARLY, HAAR[2]) for drawn in ("", ", changes drawn")}
    for row in report["models"]:
        for change in row["changes"][0] if row["model"] in shown else ():
            lines.append(
                [
                    row["model"],
                    str(change["t"]),
                    f"{change['noise_variance']:.3f}",
                    f"{change['residual_variance']:.4f}",
                    f"{change['kurtosis']:.1f}",
                    f"{change['error'] / change['linear_error']:.2f}",
                ]
            )
    header = ["", "t", "variance of the noise", "of the residual", "kurtosis", "error / best linear"]
    return table(header, lines)


def errors_table(report: Row) -> str:
    """Errors at 16 × 16 pixels, with the detail of the state and without it."""
    by_model = {row["model"]: row["errors"] for row in report["models"] if row["errors"]}
    times = list(report["linear_errors"])

    def line(label: str, results: list[dict[str, Row]], kind: str) -> list[str]:
        known = {t: [result[t][kind] for result in results if t in result] for t in times}
        return [label, *(f"{statistics.fmean(values):.4f}" if values else "–" for values in known.values())]

    linear = [report["linear_errors"]]
    lines = [line("best linear estimate, the whole state", linear, "error")]
    lines.append(line("best linear estimate, averages alone", linear, "blind"))
    lines.append(line("network of DDPM, the whole state", by_model[DDPM], "error"))
    lines.append(line("network of DDPM, detail of another image", by_model[DDPM], "blind"))
    lines += [line(f"network of {model}", results, "error") for model, results in by_model.items() if model != DDPM]
    return table(["", *(f"t = {t}" for t in times)], lines)


def laboratory_table(report: Row) -> str:
    lines = [
        [row["model"], row["correction"], *(f"{row['relative_w2'][str(steps)]:.4f}" for steps in (25, 100, 1000))]
        for row in report["laboratory"]
    ]
    return table(["", "correction", "25 steps", "100 steps", "1000 steps"], lines)


def plot(report: Row, path: Path) -> None:
    """Fréchet distance against GFLOPs and processor time, ancestral; dashed with correction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    costs: list[tuple[str, list[float], Callable[[Row], float]]] = [
        ("GFLOPs per image", [0.5, 1, 2, 5, 12, 50, 120], lambda cell: float(cell["gflops_per_image"])),
        (
            "s per 1000 images",
            [5, 20, 60, 150, 600, 1500],
            lambda cell: statistics.fmean(cell["cpu_s_per_1000_images"]),
        ),
    ]
    by_model = {row["model"]: row for row in report["models"]}
    shown = [model for model in (DDPM, *PAPER, EARLY, *MIXED) if model in by_model]
    for axis, (label, ticks, cost) in zip(axes, costs, strict=True):
        for index, model in enumerate(shown):
            drawn = [cell for cell in by_model[model]["cells"].values() if cell.get("sampler") == "ancestral"]
            for correction, line in (("", "-"), ("components", "--")):
                known = [cell for cell in drawn if cell["correction"] == correction]
                found = sorted(known, key=lambda cell: int(cell["steps"]))
                if found:
                    axis.plot(
                        [cost(cell) for cell in found], [cell["frechet"] for cell in found], "o" + line, markersize=4,
                        color=f"C{index}", label=None if correction else model,
                    )  # fmt: skip
        low, high = by_model[DDPM]["cells"]["ancestral-100"]["interval"]
        axis.axhspan(low, high, color="C0", alpha=0.15, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["0.25", "0.5", "1", "2", "4", "8"])
        axis.minorticks_off()
    axes[0].set_ylabel("Fréchet distance (classifier features)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)


def write_report(
    runs: Path, images: Tensor, held_out: Tensor, judge: Judge, processes: dict[str, ld.LinearDiffusion]
) -> None:
    """Everything, from the runs that are there.

    Arguments:
        runs: their folder.
        images, held_out: to learn from, and the others.
        judge: the classifier.
        processes: those of LABORATORY.
    """
    real = judge.learnt(images)
    report = {
        "environment": environment("einops"),
        "judge_accuracy": judge.accuracy,
        "held_out": distance([judge.features(held_out)], real),
        "laboratory": laboratory(processes, images, held_out),
        "linear_errors": linear_errors(images, COMPARED),
        "models": collect(runs, real),
    }
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_table(PAGE, "levels", levels_table(report))
    write_table(PAGE, "few-steps", few_steps_table(report))
    write_table(PAGE, "causes", causes_table(report))
    write_table(PAGE, "traces", traces_table(report))
    write_table(PAGE, "changes", changes_table(report))
    write_table(PAGE, "errors", errors_table(report))
    write_table(PAGE, "digits-laboratory", laboratory_table(report))
    plot(report, IMAGES / "levels.png")
    for model in (DDPM, "SSD, 4 levels", EARLY, MIXED[-1]):
        picture = runs / f"{slug(model)}-seed-0" / "ancestral-100.png"
        if picture.exists():
            (IMAGES / f"levels_{slug(model)}.png").write_bytes(picture.read_bytes())
