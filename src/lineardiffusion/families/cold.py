"""Cold Diffusion: images are degraded without any noise, step by step, and restored the same way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from lineardiffusion import paths, schedules
from lineardiffusion._checks import (
    Shape,
    as_choice,
    as_flag,
    as_index,
    as_numbers_in_a_row,
    as_shape,
    check_function,
    compute_dtype,
)
from lineardiffusion.config import Configured, configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family, check_loss
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.convolution import Convolution, Padding
from lineardiffusion.operators.diagonal import Diagonal
from lineardiffusion.operators.separable import Mode, Resize, outer, spatial_axes
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.samplers.shared_noise import SharedNoiseSampler
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.times import Uniform

# Functions of an event shape that return K_1, …, K_T.
Degradation = Callable[[Shape], Sequence[LinearOperator]]


@configured("families.GaussianBlur")
@dataclass(frozen=True, eq=False, repr=False)
class GaussianBlur(Configured):
    r"""Convolutions with sampled Gaussians.

    The default is that of generation, to a constant colour in the end. The authors restore

        faces       GaussianBlur([math.exp(0.01 * k) for k in range(200)], 15, "reflect", to_mean=False)
        CIFAR-10    GaussianBlur([0.35 + 0.01 * k for k in range(50)], 11, "reflect", to_mean=False)
        MNIST       GaussianBlur([7.0] * 20, 11, to_mean=False)

    Arguments:
        widths: standard deviations of K_1, …, K_T, in pixels.
        size: of the kernels, odd, along every axis but the channels.
        padding: as for `ld.Convolution`.
        to_mean: whether K_T takes the mean of each channel as well.

    Raises:
        ValueError: no width, or one that is not positive; when it is used, kernels that are larger than the image.
    """

    widths: Sequence[float] = tuple(math.exp(0.01 * k) for k in range(300))
    size: int = 27
    padding: Padding = "circular"
    to_mean: bool = True

    def __post_init__(self) -> None:
        _check_widths(self.widths)
        as_index(self.size, 1, 2**31, "size")
        as_choice(self.padding, get_args(Padding), "padding")
        as_flag(self.to_mean, "to_mean")

    def __call__(self, shape: Shape) -> list[LinearOperator]:
        axes, positions = spatial_axes(shape), torch.arange(self.size) - self.size // 2
        profiles = (_gaussian(positions, width) for width in self.widths)
        kernels = (outer([profile / profile.sum()] * axes) for profile in profiles)
        blurs: list[LinearOperator] = [Convolution(kernel, shape, self.padding) for kernel in kernels]
        if self.to_mean:
            constant = torch.zeros(shape[-axes:], dtype=torch.float64)
            constant[(0,) * axes] = 1
            blurs[-1] = SpectralFilter(shape, constant, "fft") @ blurs[-1]
        return blurs


@configured("families.GaussianMask")
@dataclass(frozen=True, eq=False, repr=False)
class GaussianMask(Configured):
    r"""Factors 1 − exp(−‖p − p_0‖²/2s²) of the pixels p, p_0 the middle of the image; by default for faces, inpainted.

    Arguments:
        widths: s of K_1, …, K_T, in pixels.

    Raises:
        ValueError: no width, or one that is not positive.
    """

    widths: Sequence[float] = tuple(0.2 * (1 + k) for k in range(100))

    def __post_init__(self) -> None:
        _check_widths(self.widths)

    def __call__(self, shape: Shape) -> list[LinearOperator]:
        # Of even sizes n the middle is pixel n/2 − 1, as in the authors' code.
        positions = [torch.arange(n) - (n - 1) // 2 for n in shape[-spatial_axes(shape) :]]
        masks = (1 - outer([_gaussian(position, width) for position in positions]) for width in self.widths)
        return [Diagonal(mask.broadcast_to(shape)) for mask in masks]


@configured("families.LowResolution")
@dataclass(frozen=True, eq=False, repr=False)
class LowResolution(Configured):
    r"""Sampling without a filter to ⌊n/2^t⌋ pixels along each axis, and back to the n there were by repeating them.

    Arguments:
        num_steps: T; 3 for CIFAR-10, 4 for faces of 128 pixels.
        mode: "bicubic", "bilinear" or "area".

    Raises:
        ValueError: T < 1; when it is used, an unknown mode or more steps than an axis can be halved.
    """

    num_steps: int = 3
    mode: Mode = "bicubic"

    def __post_init__(self) -> None:
        as_index(self.num_steps, 1, 2**31, "num_steps")
        as_choice(self.mode, get_args(Mode), "mode")

    def __call__(self, shape: Shape) -> list[LinearOperator]:
        sizes = shape[-spatial_axes(shape) :]
        operators: list[LinearOperator] = []
        for t in range(1, self.num_steps + 1):
            small = Resize(shape, [n >> t for n in sizes], self.mode, antialias=False)
            operators.append(Resize(small.out_shape, sizes, "nearest-exact") @ small)
        return operators


class ColdDiffusion(Family):
    r"""x_t = K_t ⋯ K_1 x_0, without noise. The network R restores x_0 from x_t, trained by ‖R(x_t, t) − x_0‖₁ (here a
    mean over pixels). From x̂_0 = R(x_t, t)

        algorithm 1    x_{t−1} = K_{t−1} ⋯ K_1 x̂_0                        `ld.SharedNoiseSampler(d, eta=1.0)`
        algorithm 2    x_{t−1} = x_t − K_t ⋯ K_1 x̂_0 + K_{t−1} ⋯ K_1 x̂_0   `ld.SharedNoiseSampler(d, eta=0.0)`

    Exact. Samples start from degraded images, `sampler(n, prior=images)`; the authors' own start is a mixture of
    Gaussians fitted to these, with a little noise, to be given as `start=(p.end, states)`. With constant colour at T
    they round states to 8 bits in training, which is left out.

    References:
        | Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise (Bansal et al., 2023), Algorithms 1 and 2
        | https://arxiv.org/abs/2208.09392

    Arguments:
        shape: event shape, channels first.
        degradation: `families.GaussianBlur`, `GaussianMask` or `LowResolution`, or any function of the event shape that
            returns operators K_1, …, K_T.

    Raises:
        TypeError: no function.
        ValueError: operators that do not chain, or do not fit the shape.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.ColdDiffusion((1, 8, 8), ld.families.LowResolution(2))
        >>> d = p.denoiser(lambda x, index: x)
        >>> p.sampler(d)(2, prior=torch.rand(5, 1, 8, 8), seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="Bansal et al., 2023",
        url="https://arxiv.org/abs/2208.09392",
        degradation="blurs one after the other, 300 to a constant colour; masks; lower resolutions",
        noise="none",
        schedule=r"$a_t = 1$, $\sigma_t = 0$",
        prediction="$x_0$",
        sampler=r"algorithm 2: $x_{t-1} = x_t - \mu_t + \mu_{t-1}$",
        exact="exact",
    )
    prediction = "data"
    drawn_times = Uniform()

    def __init__(self, shape: Sequence[int], degradation: Degradation | None = None) -> None:
        path = ColdPath(shape, GaussianBlur() if degradation is None else degradation)
        steps = len(path.operators)
        super().__init__(path, schedules.table([1.0] * (steps + 1), [0.0] * (steps + 1)), coupling="shared")

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> SharedNoiseSampler:
        return SharedNoiseSampler(denoiser, steps, **settings)

    def loss(
        self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None, **conditioning: Any
    ) -> Tensor:
        check_loss(self, denoiser, x0, self.prediction)
        t, x0 = self.drawn_times.sample(self, len(x0), generator), x0.to(compute_dtype(x0.dtype))
        restored = denoiser.output(self.diffuse(x0, t, generator=generator), t, **conditioning)
        return (restored - x0).abs().flatten(1).mean(1)


