"""Every kind of step of a run, once and without numbers: what would fail after days fails at once."""

from __future__ import annotations

import torch

import lineardiffusion as ld
from examples.experiment.config import Config, build_network, build_process, earlier_processes, time_probabilities

Shape = tuple[int, int, int]


def rehearse(config: Config, shape: Shape) -> None:
    """Call the network of a configuration for every step between resolutions that its processes take with images of a
    shape, on PyTorch's meta device.

    Raises:
        ValueError: settings that do not fit each other, by name.
    """
    try:
        process = build_process(config.process, shape)
        ld.Denoiser(lambda x, time, size=None: x, process, config.process.prediction)  # whether the process defines it
    except ValueError as error:
        raise ValueError(f"process.{error}") from error
    if config.optimization.shares is not None:
        time_probabilities(process, config.optimization.shares)
    processes = [process, *earlier_processes(config.process, process, config.optimization.coarse_from)]
    with torch.device("meta"):
        network = build_network(config.network, shape, 1 if config.data.labels else None)
    # A network that takes the step between two resolutions has a level for each.
    steps = {(p.shape(t), p.shape(t - 1)): t for p in processes for t in p.shape_changes()[::-1] or [1]}
    grows = bool(process.shape_changes())
    for (above, below), t in steps.items():
        labels = {"y": torch.zeros(1, dtype=torch.long, device="meta")} if config.data.labels else {}
        size = {"size": below[1:]} if grows else {}
        try:
            with torch.no_grad():
                network(torch.empty(1, *above, device="meta"), torch.zeros(1, device="meta"), **size, **labels)
        except (ValueError, RuntimeError) as error:
            raise ValueError(_told(config, above, below, t, error)) from error


def _told(config: Config, above: Shape, below: Shape, t: int, error: Exception) -> str:
    process, network = config.process, config.network
    times = f"process.changes = {process.changes}" if process.changes else f"process.num_steps = {process.num_steps}"
    sizes = " to ".join("×".join(map(str, shape[1:])) for shape in (above, below))
    return (
        f"process.levels = {process.levels} with {times} leads from {sizes} at t = {t}, which network.kind = "
        f"{network.kind} with network.settings = {network.settings} does not take ({error}); change one of these"
    )
