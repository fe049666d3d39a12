"""What a sampler remembers of the steps before the one at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A clean image as the network gave it.

    Attributes:
        clean: ĉ_r.
        r: the time whose degradation it has.
        t: the time of the state it was made from.
    """

    clean: Tensor
    r: float
    t: float


class Taken(NamedTuple):
    """A step that may be taken again.

    Attributes:
        x_t, t: where it started.
        order: how many estimates it used.
        again: x_s from another estimate of c_s, with the noise that was drawn.
    """

    x_t: Tensor
    t: float
    order: int
    again: Callable[[Tensor], Tensor]


@dataclass
class History:
    """The past of one trajectory, from `Sampler.history`.

    Attributes:
        estimates: those that the next steps may need, the newest first.
        time: to which the last step led.
        taken: the last step, where a corrector takes it again.
    """

    estimates: list[Estimate] = field(default_factory=list)
    time: float | None = None
    taken: Taken | None = None
