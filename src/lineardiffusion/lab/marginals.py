r"""The marginals of a diffusion of Gaussian data, in frames.

For data N(m, C) the clean image c_t = R_t x_0 has the covariance D_t = R_t C R_tᵀ, and x_t has a_t² D_t + σ_t² I. Given
x_t, the mean of c_s, s ≤ t, is

    E[c_s | x_t] = R_s m + G (x_t − a_t R_t m),     G = a_t D_s R_{s→t}ᵀ (a_t² D_t + σ_t² I)⁻¹ .
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass

import torch
from torch import Tensor

from lineardiffusion._checks import as_numbers, check_process
from lineardiffusion.caches import BoundedCache
from lineardiffusion.lab.frames import Frame, data_frame, grouped, in_frames, matrix_of
from lineardiffusion.lab.matrices import inverse, plus, sandwich, times, transposed
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.bases import Standard
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
        frame, values = data_frame(covariance, process.shape(0))
        self._changes = process.shape_changes()
        self._gains: BoundedCache[Tensor] = BoundedCache(_CACHE_BYTES, _bytes)
        self._apart = False
        if apart and self._changes and frame.turn is None:
            in_groups = grouped(process.path, process.shape(0))
            if in_groups.order is not None and in_groups.basis == frame.basis:
                self._apart, frame, values = True, in_groups, values[in_groups.order]
        self._levels = {0: _Level(frame, [0.0], {0.0: values})}

    def frame(self, t: float) -> Frame:
        return self._level(t).frame

    def mean(self, t: float) -> Tensor:
        """a_t R_t m, an event."""
        return self.process.operator(0, t)(self.data_mean)

    def degradation(self, s: float, t: float) -> Tensor:
        """R_{s→t}"""
        return in_frames(self.process.degradation(s, t), self.frame(s), self.frame(t))

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
            start, data, path = self._changes[reached - 1], self._levels[0], self.process.path
            shape = self.process.shape(start)
            frame = grouped(path, shape) if self._apart else Frame(Standard(shape))
            images = matrix_of(self.process.degradation(0, start), data.frame, frame)
            frame, values = frame.along(sandwich(images, data.covariances[0]))
            self._levels[reached] = _Level(frame, [start], {start: values.clamp(min=0)})
        return self._levels[reached]


def _bytes(matrix: Tensor) -> int:
    return matrix.numel() * matrix.itemsize


@dataclass
class _Level:
    frame: Frame
    times: list[float]  # at which D is known, ascending
    covariances: dict[float, Tensor]
