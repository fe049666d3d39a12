"""Inverse problems of real digits: our methods beside those of deepinv and azula, with one denoiser.

    python benchmarks/inverse.py --data mnist10k.npz

Super-resolution from means of 4 × 4 pixels, a box of 12 × 12 pixels that is missing, and a Gaussian blur of two pixels,
all with noise of σ_y = 0.05; 16 digits that the network was not trained on. One network (that of small_models.py,
trained here on the other 9000 digits, two minutes), and equal numbers of its calls: 20 and 100. The same methods, each
with its library's defaults but for the number of calls, and η = 1: of both libraries it is better here than 0. DDRM of
deepinv starts at σ/a = 2, where y tells as much as the state, and so does ours.

PSNR of single samples, in dB, the mean over digits; and, paired by digit, what ours is above the others'. It favours
samples of too little variance: one of the posterior itself has twice the mean squared error of the posterior's mean.

What is finished is kept in runs/benchmark-inverse. Writes results/inverse.json, pictures, and the table in
docs/inverse.md. About ten minutes on one core. How deepinv is imported without torchvision: inverse_peers.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.inverse_peers import azula_methods, deepinv_methods
from benchmarks.runs import slug, write_table
from benchmarks.small_models import SHAPE, digits, new_denoiser, train
from benchmarks.timing import environment

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parent.parent
RUNS, RESULTS = ROOT / "runs" / "benchmark-inverse", ROOT / "benchmarks" / "results" / "inverse.json"
IMAGES, PAGE = ROOT / "docs" / "images", ROOT / "docs" / "inverse.md"
HELD_OUT, COUNT, SHOWN = 1000, 16, 12
SIGMA_Y, LEAST_CALLS = 0.05, 20
CALLS = (LEAST_CALLS, 100)

Draw = Callable[[], Tensor]


class Task(NamedTuple):
    """A, and what peers are told of it: a mask, or a kernel."""

    A: ld.LinearOperator
    mask: Tensor | None = None
    kernel: Tensor | None = None


def tasks() -> dict[str, Task]:
    mask = torch.ones(SHAPE)
    mask[:, 10:22, 10:22] = 0
    taps = torch.exp(-(torch.arange(-6.0, 7.0) ** 2) / (2 * 2.0**2))
    kernel = taps[:, None] * taps / taps.sum() ** 2
    return {
        "super-resolution": Task(ld.AveragePool(SHAPE, (4, 4))),
        "inpainting": Task(ld.Diagonal(mask), mask=mask),
        "deblurring": Task(ld.Convolution(kernel, SHAPE), kernel=kernel),
    }


def from_level(process: ld.LinearDiffusion, calls: int, level: float = 2.0) -> list[float]:
    """Times at which σ/a falls from a level in equal steps."""
    return [float(process.schedule.time(-2 * math.log(level * (1 - i / calls)))) for i in range(calls)]


def our_methods(denoiser: ld.Denoiser, A: ld.LinearOperator, y: Tensor, calls: int) -> dict[str, Draw]:
    """Ours, with their defaults; DDRM also with η = 1, and from the level at which deepinv's starts."""

    def draw(method: Callable[..., ld.inverse.InverseSampler], steps: Any = calls, **options: Any) -> Draw:
        return lambda: method(denoiser, A, y, SIGMA_Y, steps, **options)(len(y), seeds=range(len(y)), progress=False)

    inverse = ld.inverse
    return {
        "DDRM": draw(inverse.DDRM, from_level(denoiser.process, calls), eta=1.0),
        "DDRM, uniform": draw(inverse.DDRM, eta=1.0),
        "DDRM, uniform, η = 0.85": draw(inverse.DDRM),
        "DPS": draw(inverse.DPS),
        "ΠGDM": draw(inverse.PiGDM),
        "MMPS": draw(inverse.MMPS),
        "DiffPIR": draw(inverse.DiffPIR),
        "RePaint": draw(inverse.RePaint),
    }


