"""What the library costs beside the arithmetic that a formula asks for: steps, losses, opaque chains, building.

    python benchmarks/steps.py               about five minutes; writes results/steps.json and the table in
                                             docs/benchmarks.md

Every figure of time is a ratio of two measured side by side, on one thread. Says which bounds are missed, and ends with
an error then.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

import lineardiffusion as ld
from lineardiffusion.testing import Opaque
from numerics import line, row, table
from runs import write_table
from timing import environment, ratio

Row = dict[str, Any]
HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "steps.json", HERE.parent / "docs" / "benchmarks.md"

CELLS = [(1, 3, 64, 64), (64, 3, 64, 64)]


def trivial(*answers: Tensor) -> Callable[..., Tensor]:
    """A network that costs nothing: its answer is there before the question, one for each shape."""
    by_shape = {tuple(answer.shape[2:]): answer for answer in answers}
    return lambda x, t_index, size=None: by_shape[tuple(x.shape[2:]) if size is None else tuple(size)]


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def bare_steps() -> Iterator[Row]:
    """A sampler's step / the arithmetic it cannot do without, on the same tensors."""
    for shape, bound in zip(CELLS, (1.6, 1.15), strict=True):
        x, clean = images(*shape), images(*shape)
        sampler = ld.AncestralSampler(ld.Denoiser(trivial(clean), ld.DDPM(shape[1:])))

        def bare(x: Tensor = x, clean: Tensor = clean) -> Tensor:
            return torch.add(torch.add(0.3 * clean, x, alpha=0.6), torch.randn_like(x), alpha=0.1)

        with torch.no_grad():
            figures = ratio(lambda s=sampler, x=x: s.step(x, 201, 200), bare, rounds=41)
        case = f"{shape}"
        yield row("DDPM step / two multiply-adds and the draw", case, bound, figures["ratio"], **figures)
    for shape in (*CELLS, (1, 3, 256, 256)):
        x, clean = images(*shape), images(*shape)
        sampler = ld.AncestralSampler(ld.Denoiser(trivial(clean), ld.BlurringDiffusion(shape[1:]), "data"))
        basis = ld.bases.Cosine(shape[1:])

        def transforms(x: Tensor = x, basis: Any = basis) -> Tensor:
            return basis.synthesise(basis.analyse(x)) + torch.randn_like(x)

        with torch.no_grad():
            figures = ratio(lambda p=sampler, x=x: p.step(x, 201, 200), transforms, rounds=21)
            name = "Blurring step (predicting data) / its two transforms and the draw"
            yield row(name, f"{shape}", None, figures["ratio"], **figures)
        sampler = ld.AncestralSampler(ld.Denoiser(trivial(clean), ld.BlurringDiffusion(shape[1:])))
        with torch.no_grad():
            figures = ratio(lambda p=sampler, x=x: p.step(x, 201, 200), transforms, rounds=21)
        case = f"{shape}"
        yield row("Blurring step / its two transforms and the draw", case, 2.0, figures["ratio"], **figures)


def peers_steps() -> Iterator[Row]:
    """Steps with η = 1 and 0 / those of diffusers' schedulers, on the same tensors."""
    for shape in (*CELLS, (16, 3, 64, 64), (16, 3, 256, 256)):
        x = images(*shape)
        for eta, kind in ((1.0, DDPMScheduler), (0.0, DDIMScheduler)):
            scheduler = kind(num_train_timesteps=1000, prediction_type="sample", beta_start=1e-4, beta_end=0.02)
            scheduler.set_timesteps(1000)
            for process in (ld.DDPM(shape[1:]), ld.ScaleSpaceDiffusion(shape[1:], levels=4)):
                sampler = ld.DDIMSampler(ld.Denoiser(trivial(x), process), eta=eta, clip=(-1, 1))
                with torch.no_grad():
                    figures = ratio(
                        lambda s=sampler, x=x: s.step(x, 201, 200),
                        lambda s=scheduler, x=x: s.step(x, 200, x).prev_sample,
                        rounds=21,
                    )
                case = f"{shape}, {type(process).__name__}"
                yield row(f"step, η = {eta:g} / {kind.__name__}.step", case, 1.0, figures["ratio"], **figures)


