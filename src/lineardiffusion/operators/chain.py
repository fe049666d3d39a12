"""The degradations M_1, …, M_T of a process and the products between any two of its states."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import SupportsIndex

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_index, as_list, compute_dtype, rows_of
from lineardiffusion.operators.base import LinearOperator, apply_each
from lineardiffusion.operators.composed import Composed
from lineardiffusion.operators.dense import Matrix
from lineardiffusion.operators.memory import held_bytes, parts_of
from lineardiffusion.operators.scalar import Identity, without_scale

# What the products of a chain may hold beside its steps, factorisations included; and what each of them is charged at
# least, since what has no numbers is an object all the same.
_KEPT_BYTES = 2**28
_LEAST_BYTES = 2**14


class _Products:
    """Products by (s, t). Beyond a number of bytes the least recently used are dropped, but for the last."""

    def __init__(self, steps: Sequence[LinearOperator]) -> None:
        self._apart = {id(part) for part in parts_of(steps) if isinstance(part, LinearOperator)}
        self._kept: OrderedDict[tuple[int, int], tuple[LinearOperator, int]] = OrderedDict()
        self._bytes = 0

    def get(self, s: int, t: int) -> LinearOperator | None:
        self._measure_last()
        if (s, t) not in self._kept:
            return None
        self._kept.move_to_end((s, t))
        return self._kept[s, t][0]

    def put(self, s: int, t: int, product: LinearOperator) -> None:
        self._measure_last()
        self._kept[s, t] = product, 0
        self._measure_last()

    def nearest(self, s: int, t: int) -> int:
        """The last u < t of a product M_{s→u} that is kept; s + 1 where there is none."""
        return max((u for (r, u) in self._kept if r == s and u < t), default=s + 1)

    def _measure_last(self) -> None:
        """The last one used may have been factorised since."""
        if not self._kept:
            return
        key, (product, size) = next(reversed(self._kept.items()))
        now = _LEAST_BYTES + held_bytes(product, self._apart)
        self._kept[key] = product, now
        self._bytes += now - size
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][1]


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
        if isinstance(steps, LinearOperator):
            raise TypeError(f"steps: expected a sequence of operators, got one operator: [{steps}]")
        self._steps: list[LinearOperator] = as_list(steps, "steps", "LinearOperators, such as [ld.Resize(shape, size)]")
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
        if s == t:
            return Identity(self.shape(t))
        if s + 1 == t:
            return self.step(t)
        product = self._products.get(s, t)
        if product is None:
            with torch.inference_mode(False):  # what is kept may be needed for gradients later
                product = self._make_product(s, t)
        return product

    def _make_product(self, s: int, t: int) -> LinearOperator:
        """And keep it, with some on the way."""
        start = self._products.nearest(s, t)
        product = self._products.get(s, start) or self.step(start)
        for u in range(start + 1, t + 1):
            product = self.step(u) @ product
            if u == t or (s == 0 and u % self._stride == 0):
                self._products.put(s, u, product)
        return product

    def cumulative(self, t: SupportsIndex) -> LinearOperator:
        """M_{1:t} for 0 ≤ t ≤ T."""
        return self.between(0, t)

    def apply_cumulative(self, times: Sequence[int], x: Tensor) -> Tensor:
        """M_{1:t} x for a time of its own for each row of x; all of these products have one shape.

        By products where their structure is known; otherwise step by step for all rows at once, in no more
        applications of a step than there are steps.
        """
        last = max(times)
        if self._dense_bytes <= _KEPT_BYTES:
            operators = {t: self.cumulative(t) for t in sorted(set(times))}
            if sum(map(_count_factors, operators.values())) <= last or len(operators) == 1:
                return apply_each([operators[t] for t in times], x)
        order = sorted(range(len(times)), key=lambda row: times[row], reverse=True)
        state, done = rows_of(x, order).to(compute_dtype(x.dtype)), []
        for t in range(last + 1):
            left = sum(u > t for u in times)  # rows that go on
            done.append(state[left:])
            if left:
                state = self.step(t + 1)(state[:left])
        rows = torch.cat([part for part in reversed(done) if len(part)])
        return rows_of(rows, torch.tensor(order).argsort()).to(x.dtype)

    def shape(self, t: SupportsIndex) -> Shape:
        """Event shape of state t."""
        t = as_index(t, 0, len(self), "t")
        return self.step(t).out_shape if t else self.step(1).in_shape

    def __eq__(self, other: object) -> bool:
        """Chains of the same operators are equal."""
        if type(self) is not type(other) or not isinstance(other, OperatorChain):
            return NotImplemented
        return len(self) == len(other) and all(self.step(t) == other.step(t) for t in range(1, len(self) + 1))

    def __hash__(self) -> int:
        return hash((type(self), len(self), self.shape(0)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape(0)} → {self.shape(len(self))}, {len(self)} steps)"

    def _clear(self) -> None:
        self._products = _Products(self._steps)
        # Of M_{1:t} some are kept on the way to the others.
        self._stride = math.isqrt(len(self._steps)) + 1
        # Products of matrices take longer than applications: worth it where all of them can be kept.
        self._dense_bytes = held_bytes([step for step in map(without_scale, self._steps) if isinstance(step, Matrix)])

    def __getstate__(self) -> dict[str, object]:
        return {"_steps": self._steps}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._clear()


def _count_factors(operator: LinearOperator) -> int:
    inner = without_scale(operator)
    return len(inner.factors) if isinstance(inner, Composed) else 1
