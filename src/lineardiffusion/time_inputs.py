"""What a network is told of the time t."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lineardiffusion._checks import as_choice, as_positive, got, to_device
from lineardiffusion.config import Configured, configured
from lineardiffusion.predictions import levels
from lineardiffusion.processes.base import LinearDiffusion

Name = Literal["index", "time", "log_snr", "edm"]
TimeInput: TypeAlias = "Name | Callable[[LinearDiffusion, Tensor], Tensor]"


@configured("NearestIndex")
class NearestIndex(Configured):
    """The integer nearest to t − 1, for networks that know no others, such as those with a table of embeddings.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> from lineardiffusion.time_inputs import NearestIndex
        >>> NearestIndex()(ld.DDPM((1,)), torch.tensor([1.0, 500.7]))
        tensor([  0, 500])
    """

    def __call__(self, process: LinearDiffusion, t: Tensor) -> Tensor:
        return (t - 1).round().long()


@configured("NoiseLevel")
class NoiseLevel(Configured):
    """scale · σ_t: with scale = 1000 what flow-matching networks of diffusers are told.

    Arguments:
        scale: a positive number.

    Raises:
        ValueError: another.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> from lineardiffusion.time_inputs import NoiseLevel
        >>> NoiseLevel(1000)(ld.FlowMatching((1,), shift=3.0), torch.tensor([0.5], dtype=torch.float64))
        tensor([750.], dtype=torch.float64)
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = as_positive(scale, "scale")

    def __call__(self, process: LinearDiffusion, t: Tensor) -> Tensor:
        sigma: Tensor = process.schedule.sigma(t)
        return self.scale * sigma


def as_time_input(time_input: Any) -> TimeInput:
    """What it is, checked."""
    if not callable(time_input) or isinstance(time_input, type):
        as_choice(time_input, get_args(Name), "time_input", other=", or a function of the process and t")
    return time_input  # type: ignore[no-any-return]


def time_given(time_input: TimeInput, process: LinearDiffusion, t: float | Tensor, x: Tensor, dtype: Any) -> Tensor:
    """A tensor (B, …) for the rows of x: integers where t is one in a process with steps and is not made a level of,
    else in `dtype`."""
    there = to_device(t, x.device) if isinstance(t, Tensor) else t
    if callable(time_input):
        value: float | Tensor = time_input(process, there if isinstance(there, Tensor) else _rows(there, x))
        if not isinstance(value, Tensor) or value.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"time_input: expected a function that returns a tensor ({x.shape[0]}, …), got {got(value)}"
            )
    elif time_input in ("log_snr", "edm"):
        a, sigma = levels(process, t, x.device)
        value = 2 * (_log(a) - _log(sigma)) if time_input == "log_snr" else (_log(sigma) - _log(a)) / 4
    else:
        value = there - 1 if time_input == "index" and process.num_steps else there
    if not isinstance(value, Tensor):
        value = _rows(value, x)
    return value.to(dtype) if value.is_floating_point() or not process.num_steps else value.long()


def _rows(value: float, x: Tensor) -> Tensor:
    """A number for each row of x, in the best precision there is."""
    exact = torch.float32 if x.device.type == "mps" else torch.float64
    return torch.full((x.shape[0],), value, dtype=torch.long if isinstance(value, int) else exact, device=x.device)


def _log(level: Any) -> Any:
    if isinstance(level, Tensor):
        return level.log()
    return math.log(level) if level else -math.inf
