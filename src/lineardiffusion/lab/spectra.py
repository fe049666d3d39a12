"""Covariances of data, and the denoiser that is optimal for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, as_shape, check_event
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.lab.marginals import Marginals
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.separable import spatial_axes
from lineardiffusion.operators.spectral import SpectralFilter, cosine_coefficients
from lineardiffusion.processes.base import LinearDiffusion


def power_law(shape: Sequence[int], exponent: float = 2.0, variance: float = 0.25) -> SpectralFilter:
    r"""A covariance that is diagonal in the cosine basis, with the power spectrum (1 + |k|)^{−exponent} of natural
    images; |k| is the Euclidean norm of the indices.

    Arguments:
        shape: event shape, channels first.
        exponent: of the decay.
        variance: mean of the spectrum, hence tr C / n.

    Example:
        >>> import lineardiffusion as ld
        >>> ld.lab.power_law((1, 8)).gain.mean().item()
        0.25
    """
    event = as_shape(shape)
    grids = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in event[-spatial_axes(event) :]), indexing="ij"
    )
    radius = torch.stack([grid.square() for grid in grids]).sum(0).sqrt()
    spectrum = (1 + radius) ** -exponent
    return SpectralFilter(event, variance * spectrum / spectrum.mean())


def estimate(images: Tensor) -> tuple[SpectralFilter, Tensor]:
    """Covariance, diagonal in the cosine basis with a spectrum for each channel, and mean of images.

    Arguments:
        images: with shape (N, C, H, W), or (N, C, L), N ≥ 2.

    Returns:
        The covariance, and the mean image (C, H, W).

    Raises:
        ValueError: fewer than two images, or events without spatial axes.
    """
    if images.ndim < 3 or len(images) < 2:
        raise ValueError(f"images: expected shape (N, C, …) with N ≥ 2, got {tuple(images.shape)}")
    work = images.detach().cpu().double()
    mean = work.mean(0)
    coefficients = cosine_coefficients(work - mean, tuple(mean.shape))
    return SpectralFilter(tuple(mean.shape), coefficients.square().sum(0) / (len(images) - 1)), mean


class OptimalDenoiser(Denoiser):
    """E[c_s | x_t] for data N(m, C): the ground truth of every trained denoiser on such data.

    Arguments:
        process, covariance, mean: as `ld.lab.evaluate`.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 16), levels=2, num_steps=100)
        >>> d = ld.lab.OptimalDenoiser(p, ld.lab.power_law((1, 16)))
        >>> ld.AncestralSampler(d)(4, seeds=range(4), progress=False).shape
        torch.Size([4, 1, 16])
    """

    def __init__(
        self, process: LinearDiffusion, covariance: Tensor | LinearOperator, mean: float | Tensor = 0.0
    ) -> None:
        super().__init__(_no_network, process)
        self._marginals = Marginals(process, covariance, mean, range(process.num_steps, -1, -1))

    def forward(self, x_t: Tensor, t: int | Tensor, s: int | None = None, **conditioning: Any) -> Tensor:
        process, marginals = self.process, self._marginals
        if isinstance(t, Tensor) and t.ndim:
            return torch.stack([self(x[None], u)[0] for x, u in zip(x_t, process.check_times(t), strict=True)])
        t = as_index(t, 1, process.num_steps, "t")
        s = t - 1 if s is None else as_index(s, 0, t - 1, "s")
        check_event(x_t, process.shape(t), "x_t")
        deviation = (x_t.cpu().double() - marginals.mean(t)).flatten(-len(process.shape(t)))
        coordinates = deviation @ marginals.frame(t).vectors
        gain = marginals.gain(t, s)
        estimated = coordinates * gain if gain.ndim == 1 else coordinates @ gain.T
        event = (estimated @ marginals.frame(s).vectors.T).reshape(
            *x_t.shape[: -len(process.shape(t))], *process.shape(s)
        )
        return ((event + marginals.mean(s)) / process.signal_scale(s)).to(x_t)


def _no_network(*arguments: Any, **conditioning: Any) -> Tensor:
    raise NotImplementedError("the optimal denoiser has no network")
