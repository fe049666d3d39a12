"""What levels save in time, beside what they save in operations: training steps and network calls on the CPU.

    python benchmarks/costs.py [--part training|sampling]

Time of one training step (forward, backward, AdamW) of Scale Space Diffusion with Flexi-UNet over that of DDPM with the
plain U-Net, and of one generated image with Flexi-UNet over one with the Full UNet, at the paper's settings; the latter
also for a network so narrow that its time is that of calling layers and not of computing them. Every pair
of resolutions (r(t), r(t − 1)) is timed in turns with the step it is compared with, in one process, and weighted by the
number of steps that make it. Networks' random weights do not change the time.

Writes results/costs.json, the table in docs/benchmarks.md and docs/images/training_time.png. Exits with an error if a
training step takes more than 1.1 times the share of time that its operations would.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.runs import write_table
from benchmarks.timing import environment
from examples.flops import Pair, pairs_of, schedule_average

import lineardiffusion as ld
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet, FullUNet

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "costs.json"
BOUND = 1.1
TRAINING = {64: (2, 3, 4), 128: (3, 5), 256: (3, 4, 6)}
SAMPLING = {64: (2, 4), 256: (2, 4)}
NARROW = 8  # channels in place of 128
PAPER = {(64, 2): 15.38 / 16.19, (64, 4): 13.43 / 16.28, (256, 2): 38.99 / 43.07, (256, 4): 31.08 / 34.74}  # Table 4
BATCH = {64: 4, 128: 2, 256: 1}


def every_pair(process: ld.LinearDiffusion) -> Counter[Pair]:
    """How many of all T steps go from one shape to another."""
    return pairs_of(process, range(1, process.num_steps + 1))


def training_step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, pair: Pair, batch: int) -> None:
    here, there = pair
    x_t, clean = torch.randn(batch, *here), torch.randn(batch, *there)
    loss = (network(x_t, torch.full((batch,), 500), size=there[1:]) - clean).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def call(network: torch.nn.Module, pair: Pair) -> None:
    here, there = pair
    network(torch.randn(1, *here), torch.full((1,), 500), size=there[1:])


def in_turns(reference: Callable[[], None], others: dict[Any, Callable[[], None]], rounds: int) -> dict[Any, float]:
    """Times of others, relative to the reference before and after them in the same round; medians over the rounds."""
    for function in (reference, *others.values()):
        function()
    relative: dict[Any, list[float]] = {name: [] for name in others}
    for _ in range(rounds):
        before = seconds(reference)
        times = {name: seconds(function) for name, function in others.items()}
        after = seconds(reference)
        for name, value in times.items():
            relative[name].append(2 * value / (before + after))
    return {name: statistics.median(values) for name, values in relative.items()}


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def build(kind: type[torch.nn.Module], size: int, device: str = "cpu", model_channels: int = 128) -> torch.nn.Module:
    with torch.device(device):
        return kind(size, **{**SETTINGS[f"paper-{size}"], "model_channels": model_channels})


def training(size: int, rounds: int) -> list[dict[str, Any]]:
    """Schedule averages of time and operations of a training step, relative to DDPM."""
    flexi, plain = build(FlexiUNet, size), build(FullUNet, size)
    optimizers = {id(net): torch.optim.AdamW(net.parameters(), fused=True) for net in (flexi, plain)}
    full: Pair = ((3, size, size), (3, size, size))
    processes = {levels: ld.ScaleSpaceDiffusion((3, size, size), levels) for levels in TRAINING[size]}
    pairs = sorted({pair for process in processes.values() for pair in every_pair(process)})

    def step(network: torch.nn.Module, pair: Pair) -> Callable[[], None]:
        return lambda: training_step(network, optimizers[id(network)], pair, BATCH[size])

    relative = in_turns(step(plain, full), {pair: step(flexi, pair) for pair in pairs}, rounds)
    reference = schedule_average(ld.DDPM((3, size, size)), build(FullUNet, size, "meta"))[0]
    rows = []
    for levels, process in processes.items():
        counts = every_pair(process)
        times = sum(counts[pair] * relative[pair] for pair in counts) / process.num_steps
        operations = schedule_average(process, build(FlexiUNet, size, "meta"))[0] / reference
        rows.append(
            {
                "size": size,
                "levels": levels,
                "batch": BATCH[size],
                "time_over_ddpm": round(times, 4),
                "flops_over_ddpm": round(operations, 4),
                "time_over_flops": round(times / operations, 4),
                "met": times <= BOUND * operations,
            }
        )
    return rows


def sampling(size: int, model_channels: int, rounds: int) -> list[dict[str, Any]]:
    """Network time of one generated image (all 1000 steps, one image at a time): Flexi-UNet over Full UNet."""
    kinds = {"flexi": FlexiUNet, "full": FullUNet}
    networks = {name: build(kind, size, "cpu", model_channels).eval() for name, kind in kinds.items()}
    shadows = {name: build(kind, size, "meta", model_channels) for name, kind in kinds.items()}
    processes = {levels: ld.ScaleSpaceDiffusion((3, size, size), levels) for levels in SAMPLING[size]}
    pairs = sorted({pair for process in processes.values() for pair in every_pair(process)})
    calls = {(name, pair): (lambda net=net, pair=pair: call(net, pair))
             for pair in pairs for name, net in networks.items()}  # fmt: skip
    relative = in_turns(lambda: call(networks["full"], ((3, size, size), (3, size, size))), calls, rounds)
    rows = []
    for levels, process in processes.items():
        counts = every_pair(process)
        total = {name: sum(counts[pair] * relative[name, pair] for pair in counts) for name in networks}
        operations = {name: schedule_average(process, shadow)[0] for name, shadow in shadows.items()}
        rows.append(
            {
                "size": size,
                "levels": levels,
                "model_channels": model_channels,
                "flexi_over_full": round(total["flexi"] / total["full"], 4),
                "flops_flexi_over_full": round(operations["flexi"] / operations["full"], 4),
                "paper_on_a4000": round(PAPER[size, levels], 4),
                "flexi_over_ddpm": round(total["flexi"] / process.num_steps, 4),
            }
        )
    return rows


def table(report: dict[str, Any]) -> str:
    lines = [
        "| training step, SSD / DDPM | time | operations | time / operations | bound | |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["training"]:
        lines.append(
            f"| {row['size']} pixels, {row['levels']} levels, batch {row['batch']} | {row['time_over_ddpm']:.3f} "
            f"| {row['flops_over_ddpm']:.3f} | {row['time_over_flops']:.2f} | ≤ {BOUND} "
            f"| {'met' if row['met'] else '**missed**'} |"
        )
    lines += [
        "",
        "| generated image, Flexi-UNet / Full UNet | time | operations | the paper's time, on an A4000 |",
        "|---|---|---|---|",
    ]
    for row in report["sampling"]:
        lines.append(
            f"| {row['size']} pixels, {row['levels']} levels, {row['model_channels']} channels "
            f"| {row['flexi_over_full']:.2f} | {row['flops_flexi_over_full']:.2f} "
            f"| {format(row['paper_on_a4000'], '.2f') if row['model_channels'] == 128 else ''} |"
        )
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """Training time against levels and against resolution, as the paper's Figures 1b and 6."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for index, size in enumerate(TRAINING):
        rows = [row for row in report["training"] if row["size"] == size]
        levels = [1, *(row["levels"] for row in rows)]
        axes[0].plot(levels, [1, *(row["time_over_ddpm"] for row in rows)], f"C{index}o-", label=f"{size} × {size}")
        axes[0].plot(levels, [1, *(row["flops_over_ddpm"] for row in rows)], f"C{index}--", alpha=0.6)
    axes[0].set(xlabel="levels (1: DDPM)", ylabel="training step relative to DDPM", ylim=(0, 1.05))
    axes[0].set_title("time (points) and operations (dashed)", fontsize=10)
    axes[0].legend()
    sizes = list(TRAINING)
    ddpm = [report["seconds_per_image_ddpm"][str(size)] for size in sizes]
    most = [min(row["time_over_ddpm"] for row in report["training"] if row["size"] == size) for size in sizes]
    axes[1].plot(sizes, ddpm, "o-", label="DDPM")
    axes[1].plot(sizes, [a * b for a, b in zip(ddpm, most, strict=True)], "o-", label="SSD, most levels")
    axes[1].set(xlabel="resolution", ylabel="s per image and training step", xscale="log", yscale="log")
    axes[1].set_xticks(sizes, [str(size) for size in sizes])
    axes[1].set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    axes[1].minorticks_off()
    axes[1].legend()
    figure.savefig(path, dpi=120)


