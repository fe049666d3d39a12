r"""Inversion: the noise x_T from which the deterministic trajectory leads to a given x_0.

A step of first order with η = 0 is x_s = f(x_t). Its inverse is the fixed point of x_t ← x_t + P (x_s − f(x_t)), with P
the inverse of the slope of f for white data of unit variance,

    P = (α_t² + σ_t²) / (α_s α_t + σ_s σ_t),   α_t = a_t r_t in every direction of the path's frame.

For the optimal denoiser of Gaussian data of any covariance this converges where σ/α no more than doubles in a step, the
faster the smaller the steps. Chains of operators have no such frame: there P = M_{s→t}, which is DDIM inversion until
it agrees with itself.

References:
    | Denoising Diffusion Implicit Models (Song et al., 2021), Sec. 4.3, https://arxiv.org/abs/2010.02502
    | On Exact Inversion of DPM-Solvers (Hong et al., 2024), https://arxiv.org/abs/2311.18387
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import compute_dtype, full_precision
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.processes.base import LinearDiffusion


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    steps: Iterable[tuple[float, float]],
    x_0: Tensor,
    iterations: int,
    clip: tuple[float, float] | None,
    conditioning: dict[str, Any],
) -> Tensor:
    """The state at the end of some steps (t, s), from s = 0 up.

    Arguments:
        denoiser, clip: of the trajectory.
        steps: its steps, the last one first.
        x_0: where it ends, with shape (B, *shape(0)).
        iterations: of the fixed point of each step, a call of the network each.
        conditioning: passed on to the network.

    Raises:
        ValueError: a process that changes shape.
    """
    process = denoiser.process
    if process.shape_changes():
        raise ValueError(
            "invert: expected a process of one shape, got one whose shape changes: what its steps draw anew at "
            f"{process.shape_changes()} cannot be read from x_0"
        )
    x_s = x_0.to(compute_dtype(x_0.dtype))
    for t, s in steps:
        slope = _inverse_slope(process, t, s)
        x_t = _deviation(process, t) / _deviation(process, s) * x_s
        for _ in range(iterations):
            clean = denoiser.carry(*denoiser.estimate(x_t, t, **conditioning), s)
            clean = clean if clip is None else clean.clamp(*clip)
            with full_precision(x_t):
                mean = process.signal_scale(s) * clean
                x_t = x_t + slope(x_s - process.step_kernel(t, s, 0.0).mean(x_t, mean))
        x_s = x_t
    return x_s


def _inverse_slope(process: LinearDiffusion, t: float, s: float) -> LinearOperator:
    """P"""
    if process.path.integral:
        return process.operator(s, t)
    signal_t, signal_s = (process.signal_scale(u) * process.path.gains(u) for u in (t, s))
    sigma_t, sigma_s = process.sigma(t), process.sigma(s)
    return process.path.filter(t, (signal_t**2 + sigma_t**2) / (signal_s * signal_t + sigma_s * sigma_t))


def _deviation(process: LinearDiffusion, t: float) -> float:
    """Of x_t, for white data of unit variance."""
    return math.hypot(process.signal_scale(t), process.sigma(t))
