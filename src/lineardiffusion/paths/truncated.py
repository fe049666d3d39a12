"""Paths on which coordinates of a basis fade and are left out: the image becomes smaller."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_shape
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import configured
from lineardiffusion.operators.base import LinearOperator, apply_each, operator_bytes
from lineardiffusion.operators.bases import Basis, first
from lineardiffusion.operators.orthogonal import Truncation
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.operators.truncated import TruncatedFilter
from lineardiffusion.paths.base import Path
from lineardiffusion.paths.fading import ratio
from lineardiffusion.schedules import ResolutionSchedule, Schedule, as_changes, changes_at

_FILTER_BYTES = 2**28


@configured("paths.truncated")
class truncated(Path):
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
        if not isinstance(basis, Basis) or not (gains is None or callable(gains)):
            raise TypeError(f"basis, gains: expected one of ld.bases and a function of t, got {basis!r} and {gains!r}")
        self.basis, self.orthonormal, self._function = basis, orthonormal, gains
        self.shapes = [as_shape(shape, "shapes") for shape in shapes]
        self._bases = [basis]
        for shape in self.shapes:
            if math.prod(shape) >= math.prod(self._bases[-1].shape):
                raise ValueError(
                    f"shapes: expected each smaller than the one before, got {[basis.shape, *self.shapes]}"
                )
            self._bases.append(self._bases[-1].smaller(shape))
        self.change_schedule = changes if callable(changes) else changes_at(changes)
        self._changes: list[float] | None = None
        self._filters: BoundedCache[LinearOperator] = BoundedCache(_FILTER_BYTES, operator_bytes)
        if gains is not None and not bool((self._all_gains(0) == 1).all()):
            raise ValueError("gains: expected 1 at t = 0, where x_0 is the data")

    def arguments(self) -> dict[str, object]:
        return {
            "basis": self.basis,
            "shapes": self.shapes,
            "changes": self.change_schedule,
            "gains": self._function,
            "orthonormal": self.orthonormal,
        }

    def on(self, schedule: Schedule) -> Path:
        bound = copy.copy(self)
        changes = as_changes(self.change_schedule, len(self._bases), schedule)
        bound._changes = [t for t in changes if t <= schedule.end]
        bound._filters = BoundedCache(_FILTER_BYTES, operator_bytes)
        return bound

    def level(self, t: float) -> int:
        """How many of the changes are at t or before; 0 is full size."""
        if self._changes is None:
            raise ValueError("changes: times belong to a schedule of noise; make the process first")
        return sum(change <= t for change in self._changes)

    def shape(self, t: float) -> Shape:
        return self._bases[self.level(t)].shape

    def changes(self) -> list[float]:
        self.level(0)
        return sorted(set(self._changes or []))

    def gain(self, t: float | Tensor) -> float | Tensor:
        if not self.orthonormal:
            return 1.0
        numbers = [math.prod(basis.shape) for basis in self._bases]
        if not isinstance(t, Tensor):
            return math.sqrt(numbers[0] / numbers[self.level(t)])
        dtype = torch.float32 if t.device.type == "mps" else torch.float64
        result = torch.ones(t.shape, dtype=dtype, device=t.device)
        for change, (before, after) in zip(self._changes or [], itertools.pairwise(numbers), strict=False):
            result = torch.where(t >= change, result * math.sqrt(before / after), result)
        return result

    def _all_gains(self, t: float) -> Tensor:
        """r_t, of all coordinates of V."""
        values = torch.as_tensor(1.0 if self._function is None else self._function(t)).detach()
        if values.is_complex() or not bool(values.isfinite().all()):
            raise ValueError(f"gains: expected finite real numbers at t = {t}, got {values}")
        try:
            return values.cpu().double().broadcast_to(self.basis.coordinates)
        except RuntimeError:
            raise ValueError(
                f"gains: expected a shape that broadcasts to the coordinates {self.basis.coordinates} of {self.basis}, "
                f"got {tuple(values.shape)} at t = {t}"
            ) from None

    def _kept_gains(self, t: float, level: int) -> Tensor:
        return first(self._all_gains(t), self._bases[level].coordinates)

    def gains(self, t: float) -> Tensor:
        if self._function is None:
            return super().gains(t)
        return self._kept_gains(t, self.level(t))

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
        brightness = math.sqrt(math.prod(shape) / math.prod(basis.shape))
        left: Tensor | None = None
        if self._function is not None:
            left = ratio(self._kept_gains(t, coarse), self._kept_gains(s, coarse))
            if bool((left == left.flatten()[0]).all()):
                brightness, left = brightness * float(left.flatten()[0]), None
        if fine == coarse:
            return brightness * Identity(shape) if left is None else self.filter(t, left)
        if left is None:
            return brightness * Truncation(basis, shape)
        return TruncatedFilter(basis, shape, brightness * left)

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        filters = [self._filters.get(t, lambda t=t: self.between(0, t)) for t in times.tolist()]  # type: ignore[misc]
        return apply_each(filters, x)
