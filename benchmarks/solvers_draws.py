"""Digits drawn by our samplers, and by diffusers' schedulers from the same network and noise (part of solvers.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmarks.small_models import MODELS, RUNS, SHAPE, trained_denoiser
from torch import Tensor

import lineardiffusion as ld

COUNT, CHUNK = 1000, 250
FOLDER = RUNS / "draws"


@dataclass(frozen=True)
class Ours:
    """A sampler of the library on a grid."""

    grid: str
    options: dict[str, Any] = field(default_factory=dict)
    ancestral: bool = False

    def draw(self, denoiser: ld.Denoiser, calls: int, count: int) -> tuple[Tensor, int]:
        kind = ld.AncestralSampler if self.ancestral else ld.DDIMSampler
        sampler = kind(denoiser, getattr(ld.grids, self.grid)(calls), **self.options)
        parts = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
        return torch.cat([sampler(len(seeds), seeds=seeds, progress=False) for seeds in parts]), calls


@dataclass(frozen=True)
class Peer:
    """A scheduler of diffusers, unmodified, for a network that predicts x_0 on DDPM's linear schedule."""

    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    calls_of_a_step: int = 1

    def draw(self, denoiser: ld.Denoiser, calls: int, count: int) -> tuple[Tensor, int]:
        import diffusers

        scheduler = getattr(diffusers, self.scheduler)(
            num_train_timesteps=1000,
            beta_start=1e-4,
            beta_end=0.02,
            beta_schedule="linear",
            prediction_type="sample",
            **self.options,
        )
        steps = calls if self.calls_of_a_step == 1 else (calls + 1) // 2  # Heun's last step has one
        drawn, used = [], 0
        for start in range(0, count, CHUNK):
            scheduler.set_timesteps(steps)
            x = noise(range(start, min(start + CHUNK, count))) * scheduler.init_noise_sigma
            used = 0
            for t in scheduler.timesteps:
                with torch.no_grad():
                    clean = denoiser.network(scheduler.scale_model_input(x, t), t.expand(len(x)))
                x = scheduler.step(clean, t, x).prev_sample.float()
                used += 1
            drawn.append(x)
        return torch.cat(drawn), used


Solver = Ours | Peer

# Of our samplers, by the order that a table names.
FIRST: dict[str, Any] = {}
SECOND = {"order": 2}
MIDPOINT = {"order": 2, "rule": "midpoint"}
THIRD = {"order": 3}
CORRECTED = {"order": 3, "corrector": True}

OURS: dict[str, Solver] = {
    "1, uniform": Ours("uniform", FIRST),
    "1, log_snr": Ours("log_snr", FIRST),
    "2, log_snr": Ours("log_snr", SECOND),
    "2 midpoint, uniform": Ours("uniform", MIDPOINT),
    "2 midpoint, trailing": Ours("trailing", MIDPOINT),
    "2 midpoint, log_snr": Ours("log_snr", MIDPOINT),
    "3, log_snr": Ours("log_snr", THIRD),
    "3 corrector, log_snr": Ours("log_snr", CORRECTED),
    "ancestral 1, uniform": Ours("uniform", FIRST, ancestral=True),
    "ancestral 2 midpoint, log_snr": Ours("log_snr", MIDPOINT, ancestral=True),
}
PEERS: dict[str, Solver] = {
    "DPM-Solver++ 2M, linspace": Peer("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}),
    "DPM-Solver++ 2M, trailing": Peer("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
    "DPM-Solver++ 2M, karras": Peer("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM-Solver++ 2M, lu": Peer("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
    "UniPC, linspace": Peer("UniPCMultistepScheduler", {"timestep_spacing": "linspace"}),
    "UniPC, trailing": Peer("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "UniPC, karras": Peer("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
    "UniPC, exponential": Peer("UniPCMultistepScheduler", {"use_exponential_sigmas": True}),
    "Heun, linspace": Peer("HeunDiscreteScheduler", {"timestep_spacing": "linspace"}, calls_of_a_step=2),
    "Heun, karras": Peer("HeunDiscreteScheduler", {"use_karras_sigmas": True}, calls_of_a_step=2),
}
MAIN = (
    "1, uniform",
    "2 midpoint, log_snr",
    "3, log_snr",
    "DPM-Solver++ 2M, trailing",
    "DPM-Solver++ 2M, karras",
    "DPM-Solver++ 2M, lu",
    "UniPC, karras",
    "UniPC, exponential",
)
"""What is drawn of DDPM at other numbers of calls than 5 and 10."""
OTHERS = (
    "1, uniform",
    "1, log_snr",
    "2 midpoint, uniform",
    "2 midpoint, trailing",
    "2 midpoint, log_snr",
    "3, log_snr",
)
"""What is drawn of the other models."""


def noise(seeds: range) -> Tensor:
    """What our samplers start from: each seed has a generator."""
    return torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def kept(model: str, name: str, calls: int, count: int = COUNT) -> Path:
    """Where the digits of a solver are kept."""
    return FOLDER / f"{model}, {name}, {calls} calls, {count}.pt".replace(" ", "-").replace(",", "").lower()


def drawn(model: str, name: str, calls: int, data: Path, count: int = COUNT) -> tuple[Tensor, int] | None:
    """Digits (count, 1, 32, 32) and how many calls of the network each took, kept from an earlier time if they are
    there; None where a grid has not so many different times."""
    path = kept(model, name, calls, count)
    if not path.exists():
        solver = {**OURS, **PEERS}[name]
        try:
            images, used = solver.draw(trained_denoiser(model, data), calls, count)
        except ValueError as error:
            if "n: expected" not in str(error):
                raise
            return None
        FOLDER.mkdir(parents=True, exist_ok=True)
        torch.save({"images": images.half(), "calls": used}, path)
    found = torch.load(path, weights_only=True)
    return found["images"].float(), found["calls"]


def jobs() -> list[tuple[str, str, int]]:
    """Model, solver and calls of all that is drawn."""
    ddpm = [("DDPM", name, calls) for calls in (5, 10) for name in (*OURS, *PEERS)]
    ddpm += [("DDPM", name, calls) for calls in (3, 4, 7, 15, 25, 50) for name in MAIN]
    models = [model for model in MODELS if model != "DDPM"]
    return ddpm + [(model, name, calls) for model in models for calls in (5, 10, 25) for name in OTHERS]
