"""Paths on which coordinates of a basis fade and are left out: the image becomes smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from lineardiffusion._checks import as_flag, as_list, as_shape, check_function, check_kind
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import configured
from lineardiffusion.operators.base import LinearOperator, apply_each, operator_bytes
from lineardiffusion.operators.bases import Basis, first
from lineardiffusion.operators.orthogonal import Truncation
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.operators.truncated import TruncatedFilter
from lineardiffusion.paths.fading import FILTER_BYTES, check_start, gains_at, ratio
from lineardiffusion.paths.levels import Levelled
from lineardiffusion.schedules import ResolutionSchedule, Schedule, changes_at


@configured("paths.truncated")
class truncated(Levelled):
    r"""Coordinates of a basis V fade, and at known times are left out, so that events become smaller:

        R_t = (n_l/n_0)^{1/2} V_l diag(r_t) P_l Vᵀ,   l = l(t),

    with P_l the first coordinates, which smaller events of n_l numbers have in the basis V_l of the same kind. The
    factor keeps an image of constant colour as bright as it is.

    Arguments:
        basis: V, one of `ld.bases` that has smaller ones: Haar, Cosine, BlockCosine, Standard; or Principal, whose
            smaller events are the first coordinates, (k,).
        shapes: event shapes of the smaller events, each smaller than the one before.
        changes: when each of them begins: times, or a schedule such as `ld.convex_decay(0.5)`.
        gains: t ↦ r_t for a number t, a tensor that broadcasts to the coordinates of V; 1 at t = 0. Gains of
            coordinates that are left out do not count. By default all are 1.
        orthonormal: whether a_t has the factor (n_0/n_l)^{1/2} beside the scale of the schedule: M is then orthonormal
            but for gains and schedule, and white noise of σ_t stays that. Else a_t is the schedule's.

    References:
        | Dimensionality-Varying Diffusion Process (Zhang et al., 2023), https://arxiv.org/abs/2211.16032
        | Subspace Diffusion Generative Models (Jing et al., 2022), https://arxiv.org/abs/2205.01490

    Raises:
        TypeError: no basis, or gains that are no function.
        ValueError: shapes that the basis does not have, as many changes as there are not shapes, or gains that are not
            finite, not 1 at t = 0 or of a shape that does not fit; from `between`, such as are 0 at s and not at t.

    Examples:
        >>> import lineardiffusion as ld
        >>> path = ld.paths.truncated(ld.bases.Haar((1, 8, 8)), [(1, 4, 4)], changes=[0.5])
        >>> p = ld.LinearDiffusion(path, ld.schedules.flow())
        >>> p.shape(0.4), p.shape(0.5), p.signal_scale(0.4), p.signal_scale(0.5)
        ((1, 8, 8), (1, 4, 4), 0.6, 1.0)
    """

    def __init__(
        self,
        basis: Basis,
        shapes: Sequence[Sequence[int]],
        changes: ResolutionSchedule | Sequence[float],
        gains: Callable[[float], Tensor] | None = None,
        orthonormal: bool = True,
    ) -> None:
        check_kind(basis, Basis, "basis", "one of ld.bases, such as bases.Haar(shape)")
        if gains is not None:
            check_function(gains, "gains", "a function of t")
        self.basis, self.orthonormal, self._function = basis, as_flag(orthonormal, "orthonormal"), gains
        listed = as_list(shapes, "shapes", "event shapes, such as [(3, 32, 32)]")
        self.shapes = [as_shape(shape, "shapes") for shape in listed]
        self._bases = [basis]
        for shape in self.shapes:
            if math.prod(shape) >= math.prod(self._bases[-1].shape):
                raise ValueError(
                    f"shapes: expected each smaller than the one before, got {[basis.shape, *self.shapes]}"
                )
            self._bases.append(self._bases[-1].smaller(shape))
        numbers = [math.prod(small.shape) for small in self._bases]
        brightness = [math.sqrt(numbers[0] / n) if orthonormal else 1.0 for n in numbers]
        when = changes if callable(changes) else changes_at(changes)
        super().__init__([small.shape for small in self._bases], when, brightness)
        self._filters: BoundedCache[LinearOperator] = BoundedCache(FILTER_BYTES, operator_bytes)
        if gains is not None:
            check_start(gains_at(gains, 0, basis))

    def arguments(self) -> dict[str, object]:
        return {
            "basis": self.basis,
            "shapes": self.shapes,
            "changes": self.when,
            "gains": self._function,
            "orthonormal": self.orthonormal,
        }

    def on(self, schedule: Schedule) -> truncated:
        bound = super().on(schedule)
        bound._filters = BoundedCache(FILTER_BYTES, operator_bytes)  # those of other changes are others
        return bound

    def _kept_gains(self, t: float, level: int) -> Tensor:
        """r_t of the coordinates that a level has."""
        assert self._function is not None
        values = gains_at(self._function, t, self.basis).broadcast_to(self.basis.coordinates)
        return first(values, self._bases[level].coordinates)

    def gains(self, t: float) -> Tensor:
        return super().gains(t) if self._function is None else self._kept_gains(t, self.level(t))

    def filter(self, t: float, weights: Tensor) -> LinearOperator:
        if weights.ndim == 0:
            return super().filter(t, weights)
        basis = self._bases[self.level(t)]
        return SpectralFilter(basis.shape, weights, basis)

    def between(self, s: float, t: float) -> LinearOperator:
        fine, coarse = self.level(s), self.level(t)
        basis, shape = self._bases[fine], self._bases[coarse].shape
        if s == t or (fine == coarse and self._function is None):
            return Identity(shape)
        scale = math.sqrt(math.prod(shape) / math.prod(basis.shape))
        if self._function is None:
            return self._resizes.get((fine, coarse), lambda: scale * Truncation(basis, shape))
        left = scale * ratio(self._kept_gains(t, coarse), self._kept_gains(s, coarse))
        return self.filter(t, left) if fine == coarse else TruncatedFilter(basis, shape, left)

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        filters = [self._filters.get(t, lambda t=t: self.between(0, t)) for t in times.tolist()]  # type: ignore[misc]
        return apply_each(filters, x)
