"""Every kind of step of a run, once and without numbers: what would fail after days fails at once."""

from __future__ import annotations

import torch

import lineardiffusion as ld
from examples.experiment.building import (
    Shape,
    build_denoiser,
    build_network,
    build_process,
    build_times,
    earlier_processes,
)
from examples.experiment.config import Config
from lineardiffusion.training import keyed_generator


def rehearse(config: Config, shape: Shape) -> None:
    """Call the network of a configuration for every step between resolutions that its processes take with images of a
    shape, on PyTorch's meta device; draw times, and lay out the grid of samples.

    Raises:
        ValueError: settings that do not fit each other, by name.
    """
    with torch.device("meta"):
        network = build_network(config.network, shape, 1 if config.data.labels else None)
    try:
        process = build_process(config.process, shape)
        denoiser = build_denoiser(config.process, network, process)
    except ValueError as error:
        raise ValueError(f"process.{error}") from error
    options = config.optimization
    try:
        build_times(options).sample(process, options.batch_size, keyed_generator(options.seed, "rehearsal"))
    except ValueError as error:
        raise ValueError(f"optimization.{error}") from error
    if config.run.sample_every:
        try:
            ld.grids.uniform(config.sample_steps).times(process)
        except ValueError as error:
            raise ValueError(f"run.sample_steps: {str(error).removeprefix('n: ')}") from error
    earlier = earlier_processes(config.process, process, options.coarse_from)
    for d in (denoiser, *(build_denoiser(config.process, network, other) for other in earlier)):
        # A network that takes the steps between resolutions has a level for each.
        for t in d.process.shape_changes()[::-1] or [d.process.end]:
            _call(config, d, t)


def _call(config: Config, denoiser: ld.Denoiser, t: float) -> None:
    above = denoiser.process.shape(t)
    labels = {"y": torch.zeros(1, dtype=torch.long, device="meta")} if config.data.labels else {}
    try:
        with torch.no_grad():
            denoiser.output(torch.empty(1, *above, device="meta"), t, **labels)
    except (ValueError, RuntimeError) as error:
        below = denoiser.process.shape(denoiser.prediction.time(denoiser.process, t))
        raise ValueError(_told(config, above, below, t, error)) from error


def _told(config: Config, above: tuple[int, ...], below: tuple[int, ...], t: float, error: Exception) -> str:
    process, network = config.process, config.network
    times = f"process.changes = {process.changes}" if process.changes else f"process.num_steps = {process.num_steps}"
    sizes = " to ".join("×".join(map(str, shape[1:])) for shape in (above, below))
    return (
        f"process.levels = {process.levels} with {times} leads from {sizes} at t = {t}, which network.kind = "
        f"{network.kind} with network.settings = {network.settings} does not take ({error}); change one of these"
        + (", or process.prediction = data" if process.prediction == "data" else "")
    )
