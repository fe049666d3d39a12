"""The cost of levels on real digits: models, corrections, and the causes one by one.

    python benchmarks/levels.py --data mnist10k.npz                    # every model, three seeds; then the report
    python benchmarks/levels.py --data mnist10k.npz --models "DDPM" --seeds 0 --steps 5 7 14 18 --corrections everywhere

Digits of 28 × 28 pixels, padded to 32 × 32; 9000 to train on, 1000 to measure residuals with (`ld.calibrate`). Every
model is the same network with the same number of training steps, except where its entry in MODELS says otherwise. Each
draws 1000 digits with every sampler and number of steps, those of Scale Space Diffusion also corrected, and what a
small classifier sees in them (its features) is kept in runs/benchmark-levels, beside the models: nothing that is there
is done again, and `--report` makes tables and figures of it at any time. Two runs side by side, each on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.levels_report import COMPARED, CORRECTIONS, EVERYWHERE, LABORATORY, write_report
from benchmarks.runs import CHUNK, run_on_one_core, slug, timed_draws
from examples.experiment.building import build_network, build_process
from examples.experiment.config import (
    Config,
    DataConfig,
    NetworkConfig,
    OptimizationConfig,
    ProcessConfig,
    RunConfig,
)
from examples.experiment.data import open_images
from examples.experiment.features import Judge, train_judge
from examples.experiment.runs import find_checkpoint, load_denoiser
from examples.experiment.stopping import STOPPED
from examples.flops import sample_gflops
from examples.train import fit

import lineardiffusion as ld
from lineardiffusion.operators.spectral import cosine_coefficients
from lineardiffusion.training import keyed_generator, whole_file

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmark-levels"
HELD_OUT = 1000
TRACED_STEPS = 100  # of the samplers that start from real states
TRACED_DDPM = (358, 438)


@dataclass(frozen=True)
class Model:
    """What differs from the others.

    Arguments:
        family, levels: of the process.
        threshold: of `ld.snr_matched`; the paper's resolution schedule without.
        changes: the first t of each lower resolution instead.
        mode: how the levels resample.
        optimization: fields of OptimizationConfig.
        kind, widths: of the network; a level of it for each of the process. "resized" has no zeros for skips.
        effort: training steps, as a multiple of those of the others.
    """

    family: str = "ssd"
    levels: int = 4
    threshold: float | None = None
    changes: tuple[int, ...] | None = None
    mode: str = "bilinear"
    optimization: dict[str, Any] = field(default_factory=dict)
    kind: str = "flexi"
    widths: tuple[int, ...] = (1, 2, 2, 2)
    effort: float = 1.0


OFTEN = {"shape_change_fraction": 0.15, "shape_change_weights": False}
MIXED = {"groups": 16}  # of four images
SHARES = {**MIXED, "shares": [0.45, 0.43, 0.07, 0.05]}
WIDER = {"coarse_from": [100, 568, 610]}
MODELS = {
    "DDPM": Model("ddpm", 1, kind="full"),
    "SSD, 2 levels": Model(levels=2),
    "SSD, 3 levels": Model(levels=3),
    "SSD, 4 levels": Model(),
    "SSD, from the data": Model(threshold=0.1),
    "SSD, 4 levels, Haar": Model(mode="haar"),
    "SSD, from the data, Haar": Model(threshold=0.1, mode="haar"),
    "SSD, late, Haar": Model(changes=(620, 780, 938), mode="haar"),
    # The causes, one by one.
    "SSD, 4 levels, changes drawn": Model(optimization=OFTEN),
    "SSD, from the data, changes drawn": Model(threshold=0.1, optimization=OFTEN),
    "SSD, from the data, changes drawn and weighted": Model(
        threshold=0.1, optimization={"shape_change_fraction": 0.15}
    ),
    "SSD, from the data, changes drawn, later": Model(threshold=0.01, optimization=OFTEN),
    "SSD, from the data, changes drawn, wide": Model(threshold=0.1, optimization=OFTEN, widths=(1, 4, 4, 4)),
    "SSD, from the data, changes drawn, equal time": Model(threshold=0.1, optimization=OFTEN, effort=2.3),
    "SSD, from the data, Haar, changes drawn": Model(threshold=0.1, mode="haar", optimization=OFTEN),
    "SSD, from the data, Haar, equal time": Model(threshold=0.1, mode="haar", effort=2.3),
    "SSD, from the data, Haar, long": Model(threshold=0.1, mode="haar", effort=5.0),
    "DDPM, twice": Model("ddpm", 1, kind="full", effort=2.1),
    "SSD, 4 levels, mixed": Model(optimization=MIXED),
    "SSD, late, Haar, mixed": Model(changes=(620, 780, 938), mode="haar", optimization=MIXED),
    "SSD, 4 levels, Haar, mixed": Model(mode="haar", optimization=MIXED),
    "SSD, from the data, Haar, mixed": Model(threshold=0.1, mode="haar", optimization=MIXED),
    "SSD, from the data, Haar, mixed, equal time": Model(threshold=0.1, mode="haar", optimization=MIXED, effort=1.8),
    # More draws for 16 × 16 pixels, and less noise there than in the states it is used for.
    "SSD, from the data, Haar, mixed, shares": Model(threshold=0.1, mode="haar", optimization=SHARES),
    "SSD, from the data, Haar, mixed, shares, wider": Model(
        threshold=0.1, mode="haar", optimization={**SHARES, **WIDER}
    ),
    "SSD, from the data, Haar, mixed, shares, wider, resized": Model(
        threshold=0.1, mode="haar", optimization={**SHARES, **WIDER}, kind="resized"
    ),
    "SSD, half, Haar, mixed, shares, wider": Model(
        changes=(420, 568, 610), mode="haar", optimization={**SHARES, **WIDER}
    ),
    "SSD, from the data, Haar, mixed, uniform": Model(
        threshold=0.1, mode="haar", optimization={**MIXED, "weighting": "uniform"}
    ),
}


def split(data: Path, runs: Path = RUNS) -> tuple[Path, Path]:
    """Padded digits to train on, and those held out, as files in the folder of runs."""
    folder = runs / "data"
    paths = folder / "train.npz", folder / "held_out.npz"
    if not paths[1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        with np.load(data) as content:
            images, labels = np.pad(content["images"], ((0, 0), (2, 2), (2, 2))), content["labels"]
        order = np.random.default_rng(0).permutation(len(images))
        for path, chosen in zip(paths, (order[HELD_OUT:], order[:HELD_OUT]), strict=True):
            np.savez(path, images=images[chosen], labels=labels[chosen])
    return paths


def process_config(model: Model, data: Path) -> ProcessConfig:
    process = ProcessConfig(model.family, levels=model.levels, mode=model.mode)  # type: ignore[arg-type]
    process.changes = None if model.changes is None else list(model.changes)
    if model.threshold is not None:
        images = real(data)
        schedule = ld.snr_matched(ld.lab.estimate(images)[0].gain, model.threshold)
        process.changes = ld.ScaleSpaceDiffusion(
            tuple(images.shape[1:]), model.levels, resolution_schedule=schedule
        ).shape_changes()
    return process


def configuration(model: Model, seed: int, iterations: int, folder: Path, data: Path) -> Config:
    """Of a run of examples/train.py."""
    options = {"learning_rate": 1e-3, "warmup": 100, "ema_decay": 0.998, "precision": "bf16", **model.optimization}
    steps = round(model.effort * iterations)
    return Config(
        DataConfig(source=str(data), channels=1),
        process_config(model, data),
        NetworkConfig(model.kind, "tiny", {"channel_mult": model.widths}),  # type: ignore[arg-type]
        OptimizationConfig(batch_size=64, seed=seed, **options),
        RunConfig(folder, steps, save_every=250, sample_every=0, channels_last=True, progress=False),
    )


def real(data: Path) -> torch.Tensor:
    images, _ = open_images(DataConfig(source=str(data), channels=1)).tensor()
    return images


def judge_of(data: Path, runs: Path = RUNS) -> Judge:
    images, labels = open_images(DataConfig(source=str(data), channels=1)).tensor()
    return train_judge(images, labels, 10, runs / "cache")


class Run:
    """A trained model and what is kept of its samples: result.json, and features/ with an array for each cell."""

    def __init__(self, name: str, seed: int, arguments: argparse.Namespace, folder: Path) -> None:
        train_data, held_out_data = split(arguments.data)
        self.folder, self.seed, self.count = folder, seed, arguments.count
        (folder / "features").mkdir(parents=True, exist_ok=True)
        self.path = folder / "result.json"
        self.result: dict[str, Any] = {"model": name, "seed": seed, "iterations": arguments.iterations, "samples": []}
        if self.path.exists():
            self.result = json.loads(self.path.read_text(encoding="utf-8"))
        config = configuration(MODELS[name], seed, arguments.iterations, folder, train_data)
        if "training_cpu_s" not in self.result:
            whole, cpu = not (folder / "checkpoints").exists(), time.process_time()
            if not fit(config):
                sys.exit(STOPPED)
            self.result["training_cpu_s"] = round(time.process_time() - cpu, 1) if whole else None  # where resumed
        self.denoiser, _ = load_denoiser(find_checkpoint(folder))
        self.process = self.denoiser.process
        self.held_out = real(held_out_data)
        self.judge = judge_of(train_data)
        with torch.device("meta"):
            self.shadow = build_network(config.network, self.process.shape(0), None)
        self.residuals: dict[tuple[str, int], ld.Residual] = {}
        if self.process.shape_changes() and "changes" not in self.result:
            self.result["changes"] = self.changes(real(train_data))
        if (name == "DDPM" or MODELS[name].mode == "haar") and "errors" not in self.result:
            self.result["errors"] = self.errors()
        self.keep()

    def keep(self) -> None:
        with whole_file(self.path) as partial:
            partial.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")

    def has(self, cell: str) -> bool:
        return any(row["cell"] == cell for row in self.result["samples"])

    def residual(self, correction: str, steps: int) -> ld.Residual | None:
        """None for "", one of CORRECTIONS, or EVERYWHERE for a number of steps: measured when it is first asked for."""
        if not correction:
            return None
        everywhere = correction == EVERYWHERE
        if (correction, steps) not in self.residuals:
            self.residuals[correction, steps] = ld.calibrate(
                self.denoiser,
                self.held_out,
                steps,
                shape_changes_only=not everywhere,
                rank=CORRECTIONS["components" if everywhere else correction],
                clip=(-1, 1),
                generator=keyed_generator(self.seed, "calibrate"),
            )
        return self.residuals[correction, steps]

    def draw(self, sampler: str, steps: int, correction: str) -> None:
        """A cell: digits by a sampler. Its first 64 are kept as a picture."""
        cell = f"{sampler}-{steps}{'-' * bool(correction)}{correction}"
        if self.has(cell):
            return
        kind = {"ancestral": ld.AncestralSampler, "ddim": ld.DDIMSampler}[sampler]
        made = kind(self.denoiser, steps, clip=(-1, 1), residual=self.residual(correction, steps))
        drawn, seconds = timed_draws(made, self.count)
        ld.save_images(drawn[:64], self.folder / f"{cell}.png")
        self.add(
            cell,
            drawn,
            sampler=sampler,
            steps=steps,
            correction=correction,
            count=self.count,
            cpu_s_per_1000_images=seconds,
            gflops_per_image=round(sample_gflops(self.process, self.shadow, made.times[:-1]), 4),
        )

    def trace(self, t: int) -> None:
        """A cell: digits from real x_t, so that all that happens before t is exact."""
        cell = f"from-{t}"
        if self.has(cell):
            return
        generator = keyed_generator(self.seed, "trace", t)
        sampler = ld.AncestralSampler(self.denoiser, TRACED_STEPS, clip=(-1, 1))
        drawn = []
        for images in self.held_out.split(CHUNK):
            x = self.process.diffuse(images, t, generator=generator)
            drawn.append(sampler(len(x), generator=generator, progress=False, start=(t, x)))
        self.add(cell, torch.cat(drawn), started_at=t)

    def add(self, cell: str, drawn: torch.Tensor, **row: Any) -> None:
        np.save(self.folder / "features" / f"{cell}.npy", self.judge.features(drawn).float().numpy())
        self.result["samples"].append({"cell": cell, **row})
        self.keep()
        print(cell, flush=True)

    def changes(self, images: torch.Tensor) -> list[dict[str, Any]]:
        """For every change of shape: the residual's variance beside that of the noise, its kurtosis in the cosine basis
        (3 for a Gaussian) over the frequencies that x_t does not have, and the network's mean squared error against
        that of the best linear estimate."""
        best_linear = ld.lab.OptimalDenoiser(
            self.process, torch.cov(images.flatten(1).double().T), images.double().mean(0)
        )
        rows = []
        for t in self.process.shape_changes():
            s, generator = t - 1, keyed_generator(self.seed, "change", t)
            x_t = self.process.diffuse(self.held_out, t, generator=generator)
            target = self.process.clean(self.held_out, s)
            with torch.no_grad():
                residual = target - self.denoiser(x_t, t).clamp(-1, 1)
            coefficients = cosine_coefficients(residual.double(), self.process.shape(s))
            high = torch.ones(self.process.shape(s), dtype=torch.bool)
            high[:, : self.process.shape(t)[1], : self.process.shape(t)[2]] = False
            detail = coefficients[:, high]
            kurtosis = detail.pow(4).mean(0) / detail.square().mean(0).square()
            rows.append(
                {
                    "t": t,
                    "noise_variance": round(self.process.sigma(s) ** 2, 5),
                    "residual_variance": round(self.process.signal_scale(s) ** 2 * float(residual.square().mean()), 6),
                    "kurtosis": round(float(kurtosis.median()), 2),
                    "error": round(float(residual.square().mean()), 5),
                    "linear_error": round(float((target - best_linear(x_t, t).clamp(-1, 1)).square().mean()), 5),
                }
            )
        return rows

    @torch.no_grad()
    def errors(self) -> dict[str, dict[str, float]]:
        """At some times, the mean squared error of the estimate of the clean image, seen at 16 × 16 pixels. A state of
        Haar levels is a part of DDPM's: the averages. "blind" is the error of DDPM where the other part, the detail, is
        replaced by that of another image's state, so that its network knows what the networks of Haar levels know."""
        found = {}
        for t in COMPARED:
            if self.process.shape(t - 1)[-1] < 16:
                break
            x_t = self.process.diffuse(self.held_out, t, generator=keyed_generator(self.seed, "errors", t))
            states = {"error": x_t}
            if not self.process.shape_changes():
                means = F.interpolate(F.avg_pool2d(x_t, 2), scale_factor=2)
                states["blind"] = means + (x_t - means).roll(1, 0)
            target = self.process.clean(self.held_out, t - 1)
            errors = {name: self.denoiser(state, t).clamp(-1, 1) - target for name, state in states.items()}
            found[str(t)] = {
                name: round(float(F.adaptive_avg_pool2d(error, 16).square().mean()), 5)
                for name, error in errors.items()
            }
        return found


