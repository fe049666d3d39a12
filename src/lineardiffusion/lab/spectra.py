"""Covariances of data, and the denoiser that is optimal for them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lineardiffusion._checks import (
    as_number,
    as_positive,
    check_event,
    check_finite,
    check_tensor,
    compute_dtype,
)
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.lab.marginals import Marginals
from lineardiffusion.lab.matrices import act
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.separable import spatial_axes
from lineardiffusion.operators.spectral import SpectralFilter, cosine_coefficients
from lineardiffusion.paths.base import as_event
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.processes.doubts import of_pixels


def power_law(shape: Sequence[int], exponent: float = 2.0, variance: float = 0.25) -> SpectralFilter:
    r"""A covariance that is diagonal in the cosine basis, with the power spectrum (1 + |k|)^{−exponent} of natural
    images; |k| is the Euclidean norm of the indices.

    Arguments:
        shape: event shape, channels first.
        exponent: of the decay.
        variance: mean of the spectrum, hence tr C / n.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.lab.power_law((1, 8)).gain.mean().item()
        0.25
    """
    event, exponent, variance = as_event(shape), as_number(exponent, "exponent"), as_positive(variance, "variance")
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
    check_tensor(images, "images")
    if images.is_complex() or images.is_meta:
        raise ValueError(f"images: expected real numbers, got {images.dtype} on {images.device}")
    check_finite(images, "images")
    if images.ndim < 3 or len(images) < 2:
        raise ValueError(f"images: expected shape (N, C, …) with N ≥ 2, got {tuple(images.shape)}")
    message = of_pixels(images, "images")
    if message:
        warnings.warn(message, stacklevel=2)
    work = images.detach().cpu().double()
    mean = work.mean(0)
    coefficients = cosine_coefficients(work - mean, tuple(mean.shape))
    return SpectralFilter(tuple(mean.shape), coefficients.square().sum(0) / (len(images) - 1)), mean


class OptimalDenoiser(Denoiser):
    """E[x_0 | x_t] for data N(m, C): the ground truth of every trained denoiser on such data. It predicts "data".

    Arguments:
        process, covariance, mean: as `ld.lab.evaluate`.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 16), levels=2, num_steps=100)
        >>> d = ld.lab.OptimalDenoiser(p, ld.lab.power_law((1, 16)))
        >>> ld.AncestralSampler(d)(4, seeds=range(4), progress=False).shape
        torch.Size([4, 1, 16])
    """

    def __init__(
        self, process: LinearDiffusion, covariance: Tensor | LinearOperator, mean: float | Tensor = 0.0
    ) -> None:
        self.marginals = Marginals(process, covariance, mean)
        super().__init__(PosteriorMean(self.marginals), process, "data")

    def output(self, x_t: Tensor, t: float | Tensor, **conditioning: Any) -> Tensor:
        """E[x_0 | x_t], in the dtype of x_t or, where that is narrower, in float32; t in all of its digits."""
        output: Tensor = self.network(x_t, t)
        return output.to(compute_dtype(x_t.dtype))


class PosteriorMean(nn.Module):
    """E[x_0 | x_t] in float64, as a network of x_t (B, *shape(t)) and of t, a number or (B,)."""

    def __init__(self, marginals: Marginals) -> None:
        super().__init__()
        self.marginals = marginals

    def forward(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        if isinstance(t, Tensor) and t.ndim:
            times = self.marginals.process.times(t, len(x_t), low="above").tolist()
            return torch.cat([self(x[None], u) for x, u in zip(x_t, times, strict=True)])
        marginals, time = self.marginals, self.marginals.process.time(float(t), low="above")
        check_event(x_t, marginals.process.shape(time), "x_t")
        gain = marginals.gain(time, 0)
        deviation = marginals.frame(time).coordinates(x_t.cpu().double() - marginals.mean(time))
        return (marginals.frame(0).events(act(gain, deviation)) + marginals.data_mean).to(x_t.device)
