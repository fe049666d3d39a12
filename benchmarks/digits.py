"""DDPM, Blurring Diffusion and Scale Space Diffusion on 10 000 real digits with the same network and the same time.

    python benchmarks/digits.py --data mnist10k.npz

Each run trains for the same processor time on one core, two runs side by side on two cores; three seeds. Processor
time, since the wall clock of a shared machine favours whoever runs while it is quiet; on a quiet one the two are the
same. Then 1000 digits are drawn with 50 steps (Blurring Diffusion that predicts noise: 250), and their Fréchet distance
to the real ones is taken in the features of a small classifier of real digits. What is finished is kept in
runs/benchmark-digits and not done again.

Writes results/digits.json, pictures, and the table in docs/training.md.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.runs import launch, run_arguments, slug, timed_draws, write_table
from benchmarks.timing import environment
from examples.experiment.building import build_network, build_process
from examples.experiment.config import (
    Config,
    DataConfig,
    NetworkConfig,
    OptimizationConfig,
    ProcessConfig,
    RunConfig,
)
from examples.experiment.data import loader, open_images
from examples.experiment.features import Judge, frechet_distance, train_judge
from examples.experiment.runs import find_checkpoint, load_denoiser
from examples.flops import sample_gflops, schedule_average
from examples.train import Trainer

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmark-digits"
RESULTS = ROOT / "benchmarks" / "results" / "digits.json"
IMAGES = ROOT / "docs" / "images"
SEEDS = (0, 1, 2)
SAMPLES, STEPS, MANY_STEPS = 1000, 50, 250
# Blurring Diffusion predicts the noise, as in its paper, or x_0. Of noise it takes many steps to draw well: seed 0 by
# ancestral sampling has 82, 52 and 45 with 50, 100 and 250 steps (200 digits), of x_0 7.6 and 8.4 with 50 and 100.
MODELS = {
    "DDPM": (ProcessConfig(family="ddpm"), "full", STEPS),
    "Blurring Diffusion, noise": (ProcessConfig(family="blurring", prediction="noise"), "full", MANY_STEPS),
    "Blurring Diffusion, x_0": (ProcessConfig(family="blurring", prediction="data"), "full", STEPS),
    "SSD, 2 levels": (ProcessConfig(family="ssd", levels=2), "flexi", STEPS),
    "SSD, 3 levels": (ProcessConfig(family="ssd", levels=3), "flexi", STEPS),
}


def config_of(model: str, seed: int, data: Path, folder: Path) -> Config:
    """The configuration of a run: everything but the process, and what belongs to it, is the same for all."""
    process, kind, _ = MODELS[model]
    return Config(
        DataConfig(source=str(data), channels=1),
        process,
        NetworkConfig(kind=kind, settings="tiny"),
        OptimizationConfig(batch_size=64, learning_rate=1e-3, warmup=100, ema_decay=0.998, seed=seed),
        RunConfig(folder=folder, progress=False),
    )


def fit(config: Config, minutes: float) -> None:
    """Train for some processor time; writes a checkpoint and training.json into the run's folder."""
    trainer = Trainer(config)
    batches = loader(trainer.images, 64, trainer.share(), 0, config.optimization.seed)
    cpu, wall, losses = time.process_time(), time.monotonic(), []
    while time.process_time() - cpu < 60 * minutes:
        trainer.optimizer.zero_grad()
        losses.append(float(trainer.backward(next(batches))))
        trainer.update()
    training = {
        "training_steps": trainer.step,
        "training_cpu_s": round(time.process_time() - cpu, 1),
        "training_wall_s": round(time.monotonic() - wall, 1),
        "last_loss": round(statistics.fmean(losses[-100:]), 4),
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
    }
    trainer.save()
    (config.run.folder / "training.json").write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")


def run(model: str, seed: int, data: Path, minutes: float, folder: Path) -> None:
    """Train, draw and judge one model; writes result.json into the folder."""
    torch.set_num_threads(1)
    config = config_of(model, seed, data, folder)
    if not (folder / "training.json").exists():
        fit(config, minutes)
    source = open_images(config.data)
    images, labels = source.tensor()
    judge = train_judge(images, labels, len(source.class_names), RUNS / "cache")
    reference = judge.learnt(images)
    denoiser, _ = load_denoiser(find_checkpoint(folder))
    result: dict[str, Any] = {"model": model, "seed": seed, "judge_accuracy": judge.accuracy}
    result |= json.loads((folder / "training.json").read_text(encoding="utf-8"))
    for name, kind in {"ddim": ld.DDIMSampler, "ancestral": ld.AncestralSampler}.items():
        sampler = kind(denoiser, MODELS[model][2], clip=(-1, 1))
        drawn, result[f"{name}_cpu_s_per_1000_images"] = timed_draws(sampler, SAMPLES)
        result |= {f"{name}_{key}": value for key, value in compare(drawn, reference, judge).items()}
        ld.save_images(drawn[:64], folder / f"{name}.png")
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def compare(drawn: torch.Tensor, reference: torch.Tensor, judge: Judge) -> dict[str, float]:
    """Fréchet distance to `reference`, features the judge has learnt from, and the share it is sure about (≥ 0.9)."""
    sure = judge.probabilities(drawn).max(1).values >= 0.9
    return {
        "frechet": round(frechet_distance(judge.features(drawn), reference), 3),
        "confident": round(float(sure.double().mean()), 4),
    }


