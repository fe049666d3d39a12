"""The degradations M_1, …, M_T of a process and the products between any two of its states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import SupportsIndex

from torch import Tensor

from lineardiffusion._checks import Shape, as_index
from lineardiffusion.operators.base import LinearOperator, apply_each
from lineardiffusion.operators.scalar import Identity

# Products between states other than the first are kept for the last few (s, t): a sampler visits the same ones again.
_KEPT_PRODUCTS = 1024


class OperatorChain:
    r"""M_{s→t} = M_t M_{t−1} … M_{s+1} for states 0 ≤ s ≤ t ≤ T; M_{1:t} = M_{0→t}.

    Products are simplified by the rules of `@`, so that a thousand steps of a known structure are one cheap operator,
    and cached. A family that knows its products in closed form subclasses this and overrides `step` and `between`.

    Arguments:
        steps: M_1, …, M_T; the input of each is the output of the one before.

    Raises:
        ValueError: no step, or shapes that do not chain.

    Examples:
        >>> import lineardiffusion as ld
        >>> chain = ld.OperatorChain([0.5 * ld.Identity((1, 8)), ld.Resize((1, 8), 4), 0.5 * ld.Identity((1, 4))])
        >>> len(chain), chain.shape(1), chain.shape(3), chain.cumulative(3).scale
        (3, (1, 8), (1, 4), 0.25)
    """

    def __init__(self, steps: Sequence[LinearOperator]) -> None:
        self._steps = list(steps)
        if not self._steps:
            raise ValueError("steps: expected at least one operator, got none")
        for t, step in enumerate(self._steps, start=1):
            if not isinstance(step, LinearOperator):
                raise TypeError(f"steps: expected LinearOperators, got {type(step).__name__} at t = {t}")
            if t > 1 and step.in_shape != self._steps[t - 2].out_shape:
                raise ValueError(
                    f"steps: expected in_shape {self._steps[t - 2].out_shape} at t = {t}, got {step.in_shape}"
                )
        self._clear()

    def __len__(self) -> int:
        return len(self._steps)

    def step(self, t: SupportsIndex) -> LinearOperator:
        """M_t, from state t − 1 to state t; 1 ≤ t ≤ T."""
        return self._steps[as_index(t, 1, len(self), "t") - 1]

    def between(self, s: SupportsIndex, t: SupportsIndex) -> LinearOperator:
        """M_{s→t} for 0 ≤ s ≤ t ≤ T; the identity where s = t."""
        t = as_index(t, 0, len(self), "t")
        s = as_index(s, 0, t, "s")
        if s == 0:
            while len(self._cumulative) <= t:
                self._cumulative.append(self.step(len(self._cumulative)) @ self._cumulative[-1])
            return self._cumulative[t]
        if s == t:
            return Identity(self.shape(t))
        if (s, t) not in self._products:
            if len(self._products) >= _KEPT_PRODUCTS:
                self._products.pop(next(iter(self._products)))
            steps = [self.step(u) for u in range(s + 1, t + 1)]
            self._products[s, t] = reduce(lambda product, step: step @ product, steps)
        return self._products[s, t]

    def cumulative(self, t: SupportsIndex) -> LinearOperator:
        """M_{1:t} for 0 ≤ t ≤ T."""
        return self.between(0, t)

    def apply_cumulative(self, times: Sequence[int], x: Tensor) -> Tensor:
        """M_{1:t} x for a time of its own for each row of x; all of these products have one shape."""
        return apply_each([self.cumulative(t) for t in times], x)

    def shape(self, t: SupportsIndex) -> Shape:
        """Event shape of state t."""
        t = as_index(t, 0, len(self), "t")
        return self.step(t).out_shape if t else self.step(1).in_shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape(0)} → {self.shape(len(self))}, {len(self)} steps)"

    def _clear(self) -> None:
        self._cumulative: list[LinearOperator] = [Identity(self._steps[0].in_shape)]
        self._products: dict[tuple[int, int], LinearOperator] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"_steps": self._steps}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._clear()
