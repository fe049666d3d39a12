"""Training and sampling steps of the paper's networks: DDPM against Scale Space Diffusion (part of gpu.py).

A step is all that training takes: the noisy image and what it should become, the loss, gradients, AdamW and the average
of the weights. Every pair of resolutions (r(t), r(t − 1)) is timed in turns with DDPM, and weighted by how often it is
drawn (`ld.times.ByShape`: every t with the same probability).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from benchmarks.gpu_bench import NETWORKS, Bench, Cell, Row, milliseconds, ratio_of, weighted
from examples.flops import Pair, call_gflops, pairs_of

import lineardiffusion as ld
from lineardiffusion.flexi_unet import FlexiUNet, FullUNet

Name = str | Pair
"""Of a step: "DDPM", or a pair of shapes of Scale Space Diffusion."""

PAPER_TRAINING = {(64, 2): 0.89, (64, 3): 0.80, (64, 4): 0.75, (256, 3): 0.68, (256, 4): 0.59, (256, 6): 0.49}
"""Hours of training over those of DDPM, Table 2 of Scale Space Diffusion, by size and levels."""
PAPER_SAMPLING = {(64, 2): 0.95, (64, 4): 0.82, (256, 2): 0.91, (256, 4): 0.89}
"""Seconds of inference with Flexi-UNet over those with the Full UNet, on an A4000 (Table 4)."""
SAMPLING_LEVELS = 2, 4


def changes(pair: Pair) -> bool:
    return pair[0] != pair[1]


class Levels:
    """Scale Space Diffusion of an image size with several numbers of levels: which steps it takes, and how often.

    Attributes:
        process: the one with most levels, whose steps are those of all.
        times: a time of each pair.
        shares: of the steps, for each number of levels.
    """

    def __init__(self, size: int, levels: tuple[int, ...]) -> None:
        self.shape = (3, size, size)
        processes = {count: ld.ScaleSpaceDiffusion(self.shape, count) for count in levels}
        self.process = processes[max(levels)]
        self.times: dict[Pair, int] = {}
        for t in range(1, 1001):
            pair = (self.process.shape(t), self.process.shape(t - 1))
            self.times.setdefault(pair, t)
        counts = {count: pairs_of(process, range(1, 1001)) for count, process in processes.items()}
        self.shares = {
            count: {pair: number / 1000 for pair, number in found.items()} for count, found in counts.items()
        }

    def operations(self, settings: dict[str, Any]) -> dict[int, float]:
        """Of a call of Flexi-UNet, averaged over the steps, relative to the Full UNet's for DDPM."""
        with torch.device("meta"):
            flexi, full = FlexiUNet(self.shape[1], **settings), FullUNet(self.shape[1], **settings)
        each = {pair: call_gflops(flexi, *pair) for pair in self.times}
        whole = call_gflops(full, self.shape, self.shape)
        return {
            count: sum(share * each[pair] for pair, share in shares.items()) / whole
            for count, shares in self.shares.items()
        }


# ---------------------------------------------------------------------- training


class Training:
    """A network that is trained."""

    def __init__(self, bench: Bench, denoiser: ld.Denoiser, precision: str, weighting: Any) -> None:
        self.bench, self.denoiser, self.precision, self.weighting = bench, denoiser, precision, weighting
        self.optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, fused=True)
        self.average = ld.training.ExponentialMovingAverage(denoiser.network)

    def step(self, x0: torch.Tensor, t: torch.Tensor) -> None:
        with self.bench.autocast(self.precision):
            loss = ld.denoising_loss(self.denoiser, x0, t, weighting=self.weighting).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.denoiser.network)


def training(bench: Bench) -> Iterator[Cell]:
    yield from _training(bench, compiled=False)


def compiled(bench: Bench) -> Iterator[Cell]:
    yield from _training(bench, compiled=True)


def _training(bench: Bench, compiled: bool) -> Iterator[Cell]:
    precisions = bench.scale.precisions
    for precision in reversed(precisions) if compiled else precisions:  # what is used first, should time run out
        for size, batch in bench.scale.batches.items():
            case = {"size": size, "precision": precision, "mode": "compiled" if compiled else "eager"}
            measure = partial(training_rows, bench, size, precision, compiled)
            yield Cell(case, lambda measure=measure, batch=batch: bench.fitting(batch, measure))