def gflops(model: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """Of a network call for one image, on the average over all steps; and of one generated image."""
    process_config, kind, steps = MODELS[model]
    process = build_process(process_config, shape)
    with torch.device("meta"):
        network = build_network(NetworkConfig(kind=kind, settings="tiny"), shape, None)
    times = ld.grids.uniform(steps).times(process)
    return {
        "gflops_per_call": round(schedule_average(process, network)[0], 4),
        "gflops_per_image": round(sample_gflops(process, network, times), 3),
        "sampling_steps": len(times),
    }


def summary(data: Path, minutes: float, results: list[dict[str, Any]]) -> dict[str, Any]:
    source = open_images(DataConfig(source=str(data), channels=1))
    images, labels = source.tensor()
    judge = train_judge(images, labels, len(source.class_names), RUNS / "cache")
    return {
        "environment": environment("einops"),
        "data": f"{data.name}: {len(source)} images {source.shape}",
        "budget_cpu_minutes": minutes,
        "judge_accuracy": judge.accuracy,
        "held_out_real_digits": compare(images[judge.held_out], judge.learnt(images), judge),
        "models": {model: gflops(model, source.shape) for model in MODELS},
        "runs": results,
    }


def plot(report: dict[str, Any], path: Path) -> None:
    """Fréchet distance against GFLOPs for each model, a point for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, sampler, title in zip(axes, ("ddim", "ancestral"), ("DDIM (η = 0)", "ancestral"), strict=True):
        for index, model in enumerate(MODELS):
            runs = [run for run in report["runs"] if run["model"] == model]
            x = report["models"][model]["gflops_per_image"]
            values = [run[f"{sampler}_frechet"] for run in runs]
            axis.plot([x] * len(runs), values, "o", color=f"C{index}", alpha=0.5)
            axis.plot(
                x, statistics.fmean(values), "_", color=f"C{index}", markersize=24, markeredgewidth=3, label=model
            )
        axis.axhline(
            report["held_out_real_digits"]["frechet"], color="gray", linestyle=":", label="held-out real digits"
        )
        axis.set(title=title, xlabel="GFLOPs per generated image", yscale="log")
        axis.set_yticks([0.3, 0.6, 1, 2, 4, 8], ["0.3", "0.6", "1", "2", "4", "8"])
        axis.minorticks_off()
    axes[0].set_ylabel("Fréchet distance (classifier features)")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def table(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| model | Fréchet distance, DDIM | ancestral | confident, DDIM | training steps | GFLOPs per call | per image "
        "| s per 1000 images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, cost in report["models"].items():
        runs = [run for run in report["runs"] if run["model"] == model]

        def spread(key: str, digits: int, runs: list[dict[str, Any]] = runs) -> str:
            values = [run[key] for run in runs]
            return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"

        lines.append(
            f"| {model} | {spread('ddim_frechet', 2)} | {spread('ancestral_frechet', 2)} "
            f"| {spread('ddim_confident', 2)} "
            f"| {spread('training_steps', 0)} | {cost['gflops_per_call']:.3f} | {cost['gflops_per_image']:.2f} "
            f"| {spread('ddim_cpu_s_per_1000_images', 0)} |"
        )
    real = report["held_out_real_digits"]
    lines.append(f"| held-out real digits | {real['frechet']:.2f} | | {real['confident']:.2f} | | | | |")
    return "\n".join(lines)


def main() -> None:
    arguments = run_arguments(__doc__, MODELS, 8.0)
    if arguments.model:
        run(arguments.model, arguments.seed, arguments.data, arguments.minutes, arguments.folder)
        return
    jobs = [(model, seed) for seed in SEEDS for model in MODELS]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: launch(*job, __file__, RUNS, arguments), jobs))
    report = summary(arguments.data, arguments.minutes, results)
    RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    plot(report, IMAGES / "digits_frechet.png")
    write_table(ROOT / "docs" / "training.md", "digits", table(report))
    for model in MODELS:
        picture = (RUNS / f"{slug(model)}-seed-0" / "ddim.png").read_bytes()
        (IMAGES / f"digits_{slug(model)}.png").write_bytes(picture)


if __name__ == "__main__":
    main()
