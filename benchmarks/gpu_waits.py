"""How often training and sampling wait for the device, and what they copy to and from it, for every family (part of
gpu.py).

Everything is done twice before it is counted, from the same seeds: what depends on the times alone is made in the first
visit. Times are drawn on the CPU, so that a loss copies a few numbers to the device, for which nobody waits.
"""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.gpu_bench import Bench, Cell, Row
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import lineardiffusion as ld
from lineardiffusion.families import Family

SHAPE, BATCH, ENDS = (3, 32, 32), 4, 3
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")  # cudaDeviceSynchronize is the profiler's own
SCALARS = "aten::_local_scalar_dense"  # what `item` is
"""A number that Python looks at: a wait where it is the device's, none where it is the CPU's."""


class Network(torch.nn.Module):
    """Some function of the state, as large as a family asks for."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.family = family
        self.factor = torch.nn.Parameter(torch.tensor([[0.3]]))

    def forward(self, x: Tensor, time: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
        output = torch.nn.functional.linear(x[..., None].sin(), self.factor)[..., 0]
        if self.family == "CriticallyDamped":  # positions and velocities, of which one is predicted
            return output.chunk(2, 1)[0]
        if size is not None and tuple(size) != tuple(x.shape[2:]):
            return torch.nn.functional.interpolate(output, tuple(size))
        return torch.cat([output, output], 1) if self.family == "BlueNoise" else output


def families(count: int | None) -> list[type[Family]]:
    """All families of the literature, or the first few."""
    found = [kind for kind in vars(ld.families).values() if inspect.isclass(kind) and issubclass(kind, Family)]
    return [kind for kind in found if kind is not Family][:count]


def waits(bench: Bench) -> Iterator[Cell]:
    yield Cell({"family": "none"}, partial(control, bench))
    for kind in families(bench.scale.families):
        yield Cell({"family": kind.__name__}, partial(rows_of, bench, kind))


def control(bench: Bench) -> list[Row]:
    """That the profiler sees a number that is looked at, and a copy each way: else its zeros mean nothing."""
    number, tensor = torch.ones((), device=bench.device), torch.ones(3)

    def function() -> None:
        number.item()
        tensor.to(bench.device)

    counted = counts(bench, function)
    unseen = [key for key, count in counted.items() if not count]
    if unseen:
        raise RuntimeError(f"the profiler sees nothing of what was done: {', '.join(unseen)}")
    return [{"work": "a control", "times": 1, **counted}]


def rows_of(bench: Bench, kind: type[Family]) -> Iterator[Row]:
    process = kind(SHAPE)
    denoiser = process.denoiser(Network(kind.__name__).to(bench.device))
    x0 = process.data(torch.rand(BATCH, *SHAPE, device=bench.device) * 2 - 1)
    for work, run in {"diffuse": diffuse, "loss": loss, "step": steps}.items():
        repeats, function = run(denoiser, x0)
        counted = counts(bench, function)
        row = {"work": work, "times": repeats, **counted}
        if bench.on_gpu:
            row["met"] = counted["waits"] == counted["to_host"] == 0
        yield row


def diffuse(denoiser: ld.Denoiser, x0: Tensor) -> tuple[int, Callable[[], None]]:
    """x_t, for one time and for one each."""
    process = denoiser.process
    middle = round(process.end / 2) if process.num_steps else process.end / 2
    t = process.sample_timesteps(len(x0), torch.Generator().manual_seed(0))

    def run() -> None:
        process.diffuse(x0, middle)
        process.diffuse(x0, t)

    return 2, run


def loss(denoiser: ld.Denoiser, x0: Tensor) -> tuple[int, Callable[[], None]]:
    """The paper's loss, and its gradients."""
    process = denoiser.process
    assert isinstance(process, Family)

    def run() -> None:
        torch.manual_seed(0)
        process.loss(denoiser, x0).mean().backward()

    return 1, run


def steps(denoiser: ld.Denoiser, x0: Tensor) -> tuple[int, Callable[[], None]]:
    """The first and the last steps of the paper's sampler, and those between which the shape changes."""
    process = denoiser.process
    assert isinstance(process, Family)
    sampler = process.sampler(denoiser)
    pairs = list(itertools.pairwise(sampler.times))
    taken = pairs[:ENDS] + pairs[ENDS:][-ENDS:]
    taken += [(t, s) for t, s in pairs[ENDS:-ENDS] if process.shape(t) != process.shape(s)]
    states = [x0.new_ones(len(x0), *process.shape(t)) for t, _ in taken]

    @torch.no_grad()
    def run() -> None:
        for x_t, (t, s) in zip(states, taken, strict=True):
            sampler.step(x_t, t, s)

    return len(taken), run


def counts(bench: Bench, function: Callable[[], None]) -> dict[str, int]:
    """What the profiler sees of a function that was called before."""
    function()
    function()
    bench.finish()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_gpu else [])]
    with profile(activities=activities) as profiler:
        function()
    names = Counter(event.name for event in profiler.events())
    found = {"scalars": names[SCALARS]}
    if bench.on_gpu:
        found["waits"] = sum(names[name] for name in WAITS)
        for key, copy in (("to_host", "Memcpy DtoH"), ("to_device", "Memcpy HtoD")):
            found[key] = sum(count for name, count in names.items() if name.startswith(copy))
    return found
