"""Laplacian Diffusion: bands of an image fade at rates of their own as noise rises, the finest first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_numbers_in_a_row, as_shape
from lineardiffusion.config import Configured, configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import EDM
from lineardiffusion.operators.bases import Haar, first
from lineardiffusion.operators.separable import spatial_axes
from lineardiffusion.predictions import EDMPrediction
from lineardiffusion.samplers.ddim import DDIMSampler
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.times import LogNormalSigma


@configured("families.Attenuation")
class Attenuation(Configured):
    """The gains max(0, 1 − σ_t/σ_l) of band l, the finest first, of the schedule `edm()`; 1 of what is in no band.

    Arguments:
        shape: event shape.
        gone: the σ_l, ascending.

    Raises:
        ValueError: levels that are not so, or sizes that cannot be halved as often.
    """

    def __init__(self, shape: Sequence[int], gone: Sequence[float]) -> None:
        self.shape, self.gone = as_shape(shape), as_numbers_in_a_row(gone, "gone", "(0.5, 2.0)")
        if not self.gone or sorted({0.0, *self.gone}) != [0.0, *self.gone] or math.isinf(self.gone[-1]):
            raise ValueError(f"gone: expected finite noise levels 0 < σ_1 < σ_2 < …, got {self.gone}")
        self.basis = Haar(self.shape, len(self.gone))
        sizes = self.shape[-spatial_axes(self.shape) :]
        self._gone = torch.full(sizes, torch.inf, dtype=torch.float64)
        for level, sigma in enumerate(self.gone):
            first(self._gone, [n >> level for n in sizes]).fill_(sigma)
            first(self._gone, [n >> level + 1 for n in sizes]).fill_(torch.inf)

    def __call__(self, t: float) -> Tensor:
        return (1 - schedules.edm().sigma(t) / self._gone).clamp(min=0)


class LaplacianDiffusion(Family):
    r"""x_t = V_l diag(r_t) P_l Vᵀ x_0 + σ_t ε: band l of the image, what it has at 1/2^l of its size and not at half of
    that, fades as noise rises, r_t = max(0, 1 − σ_t/σ_l), and is left out once it is gone, at σ_l.

    Exact for these choices, which approximate the paper: it says that its bands are attenuated at different rates, and
    that resolution falls with them, but not by which formula. Ours are the linear rate, the σ_l and Haar's bands.

    References:
        | Edify Image: High-Quality Image Generation with Pixel Space Laplacian Diffusion Models (NVIDIA, 2024)
        | https://arxiv.org/abs/2411.07126

    Arguments:
        shape: event shape, channels first, each size a multiple of 2 to the number of bands.
        gone: the σ_l, ascending.

    Raises:
        ValueError: levels that are not so, or sizes that cannot be halved as often.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.LaplacianDiffusion((1, 8, 8))
        >>> p.shape(0), p.shape(p.schedule.time(0.0)), p.shape(1.0)  # where σ = 0, 1 and 80
        ((1, 8, 8), (1, 4, 4), (1, 2, 2))
        >>> d = p.denoiser(lambda x, c_noise: torch.zeros_like(x))
        >>> p.sampler(d)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="NVIDIA, 2024",
        url="https://arxiv.org/abs/2411.07126",
        degradation=r"Haar bands fade, $1 - \sigma_t/\sigma_l$, and are left out at $\sigma_l$",
        noise="white",
        schedule=r"$a_t = 1$, $\sigma_t = 80\,t^7$, as EDM",
        prediction=r"preconditioned $F$ of EDM, $\sigma_d = 0.5$",
        sampler="second order, 18 steps (ours)",
        exact="rates and bands are ours; else exact",
    )
    prediction = EDMPrediction(0.5)
    drawn_times = LogNormalSigma()
    weighting = EDM(0.5)

    def __init__(self, shape: Sequence[int], gone: Sequence[float] = (0.5, 2.0)) -> None:
        gains = Attenuation(shape, gone)
        if gains.gone[-1] > schedules.edm().sigma(1.0):
            raise ValueError(f"gone: expected noise levels up to {schedules.edm().sigma(1.0):g}, got {gains.gone}")
        changes = [schedules.edm().time(-2 * math.log(sigma)) for sigma in gone]
        super().__init__(
            paths.truncated(gains.basis, gains.basis.halvings, changes, gains, orthonormal=False), schedules.edm()
        )

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        """A network for all sizes; where the size grows, the image has no detail yet, as it has faded."""
        return Denoiser(network, self, self.prediction, lift="pseudoinverse")

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> DDIMSampler:
        return DDIMSampler(denoiser, 18 if steps is None else steps, **{"order": 2, **settings})