@configured("families.ColdPath")
class ColdPath(paths.chain):
    """R_{s→t} = K_t ⋯ K_{s+1}, known by the degradation that they are of.

    Arguments:
        shape, degradation: as for `ColdDiffusion`.
    """

    def __init__(self, shape: Sequence[int], degradation: Degradation) -> None:
        self.degradation = degradation
        expected = (
            "one such as ld.families.GaussianBlur(), or another function of the event shape that returns operators"
        )
        check_function(degradation, "degradation", expected)
        super().__init__(degradation(as_shape(shape)))
        if self.shape(0) != as_shape(shape):
            raise ValueError(f"degradation: expected operators on events {as_shape(shape)}, got {self.shape(0)}")

    def arguments(self) -> dict[str, object]:
        return {"shape": self.shape(0), "degradation": self.degradation}


def _check_widths(widths: Sequence[float]) -> None:
    numbers = as_numbers_in_a_row(widths, "widths", "(0.5, 1.0, 2.0)")
    if not numbers or not all(0 < width < math.inf for width in numbers):
        raise ValueError(f"widths: expected at least one number > 0, in pixels, and no other, got {numbers}")


def _gaussian(x: Tensor, sigma: float) -> Tensor:
    """exp(−x²/2σ²)"""
    return torch.exp(-0.5 * (x.double() / sigma).square())