def work(name: str, seed: int, arguments: argparse.Namespace, folder: Path) -> None:
    """Train, measure, draw: all that is not there yet."""
    torch.set_num_threads(1)
    run = Run(name, seed, arguments, folder)
    changes = run.process.shape_changes()
    for steps in arguments.steps:
        for sampler in arguments.samplers:
            for correction in ("", *(known for known in arguments.corrections if changes or known == EVERYWHERE)):
                run.draw(sampler, steps, correction)
    if arguments.trace:
        # DDPM from the same times, as the measure of what can be reached from there.
        for t in (changes[0] - 1, *changes) if changes else TRACED_DDPM:
            run.trace(t)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    parser.add_argument("--iterations", type=int, default=2000, help="training steps of each model (%(default)s)")
    parser.add_argument("--count", type=int, default=1000, help="digits drawn for each cell (%(default)s)")
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[10, 25, 100, 1000], help="sampling steps (%(default)s)"
    )
    parser.add_argument("--samplers", nargs="+", default=["ancestral", "ddim"], choices=["ancestral", "ddim"])
    parser.add_argument("--corrections", nargs="*", default=list(CORRECTIONS), choices=[*CORRECTIONS, EVERYWHERE])
    parser.add_argument("--trace", action="store_true", help="also sample from real states at every change of shape")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="MODEL")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    parser.add_argument("--report", action="store_true", help="tables and figures of what is there; run nothing")
    parser.add_argument("--folder", type=Path, help="do one run alone, in this folder")
    arguments = parser.parse_args()
    if arguments.folder:
        work(arguments.models[0], arguments.seeds[0], arguments, arguments.folder)
        return
    train_data, held_out_data = split(arguments.data)
    options = ["--data", arguments.data, "--iterations", arguments.iterations, "--count", arguments.count]
    options += ["--samplers", *arguments.samplers, "--steps", *arguments.steps, *["--trace"] * arguments.trace]
    options += ["--corrections", *arguments.corrections]
    jobs = [
        ([*options, "--models", name, "--seeds", seed], RUNS / f"{slug(name)}-seed-{seed}")
        for seed in arguments.seeds
        for name in arguments.models
    ]
    if not arguments.report:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: run_on_one_core(__file__, [str(option) for option in job[0]], job[1]), jobs))
    images = real(train_data)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    processes = {name: build_process(process_config(MODELS[name], train_data), shape) for name in LABORATORY}
    write_report(RUNS, images, real(held_out_data), judge_of(train_data), processes)


if __name__ == "__main__":
    main()
