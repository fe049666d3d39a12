"""All families that train, on 10 000 real digits with the same small network and the same processor time.

    python benchmarks/families.py --data mnist10k.npz

Each run trains for the same processor time on one core, two runs side by side; three seeds. Then digits are drawn at
10, 25 and 100 calls of the network by the sampler that was best among a few on other noise and the first seed, and
their Fréchet distance to the real ones is taken in the features of a small classifier of real digits, with a bootstrap
interval. Estimates are kept in the range of images. SPEED, region-adaptive and bottleneck sampling draw from DDPM's
networks, unchanged. What is finished is kept in runs/benchmark-families and not done again.

Writes results/families.json, docs/images/families_digits.png, and the table in docs/families.md.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.frechet import replicates, spread
from benchmarks.runs import CHUNK, launch, run_arguments, slug, write_table
from benchmarks.small_models import digits
from benchmarks.timing import environment
from examples.experiment.features import Judge, frechet_of_moments, moments, train_judge

import lineardiffusion as ld
from lineardiffusion.families import Family
from lineardiffusion.families.jumps import Jumping
from lineardiffusion.families.stacks import Stacked
from lineardiffusion.flexi_unet import FlexiUNet
from lineardiffusion.flexi_unet.layers import timestep_embedding, zeroed

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmark-families"
RESULTS = ROOT / "benchmarks" / "results" / "families.json"
PICTURE, PAGE = ROOT / "docs" / "images" / "families_digits.png", ROOT / "docs" / "families.md"
SHAPE, SEEDS, CALLS, COUNT, TRIED = (1, 32, 32), (0, 1, 2), (10, 25, 100), 400, 100
BATCH_SIZE, LEARNING_RATE, EMA_DECAY = 32, 2e-3, 0.99
ELSEWHERE = 10**6  # seeds of the noise by which samplers are chosen


@dataclass(frozen=True)
class Entry:
    """How a family is made, trained and drawn from.

    Attributes:
        make: the process.
        channels: of what the network is given and returns.
        time_scale: what the network is told is multiplied by this, to lie in 0 … 1000 as it is used to.
        from_data: whether samples start from training images.
        network_of: the model whose networks are used, where the family trains none.
        clip: the range of its estimates.
    """

    make: Callable[[], Family]
    channels: tuple[int, int] = (1, 1)
    time_scale: float = 1.0
    from_data: bool = False
    network_of: str | None = None
    clip: tuple[float, float] | None = (-1.0, 1.0)


def _mnist_heat() -> Family:
    return ld.families.InverseHeatDissipation(SHAPE, num_steps=100, blur_sigma_max=20.0)


def _mnist_cold() -> Family:
    return ld.families.ColdDiffusion(SHAPE, ld.families.LowResolution(4))


MODELS: dict[str, Entry] = {
    "DDPM": Entry(lambda: ld.DDPM(SHAPE)),
    "EDM": Entry(lambda: ld.EDM(SHAPE), time_scale=250.0),
    "Flow Matching": Entry(lambda: ld.FlowMatching(SHAPE), time_scale=1000.0),
    "Scale Space Diffusion": Entry(lambda: ld.ScaleSpaceDiffusion(SHAPE, levels=3)),
    "Blurring Diffusion": Entry(lambda: ld.BlurringDiffusion(SHAPE)),
    "Inverse Heat Dissipation": Entry(_mnist_heat, time_scale=10.0, from_data=True),
    "Soft Diffusion": Entry(lambda: ld.families.SoftDiffusion(SHAPE), from_data=True),
    "Cold Diffusion": Entry(_mnist_cold, time_scale=250.0, from_data=True),
    "Progressive Deblurring": Entry(lambda: ld.families.ProgressiveDeblurring(SHAPE)),
    "UDPM": Entry(lambda: ld.families.UDPM(SHAPE), time_scale=300.0),
    "Subspace Diffusion": Entry(lambda: ld.families.SubspaceDiffusion(SHAPE, detail=(0.15,)), time_scale=1000.0),
    "Dimensionality-Varying": Entry(lambda: ld.families.DimensionalityVarying(SHAPE)),
    "Wavelet Diffusion": Entry(lambda: ld.families.WaveletDiffusion(SHAPE, num_steps=100), (4, 4), time_scale=10.0),
    "f-DM": Entry(lambda: ld.families.FDM(SHAPE)),
    "Pyramidal Flow": Entry(lambda: ld.families.PyramidFlow(SHAPE)),
    "PixelFlow": Entry(lambda: ld.families.PixelFlow(SHAPE)),
    "Decomposable Flow": Entry(lambda: ld.families.DecomposableFlow(SHAPE), time_scale=1000.0),
    "Laplacian Diffusion": Entry(lambda: ld.families.LaplacianDiffusion(SHAPE), time_scale=250.0),
    "GUD": Entry(lambda: ld.families.GUD(SHAPE), time_scale=1000.0),
    "Blue noise": Entry(lambda: ld.families.BlueNoise(SHAPE), (1, 2), time_scale=1000.0),
    "EqualSNR": Entry(lambda: ld.families.EqualSNR(SHAPE)),
    "Offset noise": Entry(lambda: ld.families.OffsetNoise(SHAPE)),
    "Pyramid noise": Entry(lambda: ld.families.PyramidNoise(SHAPE)),
    "Critically-damped": Entry(lambda: ld.families.CriticallyDamped(SHAPE), (2, 1), time_scale=1000.0, clip=None),
    "Matryoshka": Entry(lambda: ld.families.Matryoshka(SHAPE), (2, 2)),
    "Cascade": Entry(lambda: ld.families.CascadedDiffusion(SHAPE), (2, 2), time_scale=0.5),
    "SPEED": Entry(lambda: ld.families.SPEED(SHAPE, ld.DDPM(SHAPE), transitions=[800]), network_of="DDPM"),
    "RALU": Entry(lambda: ld.families.RegionAdaptive(SHAPE, ld.DDPM(SHAPE)), network_of="DDPM"),
    "Bottleneck": Entry(lambda: ld.families.BottleneckSampling(SHAPE, ld.DDPM(SHAPE)), network_of="DDPM"),
}


class Network(nn.Module):
    """The network of all models, as each of them calls it: Flexi-UNet of 32 channels on patches of 2 × 2 pixels, which
    take half the time of one of 16 channels on pixels; wavelet coefficients are patches already. What it is given is
    added to what it returns, times a function of time that is learnt, so that noise needs not pass its layers."""

    def __init__(self, entry: Entry, process: Family) -> None:
        super().__init__()
        given, returned = entry.channels
        self.split = process.split if isinstance(process, Stacked) else None
        self.patch = 2 if self.split or process.shape(0)[1:] == SHAPE[1:] else 1
        self.network = FlexiUNet(
            SHAPE[1] // 2,
            in_channels=given * self.patch**2,
            out_channels=returned * self.patch**2,
            model_channels=32,
            num_res_blocks=1,
            channel_mult=(1, 1, 1, 1),
        )
        self.gain = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), zeroed(nn.Linear(64, returned * given)))
        self.scale = entry.time_scale

    def forward(self, x: Tensor, time: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
        time = self.scale * (time if time.ndim == 1 else time.mean(-1)).float()
        if self.split is None:
            return self._on_patches(x, time, size)
        # All resolutions beside each other, the coarse ones enlarged.
        parts = self.split(x)
        output = self._on_patches(torch.cat([F.interpolate(part, SHAPE[1:]) for part in parts], 1), time, None)
        pooled = [F.adaptive_avg_pool2d(output[:, k : k + 1], part.shape[2:]) for k, part in enumerate(parts)]
        return torch.cat([part.flatten(1) for part in pooled], 1)

    def _on_patches(self, x: Tensor, time: Tensor, size: tuple[int, ...] | None) -> Tensor:
        if size is not None:
            size = tuple(side // self.patch for side in size)
        output = F.pixel_shuffle(self.network(F.pixel_unshuffle(x, self.patch), time, size=size), self.patch)
        if output.shape[2:] != x.shape[2:]:
            return output
        gain = self.gain(timestep_embedding(time, 64)).reshape(len(x), output.shape[1], x.shape[1])
        return output + torch.einsum("boi, bihw -> bohw", gain, x)


# ---------------------------------------------------------------------- training


def train(model: str, seed: int, images: Tensor, minutes: float, folder: Path) -> None:
    """Train for some processor time; writes averaged weights and training.json into the folder."""
    entry, process = MODELS[model], MODELS[model].make()
    torch.manual_seed(seed)
    network = Network(entry, process)
    denoiser, generator = process.denoiser(network), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    average = ld.training.ExponentialMovingAverage(network, EMA_DECAY)
    start, losses = time.process_time(), []
    while (spent := (time.process_time() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:  # up in the first tenth of the time, down to a twentieth by its end
            group["lr"] = LEARNING_RATE * min(10 * spent + 0.01, 0.05 + 0.95 * math.cos(math.pi / 2 * spent) ** 2)
        x0 = process.data(images[torch.randint(len(images), (BATCH_SIZE,), generator=generator)])
        optimizer.zero_grad()
        loss = process.loss(denoiser, x0, generator).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update(network)
        losses.append(float(loss.detach()))
    with average.applied_to(network):
        torch.save(network.state_dict(), folder / "network.pt")
    report = {
        "training_steps": len(losses),
        "training_cpu_s": round(time.process_time() - start, 1),
        "last_loss": round(statistics.fmean(losses[-100:]), 4),
    }
    (folder / "training.json").write_text(json.dumps(report) + "\n", encoding="utf-8")


def trained(model: str, seed: int) -> tuple[Family, ld.Denoiser]:
    """The process of a model, and its denoiser with trained weights."""
    entry, process = MODELS[model], MODELS[model].make()
    source = entry.network_of or model
    network = Network(MODELS[source], process)
    network.load_state_dict(torch.load(RUNS / f"{slug(source)}-seed-{seed}" / "network.pt", weights_only=True))
    return process, process.denoiser(network.eval().requires_grad_(False))


# ---------------------------------------------------------------------- drawing


def samplers(process: Family, denoiser: ld.Denoiser, calls: int, clip: tuple[float, float] | None) -> dict[str, Any]:
    """What is tried at so many calls of the network, with estimates kept in a range: the family's own sampler, and
    those of the library."""
    stages = getattr(process, "stage_times", None)
    steps: Any = calls if process.num_steps is None or calls < process.num_steps else None
    own = (calls + 1) // 2 if isinstance(process, ld.EDM) else steps  # Heun's method takes two calls a step
    kinds: dict[str, Callable[[], Any]] = {"its own": lambda: process.sampler(denoiser, own, clip=clip)}
    if stages is not None:
        each = [calls // process.stages.count + (k < calls % process.stages.count) for k in range(process.stages.count)]  # type: ignore[attr-defined]
        kinds["its own, stages"] = lambda: process.sampler(denoiser, stages(each), clip=clip)
    elif not isinstance(process, Jumping):
        second: dict[str, Any] = {"order": 2, "rule": "midpoint", "clip": clip}
        kinds |= {
            "ancestral": lambda: ld.AncestralSampler(denoiser, steps, clip=clip),
            "η = 0": lambda: ld.DDIMSampler(denoiser, steps, clip=clip),
            "second order, uniform": lambda: ld.DDIMSampler(denoiser, steps, **second),
            "second order, log-SNR": lambda: ld.DDIMSampler(denoiser, ld.grids.log_snr(calls), **second),
            "shared noise": lambda: ld.SharedNoiseSampler(denoiser, steps, clip=clip),
        }
    made = {}
    for name, make in kinds.items():
        try:
            made[name] = make()
        except (TypeError, ValueError):  # a grid, a kernel or a prediction that the process does not have
            continue
    return made


def draw(process: Family, sampler: Any, count: int, first: int, data: Tensor | None) -> Tensor:
    """Digits of the seeds first …, in [−1, 1]."""
    parts = []
    for start in range(first, first + count, CHUNK):
        seeds = range(start, min(start + CHUNK, first + count))
        parts.append(process.images(sampler(len(seeds), seeds=seeds, progress=False, prior=data)))
    return torch.cat(parts).clamp(-1, 1)


def run(model: str, seed: int, data: Path, minutes: float, folder: Path) -> None:
    """Train one model and draw from it; writes result.json into the folder."""
    torch.set_num_threads(1)
    images, labels = digits(data)
    entry = MODELS[model]
    if entry.network_of is None and not (folder / "training.json").exists():
        train(model, seed, images, minutes, folder)
    judge = train_judge(images, labels, 10, RUNS / "cache")
    reference = moments(judge.learnt(images))
    process, denoiser = trained(model, seed)
    prior = process.data(images) if entry.from_data else None
    source = RUNS / f"{slug(entry.network_of or model)}-seed-{seed}"
    result: dict[str, Any] = {"model": model, "seed": seed} | json.loads((source / "training.json").read_text())
    result["draws"] = [measured(process, denoiser, calls, prior, judge, reference, model, folder) for calls in CALLS]
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measured(
    process: Family,
    denoiser: ld.Denoiser,
    calls: int,
    prior: Tensor | None,
    judge: Judge,
    reference: Any,
    model: str,
    folder: Path,
) -> dict[str, Any]:
    """The best sampler's distance at so many calls; which is best is found with the first seed's network."""
    chosen = RUNS / f"{slug(model)}-chosen-{calls}.json"
    tried = samplers(process, denoiser, calls, MODELS[model].clip)
    if not chosen.exists():
        distances = {}
        for name, sampler in tried.items():
            try:
                drawn = draw(process, sampler, TRIED, ELSEWHERE, prior)
            except ValueError:  # a kernel that the process does not have
                continue
            distance = frechet_of_moments(moments(judge.features(drawn)), reference)
            distances[name] = round(distance, 2) if math.isfinite(distance) else math.inf
        chosen.write_text(json.dumps({"best": min(distances, key=distances.__getitem__), "tried": distances}) + "\n")
    choice = json.loads(chosen.read_text())
    sampler = tried[choice["best"]]
    cpu = time.process_time()
    drawn = draw(process, sampler, COUNT, 0, prior)
    seconds = time.process_time() - cpu
    ld.save_images(drawn[:64], folder / f"{calls}.png")
    features = judge.features(drawn)
    distance = frechet_of_moments(moments(features), reference)
    counter = FlopCounterMode(display=False)
    with counter:
        sampler(1, seeds=[0], progress=False, prior=prior)
    return {
        "calls": calls,
        "sampler": choice["best"],
        "steps": len(sampler.times) - 1,
        "tried": choice["tried"],
        "frechet": round(distance, 3),
        "interval": spread(replicates(features, reference), distance),
        "cpu_s_per_1000_images": round(seconds * 1000 / COUNT, 1),
        "gflops_per_image": round(counter.get_total_flops() / 1e9, 3),
    }


# ---------------------------------------------------------------------- showing


def table(results: list[dict[str, Any]]) -> str:
    """A line for each family: at each number of calls the mean distance of the seeds, half of its bootstrap interval,
    and the seeds' extremes."""
    heads = " | ".join(f"{calls} calls" for calls in CALLS)
    last = CALLS[-1]
    lines = [f"| family | {heads} | best at {CALLS[0]} | at {last} | GFLOPs at {last} | s at {last} | training steps |"]
    lines.append("|---" * (6 + len(CALLS)) + "|")
    for model in MODELS:
        runs = [result for result in results if result["model"] == model]
        cells = []
        for draws in zip(*(run["draws"] for run in runs), strict=True):
            values = [draw["frechet"] for draw in draws]
            half = math.hypot(*((high - low) / 2 for low, high in (draw["interval"] for draw in draws))) / len(runs)
            cells.append(f"{statistics.fmean(values):.1f} ± {half:.1f} ({min(values):.1f}–{max(values):.1f})")
        first, final = runs[0]["draws"][0], runs[0]["draws"][-1]
        seconds = statistics.fmean(run["draws"][-1]["cpu_s_per_1000_images"] for run in runs)
        steps = statistics.fmean(run["training_steps"] for run in runs)
        cost = f"{final['gflops_per_image']:.2f} | {seconds:.0f} | {steps:.0f}"
        lines.append(f"| {model} | {' | '.join(cells)} | {first['sampler']} | {final['sampler']} | {cost} |")
    return "\n".join(lines)


