"""The marginals of a diffusion of Gaussian data, in frames: M_{1:t} x_0 has covariance S_t, x_t has S_t + σ_t² I."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import Shape
from lineardiffusion.lab.frames import (
    Frame,
    eigenframe,
    frame_of,
    in_frames,
    inverse,
    plus,
    sandwich,
    times,
    transposed,
)
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.processes.base import LinearDiffusion


class Marginals:
    """Means and covariances at some times, and the optimal denoiser between them.

    Arguments:
        process: with isotropic noise.
        covariance: C, a matrix over the flattened event or a symmetric operator.
        mean: m, broadcastable to shape(0).
        visited: the times, descending and ending at 0.

    Raises:
        ValueError: noise that is not isotropic, or a covariance that does not fit or is not positive semi-definite.
    """

    def __init__(
        self,
        process: LinearDiffusion,
        covariance: Tensor | LinearOperator,
        mean: float | Tensor,
        visited: Sequence[int],
    ) -> None:
        if not process.is_isotropic:
            raise ValueError("process: expected isotropic noise, got covariances")
        self.process = process
        self._data_mean = torch.as_tensor(mean, dtype=torch.float64).broadcast_to(process.shape(0))
        frame, values = _data_frame(covariance, process.shape(0))
        self._frames, self._signal = {process.shape(0): frame}, {0: values}
        self._operators: dict[tuple[int, int], Tensor] = {}
        for s, t in itertools.pairwise(reversed(visited)):
            here, before = process.shape(t), process.shape(s)
            if here not in self._frames:
                outward = process.chain.between(s, t).to_dense().double() @ self._frames[before].vectors
                self._frames[here] = eigenframe(sandwich(outward, self._signal[s]))[0]
            signal = sandwich(self.operator(t, s), self._signal[s])
            self._signal[t] = signal if here == before else signal.diagonal().clone()  # in the frame made for it

    def frame(self, t: int) -> Frame:
        return self._frames[self.process.shape(t)]

    def coordinates(self, event: Tensor, t: int) -> Tensor:
        """An event of shape(t) in its frame, with shape (n,)."""
        return self.frame(t).vectors.T @ event.flatten()

    def mean(self, t: int) -> Tensor:
        """M_{1:t} m"""
        return self.process.chain.cumulative(t)(self._data_mean)

    def signal(self, t: int) -> Tensor:
        """S_t"""
        return self._signal[t]

    def covariance(self, t: int) -> Tensor:
        """S_t + σ_t² I"""
        signal = self._signal[t]
        return plus(signal, torch.full((len(signal),), self.process.sigma(t) ** 2, dtype=signal.dtype))

    def operator(self, t: int, s: int) -> Tensor:
        """M_{s→t}"""
        if (t, s) not in self._operators:
            self._operators[t, s] = in_frames(self.process.chain.between(s, t), self.frame(s), self.frame(t))
        return self._operators[t, s]

    def gain(self, t: int, s: int) -> Tensor:
        """G, of E[u_s | x_t] = M_{1:s} m + G (x_t − M_{1:t} m)."""
        return times(times(self._signal[s], transposed(self.operator(t, s))), inverse(self.covariance(t)))


def _data_frame(covariance: Tensor | LinearOperator, shape: Shape) -> tuple[Frame, Tensor]:
    count = math.prod(shape)
    if isinstance(covariance, Tensor):
        if covariance.shape != (count, count):
            raise ValueError(f"covariance: expected shape {(count, count)}, got {tuple(covariance.shape)}")
        dense = covariance.detach().cpu().double()
        if not torch.allclose(dense, dense.T, rtol=1e-6, atol=1e-9 * float(dense.abs().max())):
            raise ValueError("covariance: expected a symmetric matrix")
        frame, values = eigenframe(dense)
    else:
        if covariance.in_shape != shape or covariance.out_shape != shape:
            raise ValueError(f"covariance: expected an operator on events {shape}, got one on {covariance.in_shape}")
        frame, values = frame_of(covariance)
    if float(values.min()) < -1e-9 * float(values.max()):
        raise ValueError(f"covariance: expected eigenvalues ≥ 0, got {float(values.min()):.6g}")
    return frame, values.clamp(min=0)
