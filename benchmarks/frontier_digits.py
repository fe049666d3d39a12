"""The best digits for a budget: DDPM, levels, Blurring Diffusion and a pyramidal flow, each with its best sampler.

    python benchmarks/frontier_digits.py --data mnist10k.npz

Real digits of 32 × 32 pixels. All models are one U-Net (`frontier_training`), trained for the processor time of DDPM's
2000 steps; Scale Space Diffusion also as it is after 2000 steps of its own, and after 2000 of more images, which take
that time too. A budget is counted in DDPM's calls, by floating-point operations. For each the sampler is the best of
some with the networks of seed 10: grids, times of change, the calls at each resolution, orders. What is reported is
drawn by the networks of three other seeds, 2000 digits each, with that sampler, and with residuals corrected
(`ld.calibrate`): of levels at the change of size, of the others at all steps. What is finished is kept in
runs/benchmark-frontier-digits and not done again; `--report` makes the tables and the figures of what is there, and of
what the results have of the rest.

Writes results/frontier_digits.json, docs/images/frontier_digits*.png and the tables in docs/frontier.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import levels
from benchmarks.frontier_training import BLURRING, DDPM, PYRAMID, SSD, STEPS, network_of, train
from benchmarks.frontier_ways import Way, calls_of, cost, sampler_of, tried
from benchmarks.levels_report import distance
from benchmarks.runs import read, rows_by, run_on_one_core, slug, timed_draws, write_table
from benchmarks.timing import environment
from examples.experiment.runs import find_checkpoint, load_denoiser
from examples.train import fit

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmark-frontier-digits"
RESULTS = ROOT / "benchmarks" / "results" / "frontier_digits.json"
IMAGES, PAGE = ROOT / "docs" / "images", ROOT / "docs" / "frontier.md"
SEEDS, CHOOSING = (0, 1, 2), 10
BUDGETS = (3, 5, 7, 10, 15, 25, 50, 100)
COUNT = 2000
TRAINED = ("time", "steps", "both")  # for as long as DDPM, for as many steps, for both
MODELS = (DDPM, SSD, BLURRING, PYRAMID)
CORRECTED = (DDPM, SSD, BLURRING)  # the jumps of a flow have no residual
ELSEWHERE = 10**6  # seeds of the noise by which samplers are chosen


# ---------------------------------------------------------------------- drawing


class Digits:
    """The images, what judges samples, and the networks, made when they are asked for."""

    def __init__(self, file: Path) -> None:
        self.train_file, held_out_file = levels.split(file, RUNS)
        self.judge = levels.judge_of(self.train_file, RUNS)
        self.held_out = levels.real(held_out_file)

    def real(self) -> Tensor:
        """Features of the images that the judge has learnt from."""
        return self.judge.learnt(levels.real(self.train_file)).double()

    def draw(
        self, model: str, network: nn.Module, way: Way, count: int, first: int, corrected: bool
    ) -> tuple[Tensor, float]:
        """Digits of the seeds first … and the processor time of a thousand in seconds."""
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            sampler = sampler_of(model, network, way, self.held_out if corrected else None)
            return timed_draws(sampler, count, first)


def folder_of(model: str, seed: int) -> Path:
    return RUNS / f"{slug(model)}-seed-{seed}"


def trained(model: str, seed: int, what: str) -> nn.Module:
    """The network of a run, after equal "time", equal "steps" or "both"."""
    if model == DDPM:
        network = load_denoiser(find_checkpoint(folder_of(model, seed)))[0].network
    else:
        network = network_of(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.load_state_dict(torch.load(folder_of(model, seed) / f"{what}.pt", weights_only=True))
    return network.eval().requires_grad_(False)


# ---------------------------------------------------------------------- jobs


def train_one(model: str, seed: int, file: Path) -> None:
    """DDPM by examples/train.py as in the benchmark of levels, the others for its processor time."""
    folder, training = folder_of(model, seed), folder_of(model, seed) / "training.json"
    if training.exists():
        return
    train_file, _ = levels.split(file, RUNS)
    if model != DDPM:
        kept = json.loads((folder_of(DDPM, seed) / "training.json").read_text(encoding="utf-8"))
        train(model, seed, levels.real(train_file), kept["time"]["cpu_s"], folder)
        return
    cpu = time.process_time()
    fit(levels.configuration(levels.MODELS[DDPM], seed, STEPS, folder, train_file))
    report = {"time": {"steps": STEPS, "cpu_s": round(time.process_time() - cpu, 1)}}
    training.write_text(json.dumps(report) + "\n", encoding="utf-8")


def choice_of(model: str, budget: int) -> Path:
    return RUNS / f"{slug(model)}-chosen" / f"{budget}.json"


def choices(model: str, budget: int) -> list[dict[str, Any]]:
    """The samplers that were tried for a budget, the best first; as the results have it where no run does."""
    if (path := choice_of(model, budget)).exists():
        return list(json.loads(path.read_text(encoding="utf-8")))
    return list(read(RESULTS).get("tried with another seed", {}).get(f"{model}, {budget}", []))


def choose(model: str, budgets: Sequence[int], digits: Digits) -> None:
    """The best sampler for each budget with the networks of the seed that is not reported."""
    network, real = trained(model, CHOOSING, "time"), digits.real()
    for budget in budgets:
        path = choice_of(model, budget)
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        for way in tried(model, budget):
            if any(way_of(row) == way for row in rows):
                continue
            count = 1000 if budget <= 25 else 250  # where samplers differ less
            drawn, _ = digits.draw(model, network, way, count, ELSEWHERE, False)
            found = distance([digits.judge.features(drawn).double()], real)
            rows.append({"way": way._asdict(), "cost": round(cost(model, way), 3), "frechet": found["frechet"]})
            print(budget, way, rows[-1]["cost"], found["frechet"], flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sorted(rows, key=lambda row: row["frechet"]), indent=1) + "\n", encoding="utf-8")


def way_of(row: dict[str, Any]) -> Way:
    way = row["way"]
    return Way(tuple(way["changes"]), tuple(way["times"]), way["order"], way["grid"], way["eta"])


def chosen(model: str, budget: int) -> Way:
    return way_of(choices(model, budget)[0])


def cell(budget: int, what: str, corrected: bool) -> str:
    return f"{budget}-{what}{'-corrected' * corrected}"


def draw_all(model: str, seed: int, budgets: Sequence[int], digits: Digits) -> None:
    """Every cell of a model and seed: budgets, how its network was trained, corrected and not."""
    for budget, corrected in product(budgets, (False, True)):
        if corrected and model not in CORRECTED:
            continue
        for what in TRAINED if model == SSD else TRAINED[:1]:
            draw_one(model, seed, budget, what, corrected, digits)


def is_of(path: Path, way: Way) -> bool:
    """Whether a cell is there and by this sampler."""
    return path.exists() and way_of(json.loads(path.read_text(encoding="utf-8"))) == way


def draw_one(model: str, seed: int, budget: int, what: str, corrected: bool, digits: Digits) -> None:
    """A cell: features and costs of its digits, and a picture of the first 64."""
    path, way = folder_of(model, seed) / f"{cell(budget, what, corrected)}.json", chosen(model, budget)
    if is_of(path, way):
        return
    drawn, seconds = digits.draw(model, trained(model, seed, what), way, COUNT, 0, corrected)
    ld.save_images(drawn[:64], path.with_suffix(".png"))
    np.save(path.with_suffix(".npy"), digits.judge.features(drawn).float().numpy())
    row = {"way": way._asdict(), "cost": round(cost(model, way), 3), "cpu_s_per_1000_images": seconds}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    print(path.stem, row, flush=True)


# ---------------------------------------------------------------------- showing


def collect(real: Tensor) -> list[dict[str, Any]]:
    """A row for each model, budget, kind of training and correction, over the seeds that have it; the committed one
    where that has more of them."""
    rows, before = [], rows_by(RESULTS, "model", "budget", "trained", "corrected")
    for key in product(MODELS, BUDGETS, TRAINED, (False, True)):
        model, budget, what, corrected = key
        if not (known := choices(model, budget)):
            continue
        name, way = cell(budget, what, corrected), way_of(known[0])
        seeds = [seed for seed in SEEDS if is_of(folder_of(model, seed) / f"{name}.json", way)]
        if key in before and way_of(before[key]) == way and len(before[key]["seeds"]) > len(seeds):
            rows.append(before[key])
        elif seeds:
            named = dict(zip(("model", "budget", "trained", "corrected"), key, strict=True))
            rows.append({**named, "seeds": seeds, **measured(name, [folder_of(model, seed) for seed in seeds], real)})
    return rows


def measured(name: str, folders: Sequence[Path], real: Tensor) -> dict[str, Any]:
    """How far a cell is from the images, over the networks in some folders, and what it costs."""
    cells = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for folder in folders]
    features = [torch.from_numpy(np.load(folder / f"{name}.npy")).double() for folder in folders]
    seconds = round(statistics.fmean(row["cpu_s_per_1000_images"] for row in cells), 2)
    return {**cells[0], "cpu_s_per_1000_images": seconds, **distance(features, real)}


LABELS = {
    (DDPM, "time"): "DDPM",
    (SSD, "time"): "SSD, equal time",
    (SSD, "both"): "SSD, equal time and steps",
    (SSD, "steps"): "SSD, equal steps",
    (BLURRING, "time"): "Blurring Diffusion",
    (PYRAMID, "time"): "Pyramidal Flow",
}


def find(rows: list[dict[str, Any]], key: tuple[str, str], budget: int, corrected: bool) -> dict[str, Any] | None:
    for row in rows:
        if (row["model"], row["trained"], row["corrected"]) == (*key, corrected) and row["budget"] == budget:
            return row
    return None


def distances_table(rows: list[dict[str, Any]], corrected: bool) -> str:
    """The distance for each budget, and half of its interval."""
    mine = [row for row in rows if row["corrected"] == corrected]
    shown = [key for key in LABELS if any((row["model"], row["trained"]) == key for row in mine)]
    first = "corrected" if corrected else "budget"
    lines = [f"| {first} | " + " | ".join(LABELS[key] for key in shown) + " |", "|---" * (1 + len(shown)) + "|"]
    for budget in sorted({row["budget"] for row in mine}):
        cells = []
        for key in shown:
            row = find(rows, key, budget, corrected)
            if row is None:
                cells.append("–")
                continue
            low, high = row["interval"]
            seeds = "" if len(row["seeds"]) == len(SEEDS) else f" ({len(row['seeds'])} of {len(SEEDS)} seeds)"
            cells.append(f"{row['frechet']:.2f} ± {(high - low) / 2:.2f}{seeds}")
        lines.append(f"| {budget} | {' | '.join(cells)} |")
    return "\n".join(lines)


def samplers_table(rows: list[dict[str, Any]]) -> str:
    """What was chosen for each budget, and what it costs."""
    lines = ["| budget | model | calls | times | order | in calls of DDPM | s per 1000 digits |", "|---" * 7 + "|"]
    for budget, model in product(BUDGETS, MODELS):
        row = find(rows, (model, "time"), budget, False)
        if row is None:
            continue
        way, sides = way_of(row), Counter[int]()
        for (here, _), count in calls_of(model, way).items():
            sides[here[-1]] += count
        calls = ", ".join(f"{count} at {side}" for side, count in sorted(sides.items()))
        listed = " ".join(f"{t:.4g}" for t in way.times)
        if len(way.times) > 10:
            sized = model in (SSD, PYRAMID) and way.grid != "laboratory"
            listed = "uniform at each size" if sized else way.grid
            listed += f", {way.changes[0]} the last at {min(sides)}" if way.changes else ""
        costs = f"{row['cost']:.2f} | {row['cpu_s_per_1000_images']:.1f}"
        order = f"{way.order}, η = {way.eta:g}" if way.eta else way.order
        lines.append(f"| {budget} | {model} | {calls} | {listed} | {order} | {costs} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]]) -> None:
    """Distance against cost, with intervals; corrected where that helps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    shown = [*product(LABELS, (False,)), ((BLURRING, "time"), True)]
    costs = {
        "cost": ("budget in calls of DDPM", BUDGETS),
        "cpu_s_per_1000_images": ("s per 1000 digits, one core", (5, 10, 20, 50, 100, 200)),
    }
    for axis, (cost_of, (name, ticks)) in zip(axes, costs.items(), strict=True):
        for key, corrected in shown:
            color, label = f"C{list(LABELS).index(key)}", LABELS[key] + ", corrected" * corrected
            mine = [row for budget in BUDGETS if (row := find(rows, key, budget, corrected))]
            if mine:
                x, low, high = ([row[cost_of] for row in mine], *zip(*(row["interval"] for row in mine), strict=True))
                axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
                style = "o--" if corrected else "o-"
                axis.plot(x, [row["frechet"] for row in mine], style, ms=3, color=color, label=label)
        axis.set(xscale="log", yscale="log", xlabel=name)
        axis.set_xticks(ticks, labels=map(str, ticks))
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    axes[0].set_yticks(ticks := [0.5, 1, 2, 4, 8, 16, 32, 64], labels=[f"{tick:g}" for tick in ticks])
    axes[0].set_yticks([], minor=True)
    axes[0].set_ylabel("Fréchet distance (classifier features)")
    axes[1].legend()
    figure.savefig(IMAGES / "frontier_digits.png", dpi=120)