def held_out(data: Path) -> list[float]:
    """The distances of sets of as many real digits that the classifier has not seen: those of a perfect model."""
    images, labels = digits(data)
    judge = train_judge(images, labels, 10, RUNS / "cache")
    reference, unseen = moments(judge.learnt(images)), judge.features(images, judge.held_out)
    return [
        round(frechet_of_moments(moments(part), reference), 3) for part in unseen.split(COUNT) if len(part) == COUNT
    ]


def show() -> None:
    """64 digits of each family's first network at 25 calls."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    figure = Figure(figsize=(13.2, 11.8), layout="constrained")
    axes = figure.subplots(5, 6)
    for axis in axes.flat:
        axis.axis("off")
    for axis, model in zip(axes.flat, MODELS, strict=False):
        axis.imshow(imread(RUNS / f"{slug(model)}-seed-0" / "25.png"), cmap="gray")
        axis.set_title(model, fontsize=10)
    figure.savefig(PICTURE, dpi=90, pil_kwargs={"optimize": True})


def main() -> None:
    arguments = run_arguments(__doc__, MODELS, 1.5)
    if arguments.model:
        run(arguments.model, arguments.seed, arguments.data, arguments.minutes, arguments.folder)
        return
    # The first seed chooses samplers, and DDPM's networks are those of others.
    ordered = sorted(MODELS, key=lambda model: MODELS[model].network_of is not None)
    results = []
    for seed in SEEDS:
        with ThreadPoolExecutor(2) as pool:
            results += list(
                pool.map(partial(launch, seed=seed, script=__file__, runs=RUNS, arguments=arguments), ordered)
            )
    report = {
        "environment": environment("einops"),
        "budget_cpu_minutes": arguments.minutes,
        "count": COUNT,
        "held_out": held_out(arguments.data),
        "runs": results,
    }
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_table(PAGE, "digits", table(results))
    show()


if __name__ == "__main__":
    main()
