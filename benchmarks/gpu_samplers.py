"""Sampler steps and whole samplers against diffusers' schedulers, on the same network (part of gpu.py).

A trivial network has its answer before it is asked: what is left is the cost of the sampler. With a U-Net the time of
the network alone, called as often, is taken off. diffusers' loop is that of its DDPMPipeline, with the times on the
CPU, where they are waited for by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from benchmarks.gpu_bench import Bench, Cell, Row, milliseconds, ratio_of
from torch import Tensor

import lineardiffusion as ld
from lineardiffusion.flexi_unet import FullUNet


@dataclass(frozen=True)
class Rivals:
    """A sampler of the library and a scheduler of diffusers that take the same steps.

    Attributes:
        ours: from a denoiser and a number of steps.
        scheduler, options: of diffusers.
        deterministic: whether the same noise leads both to the same image.
        calls_of_a_step: of the network.
    """

    ours: Callable[[ld.Denoiser, int], Any]
    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    deterministic: bool = True
    calls_of_a_step: int = 1

    def steps(self, calls: int) -> int:
        return calls // self.calls_of_a_step


TRAILING = {"timestep_spacing": "trailing"}
UNCLIPPED = {**TRAILING, "clip_sample": False}  # else DDIM's noise would not be that of the clipped image, as ours is
RIVALS = {
    "DDIM": Rivals(lambda d, n: ld.DDIMSampler(d, ld.grids.trailing(n)), "DDIMScheduler", UNCLIPPED),
    "DDPM": Rivals(lambda d, n: ld.AncestralSampler(d, ld.grids.trailing(n)), "DDPMScheduler", UNCLIPPED, False),
    "DPM-Solver++ 2M": Rivals(
        lambda d, n: ld.DDIMSampler(d, ld.grids.trailing(n), order=2, rule="midpoint"),
        "DPMSolverMultistepScheduler",
        TRAILING,
    ),
    "UniPC": Rivals(
        lambda d, n: ld.DDIMSampler(d, ld.grids.trailing(n), order=2, rule="midpoint", corrector=True),
        "UniPCMultistepScheduler",
        TRAILING,
    ),
    "Heun": Rivals(
        lambda d, n: ld.HeunSampler(d, ld.grids.trailing(n)), "HeunDiscreteScheduler", TRAILING, calls_of_a_step=2
    ),
}


class Trivial(torch.nn.Module):
    """A network that costs nothing: its answer is there before the question."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = torch.nn.Parameter(answer)

    def forward(self, x: Tensor, t_index: Tensor) -> Tensor:
        return self.answer


def make_scheduler(rivals: Rivals) -> Any:
    """A scheduler of diffusers on the schedule of ld.DDPM."""
    import diffusers

    return getattr(diffusers, rivals.scheduler)(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, prediction_type="epsilon", **rivals.options
    )


def their_sample(scheduler: Any, network: Callable[..., Tensor], noise: Tensor, steps: int) -> Tensor:
    """Images as diffusers' pipelines draw them."""
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        times = torch.full((len(x),), t.item(), device=x.device)
        x = scheduler.step(network(scheduler.scale_model_input(x, t), times), t, x).prev_sample
    return x


def samplers(bench: Bench) -> Iterator[Cell]:
    sizes, largest = list(bench.scale.networks), max(bench.scale.networks)
    first = sizes[0]
    for batch, size in ((1, first), (64, first), (16, largest)):
        case = {"what": "step", "network": "none", "shape": [batch, 3, size, size]}
        yield Cell(case, partial(steps, bench, (batch, 3, size, size)))
    for batch in (1, 64):
        case = {"what": "sampler", "network": "none", "shape": [batch, 3, first, first]}
        shape = (batch, 3, first, first)
        yield Cell(case, lambda shape=shape: whole(bench, Trivial(torch.zeros(shape, device=bench.device)), shape))
    for batch in bench.scale.drawn:
        case = {"what": "sampler", "network": bench.scale.networks[first], "shape": [batch, 3, first, first]}
        yield Cell(case, lambda batch=batch: whole(bench, bench.network(FullUNet, first), (batch, 3, first, first)))