def training_rows(bench: Bench, size: int, precision: str, compiled: bool, batch: int) -> list[Row]:
    """Training steps of Scale Space Diffusion over those of DDPM, for each number of levels."""
    found = Levels(size, bench.scale.levels[size])
    ddpm = ld.Denoiser(bench.network(FullUNet, size), ld.DDPM(found.shape), "noise")
    ssd = ld.Denoiser(bench.network(FlexiUNet, size), found.process, "clean")
    full, flexi = Training(bench, ddpm, precision, ld.SNR()), Training(bench, ssd, precision, ld.MinSNR())
    x0 = torch.rand(batch, *found.shape, device=bench.device).mul_(2).sub_(1).to(memory_format=torch.channels_last)
    times = torch.randint(1, 1001, (batch,), generator=torch.Generator().manual_seed(0))
    steps: dict[Name, Callable[[], None]] = {"DDPM": partial(full.step, x0, times)}
    for pair, t in sorted(found.times.items(), reverse=True):  # the finest first
        steps[pair] = partial(flexi.step, x0, ld.times.draw_alike(found.process, t, batch))
    seconds: dict[Name, float] = {}
    if compiled:
        seconds = compile_steps(bench, steps, [full, flexi])
        steps = {name: step if name in seconds else eagerly(step) for name, step in steps.items()}
        kept = {name for name in steps if name == "DDPM" or changes(name) or name in seconds}
        steps = {name: step for name, step in steps.items() if name in kept}
    for step in steps.values():  # the first one makes what later ones find
        step()
    peaks = {name: bench.peak(step) for name, step in steps.items()}
    measured = bench.turns(steps)
    rows, operations = [], found.operations(NETWORKS[bench.scale.networks[size]])
    for count, shares in found.shares.items():
        if not shares.keys() <= steps.keys():
            rows.append({"levels": count, "note": "not reached in the time there was"})
            continue
        ssd_peaks = [peak for peak in (peaks[pair] for pair in shares) if peak is not None]
        rows.append(
            {
                "levels": count,
                "batch": batch,
                "ddpm_ms": milliseconds(measured["DDPM"]),
                **ratio_of(weighted(measured, shares, lambda pair: pair), measured["DDPM"]),
                "operations": round(operations[count], 4),
                "paper": PAPER_TRAINING.get((size, count)),
                "ddpm_peak_gib": peaks["DDPM"],
                "ssd_peak_gib": max(ssd_peaks, default=None),
                "compile_s": [round(seconds[name], 1) for name in ("DDPM", *shares) if name in seconds],
                "steps": [
                    {"from": pair[0][1], "to": pair[1][1], "share": share, "ms": milliseconds(measured[pair])}
                    for pair, share in shares.items()
                ],
            }
        )
    return rows


def compile_steps(bench: Bench, steps: dict[Name, Callable[[], None]], rivals: list[Training]) -> dict[Name, float]:
    """Seconds until each step was compiled and done, of as many as the time allows; those that change the resolution,
    one of a thousand each, are left as they are."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(steps))
    for rival in rivals:
        rival.denoiser.network.compile(dynamic=False, backend=bench.scale.backend)
    seconds: dict[Name, float] = {}
    expected = bench.scale.first_compilation
    for name, step in steps.items():
        if name != "DDPM" and changes(name):
            continue
        # A fifth for what is measured afterwards. Later graphs are smaller.
        if bench.left() < 1.2 * expected:
            break
        start = time.perf_counter()
        step()
        bench.finish()
        seconds[name] = expected = time.perf_counter() - start
        print(f"    compiled {name}: {expected:.0f} s", flush=True)
    if len(seconds) < 2:
        raise TimeoutError(f"compiled {len(seconds)} steps in the time there was")
    return seconds


def eagerly(step: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with torch.compiler.set_stance("force_eager"):
            step()

    return run


# ---------------------------------------------------------------------- sampling


def sampling(bench: Bench) -> Iterator[Cell]:
    for size, most in bench.scale.batches.items():
        for precision, batch in (("float32", 1), ("float32", most), ("bfloat16", most)):
            case = {"size": size, "precision": precision}
            measure = partial(sampling_rows, bench, size, precision)
            yield Cell(case, lambda measure=measure, batch=batch: bench.fitting(batch, measure))


@torch.no_grad()
def sampling_rows(bench: Bench, size: int, precision: str, batch: int) -> list[Row]:
    """Ancestral steps with Flexi-UNet over those with the Full UNet, and over DDPM's, over a whole sample of 1000."""
    levels = tuple(sorted({*SAMPLING_LEVELS, *bench.scale.levels[size]}))
    found = Levels(size, tuple(count for count in levels if count <= max(bench.scale.levels[size])))
    full, flexi = bench.network(FullUNet, size).eval(), bench.network(FlexiUNet, size).eval()
    samplers = {
        "DDPM": ld.AncestralSampler(ld.Denoiser(full, ld.DDPM(found.shape), "noise")),
        "full": ld.AncestralSampler(ld.Denoiser(full, found.process)),
        "flexi": ld.AncestralSampler(ld.Denoiser(flexi, found.process)),
    }

    def step(sampler: ld.AncestralSampler, x: torch.Tensor, t: int) -> None:
        with bench.autocast(precision):
            sampler.step(x, t, t - 1)

    def state(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(batch, *shape, device=bench.device).to(memory_format=torch.channels_last)

    steps: dict[Any, Callable[[], None]] = {"DDPM": partial(step, samplers["DDPM"], state(found.shape), 500)}
    for pair, t in found.times.items():
        for name in ("flexi", "full"):
            steps[name, pair] = partial(step, samplers[name], state(pair[0]), max(t, 2))
    measured = bench.turns(steps)
    rows = []
    for count, shares in found.shares.items():
        flexi_s, full_s = (
            weighted(measured, shares, lambda pair, name=name: (name, pair)) for name in ("flexi", "full")
        )
        over_full, over_ddpm = ratio_of(flexi_s, full_s), ratio_of(flexi_s, measured["DDPM"])
        rows.append(
            {
                "levels": count,
                "batch": batch,
                "ddpm_s": round(milliseconds(measured["DDPM"]), 4),  # a thousand steps, in seconds
                **over_full,
                "over_ddpm": over_ddpm["ratio"],
                "over_ddpm_interval": over_ddpm["interval"],
                "paper": PAPER_SAMPLING.get((size, count)),
            }
        )
    return rows
