"""Small networks of digits, trained alike: what benchmarks of samplers draw from.

One network (Flexi-UNet of 16 channels, 0.3 million parameters), 600 steps of AdamW with batches of 32, one
seed, on one core; what differs is the process and what the network predicts. A network that is trained is kept in
runs/benchmark-solvers and not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from lineardiffusion.flexi_unet import FlexiUNet

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "benchmark-solvers"
SHAPE = (1, 32, 32)
STEPS, BATCH_SIZE, GROUPS, LEARNING_RATE, EMA_DECAY, SEED = 600, 32, 8, 2e-3, 0.99, 0

MODELS: dict[str, tuple[Callable[[], ld.LinearDiffusion], str]] = {
    "DDPM": (lambda: ld.DDPM(SHAPE), "data"),
    "SSD, Haar": (
        lambda: ld.ScaleSpaceDiffusion(
            SHAPE, levels=4, mode="haar", resolution_schedule=ld.changes_at([620, 780, 938])
        ),
        "clean",
    ),
    "SSD, bilinear": (lambda: ld.ScaleSpaceDiffusion(SHAPE, levels=4), "clean"),
    "Blurring, data": (lambda: ld.BlurringDiffusion(SHAPE), "data"),
    "Blurring, noise": (lambda: ld.BlurringDiffusion(SHAPE), "noise"),
}
"""The process and the prediction of each model."""


def digits(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 32, 32) in [−1, 1] and their labels, from a .npz file with images (N, 28, 28) of 0…255."""
    with np.load(path) as arrays:
        images = torch.from_numpy(arrays["images"]).float()[:, None] / 127.5 - 1
        return torch.nn.functional.pad(images, (2, 2, 2, 2), value=-1.0), torch.from_numpy(arrays["labels"]).long()


def new_denoiser(model: str) -> ld.Denoiser:
    """An untrained network with its process and prediction."""
    process, prediction = MODELS[model]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = FlexiUNet(
            SHAPE[1], in_channels=1, out_channels=1, model_channels=16, num_res_blocks=1, channel_mult=(1, 1, 2, 2)
        )
    return ld.Denoiser(network, process(), prediction)


def checkpoint(model: str) -> Path:
    return RUNS / f"{model.lower().replace(', ', '-').replace(' ', '-')}.pt"


def trained_denoiser(model: str, data: Path) -> ld.Denoiser:
    """A denoiser with its averaged weights, trained if that is not done yet."""
    denoiser, path = new_denoiser(model), checkpoint(model)
    if not path.exists():
        train(denoiser, digits(data)[0], path)
    denoiser.network.load_state_dict(torch.load(path, weights_only=True))
    return denoiser.eval().requires_grad_(False)


def train(denoiser: ld.Denoiser, images: Tensor, path: Path) -> None:
    """Train, and write the averaged weights, with what it took beside them."""
    process, generator = denoiser.process, torch.Generator().manual_seed(SEED)
    times = ld.times.Mixed(GROUPS)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    average = ld.training.ExponentialMovingAverage(denoiser.network, EMA_DECAY)
    start, total = time.process_time(), 0.0
    for step in range(1, STEPS + 1):
        x0 = images[torch.randint(len(images), (BATCH_SIZE,), generator=generator)]
        t = times.sample(process, BATCH_SIZE, generator)
        optimizer.zero_grad()
        for part in ld.times.group_by_shape(process, t):
            loss = ld.denoising_loss(denoiser, x0[part], t[part], generator=generator).sum() / BATCH_SIZE
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        rates.step()
        average.update(denoiser.network)
        if step % 100 == 0:
            print(f"{path.stem}: step {step}, loss {total / 100:.4f}, {time.process_time() - start:.0f} s", flush=True)
            total = 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"steps": STEPS, "cpu_s": round(time.process_time() - start, 1)}
    path.with_suffix(".json").write_text(json.dumps(report) + "\n", encoding="utf-8")
    with average.applied_to(denoiser.network):
        torch.save(denoiser.network.state_dict(), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    torch.set_num_threads(1)
    data = parser.parse_args().data
    for model in MODELS:
        trained_denoiser(model, data)


if __name__ == "__main__":
    main()