@torch.no_grad()
def steps(bench: Bench, shape: tuple[int, ...]) -> list[Row]:
    """A step of first order, η = 0 and 1, of DDPM and of Scale Space Diffusion within a resolution, and diffusers'."""
    x = torch.randn(shape, device=bench.device)
    rows = []
    for name, eta in (("DDIM", 0.0), ("DDPM", 1.0)):
        scheduler = make_scheduler(RIVALS[name])
        scheduler.set_timesteps(1000)
        for kind in (ld.DDPM, ld.ScaleSpaceDiffusion):
            process = kind(shape[1:])
            network = (lambda x, t, answer=x: answer) if kind is ld.DDPM else (lambda x, t, size, answer=x: answer)
            prediction = "noise" if kind is ld.DDPM else "clean"
            sampler = ld.DDIMSampler(ld.Denoiser(network, process, prediction), eta=eta)
            rivals = {
                "ours": lambda s=sampler: s.step(x, 201, 200),
                "theirs": lambda s=scheduler: s.step(x, 200, x).prev_sample,
            }
            times = bench.turns(rivals)
            rows.append(
                {
                    "name": f"{kind.__name__}, η = {eta:g}",
                    "ours_ms": milliseconds(times["ours"]),
                    "theirs_ms": milliseconds(times["theirs"]),
                    **ratio_of(times["ours"], times["theirs"]),
                }
            )
    return rows


@torch.no_grad()
def whole(bench: Bench, network: torch.nn.Module, shape: tuple[int, ...]) -> Iterable[Row]:
    """Whole samplers; times are those of a call of the network and what the sampler does with its answer."""
    noise, process = torch.randn(shape, device=bench.device), ld.DDPM(shape[1:])
    denoiser = ld.Denoiser(network.eval(), process, "noise")
    for name, rivals in RIVALS.items():
        count, scheduler = rivals.steps(bench.scale.calls), make_scheduler(rivals)
        ours = partial(rivals.ours(denoiser, count), len(noise), start=(1000, noise), progress=False)
        theirs = partial(their_sample, scheduler, network, noise, count)
        index = torch.full((len(noise),), 500, device=bench.device)
        calls = count * rivals.calls_of_a_step - (rivals.calls_of_a_step - 1)  # Heun's last step has one
        alone = lambda calls=calls, index=index: [network(noise, index) for _ in range(calls)]  # noqa: E731
        times = bench.turns({"ours": ours, "theirs": theirs, "network": alone})
        per_call = {key: [value / calls for value in values] for key, values in times.items()}
        overhead = {
            key: milliseconds(a - b for a, b in zip(per_call[key], per_call["network"], strict=True))
            for key in ("ours", "theirs")
        }
        yield {
            "name": name,
            "calls": calls,
            "ours_ms": milliseconds(per_call["ours"]),
            "theirs_ms": milliseconds(per_call["theirs"]),
            "network_ms": milliseconds(per_call["network"]),
            "ours_overhead_ms": overhead["ours"],
            "theirs_overhead_ms": overhead["theirs"],
            "difference": difference(rivals, process, noise, count) if rivals.deterministic else None,
            **ratio_of(times["ours"], times["theirs"]),
        }


def difference(rivals: Rivals, process: ld.LinearDiffusion, noise: Tensor, count: int) -> float:
    """Relative difference of the images that both make of the same noise, with a network that depends on the state."""
    ours = rivals.ours(ld.Denoiser(answer, process, "noise"), count)(len(noise), start=(1000, noise), progress=False)
    theirs = their_sample(make_scheduler(rivals), answer, noise, count)
    return float(f"{(ours - theirs).norm() / theirs.norm():.3g}")


def answer(x: Tensor, t_index: Tensor) -> Tensor:
    """Of a network for data of variance ½, about."""
    return 0.7 * x.tanh()
