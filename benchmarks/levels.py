"""The cost of levels on real digits, and what is left of it when the residual is drawn.

    python benchmarks/levels.py --data mnist10k.npz

Digits of 28 × 28 pixels, padded to 32 × 32; 9000 to train on, 1000 to measure residuals with (`ld.calibrate`). DDPM and
Scale Space Diffusion with the same network and the same number of training steps; a schedule from the data's spectrum
beside the paper's. Each model draws 1000 digits with every sampler and number of steps, those of Scale Space Diffusion
also corrected, and their Fréchet distance to the real ones is taken in the features of a small classifier, with the
interval of a bootstrap over the digits drawn. Two runs side by side, each on one core. What is finished is kept in
runs/benchmark-levels and not done again.

Writes results/levels.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.runs import kept_result, slug
from benchmarks.timing import environment
from examples.experiment.config import (
    Config,
    DataConfig,
    NetworkConfig,
    OptimizationConfig,
    ProcessConfig,
    RunConfig,
    build_network,
)
from examples.experiment.data import open_images
from examples.experiment.features import Judge, frechet_distance, train_judge
from examples.experiment.pictures import grid, write_png
from examples.experiment.runs import find_checkpoint, load_denoiser
from examples.flops import sample_gflops
from examples.train import train

import lineardiffusion as ld
from lineardiffusion.training import keyed_generator

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmark-levels"
RESULTS = ROOT / "benchmarks" / "results" / "levels.json"
MODELS: dict[str, dict[str, Any]] = {
    "DDPM": {"family": "ddpm"},
    "SSD, 2 levels": {"levels": 2},
    "SSD, 3 levels": {"levels": 3},
    "SSD, 4 levels": {"levels": 4},
    "SSD, 4 levels, from the data": {"levels": 4, "matched": 0.1},
}
HELD_OUT, SAMPLES, CHUNK, BOOTSTRAP = 1000, 1000, 100, 200
NETWORK = {"channel_mult": (1, 2, 2, 2)}  # a level of the network for each of the process


def split(data: Path) -> tuple[Path, Path]:
    """Padded digits to train on, and those held out, as files."""
    folder = RUNS / "data"
    paths = folder / "train.npz", folder / "held_out.npz"
    if not paths[1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        with np.load(data) as content:
            images, labels = np.pad(content["images"], ((0, 0), (2, 2), (2, 2))), content["labels"]
        order = np.random.default_rng(0).permutation(len(images))
        for path, chosen in zip(paths, (order[HELD_OUT:], order[:HELD_OUT]), strict=True):
            np.savez(path, images=images[chosen], labels=labels[chosen])
    return paths


def process_config(model: str, train_data: Path) -> ProcessConfig:
    settings = dict(MODELS[model])
    threshold = settings.pop("matched", None)
    if threshold is None:
        return ProcessConfig(**settings)
    images, _ = open_images(DataConfig(source=str(train_data), channels=1)).tensor()
    schedule = ld.snr_matched(ld.lab.estimate(images)[0].gain, threshold)
    matched = ld.ScaleSpaceDiffusion(tuple(images.shape[1:]), settings["levels"], resolution_schedule=schedule)
    return ProcessConfig(**settings, changes=matched.shape_changes())


def run(model: str, seed: int, arguments: argparse.Namespace, folder: Path) -> None:
    """Train, measure the residual, draw and judge; writes result.json into the folder."""
    torch.set_num_threads(1)
    train_data, held_out_data = split(arguments.data)
    config = Config(
        DataConfig(source=str(train_data), channels=1),
        process_config(model, train_data),
        NetworkConfig(kind="full" if model == "DDPM" else "flexi", settings="tiny", overrides=NETWORK),
        OptimizationConfig(batch_size=64, learning_rate=1e-3, warmup=100, ema_decay=0.998, seed=seed),
        RunConfig(folder=folder, steps=arguments.iterations, save_every=250, sample_every=0, progress=False),
    )
    cpu = time.process_time()
    train(config)
    trained = time.process_time() - cpu
    denoiser, _ = load_denoiser(find_checkpoint(folder))
    images, labels = open_images(config.data).tensor()
    held_out = open_images(DataConfig(source=str(held_out_data), channels=1)).tensor()[0]
    judge = train_judge(images, labels, 10, RUNS / "cache")
    real = judge.learnt(images)
    with torch.device("meta"):
        shadow = build_network(config.network, denoiser.process.shape(0), None)
    rows = []
    residual = None
    if denoiser.process.shape_changes():
        residual = ld.calibrate(denoiser, held_out, generator=keyed_generator(seed, "calibrate"))
    for steps in arguments.steps:
        for sampler_name, kind in (("ancestral", ld.AncestralSampler), ("ddim", ld.DDIMSampler)):
            for correction in (None, residual) if residual else (None,):
                sampler = kind(denoiser, steps, residual=correction)
                cpu = time.process_time()
                drawn = torch.cat(
                    [sampler(CHUNK, seeds=range(i, i + CHUNK), progress=False) for i in range(0, SAMPLES, CHUNK)]
                )
                rows.append(
                    {
                        "uniform_steps": steps,
                        "sampler": sampler_name,
                        "corrected": correction is not None,
                        "cpu_s_per_1000_images": round((time.process_time() - cpu) * 1000 / SAMPLES, 1),
                        "gflops_per_image": round(sample_gflops(denoiser.process, shadow, sampler.times[:-1]), 3),
                        **judged(drawn, real, judge),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
                name = f"{sampler_name}-{steps}{'-corrected' if correction else ''}.png"
                write_png(grid(drawn[:64]), folder / name)
    process = denoiser.process
    result = {
        "model": model,
        "seed": seed,
        "iterations": arguments.iterations,
        "training_cpu_s": round(trained, 1),  # of this process: less where a run was resumed
        "changes": [
            {
                "t": t,
                "noise_variance": round(process.sigma(s) ** 2, 5),
                "residual_variance": round(process.signal_scale(s) ** 2 * float(spectrum.mean()), 5),
            }
            for (t, s), spectrum in (residual.spectra.items() if residual else ())
        ],
        "judge_accuracy": judge.accuracy,
        "held_out": judged(held_out, real, judge),
        "samples": rows,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def judged(drawn: torch.Tensor, real: torch.Tensor, judge: Judge) -> dict[str, Any]:
    """Fréchet distance d to `real`, features the judge has learnt from, and its 95 % interval by the basic bootstrap,
    [2 d − q_97.5, 2 d − q_2.5]: draws with repetitions lie further away, and the percentiles would inherit that."""
    features = judge.features(drawn)
    generator = torch.Generator().manual_seed(0)
    picks = [torch.randint(len(features), (len(features),), generator=generator) for _ in range(BOOTSTRAP)]
    values = torch.tensor([frechet_distance(features[pick], real) for pick in picks], dtype=torch.float64)
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    distance = frechet_distance(features, real)
    return {"frechet": round(distance, 3), "interval": [round(2 * distance - high, 3), round(2 * distance - low, 3)]}


def launch(model: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of a run."""
    options = ["--data", str(arguments.data), "--iterations", str(arguments.iterations), "--model", model]
    options += ["--steps", *map(str, arguments.steps), "--seeds", str(seed)]
    return kept_result(__file__, options, RUNS / f"{slug(model)}-seed-{seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    parser.add_argument("--iterations", type=int, default=4000, help="training steps of each model (%(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 100, 1000], help="sampling steps (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    parser.add_argument("--model", choices=MODELS, help="one run alone, with one seed and --folder")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.model:
        run(arguments.model, arguments.seeds[0], arguments, arguments.folder)
        return
    split(arguments.data)
    jobs = [(model, seed) for seed in arguments.seeds for model in MODELS]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: launch(*job, arguments), jobs))
    report = {"environment": environment("einops"), "data": arguments.data.name, "runs": results}
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
