"""The path of any operators, one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_numbers_in_a_row, column, to_device
from lineardiffusion.config import configured
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.chain import OperatorChain
from lineardiffusion.paths.base import Path
from lineardiffusion.schedules import Schedule
from lineardiffusion.schedules.noise import Constants


@configured("paths.chain")
class chain(Path):
    r"""R_{s→t} = R_t ⋯ R_{s+1} for any operators, at integer times.

    Arguments:
        operators: R_1, …, R_T, in data range; each takes what the one before gives.

        signal_scales: a_0, …, a_T, of which the operators hold the part M_t = (a_t/a_{t−1}) R_{t−1→t}; by default none.

    Raises:
        ValueError: no operator, shapes that do not chain, or a scale of 0.
    """

    integral = True

    def __init__(
        self, operators: OperatorChain | Sequence[LinearOperator], signal_scales: Sequence[float] | None = None
    ) -> None:
        self.operators = operators if isinstance(operators, OperatorChain) else OperatorChain(operators)
        self.signal_scales = None
        if signal_scales is not None:
            self.signal_scales = as_numbers_in_a_row(signal_scales, "signal_scales", "[1.0, 0.9, 0.5]")
            if not all(0 < a < math.inf for a in self.signal_scales):
                raise ValueError(
                    "signal_scales: expected a_t > 0 with the whole operators M_t, since c_t = M_{1:t} x_0 / a_t, got "
                    f"{min(self.signal_scales)}; where a_T = 0 give R_1, …, R_T as ld.paths.chain([…])"
                )
        self._scales = Constants(torch.tensor(self.signal_scales or [1.0], dtype=torch.float64))
        shapes = [self.operators.shape(t) for t in range(len(self.operators) + 1)]
        self._shapes, self._changes = shapes, [t for t in range(1, len(shapes)) if shapes[t] != shapes[t - 1]]

    def shape(self, t: float) -> Shape:
        return self._shapes[int(t)]

    def changes(self) -> list[float]:
        return list(self._changes)

    def between(self, s: float, t: float) -> LinearOperator:
        return self.scaled(s, t, 1.0)

    def scaled(self, s: float, t: float, scale: float) -> LinearOperator:
        product = self.operators.between(int(s), int(t))
        if self.signal_scales is not None:
            scale = scale * self.signal_scales[int(s)] / self.signal_scales[int(t)]
        # The whole operators need no factor, and rounding is to make none.
        return product if abs(scale - 1) < 1e-12 else scale * product

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        rows = [int(t) for t in times.tolist()]
        degraded = self.operators.apply_cumulative(rows, x)
        if self.signal_scales is None:
            return degraded
        return degraded / column(self._scales.on(x.device)[to_device(times.long(), x.device)], degraded)

    def on(self, schedule: Schedule) -> Path:
        if schedule.num_steps != len(self.operators):
            raise ValueError(
                f"schedule: expected one of {len(self.operators)} steps for as many operators, got {schedule}"
            )
        if self.signal_scales is not None and len(self.signal_scales) != len(self.operators) + 1:
            raise ValueError(
                f"signal_scales: expected a_0, …, a_T, {len(self.operators) + 1} numbers for {len(self.operators)} "
                f"operators, got {len(self.signal_scales)}"
            )
        return self