def ddpm_seconds(size: int) -> float:
    """Seconds of a DDPM training step for one image; the only absolute time here, for the plot."""
    network = build(FullUNet, size)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    pair: Pair = ((3, size, size), (3, size, size))
    training_step(network, optimizer, pair, BATCH[size])
    return min(seconds(lambda: training_step(network, optimizer, pair, BATCH[size])) for _ in range(2)) / BATCH[size]


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print them, and give back the memory their networks took."""
    for row in rows:
        print(json.dumps(row), flush=True)
    gc.collect()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("training", "sampling"), help="one alone; the other's results are kept")
    part = parser.parse_args().part
    report: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if part else {}
    report |= {"environment": environment(), "threads": torch.get_num_threads(), "bound": BOUND}
    if part != "sampling":
        report |= {"training": [], "seconds_per_image_ddpm": {}}
        for size in TRAINING:
            report["training"] += shown(training(size, rounds=5 if size == 64 else 3))
            report["seconds_per_image_ddpm"][str(size)] = round(ddpm_seconds(size), 3)
    if part != "training":
        report["sampling"] = []
        for size, model_channels in itertools.product(SAMPLING, (128, NARROW)):
            report["sampling"] += shown(sampling(size, model_channels, rounds=3 if model_channels == 128 else 9))
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot(report, ROOT / "docs" / "images" / "training_time.png")
    write_table(ROOT / "docs" / "benchmarks.md", "costs", table(report))
    if not all(row["met"] for row in report["training"]):
        sys.exit("a bound was missed")


if __name__ == "__main__":
    main()