def pictures() -> None:
    """The first digits of each model for some budgets, where all have been drawn here."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    budgets = (3, 5, 10)
    shown = [(model, budget) for model in MODELS for budget in budgets]
    drawn = [folder_of(model, SEEDS[0]) / f"{cell(budget, 'time', False)}.png" for model, budget in shown]
    if not all(file.exists() for file in drawn):
        return
    figure = Figure(figsize=(9, 3.2 * len(MODELS)), layout="constrained")
    axes = figure.subplots(len(MODELS), len(budgets))
    for axis, (model, budget), file in zip(axes.flat, shown, drawn, strict=True):
        axis.imshow(imread(file), cmap="gray")
        axis.set_title(f"{LABELS[model, 'time'].split(',')[0]}, {budget} calls' worth", fontsize="medium")
        axis.set(xticks=[], yticks=[])
    figure.savefig(IMAGES / "frontier_digits_samples.png", dpi=100)


def report(digits: Digits) -> None:
    real = digits.real()
    rows, held_out = collect(real), distance([digits.judge.features(digits.held_out).double()], real)
    training = {
        f"{model}, seed {seed}": json.loads((folder_of(model, seed) / "training.json").read_text(encoding="utf-8"))
        for model, seed in product(MODELS, (*SEEDS, CHOOSING))
        if (folder_of(model, seed) / "training.json").exists()
    }
    tried_ways = {
        f"{model}, {budget}": known for model, budget in product(MODELS, BUDGETS) if (known := choices(model, budget))
    }
    content = {
        "environment": environment("einops"),
        "held_out": held_out,
        "training": {**read(RESULTS).get("training", {}), **training},
        "rows": rows,
        "tried with another seed": tried_ways,
    }
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_table(PAGE, "frontier-digits", distances_table(rows, False) + "\n\n" + distances_table(rows, True))
    write_table(PAGE, "frontier-digits-samplers", samplers_table(rows))
    plot(rows)
    pictures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    parser.add_argument("--report", action="store_true", help="tables and figures of what is there; run nothing")
    parser.add_argument("--train", nargs=2, metavar=("MODEL", "SEED"), help="one job alone, as are the next two")
    parser.add_argument("--choose", metavar="MODEL")
    parser.add_argument("--draw", nargs=2, metavar=("MODEL", "SEED"))
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS, help="of the two before")
    parser.add_argument("--folder", type=Path, help="of the log of such a job")
    arguments = parser.parse_args()
    torch.set_num_threads(1 if arguments.folder else torch.get_num_threads())
    if arguments.train:
        train_one(arguments.train[0], int(arguments.train[1]), arguments.data)
    elif arguments.choose:
        choose(arguments.choose, arguments.budgets, Digits(arguments.data))
    elif arguments.draw:
        draw_all(arguments.draw[0], int(arguments.draw[1]), arguments.budgets, Digits(arguments.data))
    else:
        if not arguments.report:
            run_all(arguments.data)
        report(Digits(arguments.data))


def run_all(file: Path) -> None:
    """Every job, two side by side, each on one core."""
    seeds = (CHOOSING, *SEEDS)
    phases: list[list[tuple[str, ...]]] = [
        [("--train", DDPM, str(seed)) for seed in seeds],
        [("--train", model, str(seed)) for seed in seeds for model in MODELS[1:]],
        [("--choose", model) for model in MODELS],
        [("--draw", model, str(seed)) for seed in SEEDS for model in MODELS],
    ]
    Digits(file)  # the split and the judge, before several jobs make them
    with ThreadPoolExecutor(2) as pool:
        for jobs in phases:
            list(pool.map(partial(run_job, file), jobs))


def run_job(file: Path, job: tuple[str, ...]) -> None:
    run_on_one_core(__file__, ["--data", str(file), *job], RUNS / "logs" / slug("-".join(job)[2:]))


if __name__ == "__main__":
    main()
