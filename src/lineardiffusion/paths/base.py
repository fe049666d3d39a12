"""What all paths have in common, and the one on which nothing happens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_shape
from lineardiffusion.config import Configured, configured
from lineardiffusion.operators.base import LinearOperator, apply_each
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.schedules import Schedule

_ONE = torch.ones((), dtype=torch.float64)


class Path(Configured, ABC):
    r"""R_{s→t} for 0 ≤ s ≤ t ≤ T, in data range, R_0 = I."""

    integral = False  # whether integer times alone are known

    @abstractmethod
    def shape(self, t: float) -> Shape:
        """Event shape of x_t."""

    @abstractmethod
    def between(self, s: float, t: float) -> LinearOperator:
        """R_{s→t}"""

    def changes(self) -> list[float]:
        """The times t_j at which the shape changes, ascending: x_{t_j} has the new shape, all before it the old one."""
        return []

    def gain(self, t: float | Tensor) -> float | Tensor:
        """What a_t has beside the signal scale of the schedule: 1, but for orthonormal levels, which are brighter."""
        return 1.0

    def gains(self, t: float) -> Tensor:
        """r_t: the gains of R_t in the frame of shape(t), float64, each up to a factor that is the same at all times of
        this shape; one number where they are alike."""
        return _ONE

    def filter(self, t: float, weights: Tensor) -> LinearOperator:
        """V diag(weights) Vᵀ in the frame of shape(t)."""
        return float(weights) * Identity(self.shape(t))

    def scaled(self, s: float, t: float, scale: float) -> LinearOperator:
        """scale · R_{s→t}"""
        return scale * self.between(s, t)

    def norm(self, s: float, t: float) -> float:
        """‖R_{s→t}‖"""
        return self.between(s, t).norm()

    def norm_at_most(self, s: float, t: float, bound: float) -> bool:
        """Whether ‖R_{s→t}‖ ≤ bound, at the cost of finding that out."""
        return self.between(s, t).norm_at_most(bound)

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        """R_t x for a time of its own for each row of x, all of one shape."""
        return apply_each([self.between(0, t) for t in times.tolist()], x)

    def on(self, schedule: Schedule) -> Path:
        """This path on the time axis of a schedule: itself, unless it is defined by that axis."""
        return self


@configured("paths.identity")
class identity(Path):
    """R = I on events of a shape: DDPM, flow matching, EDM.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.LinearDiffusion(ld.paths.identity((1, 8)), ld.schedules.flow()).shape(0.5)
        (1, 8)
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.event = as_event(shape)
        self._operator = Identity(self.event)

    def arguments(self) -> dict[str, object]:
        return {"shape": self.event}

    def shape(self, t: float) -> Shape:
        return self.event

    def between(self, s: float, t: float) -> LinearOperator:
        return self._operator

    def norm(self, s: float, t: float) -> float:
        return 1.0

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        return x


def as_event(shape: Sequence[int]) -> Shape:
    """An event shape. A single number is a mistake more often than an event of one axis."""
    if isinstance(shape, int) and not isinstance(shape, bool):
        raise TypeError(
            f"shape: expected the sizes of an event, channels first, such as (3, {shape}, {shape}), or ({shape},) for "
            f"{shape} numbers in a row, got {shape}"
        )
    return as_shape(shape)
