r"""The steps of a sampler with the optimal denoiser, as linear functions of the states before.

With G_j the gain of E[c | x_{t_j}] (`lineardiffusion.lab.marginals`), a step from t to s is, but for means,

    x_s = K x_t + T c* + noise,     c* = Σ_j W_j G_j x_{t_j},     T = a_s I − a_t K R_{s→t}

with K and the covariance of the noise those of the sampler's kernel, and W_j the weights of its order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lineardiffusion.lab.frames import in_frames, matrix_of
from lineardiffusion.lab.joint import Joint
from lineardiffusion.lab.marginals import Marginals
from lineardiffusion.lab.matrices import plus, sandwich, times
from lineardiffusion.posterior import isotropic_kernel
from lineardiffusion.samplers import HeunSampler, Sampler, SharedNoiseSampler
from lineardiffusion.samplers.extrapolation import Extrapolation
from lineardiffusion.samplers.history import Estimate
from lineardiffusion.samplers.multistep import markov_decay


class Kernel(NamedTuple):
    """K, the covariance of the noise, and T."""

    gain: Tensor
    noise: Tensor
    passed: Tensor


class Taken(NamedTuple):
    """A step that a corrector takes again: T, and the W_j G_j by time."""

    passed: Tensor
    estimate: dict[float, Tensor]


class Steps:
    """A sampler on its way from its first time.

    States are named ("x", t), and ("y", t) after a corrector.

    Arguments:
        marginals: of the data.
        sampler: with any denoiser of their process.
        variance: of the first state.
    """

    def __init__(self, marginals: Marginals, sampler: Sampler, variance: float) -> None:
        self.marginals, self.sampler, self.process = marginals, sampler, marginals.process
        self.is_heun, self.is_shared = isinstance(sampler, HeunSampler), isinstance(sampler, SharedNoiseSampler)
