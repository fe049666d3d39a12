"""What the bridges for denoisers share: the processes that other libraries know, and the times that they name."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from lineardiffusion.paths import identity
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import Schedule

Time = TypeVar("Time", float, Tensor)

# Numbers in [0, 1] in float32, times a thousand steps.
_ROUNDING = 1e-4


def check_additive(process: LinearDiffusion, name: str) -> None:
    """Raise ValueError unless x_t = a_t x_0 + σ_t ε, which is all that libraries of denoisers know."""
    if not isinstance(process, LinearDiffusion):
        raise TypeError(f"{name}: expected a LinearDiffusion, such as ld.DDPM(shape), got {process!r}")
    if not isinstance(process.path, identity) or not process.is_isotropic:
        raise ValueError(
            f"{name}: expected a process x_t = a_t x_0 + σ_t ε, without another degradation than white noise, such as "
            f"ld.DDPM, ld.FlowMatching or ld.EDM, got {process}"
        )


def trained_time(schedule: Schedule, t: Time) -> Time:
    """The time at which a network is asked for what others call t: no earlier than the first one of the schedule, and
    the state itself where t is one but for rounding."""
    if isinstance(t, Tensor):
        t = t.clamp(min=schedule.first)
        state = t.round()
        return torch.where((t - state).abs() < _ROUNDING, state, t) if schedule.num_steps else t
    t = max(t, schedule.first)
    return round(t) if schedule.num_steps and abs(t - round(t)) < _ROUNDING else t
