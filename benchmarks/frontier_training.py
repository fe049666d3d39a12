"""Networks of digits for the frontier: all are the same U-Net and train for the same processor time.

Scale Space Diffusion's learns levels that may be left at any time. A *pair* is the resolution of x_t and that of the
clean image to predict, which is the next finer one where a sampler is to leave a resolution at t. A training step has
some images of each pair, so that one network serves all times of change within the pairs' ranges. Most images are of
16 × 16 pixels: there samplers go wrong, while of 32 × 32 few are enough (docs/frontier.md), and a call costs a third.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import lineardiffusion as ld
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet, FullUNet
from lineardiffusion.training import ExponentialMovingAverage, keyed_generator

SHAPE, WIDTHS = (1, 32, 32), (1, 2, 2, 2)
LEARNING_RATE, WARMUP, EMA_DECAY, CLIP, BATCH_SIZE = 1e-3, 100, 0.998, 1.0, 64
DDPM, SSD, BLURRING, PYRAMID = "DDPM", "Scale Space Diffusion", "Blurring Diffusion", "Pyramidal Flow"
STEPS = 2000  # of DDPM; the processor time of these is that of all
Losses = Callable[[nn.Module, Tensor, torch.Generator], Tensor]


class Pair(NamedTuple):
    """Levels of x_t and of what is predicted, the first and last t, and how many images of a step."""

    level: int
    target: int
    first: int
    last: int
    images: int


PAIRS = (Pair(0, 0, 1, 480, 10), Pair(1, 1, 330, 1000, 56), Pair(1, 0, 330, 520, 8))
IN_TURN = (Pair(2, 2, 650, 1000, 8), Pair(2, 1, 650, 900, 8))  # one at each second step
FILLED = 1.25  # so many times as many images, and a step takes about as long as one of DDPM


def network_of(model: str) -> nn.Module:
    """The network of a model, with fresh weights."""
    kind = FlexiUNet if model in (SSD, PYRAMID) else FullUNet
    return kind(SHAPE[1:], in_channels=1, out_channels=1, **{**SETTINGS["tiny"], "channel_mult": WIDTHS})


@cache
def process_of(model: str, changes: tuple[int, ...] = ()) -> ld.LinearDiffusion:
    """The process of a model; the Haar levels of Scale Space Diffusion are left at `changes`, the finest first."""
    if model == SSD and changes:
        return ld.ScaleSpaceDiffusion(SHAPE, len(changes) + 1, resolution_schedule=ld.changes_at(changes), mode="haar")
    if model == PYRAMID:
        return ld.families.PyramidFlow(SHAPE)
    return ld.BlurringDiffusion(SHAPE) if model == BLURRING else ld.DDPM(SHAPE)


def denoiser_of(model: str, network: nn.Module, changes: tuple[int, ...] = ()) -> ld.Denoiser:
    process = process_of(model, changes)
    if isinstance(process, ld.families.PyramidFlow):
        return process.denoiser(network)
    return ld.Denoiser(network, process, "data" if model == BLURRING else "clean")


def _of_pair(pair: Pair) -> Losses:
    """Losses at times of their own; where the resolution changes at one time for all, which is drawn."""
    crossing = pair.level != pair.target

    def losses(network: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        t = torch.randint(pair.first, pair.last + 1, (1 if crossing else len(images),), generator=generator)
        changes = [1] * pair.target + ([int(t)] if crossing else [])
        denoiser = denoiser_of(SSD, network, tuple(changes))
        return ld.denoising_loss(denoiser, images, t.expand(len(images)), generator=generator)

    return losses


def _at_all_times(model: str) -> Losses:
    def losses(network: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        denoiser = denoiser_of(model, network)
        t = ld.times.Uniform().sample(denoiser.process, len(images), generator)
        return ld.denoising_loss(denoiser, images, t, generator=generator)

    return losses


def _pyramid(network: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    denoiser = denoiser_of(PYRAMID, network)
    assert isinstance(denoiser.process, ld.families.PyramidFlow)
    return denoiser.process.loss(denoiser, images, generator)


def parts_of(model: str, step: int, share: float = 1.0) -> list[tuple[int, Losses]]:
    """What a training step is made of: numbers of images, or a share of them, and their losses."""
    if model == SSD:
        return [(round(share * pair.images), _of_pair(pair)) for pair in (*PAIRS, IN_TURN[step % len(IN_TURN)])]
    if model == PYRAMID:  # each part is of one stage
        return [(BATCH_SIZE // 4, _pyramid)] * 4
    return [(BATCH_SIZE, _at_all_times(model))]


def training(
    model: str, seed: int, images: Tensor, share: float = 1.0
) -> Iterator[tuple[nn.Module, ExponentialMovingAverage]]:
    """A network and its averaged weights, after each step of its training."""
    torch.manual_seed(seed)
    network = network_of(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    average = ExponentialMovingAverage(network, EMA_DECAY)
    for step in itertools.count():
        counts, parts = zip(*parts_of(model, step, share), strict=True)
        count, generator = sum(counts), keyed_generator(seed, "step", step)
        chosen = images[torch.randint(len(images), (count,), generator=generator)]
        optimizer.zero_grad()
        for losses, own in zip(parts, chosen.split(counts), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                loss = losses(network, own, generator).sum() / count
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP)
        optimizer.step()
        average.update(network)
        yield network, average


def train(model: str, seed: int, images: Tensor, cpu_s: float, folder: Path) -> None:
    """Train for some processor time. Writes averaged weights into the folder: time.pt, those after STEPS steps,
    steps.pt, and of Scale Space Diffusion both.pt, those after STEPS steps of FILLED times as many images, if there is
    time for as many; and training.json."""
    folder.mkdir(parents=True, exist_ok=True)
    report = {}
    for name, share in (("time", 1.0), ("both", FILLED))[: 2 if model == SSD else 1]:
        start = time.process_time()
        for step, (network, average) in enumerate(training(model, seed, images, share), 1):
            spent = time.process_time() - start
            if step % 100 == 0:
                print(name, step, round(spent, 1), flush=True)
            ended = spent >= cpu_s or (name == "both" and step == STEPS)
            reached = name == "time" and step == STEPS
            for kept in ["steps"] * reached + [name] * ended:
                with average.applied_to(network):
                    torch.save(network.state_dict(), folder / f"{kept}.pt")
                report[kept] = {"steps": step, "cpu_s": round(spent, 1)}
            if ended:
                break
    (folder / "training.json").write_text(json.dumps(report) + "\n", encoding="utf-8")
