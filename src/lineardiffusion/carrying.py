r"""Clean images of one time as those of another: c_s from an estimate of c_r.

Towards noise, r < s, that is c_s = R_{r→s} c_r. Towards the data the degradation A = R_{s→r} has to be undone. Where it
keeps the shape,

    ĉ_s = c_r + Aᵀ h(AAᵀ) (c_r − A c_r),   h(λ) = λ / (λ² + τ⁴),   τ = 0.05,

which is the inverse of A up to (τ²/λ)² where A lets a component through, and leaves alone what A has removed: errors of
the estimate are amplified at most about ten times. Where it does not keep the shape, the pseudoinverse ĉ_s = A⁺ c_r is
the least that c_r tells of the larger c_s: the detail is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import full_precision, map_groups
from lineardiffusion.caches import BoundedCache
from lineardiffusion.operators.base import LinearOperator, prepared_bytes
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.paths import identity
from lineardiffusion.processes.base import LinearDiffusion

Lift = Literal["pseudoinverse"]

# τ: singular values below it count as removed. Large enough that a network's errors do not swamp the estimate, small
# enough that a single step of any usual degradation is inverted to single precision.
_DAMPING = 0.05
# A pseudoinverse takes singular values for zero below a thousandth of the largest: products in single precision know
# their squares to a millionth.
_REMOVED = 1e-3
_CACHE_BYTES = 2**28


class Carrier:
    """Carries clean images of a process from time to time; what depends on the times alone is computed once.

    Arguments:
        process: the diffusion process.
        lift: "pseudoinverse", or None to refuse larger shapes.
    """

    def __init__(self, process: LinearDiffusion, lift: Lift | None) -> None:
        self.process, self.lift = process, lift
        self._maps: BoundedCache[_Map] = BoundedCache(_CACHE_BYTES, _bytes)

    def __call__(self, clean: Tensor, r: float, s: float) -> Tensor:
        """ĉ_s from ĉ_r.

        Raises:
            ValueError: the shape grows from r to s, and there is no lift.
        """
        if r == s:
            return clean
        function = self._kept(r, s).function
        if function is None:
            return clean
        with full_precision(clean):
            return function(clean)

    def rows(self, clean: Tensor, r: Tensor, s: Tensor) -> Tensor:
        """`__call__` for times of their own for each row, which share their shapes: one map for each distinct pair."""
        if isinstance(self.process.path, identity):  # no need to know the times, which may have to be waited for
            return clean
        pairs: dict[tuple[float, float], list[int]] = {}
        for row, pair in enumerate(zip(r.tolist(), s.tolist(), strict=True)):
            pairs.setdefault(pair, []).append(row)
        if all(self._kept(*pair).function is None for pair in pairs):
            return clean
        if len(pairs) == 1:
            return self(clean, *next(iter(pairs)))
        return map_groups(clean, pairs, lambda pair, part: self(part, *pair))

    def _kept(self, r: float, s: float) -> _Map:
        return self._maps.get((r, s), lambda: self._map(r, s))

    def _map(self, r: float, s: float) -> _Map:
        r, s = self.process.time(r, "r"), self.process.time(s, "s")
        operator = self.process.degradation(min(r, s), max(r, s))
        if isinstance(operator, Identity):
            return _Map(None, operator)
        if r < s:
            return _Map(operator, operator)
        if operator.in_shape == operator.out_shape:
            undo = operator.step_map(lambda values: values.sqrt() * _damped_inverse(values), None)
            return _Map(lambda clean: undo(clean, clean, None), operator)
        if self.lift is None:
            raise ValueError(
                f"s: expected a time of the shape of the estimate, {operator.out_shape}, got s = {s} of "
                f"{operator.in_shape}; lift='pseudoinverse' makes the estimate larger, without detail"
            )
        return _Map(pseudoinverse(operator), operator)


def pseudoinverse(operator: LinearOperator) -> Callable[[Tensor], Tensor]:
    """y ↦ M⁺ y, with (*batch, *out_shape) and (*batch, *in_shape): the least x for which M x is nearest to y. What
    depends on M alone is computed once."""
    removed = (_REMOVED * operator.norm()) ** 2
    invert = operator.step_map(lambda values: torch.where(values > removed, values.rsqrt(), 0), None)

    def lift(y: Tensor) -> Tensor:
        return invert(y.new_zeros(*y.shape[: y.ndim - len(operator.out_shape)], *operator.in_shape), y, None)

    return lift


class _Map(NamedTuple):
    function: Callable[[Tensor], Tensor] | None  # None where nothing is to be done
    operator: LinearOperator


def _bytes(kept: _Map) -> int:
    return prepared_bytes(kept.operator)


def _damped_inverse(values: Tensor) -> Tensor:
    """1/λ for λ well above τ², falling to 0 below: √λ times it is at most 0.57/τ."""
    return values / (values.square() + _DAMPING**4)