def training_steps() -> Iterator[Row]:
    """A loss of what is not "clean" / one of "clean", with a network that costs nothing."""
    shape = (256, 3, 32, 32)
    x0 = images(*shape)
    for process in (ld.DDPM(shape[1:]), ld.BlurringDiffusion(shape[1:])):
        t = process.sample_timesteps(shape[0], torch.Generator().manual_seed(0))
        losses = {name: ld.Denoiser(trivial(x0), process, name) for name in ("clean", "noise", "velocity", "flow")}
        for name in ("noise", "velocity", "flow"):
            figures = ratio(
                lambda d=losses[name], t=t: ld.denoising_loss(d, x0, t),
                lambda d=losses["clean"], t=t: ld.denoising_loss(d, x0, t),
                rounds=21,
            )
            case = f"{shape}, {type(process).__name__}"
            yield row(f"loss of {name} / of clean", case, 1.1, figures["ratio"], **figures)


class Counted(Opaque):
    """Counts how often M is applied."""

    applications = 0

    def apply(self, x: Tensor) -> Tensor:
        Counted.applications += 1
        return super().apply(x)


def opaque_chains() -> Iterator[Row]:
    """Applications of the steps of a chain of which only `apply` is known."""
    steps, event = 1000, (1, 16, 16)
    blur = ld.Convolution(torch.tensor([0.02, 0.96, 0.02]), event)
    alpha_bar = ld.schedules.linear(steps)
    ratios = [alpha_bar.signal(t) / alpha_bar.signal(t - 1) for t in range(1, steps + 1)]
    chain = [scale * Counted(blur) for scale in ratios]
    process = ld.LinearDiffusion(
        chain, [alpha_bar.sigma(t) for t in range(steps + 1)], [alpha_bar.signal(t) for t in range(steps + 1)]
    )
    x0 = images(8, *event)
    Counted.applications = 0
    process.diffuse(x0, torch.tensor([1, 200, 300, 400, 600, 800, 900, 1000]))
    yield row("applications for one batch of 8 times, T = 1000", "", steps, Counted.applications)
    with torch.no_grad():
        Counted.applications = 0
        x_t = process.diffuse(x0, 400)
        Counted.applications = 0
        process.posterior(x_t, x0, 400, 399).sample()
        products = Counted.applications
        for eta in (1.0, 0.0):
            sampler = ld.DDIMSampler(ld.Denoiser(trivial(x0), process, "data"), 25, eta=eta)
            Counted.applications = 0
            sampler(8, seeds=range(8), progress=False)
            yield row(
                f"applications of 25 steps with η = {eta:g}, T = 1000, over those of one posterior ({products})",
                "",
                2.0 * steps,
                Counted.applications / products,
            )


def building() -> Iterator[Row]:
    """Seconds until a process is there."""

    class Mask(ld.LinearOperator):
        def __init__(self, mask: Tensor) -> None:
            super().__init__(mask.shape, mask.shape)
            self.mask = mask

        def apply(self, x: Tensor) -> Tensor:
            return self.mask.to(x) * x

    generator = torch.Generator().manual_seed(0)
    masks = [Mask(0.9 + 0.09 * torch.rand(3, 64, 64, generator=generator)) for _ in range(1000)]
    levels = [0.0] + [min(1.0, 0.05 * 1.1**t) for t in range(1000)]
    makers: dict[str, tuple[Callable[[], object], float]] = {
        "1000 opaque steps at (3, 64, 64)": (lambda: ld.LinearDiffusion(masks, levels), 10.0),
        "Blurring at (3, 1024, 1024)": (lambda: ld.BlurringDiffusion((3, 1024, 1024)), 1.0),
        "bilinear levels of (1, 4000)": (lambda: ld.ScaleSpaceDiffusion((1, 4000), 3), 1.0),
    }
    for case, (make, bound) in makers.items():
        start = time.perf_counter()
        make()
        yield row("building a process, s", f"{case}", bound, round(time.perf_counter() - start, 3))


PARTS = (bare_steps, peers_steps, training_steps, opaque_chains, building)


def main() -> int:
    torch.set_num_threads(1)
    rows = []
    for part in PARTS:
        for result in part():
            rows.append(result)
            print(line(result), flush=True)
    results = {"environment": environment("diffusers"), "rows": rows}
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_table(PAGE, "steps", table(results))
    missed = [result for result in rows if not result["met"]]
    print(f"{len(rows)} figures, {len(missed)} bounds missed")
    return min(1, len(missed))


if __name__ == "__main__":
    sys.exit(main())
