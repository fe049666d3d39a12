"""A minute of real training at 32 × 32, from the first step to a picture (part of gpu.py).

Digits, where a file is given; else discs of random places, sizes and greys. Scale Space Diffusion of three levels with
Flexi-UNet under bfloat16 autocast; the images are on the device, and no step waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from benchmarks.gpu_bench import Bench, Cell, Row
from benchmarks.small_models import SHAPE, digits
from torch import Tensor

import lineardiffusion as ld
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet

LEVELS, RATE, WARM_UP, DECAY = 3, 5e-4, 100, 0.995
STEPS, POINTS = 50, 60
PICTURE = "gpu_samples.png"


def discs(count: int, generator: torch.Generator) -> Tensor:
    """Images (count, 1, 32, 32) in [−1, 1] of a soft-edged disc each."""
    centre, radius, grey = (torch.rand(count, n, 1, 1, generator=generator) for n in (2, 1, 1))
    axis = torch.arange(SHAPE[1]) + 0.5
    distance = torch.hypot(axis[:, None] - (8 + 16 * centre[:, :1]), axis - (8 + 16 * centre[:, 1:]))
    inside = (3 + 6 * radius - distance + 0.5).clamp(0, 1)
    return (0.5 + 1.5 * grey) * inside - 1


def learning(bench: Bench) -> Iterator[Cell]:
    source = bench.data.name if bench.data else "discs"
    yield Cell({"data": source}, partial(learn, bench))


def learn(bench: Bench) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    images = (digits(bench.data)[0] if bench.data else discs(10_000, generator)).to(bench.device)
    batch, channels, count = bench.scale.images, bench.scale.channels, bench.scale.samples
    process = ld.ScaleSpaceDiffusion(SHAPE, LEVELS)
    with bench.device:
        network = FlexiUNet(
            SHAPE[1], in_channels=1, out_channels=1, **{**SETTINGS["small"], "model_channels": channels}
        )
    denoiser = ld.Denoiser(network, process)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, fused=True)
    rates = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=WARM_UP)
    average = ld.training.ExponentialMovingAverage(network, DECAY)
    losses: list[Tensor] = []
    end, start = min(bench.scale.learning, max(0.5, bench.left() - 10)), time.perf_counter()
    while not losses or time.perf_counter() - start < end:
        x0 = images[torch.randint(len(images), (batch,), device=bench.device)]
        with bench.autocast("bfloat16"):
            loss = ld.denoising_loss(denoiser, x0, process.sample_timesteps(batch, generator)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.step()
        average.update(network)
        losses.append(loss.detach())
        if len(losses) % 50 == 0:
            bench.finish()  # a queue of steps that were not done yet would last longer than was asked for
    bench.finish()
    seconds = time.perf_counter() - start
    sampler = ld.DDIMSampler(denoiser.eval(), STEPS, clip=(-1, 1))
    drawn: list[Tensor] = []
    with average.applied_to(network):
        drawing = bench.seconds(lambda: drawn.append(sampler(count, seeds=range(count), progress=False)))
    ld.save_images(drawn[0], bench.folder / PICTURE)
    return [
        {
            "model": f"ScaleSpaceDiffusion, {LEVELS} levels, {channels} channels",
            "batch": batch,
            "steps": len(losses),
            "seconds": round(seconds, 2),
            "images_per_second": round(len(losses) * batch / seconds, 1),
            "loss": curve(losses),
            "samples": count,
            "sampling_seconds": round(drawing, 3),
            "picture": PICTURE,
        }
    ]


def curve(losses: list[Tensor]) -> list[list[float]]:
    """Steps and mean losses of as many stretches of equal length as there are points."""
    values = torch.stack(losses).float().cpu()
    parts = values.tensor_split(min(POINTS, len(values)))
    ends = torch.tensor([len(part) for part in parts]).cumsum(0).tolist()
    return [[end, round(float(part.mean()), 5)] for end, part in zip(ends, parts, strict=True)]
