"""Times of a process as what a network is told, which diffusers call timesteps, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import Schedule, flow
from lineardiffusion.time_inputs import NearestIndex, NoiseLevel, TimeInput, time_given


def told(time_input: TimeInput, process: LinearDiffusion, times: Sequence[float]) -> Tensor:
    """What a network is told at each time: integers if all of them are, else float32."""
    whole = all(isinstance(t, int) for t in times)
    t = torch.tensor(times, dtype=torch.long if whole else torch.float64)
    return time_given(time_input, process, t, t, torch.float32)


def understood(time_input: TimeInput, process: LinearDiffusion, timesteps: Tensor) -> Tensor:
    """The times at which a network is told this, on the device of the timesteps.

    Raises:
        ValueError: a function of the user's, which has no inverse here.
    """
    has_steps = process.num_steps is not None
    if time_input == "time" or (time_input == "index" and not has_steps):
        return timesteps
    if time_input == "index" or isinstance(time_input, NearestIndex):
        return timesteps + 1
    if time_input == "log_snr":
        return process.schedule.time(timesteps)
    if time_input == "edm":
        return process.schedule.time(-8 * timesteps.double())
    if isinstance(time_input, NoiseLevel):
        return at_levels(process.schedule, timesteps.double() / time_input.scale)
    raise ValueError(f"timesteps: expected None for a network that is told {time_input!r}; give sigmas in their place")


def at_levels(schedule: Schedule, sigmas: Tensor) -> Tensor:
    """The times of noise levels as diffusers have them: σ for flows, else σ/a."""
    ratio = sigmas / (1 - sigmas) if isinstance(schedule, flow) else sigmas
    return schedule.time(-2 * ratio.double().log())