class Counted(nn.Module):
    """A network that counts the images it is called with."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.count = network, 0

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.count += len(x)
        result: Tensor = self.network(x, time)
        return result


def trained(images: Tensor) -> tuple[ld.Denoiser, Counted]:
    denoiser, path = new_denoiser("DDPM"), RUNS / "ddpm.pt"
    if not path.exists():
        train(denoiser, images, path)
    denoiser.network.load_state_dict(torch.load(path, weights_only=True))
    denoiser.eval().requires_grad_(False)
    denoiser.network = counted = Counted(denoiser.network)
    return denoiser, counted


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """Of each image, in [−1, 1]."""
    return 10 * torch.log10(4 / (x.clamp(-1, 1) - truth).square().flatten(1).mean(1))


def drawn(file: Path, draw: Draw, counted: Counted) -> dict[str, Any]:
    """Images, calls for each and processor time; kept."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(1)
        counted.count, cpu = 0, time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = draw().detach().float()
        found = {"images": images, "calls": counted.count / COUNT, "cpu_s": round(time.process_time() - cpu, 1)}
        torch.save(found, file)
    kept: dict[str, Any] = torch.load(file, weights_only=True)
    return kept


def measure(data: Path, anew: bool) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """A row for each number of calls, task, library and method; and the images of pictures."""
    images = digits(data)[0]
    denoiser, counted = trained(images[:-HELD_OUT])
    truth, rows, pictures = images[-COUNT:], [], {}
    for calls, (task, (A, mask, kernel)) in itertools.product(CALLS, tasks().items()):
        y = A(truth) + SIGMA_Y * torch.randn(COUNT, *A.out_shape, generator=torch.Generator().manual_seed(0))
        libraries = {
            "ours": our_methods(denoiser, A, y, calls),
            "deepinv": deepinv_methods(denoiser, A, y, SIGMA_Y, calls, mask, kernel),
            "azula": azula_methods(denoiser, A, y, SIGMA_Y, calls, mask),
        }
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for library, method in [(library, method) for library, methods in libraries.items() for method in methods]:
            if (library, method) == ("azula", "DPS") and calls > LEAST_CALLS:
                continue  # an image at a time: as long as all else
            file = RUNS / "draws" / f"{task}-{calls}-{library}-{slug(method)}.pt"
            if anew or file.exists():
                found[library, method] = drawn(file, libraries[library][method], counted)
        for (library, method), result in found.items():
            row = {"task": task, "calls": calls, "library": library, "method": method}
            row |= {"used": round(result["calls"], 1), "cpu_s": result["cpu_s"]}
            values = psnr(result["images"], truth)
            row |= {"psnr": round(float(values.mean()), 2), "error": round(float(values.std()) / COUNT**0.5, 2)}
            row |= {"misfit": round(float((A(result["images"]) - y).square().mean().sqrt()), 3)}
            if library != "ours":
                above = psnr(found["ours", method]["images"], truth) - values
                row |= {
                    "above": round(float(above.mean()), 2),
                    "above_error": round(float(above.std()) / COUNT**0.5, 2),
                }
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
        shown = [truth, F.interpolate(y, SHAPE[1:]) if mask is None else torch.where(mask > 0, y, 0)]
        shown += [result["images"] for (library, _), result in found.items() if library == "ours"]
        if len(shown) > 2:
            pictures[task] = torch.cat([part[:SHOWN] for part in shown])
    return rows, pictures


def table(rows: list[dict[str, Any]]) -> str:
    """Each method of each library, a column for each task and number of calls; of peers also what ours is above."""
    cases = [(task, calls) for task in tasks() for calls in CALLS]
    heads = [f"{task}, {calls}" for task, calls in cases]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    names = list(dict.fromkeys((row["library"], row["method"]) for row in rows))
    families = [method for library, method in names if library == "ours"]
    for library, method in sorted(names, key=lambda name: families.index(name[1])):
        cells = []
        for task, calls in cases:
            where = {"task": task, "calls": calls, "library": library, "method": method}
            row = next((row for row in rows if all(row[k] == v for k, v in where.items())), None)
            cells.append("" if row is None else _cell(row))
        shown = f"**{method}**" if library == "ours" else f"*{library}: {method}*"
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    if row["library"] == "ours":
        return f"{row['psnr']:.1f} ± {row['error']:.1f}"
    return f"{row['psnr']:.1f} ({row['above']:+.1f} ± {row['above_error']:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a .npz file with images (N, 28, 28) and labels")
    parser.add_argument("--kept", action="store_true", help="show what is finished; draw nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, pictures = measure(arguments.data, not arguments.kept)
    training = json.loads((RUNS / "ddpm.json").read_text(encoding="utf-8"))
    report = {"environment": environment("azula", "deepinv"), "training": training, "count": COUNT, "sigma_y": SIGMA_Y}
    RESULTS.write_text(json.dumps({**report, "rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for task, images in pictures.items():
        ld.save_images(images, IMAGES / f"inverse_{slug(task)}.png", columns=SHOWN)
    write_table(PAGE, "inverse", table(rows))


if __name__ == "__main__":
    main()
