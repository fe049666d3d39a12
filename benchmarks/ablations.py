"""The ablations of Scale Space Diffusion's supplementary: isotropic noise in the place of the anisotropic, other
resamplers and ratios between levels, other degradations, and fewer steps.

    python benchmarks/ablations.py --data mnist10k.npz

First exactly, on Gaussian data with the power spectrum of natural images: a sampler's step with the optimal denoiser is
linear, so that the covariance of what it draws is known. Then digits of the small networks of small_models.py, drawn
with each kind of noise. About twenty minutes on one core once these networks are trained.

Writes results/ablations.json, pictures, and the tables in docs/ablations.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.runs import write_table
from benchmarks.small_models import RUNS, digits, trained_denoiser
from benchmarks.timing import environment
from examples.experiment.features import frechet_distance, train_judge

import lineardiffusion as ld
from lineardiffusion.lab.matrices import bures

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "ablations.json"
IMAGES, PAGE = ROOT / "docs" / "images", ROOT / "docs" / "ablations.md"
SHAPE = (1, 32, 32)
CALLS = (10, 25, 50, 100)
COUNT = 500

Noise = Literal["posterior", "isotropic, same variance", "isotropic, as DDPM's"]
NOISES: tuple[Noise, ...] = ("posterior", "isotropic, same variance", "isotropic, as DDPM's")

HAAR = ld.changes_at([620, 780, 938])
PROCESSES: dict[str, ld.LinearDiffusion] = {
    "SSD, bilinear": ld.ScaleSpaceDiffusion(SHAPE, levels=4),
    "SSD, Haar": ld.ScaleSpaceDiffusion(SHAPE, levels=4, mode="haar", resolution_schedule=HAAR),
    "Blurring": ld.BlurringDiffusion(SHAPE),
}
RESAMPLERS: dict[str, dict[str, Any]] = {
    "bilinear, 2": {},
    "bicubic, 2": {"mode": "bicubic"},
    "area, 2": {"mode": "area"},
    "nearest, 2": {"mode": "nearest"},
    "Haar, 2": {"mode": "haar"},
    "bilinear, 1.5": {"factor": 1.5},
    "bilinear, 3": {"factor": 3, "levels": 3},
    "bilinear, 4": {"factor": 4, "levels": 2},
}
"""Mode and ratio: down to a quarter of the width or less, by the default schedule of changes."""


def isotropic_variance(process: ld.LinearDiffusion, t: float, s: float, noise: Noise) -> float:
    """c of the covariance c I that stands for C: that of the same trace; or of DDPM's posterior between these levels,
    as if the degradation between them were none."""
    if noise == "isotropic, same variance":
        zeros = [torch.zeros(1, *process.shape(u), dtype=torch.float64) for u in (t, s)]
        return process.step_kernel(t, s, 1.0).gaussian(*zeros).covariance.mean_variance()
    ratio = process.sigma(s) * process.signal_scale(t) / (process.signal_scale(s) * process.sigma(t))
    return process.sigma(s) ** 2 * max(0.0, 1 - ratio**2)


# ---------------------------------------------------------------------- exactly


def exact_error(process: ld.LinearDiffusion, covariance: ld.LinearOperator, calls: int, noise: Noise) -> float:
    """W2 / √tr C between data N(0, C) and what ancestral sampling draws with the optimal denoiser."""
    denoiser = ld.lab.OptimalDenoiser(process, covariance)
    times = [*ld.grids.uniform(calls).times(process), 0]
    n = math.prod(process.shape(times[0]))
    own = process.sigma(times[0]) ** 2 * torch.eye(n, dtype=torch.float64)
    for t, s in itertools.pairwise(times):
        units = torch.eye(len(own), dtype=torch.float64).reshape(-1, *process.shape(t))
        clean = denoiser.carry(denoiser.output(units, t), 0, s)
        if s == 0:
            step, spread = clean.flatten(1).T, torch.zeros((), dtype=torch.float64)
        else:
            kernel = process.step_kernel(t, s, 1.0)
            step = kernel.mean(units, process.signal_scale(s) * clean).flatten(1).T
            if noise == "posterior":
                spread = kernel.gaussian(units[:1], clean[:1]).covariance.to_dense()
            else:
                spread = isotropic_variance(process, t, s, noise) * torch.eye(len(step), dtype=torch.float64)
        own = step @ own @ step.T + spread
    truth = covariance.to_dense()
    return math.sqrt(bures(truth, own) / float(truth.trace()))


def exact_rows() -> list[dict[str, Any]]:
    data, rows = ld.lab.power_law(SHAPE), []
    for name, process in PROCESSES.items():
        for noise, calls in itertools.product(NOISES, CALLS):
            error = exact_error(process, data, calls, noise)
            rows.append({"process": name, "noise": noise, "calls": calls, "error": round(error, 4)})
            print(rows[-1], flush=True)
    return rows


def resampler_rows() -> list[dict[str, Any]]:
    data, rows = ld.lab.power_law(SHAPE), []
    for name, options in RESAMPLERS.items():
        process = ld.ScaleSpaceDiffusion(SHAPE, **{"levels": 3, **options})
        for calls in CALLS[:-1]:
            error = exact_error(process, data, calls, "posterior")
            rows.append({"resampler": name, "sizes": _sizes(process), "calls": calls, "error": round(error, 4)})
            print(rows[-1], flush=True)
    return rows


def _sizes(process: ld.LinearDiffusion) -> list[int]:
    return [process.shape(t)[-1] for t in (0, *process.shape_changes())]


# ---------------------------------------------------------------------- on digits


def draw(denoiser: ld.Denoiser, calls: int, noise: Noise) -> Tensor:
    """COUNT digits by ancestral sampling, with one of the noises in every step."""
    process, generator = denoiser.process, torch.Generator().manual_seed(0)
    times = [*ld.grids.uniform(calls).times(process), 0]
    x = process.prior(COUNT, generator)
    with torch.no_grad():
        for t, s in itertools.pairwise(times):
            clean = denoiser(x, t, s).clamp(-1, 1)
            if s == 0:
                return clean
            kernel, mean_s = process.step_kernel(t, s, 1.0), process.signal_scale(s) * clean
            fresh = torch.randn(clean.shape, generator=generator)
            if noise == "posterior":
                x = kernel.sample(x, mean_s, fresh)
            else:
                x = kernel.mean(x, mean_s) + math.sqrt(isotropic_variance(process, t, s, noise)) * fresh
    raise AssertionError("the last time is 0")


def digit_rows(data: Path) -> list[dict[str, Any]]:
    images, labels = digits(data)
    judge = train_judge(images, labels, 10, RUNS / "cache")
    reference, rows = judge.learnt(images), []
    for model in ("SSD, bilinear", "SSD, Haar", "Blurring, data"):
        denoiser, shown = trained_denoiser(model, data), []
        for noise in NOISES:
            drawn = draw(denoiser, 50, noise)
            distance = frechet_distance(judge.features(drawn), reference)
            rows.append({"model": model, "noise": noise, "calls": 50, "frechet": round(distance, 2)})
            print(rows[-1], flush=True)
            shown.append(drawn[:20])
        ld.save_images(torch.cat(shown), IMAGES / f"ablation_{model.lower().replace(', ', '_')}.png", columns=20)
    return rows


# ---------------------------------------------------------------------- showing


def table(rows: list[dict[str, Any]], keys: tuple[str, ...], value: str) -> str:
    """A line for each combination of keys, a column for each number of calls."""
    calls = sorted({row["calls"] for row in rows})
    lines = [
        f"| {' | '.join(keys)} | {' | '.join(f'{n} calls' for n in calls)} |",
        "|---" * (len(keys) + len(calls)) + "|",
    ]
    for case in dict.fromkeys(tuple(str(row[key]) for key in keys) for row in rows):
        found = {row["calls"]: row[value] for row in rows if tuple(str(row[key]) for key in keys) == case}
        lines.append(f"| {' | '.join(case)} | {' | '.join(f'{found[n]:.3g}' for n in calls)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    report = {
        "environment": environment("einops"),
        "count": COUNT,
        "exact": exact_rows(),
        "resamplers": resampler_rows(),
        "digits": digit_rows(data),
    }
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_table(PAGE, "noise", table(report["exact"], ("process", "noise"), "error"))
    write_table(PAGE, "resamplers", table(report["resamplers"], ("resampler", "sizes"), "error"))
    write_table(PAGE, "digits", table(report["digits"], ("model", "noise"), "frechet"))


if __name__ == "__main__":
    main()
