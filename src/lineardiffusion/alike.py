"""Which times can be stacked: those whose states have the same shapes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_index, check_process, device_of

if TYPE_CHECKING:
    from lineardiffusion.processes.base import LinearDiffusion


def spans_of(process: LinearDiffusion) -> list[tuple[Shape, float, float]]:
    """The shape of x_t, t > 0, from one time on to, but without, another: from change to change. The last one ends with
    T + 1 where there are steps, and else contains T."""
    check_process(process)
    steps = process.num_steps
    bounds = [*process.shape_changes(), process.end if steps is None else steps + 1]
    starts = [0 if steps is None else 1, *bounds[:-1]]
    return [(process.shape(start), start, stop) for start, stop in zip(starts, bounds, strict=True) if start < stop]


def draw_alike(process: LinearDiffusion, t: float, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Times (count,) that can be stacked with t, drawn uniformly: those whose x_t, and the clean image that is
    predicted from it, have the same shapes as at t. At a change of shape that is t alone.

    Raises:
        ValueError: t outside (0, T].
    """
    check_process(process)
    t, count = process.time(t, low="above"), as_index(count, 0, 2**31, "count")
    changes = process.shape_changes()
    if process.num_steps is None:
        if t in changes:
            return torch.full((count,), t, dtype=torch.float64)
        start, stop = next((start, stop) for _, start, stop in spans_of(process) if start < t <= stop)
        inside = math.nextafter(stop, 0) if stop in changes else stop
        times = stop - (stop - start) * uniform_numbers((count,), generator)
        return times.clamp(math.nextafter(start, stop), inside)
    ranges = [(t, t + 1)]
    if t not in changes:
        same = [(start, stop) for shape, start, stop in spans_of(process) if shape == process.shape(t)]
        ranges = [(start + (start in changes), stop) for start, stop in same]
    alike = torch.cat([torch.arange(start, stop) for start, stop in ranges])
    device = device_of(generator)
    picks = torch.randint(len(alike), (count,), generator=generator, device=device)
    return alike[picks.cpu()]


def group_by_shape(process: LinearDiffusion, t: Tensor) -> list[Tensor]:
    """The parts of a batch that can be stacked: indices of the times with the same shapes of x_t and of the clean image
    that is predicted from it, at t − 1 where there are steps, else just below t.

    Arguments:
        process: the process.
        t: times (B,).

    Returns:
        LongTensors on the CPU that together hold 0 … B − 1 once each.

    Raises:
        ValueError: times that are not (B,), or outside (0, T].

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 32, 32), levels=2)
        >>> ld.times.group_by_shape(p, torch.tensor([5, 900, 6, 751]))
        [tensor([0, 2]), tensor([1]), tensor([3])]
    """
    check_process(process)
    process.times(t, low="above")
    if not process.shape_changes():
        return [torch.arange(len(t))]
    parts: dict[tuple[Shape, Shape], list[int]] = {}
    for index, time in enumerate(t.tolist()):
        parts.setdefault((process.shape(time), process.shape(process.before(time))), []).append(index)
    return [torch.tensor(part) for part in parts.values()]


def uniform_numbers(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform in [0, 1), float64 on the CPU."""
    device = device_of(generator)
    wide = torch.float32 if device is not None and device.type == "mps" else torch.float64
    return torch.rand(shape, generator=generator, device=device, dtype=wide).cpu().double()
