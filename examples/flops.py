"""Floating-point operations of a network call at every resolution, and their average over the steps of a process.

    python examples/flops.py --size 64 --levels 4

prints one JSON object: `gflops`, the average over all T steps, and `pairs`, the GFLOPs of one call for one image at
each (r(t), r(t − 1)) with the number of steps that make it. One level is DDPM, whose network is the plain (Full) U-Net;
more levels use Flexi-UNet. A multiply-add counts as two operations. Nothing is computed: the network lives on PyTorch's
meta device.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

# So that `python examples/flops.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet, FullUNet

Pair = tuple[tuple[int, ...], tuple[int, ...]]


def schedule_average(process: ld.LinearDiffusion, network: torch.nn.Module) -> tuple[float, list[dict[str, Any]]]:
    """GFLOPs of a network call for one image, averaged over all steps of the process (a thousand where time is
    continuous), and those of each pair of shapes. The network must be on the meta device."""
    times = ld.grids.uniform(process.num_steps or 1000).times(process)
    pairs = [
        {"r_t": here[-1], "r_prev": there[-1], "gflops": call_gflops(network, here, there), "steps": count}
        for (here, there), count in sorted(pairs_of(process, times).items())
    ]
    return sum(pair["gflops"] * pair["steps"] for pair in pairs) / len(times), pairs


def sample_gflops(process: ld.LinearDiffusion, network: torch.nn.Module, times: Iterable[float]) -> float:
    """GFLOPs of one sample, whose sampler calls the network at these times. The network must be on the meta device."""
    return sum(count * call_gflops(network, *pair) for pair, count in pairs_of(process, times).items())


def pairs_of(process: ld.LinearDiffusion, times: Iterable[float]) -> Counter[Pair]:
    """How many network calls at these times go from x_t of one shape to a clean image of another."""
    return Counter((process.shape(t), process.shape(process.before(t))) for t in times)


def call_gflops(network: torch.nn.Module, here: tuple[int, ...], there: tuple[int, ...]) -> float:
    """GFLOPs of a network call for one image x_t of shape `here` whose prediction has the shape `there`."""
    x_t, t_index = torch.empty(1, *here, device="meta"), torch.empty(1, dtype=torch.long, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(x_t, t_index, size=there[1:])
    return float(counter.get_total_flops()) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, choices=(64, 128, 256), help="pixels (default: %(default)s)")
    parser.add_argument("--levels", type=int, default=4, help="resolutions; 1 is DDPM (default: %(default)s)")
    parser.add_argument("--decay", type=float, default=0.5, help="power of convex_decay (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="all levels of the U-Net for every resolution")
    arguments = parser.parse_args()
    shape = (3, arguments.size, arguments.size)
    try:
        process = ld.ScaleSpaceDiffusion(
            shape, levels=arguments.levels, resolution_schedule=ld.convex_decay(arguments.decay)
        )
        with torch.device("meta"):
            kind = FullUNet if arguments.full or arguments.levels == 1 else FlexiUNet
            network = kind(arguments.size, **SETTINGS[f"paper-{arguments.size}"])
        gflops, pairs = schedule_average(process, network)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps({"size": arguments.size, "levels": arguments.levels, "gflops": gflops, "pairs": pairs}))


if __name__ == "__main__":
    main()
