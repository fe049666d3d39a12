r"""The marginals of a diffusion of Gaussian data, in frames.

For data N(m, C) the clean image c_t = R_t x_0 has the covariance D_t = R_t C R_tᵀ, and x_t has a_t² D_t + σ_t² I. Given
x_t, the mean of c_s, s ≤ t, is

    E[c_s | x_t] = R_s m + G (x_t − a_t R_t m),     G = a_t D_s R_{s→t}ᵀ (a_t² D_t + σ_t² I)⁻¹ .
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor

from lineardiffusion._checks import as_numbers, check_process
from lineardiffusion.caches import BoundedCache
from lineardiffusion.lab.frames import Frame, InFrame, in_frame, in_frames
from lineardiffusion.lab.matrices import inverse, plus, sandwich, times, transposed
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.processes.base import LinearDiffusion

_CACHE_BYTES = 2**28


class Marginals:
    """Means and covariances at any time, and the optimal estimates between them.

    Times of one shape share a frame: that of C at first, and below a change of shape that of D where it changes.

    Arguments:
        process: with isotropic noise.
        covariance: C, a matrix over the flattened event or a symmetric operator.
        mean: m, broadcastable to shape(0).
        apart: whether coordinates that the path does not mix are kept apart.

    Raises:
        ValueError: noise that is not isotropic, or a covariance that does not fit or is not positive semi-definite.
    """

    def __init__(
        self,
        process: LinearDiffusion,
        covariance: Tensor | LinearOperator,
        mean: float | Tensor = 0.0,
        *,
        apart: bool = True,
    ) -> None:
        check_process(process)
        if not process.is_isotropic:
            raise ValueError("process: expected isotropic noise, got covariances")
        self.process = process
        numbers = as_numbers(mean, "mean")
        try:
            self.data_mean = numbers.broadcast_to(process.shape(0))
        except RuntimeError:
            raise ValueError(
                f"mean: expected a shape that broadcasts to {process.shape(0)}, got {tuple(numbers.shape)}"
            ) from None
        self._changes = process.shape_changes()
        self._gains: BoundedCache[Tensor] = BoundedCache(_CACHE_BYTES, attrgetter("nbytes"))
        data = in_frame(covariance, process.shape(0))
        in_groups = data.in_groups(process.path) if apart and self._changes else None
        self._data, self._apart = data if in_groups is None else in_groups, in_groups is not None
        self._levels = {0: _Level.of(self._data, 0.0)}

    def frame(self, t: float) -> Frame:
        return self._level(t).frame

    def mean(self, t: float) -> Tensor:
        """a_t R_t m, an event."""
        return self.process.operator(0, t)(self.data_mean)

    def centre(self, t: float) -> Tensor:
        """a_t R_t m, in the frame of t."""
        frame = self.frame(t)
        return frame.coordinates(self.mean(t)) if self.data_mean.any() else torch.zeros(frame.size, dtype=torch.float64)

    def degradation(self, s: float, t: float) -> Tensor:
        """R_{s→t}"""
        operator, source, target = self.process.degradation(s, t), self.frame(s), self.frame(t)
        if source is target:
            return in_frames(operator, source, target)
        return self._data.between(operator, source, target)

    def clean(self, t: float) -> Tensor:
        """D_t"""
        level = self._level(t)
        if t not in level.covariances:
            before = level.times[bisect_right(level.times, t) - 1]
            level.covariances[t] = sandwich(self.degradation(before, t), level.covariances[before])
            insort(level.times, t)
        return level.covariances[t]

    def covariance(self, t: float) -> Tensor:
        """a_t² D_t + σ_t² I"""
        signal = self.process.signal_scale(t) ** 2 * self.clean(t)
        return plus(signal, torch.full((self.frame(t).size,), self.process.sigma(t) ** 2, dtype=signal.dtype))

    def gain(self, t: float, s: float) -> Tensor:
        """G"""
        return self._gains.get((t, s), lambda: self._gain(t, s))

    def _gain(self, t: float, s: float) -> Tensor:
        seen = times(self.clean(s), transposed(self.degradation(s, t)))
        return self.process.signal_scale(t) * times(seen, inverse(self.covariance(t)))

    def unknown(self, t: float, s: float) -> Tensor:
        """Cov(c_s | x_t) = D_s − a_t G R_{s→t} D_s"""
        seen = times(self.degradation(s, t), self.clean(s))
        return plus(self.clean(s), -self.process.signal_scale(t) * times(self.gain(t, s), seen))

    def _level(self, t: float) -> _Level:
        """What is known of the times that share the shape of t."""
        reached = bisect_right(self._changes, t)
        if reached not in self._levels:
            start, path = self._changes[reached - 1], self.process.path
            image = self._data.image(self.process.degradation(0, start), path if self._apart else None)
            self._levels[reached] = _Level.of(image, start)
        return self._levels[reached]


@dataclass
class _Level:
    frame: Frame
    times: list[float]  # at which D is known, ascending
    covariances: dict[float, Tensor]

    @classmethod
    def of(cls, clean: InFrame, start: float) -> _Level:
        return cls(clean.frame, [start], {start: clean.values})
