"""What a configuration stands for: the process, the network, the denoiser, and how times are drawn."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

import lineardiffusion as ld
from examples.experiment.config import NetworkConfig, OptimizationConfig, ProcessConfig
from lineardiffusion.flexi_unet import SETTINGS, FlexiUNet, FullUNet, ResizedFlexiUNet
from lineardiffusion.times import TimeSampler

Shape = tuple[int, int, int]


def build_process(config: ProcessConfig, shape: Shape) -> ld.LinearDiffusion:
    """The process of a configuration for images of a shape."""
    if config.family == "ddpm":
        return ld.DDPM(shape, config.num_steps, config.schedule)
    if config.family == "blurring":
        return ld.BlurringDiffusion(shape, config.num_steps, config.blur_sigma_max)
    if config.family == "flow":
        return ld.FlowMatching(shape)
    if config.family == "edm":
        return ld.EDM(shape)
    if config.changes is not None and len(config.changes) != config.levels - 1:
        raise ValueError(f"process.changes: expected {config.levels - 1} times, got {config.changes}")
    schedule = ld.convex_decay(config.decay) if config.changes is None else ld.changes_at(config.changes)
    return ld.ScaleSpaceDiffusion(shape, config.levels, config.num_steps, config.schedule, schedule, config.mode)


def earlier_processes(
    config: ProcessConfig, process: ld.LinearDiffusion, starts: list[int] | None
) -> list[ld.LinearDiffusion]:
    """For each lower resolution that starts earlier than in this process, a process like it in which it does.

    Raises:
        ValueError: starts that do not fit the changes of resolution.
    """
    if starts is None:
        return []
    changes = process.shape_changes()
    if len(starts) != len(changes) or not all(1 <= start <= t for start, t in zip(starts, changes, strict=True)):
        raise ValueError(
            f"optimization.coarse_from: expected times up to the changes of resolution, {changes}, got {starts}"
        )
    return [
        build_process(dataclasses.replace(config, changes=[start] * level + changes[level:]), process.shape(0))
        for level, start in enumerate(starts, start=1)
        if start < changes[level - 1]
    ]


def build_network(config: NetworkConfig, shape: Shape, num_classes: int | None) -> nn.Module:
    """The network of a configuration for images of a shape; one more class stands for "no label".

    Raises:
        ValueError: overrides that the network does not take.
    """
    arguments = {**SETTINGS[config.settings], **config.overrides}
    classes = None if num_classes is None else num_classes + 1
    kind = {"flexi": FlexiUNet, "resized": ResizedFlexiUNet, "full": FullUNet}[config.kind]
    try:
        return kind(shape[1:], in_channels=shape[0], out_channels=shape[0], num_classes=classes, **arguments)
    except TypeError as error:
        raise ValueError(f"network.overrides: {error}") from error


def build_denoiser(config: ProcessConfig, network: nn.Module, process: ld.LinearDiffusion) -> ld.Denoiser:
    """The denoiser of a configuration.

    Raises:
        ValueError: the process does not define what the network is to predict.
    """
    prediction = ld.EDMPrediction() if config.prediction == "edm" else config.prediction
    # EDM's noise grows by orders of magnitude, of which the logarithm tells; the rest suits features made for steps.
    times = {"flow": thousandths, "edm": "edm"}
    return ld.Denoiser(network, process, prediction, times.get(config.family))


def thousandths(process: ld.LinearDiffusion, t: Tensor) -> Tensor:
    """Times in [0, 1] as they are told to networks whose features of time are made for a thousand steps."""
    return 1000 * t


def build_times(config: OptimizationConfig) -> TimeSampler:
    """How times are drawn."""
    if config.times == "logit-normal":
        return ld.times.LogitNormal()
    if config.times == "log-normal":
        return ld.times.LogNormalSigma()
    if config.groups > 1 or config.shares is not None:
        return ld.times.Mixed(config.groups, config.shares)
    return ld.times.ByShape(config.shape_change_fraction)
