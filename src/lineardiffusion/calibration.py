r"""What a denoiser cannot know, measured and put back: covariance-corrected sampling.

A sampler takes the estimate ĉ_s of the clean image for known. Given x_t it is not: c_s is ĉ_s and a residual, which is
largest where the resolution grows, in all the detail that x_t has never seen. Drawing

    c_s ~ N(ĉ_s, R),   R = Σ_i w_i w_iᵀ + V diag(d) Vᵀ,

in the place of ĉ_s, with V the cosine basis and a spectrum d for each channel, adds to the covariance of x_s

    E = a_s² (I − K M) R (I − K M)ᵀ,

K the gain of the kernel and M = M_{s→t}: what a sampler leaves out (`ld.lab.evaluate`), as far as the residual is
Gaussian. The spectrum is all there is to know where residuals are stationary, alike at every place. Those of digits, or
of faces, are not, and the first principal components w_i of the residual say where it is large. Both are measured on
held-out images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import as_flag, as_index, as_range, check_batch, check_kind, compute_dtype
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.operators.spectral import cosine_coefficients
from lineardiffusion.residual import Pair, Residual
from lineardiffusion.schedules.grids import Steps, as_times


@torch.no_grad()
def calibrate(
    denoiser: Denoiser,
    images: Tensor,
    steps: Steps = None,
    *,
    shape_changes_only: bool = True,
    rank: int = 0,
    clip: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
    **conditioning: Any,
) -> Residual:
    """Measure the covariance of a denoiser's residuals on held-out images, in one pass.

    Arguments:
        denoiser: trained on other images.
        images: with shape (N, *shape(0)); a variance is known to a relative error of √(2/N).
        steps: as the sampler has them that is to be corrected: only its steps t → s are measured.
        shape_changes_only: of these, only those that change the shape.
        rank: number of principal components (all of them where an event has fewer numbers), beside which the spectrum
            is that of the rest; at the cost of a singular value decomposition of all residuals for each step, which
            are kept until then.
        clip: as that of the sampler, (−1, 1) for images.
        generator: of the noise.
        batch_size: images at a time.
        conditioning: passed on to the network; tensors have a row for each image.

    Raises:
        ValueError: images of a wrong shape, no step to measure, an empty clip range, or a negative rank.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 8, 8), levels=2, num_steps=100)
        >>> d = ld.Denoiser(lambda x, t_index, size: x.new_zeros(len(x), 1, *size), p)
        >>> residual = ld.calibrate(d, torch.rand(16, 1, 8, 8), 10, generator=torch.Generator().manual_seed(0))
        >>> {pair: tuple(spectrum.shape) for pair, spectrum in residual.spectra.items()}
        {(76, 67): (1, 8, 8)}
        >>> sampler = ld.AncestralSampler(d, steps=10, residual=residual)
    """
    check_kind(denoiser, Denoiser, "denoiser", "an ld.Denoiser")
    process = denoiser.process
    check_batch(images, process.shape(0), "images")
    if len(images) == 0:
        raise ValueError(f"images: expected shape (N, *{process.shape(0)}) with N ≥ 1, got {tuple(images.shape)}")
    process.check_data(images, "images")
    batch_size = as_index(batch_size, 1, 2**31, "batch_size")
    shape_changes_only = as_flag(shape_changes_only, "shape_changes_only")
    clip, rank = as_range(clip), as_index(rank, 0, 2**31, "rank")
    pairs = [
        (t, s)
        for t, s in itertools.pairwise(as_times(process, steps))
        if s > 0 and not (shape_changes_only and process.shape(t) == process.shape(s))
    ]
    if not pairs:
        which = ", one that changes the shape," if shape_changes_only else ""
        raise ValueError(f"steps: expected at least one step to measure{which} before the last, to 0; got none")
    spectra: dict[Pair, Tensor] = {}
    components: dict[Pair, Tensor] = {}

    def residuals(t: float, s: float) -> Iterator[Tensor]:
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            x0 = images[part].to(compute_dtype(images.dtype))
            known = {name: value[part] if isinstance(value, Tensor) else value for name, value in conditioning.items()}
            estimate = denoiser(process.diffuse(x0, t, generator=generator), t, s, **known)
            if clip is not None:
                estimate = estimate.clamp(*clip)
            yield (process.clean(x0, s) - estimate).cpu().double()

    for t, s in pairs:
        parts: Iterable[Tensor] = residuals(t, s)
        if rank:  # components alone need all residuals at once
            components[t, s], rest = _principal(torch.cat(list(parts)), rank)
            parts = [rest]
        total = torch.zeros(process.shape(s), dtype=torch.float64)
        for part in parts:
            total += cosine_coefficients(part, process.shape(s)).square().sum(0)
        spectra[t, s] = total / len(images)
    return Residual(spectra, components)


def _principal(residuals: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first eigenvectors of the second moment of residuals (N, *event), times the roots of their eigenvalues; and
    what they leave of each residual."""
    rows = residuals.flatten(1)
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    values, vectors = values[:rank, None], vectors[:rank]
    components = values / len(rows) ** 0.5 * vectors
    return components.reshape(-1, *residuals.shape[1:]), (rows - rows @ vectors.T @ vectors).reshape(residuals.shape)
