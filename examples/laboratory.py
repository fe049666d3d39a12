"""What levels cost on Gaussian data, exactly, and how the cost is removed: the figures of docs/laboratory.md.

    python examples/laboratory.py

takes a minute and writes pictures and laboratory.json to runs/laboratory (or --output). Data: one line of 64 pixels
with the power spectrum (1 + k)^−2 of natural images. GFLOPs are those of the paper's network for 64 × 64 images.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import torch

# So that `python examples/laboratory.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from examples.flops import call_gflops
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet

matplotlib.use("Agg")  # files only: no screen is needed

SHAPE = (1, 64)
STEPS = (20, 50, 100, 250, 1000)
SPECTRUM = ld.lab.power_law(SHAPE)
EARLY = ld.snr_matched(SPECTRUM.gain, threshold=0.1)


@cache
def gflops(here: tuple[int, ...], there: tuple[int, ...]) -> float:
    """Of a call of the paper's network for 64 × 64 images, for states with the sides of these lines."""
    with torch.device("meta"):
        network = FlexiUNet(64, **SETTINGS["paper-64"])
    return call_gflops(network, (3, here[-1], here[-1]), (3, there[-1], there[-1]))


def cases() -> dict[str, tuple[ld.LinearDiffusion, dict[str, Any]]]:
    """Processes, and how they are corrected."""
    late = {levels: ld.ScaleSpaceDiffusion(SHAPE, levels) for levels in (2, 3, 4)}
    early = ld.ScaleSpaceDiffusion(SHAPE, 4, resolution_schedule=EARLY)
    haar = {
        "": ld.ScaleSpaceDiffusion(SHAPE, 4, mode="haar"),
        ", early": ld.ScaleSpaceDiffusion(SHAPE, 4, resolution_schedule=EARLY, mode="haar"),
    }
    return {
        "DDPM": (ld.DDPM(SHAPE), {}),
        **{f"SSD, {levels} levels": (process, {}) for levels, process in late.items()},
        "SSD, 4 levels, corrected": (late[4], {"correction": "exact-shape-changes"}),
        "SSD, 4 levels, early": (early, {}),
        "SSD, 4 levels, early, corrected": (early, {"correction": "exact-shape-changes"}),
        **{f"SSD, 4 Haar levels{when}": (process, {}) for when, process in haar.items()},
        "DDPM, corrected everywhere": (ld.DDPM(SHAPE), {"correction": "exact"}),
    }


def measure() -> list[dict[str, Any]]:
    """Error and cost for each case, sampler and number of steps."""
    rows = []
    for name, (process, options) in cases().items():
        for sampler in ("ancestral", "ddim"):
            points = ld.lab.frontier(process, SPECTRUM, STEPS, gflops, sampler=sampler, prior="standard", **options)
            rows += [
                {"case": name, "sampler": sampler, "uniform_steps": count, **point}
                for count, point in zip(STEPS, points, strict=True)
            ]
    return rows


def plot_errors(rows: list[dict[str, Any]], path: Path) -> None:
    """Error against the number of steps, and against the operations of a sample."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharey=True, layout="constrained")
    for row_of_axes, sampler in zip(axes, ("ancestral", "ddim"), strict=True):
        for index, name in enumerate(dict.fromkeys(row["case"] for row in rows)):
            points = [row for row in rows if row["case"] == name and row["sampler"] == sampler]
            style = {"marker": "o", "markersize": 4, "color": f"C{index}", "label": name}
            style["linestyle"] = "--" if "corrected" in name else "-"
            for axis, key in zip(row_of_axes, ("steps", "cost"), strict=True):
                axis.plot([p[key] for p in points], [p["relative_w2"] for p in points], **style)
        row_of_axes[0].set(ylabel=f"W2 / √tr C, {'DDIM, η = 0' if sampler == 'ddim' else sampler}")
        for axis, label in zip(row_of_axes, ("steps", "GFLOPs per sample"), strict=True):
            axis.set(xlabel=label, xscale="log", yscale="log")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_contributions(path: Path) -> None:
    """The error that each step makes by itself; changes of resolution stand out."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True, layout="constrained")
    for axis, (title, schedule) in zip(axes, (("convex_decay(0.5)", None), ("snr_matched(0.1)", EARLY)), strict=True):
        process = ld.ScaleSpaceDiffusion(SHAPE, 4, resolution_schedule=schedule)
        for index, (sampler, label) in enumerate((("ancestral", "ancestral"), ("ddim", "DDIM, η = 0"))):
            steps = ld.lab.evaluate(process, SPECTRUM, sampler=sampler).per_step
            axis.plot([step.t for step in steps], [step.error for step in steps], color=f"C{index}", label=label)
        for t in process.shape_changes():
            axis.axvline(t, color="gray", linestyle=":", zorder=0)
        axis.set(title=f"4 levels, {title}", xlabel="t", yscale="log", ylim=(1e-6, 1))
    axes[0].set_ylabel("W2 error of the step alone")
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_information(path: Path) -> None:
    """How much a state and an image of a resolution hold, as the paper's Figure 2."""
    signal = ld.schedules.linear(1000).signal(torch.arange(1, 1001))
    information = ld.diffusion_information(signal.square())
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.3), sharey=True, layout="constrained")
    axes[0].plot(range(1, 1001), information)
    axes[0].set(xlabel="t", ylabel="information", title="diffusion state x_t")
    sizes = [64, 32, 16, 8]
    axes[1].plot(sizes, [(size / 64) ** 2 for size in sizes], "o-")
    axes[1].set(xlabel="resolution r of 64", title="image of r × r pixels: r²/64²", xscale="log")
    axes[1].set_xticks(sizes, [str(size) for size in sizes])
    axes[1].minorticks_off()
    axes[1].invert_xaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_schedules(path: Path) -> None:
    """Resolutions against t for every schedule, as the paper's Figure 5."""
    schedules = {
        "convex_decay(0.5)": ld.convex_decay(0.5),
        "equal_levels()": ld.equal_levels(),
        "convex_decay(2)": ld.convex_decay(2.0),
        "sigmoid_like(3)": ld.sigmoid_like(3.0),
        "tanh_like(3)": ld.tanh_like(3.0),
        "information_matched()": ld.information_matched(),
        "snr_matched(spectrum, 0.1)": EARLY,
    }
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for index, (name, schedule) in enumerate(schedules.items()):
        process = ld.ScaleSpaceDiffusion(SHAPE, 4, resolution_schedule=schedule)
        offset = 1.03**index  # so that no line hides another
        axis.plot(range(1001), [process.shape(t)[-1] * offset for t in range(1001)], drawstyle="steps-post", label=name)
    axis.set(xlabel="t", ylabel="resolution r(t)", yscale="log")
    axis.set_yticks([8, 16, 32, 64], ["8", "16", "32", "64"])
    axis.minorticks_off()
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/laboratory"), help="folder (default: %(default)s)")
    folder = parser.parse_args().output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output: expected a folder that can be written to, got {folder} ({error.strerror})")
    rows = measure()
    (folder / "laboratory.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    plot_errors(rows, folder / "laboratory_errors.png")
    plot_contributions(folder / "laboratory_steps.png")
    plot_information(folder / "information.png")
    plot_schedules(folder / "resolution_schedules.png")
    for row in rows:
        if row["uniform_steps"] in (1000, 50):
            print(f"{row['case']:32} {row['sampler']:9} {row['steps']:4} steps  {row['cost']:8.0f} GFLOPs  "
                  f"W2/√tr C {row['relative_w2']:.4f}")  # fmt: skip
    print(f"look at {folder}")


if __name__ == "__main__":
    main()
