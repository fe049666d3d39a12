"""Diffusions of Haar coordinates: all of them at once (WaveDiff), and those of each scale given the coarser image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from lineardiffusion import paths, schedules
from lineardiffusion._checks import as_index, as_numbers, check_event, check_function, got
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.families.ddpm import DDPM
from lineardiffusion.losses import Uniform
from lineardiffusion.networks import as_tensor
from lineardiffusion.operators.bases import Haar
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.schedules import NoiseSchedule
from lineardiffusion.schedules.grids import Steps


def bands(x: Tensor) -> Tensor:
    """Haar coordinates of images (*batch, C, H, W) as channels, (*batch, 4C, H/2, W/2): sums of 2 × 2 pixels (halved),
    differences along W, along H, and along both, orthonormal."""
    z = Haar(x.shape[-3:]).analyse(x)
    return rearrange(z, "... c (p h) (q w) -> ... (p q c) h w", p=2, q=2)


def image_of(bands: Tensor) -> Tensor:
    """The images (*batch, C, H, W) whose `bands` these are."""
    z = rearrange(bands, "... (p q c) h w -> ... c (p h) (q w)", p=2, q=2)
    return Haar(z.shape[-3:]).synthesise(z)


class BandNetwork(nn.Module):
    """A network of bands as one of images: half the `bands` of x_t in, half of those of x̂_0 out.

    Arguments:
        network: called as network(bands (B, 4C, H/2, W/2), time, **conditioning).
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        check_function(network, "network", "a module or another function of (bands, time)")
        self.network = network

    def forward(self, x: Tensor, time: Tensor, **conditioning: Any) -> Tensor:
        return image_of(2 * as_tensor(self.network(bands(x) / 2, time, **conditioning)))


@configured("families.wavelet.BandDenoiser", without=["network"])
class BandDenoiser(Denoiser):
    """A denoiser of images whose network, of bands, is called by a `BandNetwork`; arguments as for `ld.Denoiser`."""

    def __init__(self, network: Callable[..., Any], process: LinearDiffusion) -> None:
        super().__init__(network if isinstance(network, BandNetwork) else BandNetwork(network), process, "data")

    def arguments(self) -> dict[str, object]:
        return {"process": self.process}


class WaveletDiffusion(Family):
    r"""z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) ε for z = ½ Wᵀx, the Haar coordinates of images in [−1, 1], halved to lie there too.
    W is orthonormal, so that this is x_t = √ᾱ_t x_0 + 2 √(1 − ᾱ_t) ε: DDPM with twice the noise, which a network sees
    as bands, four times as many channels of a quarter of the pixels. Exact. With T steps, for t = 0 … T,

        ᾱ_t = a²(u_t)/a²(u_0),   u_t = 0.001 + 0.999 t/T,   a that of `ld.schedules.vp`.

    The published networks are generators, with a latent beside z_t, of adversarial losses; the loss here is the mean
    squared error of x_0, and so few steps are then too few.

    References:
        | Wavelet Diffusion Models are Fast and Scalable Image Generators (Phung et al., 2023),
        | https://arxiv.org/abs/2211.16152
        | https://github.com/VinAIResearch/WaveDiff: the schedule, the half, the order of bands

    Arguments:
        shape: event shape (C, H, W) of even sizes.
        num_steps: T.
        beta_min, beta_max: as for `ld.schedules.vp`.

    Raises:
        ValueError: a shape of other axes, odd sizes, or rates that are not in order.

    Examples:
        >>> import lineardiffusion as ld
        >>> p = ld.families.WaveletDiffusion((3, 32, 32))
        >>> d = p.denoiser(lambda z, index: z)
        >>> p.sampler(d)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 3, 32, 32])
    """

    card = Card(
        paper="Phung et al., 2023",
        url="https://arxiv.org/abs/2211.16152",
        degradation="$I$; Haar's coordinates are the network's",
        noise="white",
        schedule=r"$a_t^2 = \bar\alpha_t$, $\sigma_t^2 = 4(1 - \bar\alpha_t)$, VP with β from 0.1 to 20",
        prediction="$x_0$, by its bands",
        sampler="ancestral, 4 steps",
        exact="exact",
    )
    prediction = "data"
    weighting = Uniform()

    def __init__(self, shape: Sequence[int], num_steps: int = 4, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        _check_images(shape)
        times = torch.linspace(0.001, 1, as_index(num_steps, 1, 2**31, "num_steps") + 1, dtype=torch.float64)
        signal = schedules.vp(beta_min, beta_max).signal(times)
        signal = signal / signal[0]
        super().__init__(paths.identity(shape), schedules.table(signal, 2 * (1 - signal.square()).sqrt()))

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        """A network of bands."""
        return BandDenoiser(network, self)

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> Sampler:
        return AncestralSampler(denoiser, steps, **settings)


class WSGM(DDPM):
    r"""One scale of a cascade, p(x) = p(low) p(detail | low): a DDPM of the details of images, the bands that are no
    sums, given these, each band over its standard deviation in the data. Sums are images again, twice as bright and of
    half the size, with a WSGM of their own, down to a size that a DDPM samples. Exact: the factorisation is one of
    probabilities, and Haar's coordinates are orthonormal.

    The network is called as network(x_t, time, low=low); wavelets other than Haar's are not here.

    References:
        | Wavelet Score-Based Generative Modeling (Guth et al., 2022), https://arxiv.org/abs/2208.05003

    Arguments:
        shape: event shape (C, H, W) of the images, of even sizes; events of the process are (3C, H/2, W/2).
        num_steps, schedule: as for `DDPM`.
        deviations: of each of the 3C bands, in the order of `bands`; by default 1.

    Raises:
        ValueError: a shape of other axes, odd sizes, or deviations that are not 3C positive numbers.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> scales = [ld.families.WSGM((1, 8, 8)), ld.families.WSGM((1, 16, 16))]
        >>> x = torch.randn(2, 1, 4, 4)  # from a DDPM
        >>> for p in scales:
        ...     sampler = p.sampler(p.denoiser(lambda x, index, low: torch.zeros_like(x)), steps=5)
        ...     x = p.join(x, sampler(len(x), progress=False, low=x))
        >>> x.shape
        torch.Size([2, 1, 16, 16])
    """

    card = DDPM.card._replace(
        paper="Guth et al., 2022",
        url="https://arxiv.org/abs/2208.05003",
        degradation="$I$ on the Haar details of one scale, given the coarser image",
        sampler="ancestral, as many steps at each scale",
    )

    def __init__(
        self,
        shape: Sequence[int],
        num_steps: int = 1000,
        schedule: NoiseSchedule = "linear",
        deviations: Sequence[float] | Tensor | None = None,
    ) -> None:
        channels, height, width = self.image_shape = _check_images(shape)
        super().__init__((3 * channels, height // 2, width // 2), num_steps, schedule)
        scale = torch.ones(3 * channels) if deviations is None else as_numbers(deviations, "deviations")
        if tuple(scale.shape) != (3 * channels,) or not bool((scale > 0).all()):
            raise ValueError(f"deviations: expected {3 * channels} positive numbers, got {got(deviations)}")
        self.deviations = scale.double()[:, None, None]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (*batch, C, H, W) as (low, detail), low (*batch, C, H/2, W/2) and detail an event of the process."""
        check_event(x, self.image_shape, "x")
        z, channels = bands(x), self.image_shape[0]
        low, detail = z[..., :channels, :, :], z[..., channels:, :, :]
        return low, detail / self.deviations.to(detail)

    def join(self, low: Tensor, detail: Tensor) -> Tensor:
        """The images whose `split` this is."""
        return image_of(torch.cat([low, detail * self.deviations.to(detail)], dim=-3))

    def data(self, images: Tensor) -> Tensor:
        """The details of images, of which the network is told the low part: low, detail = split(images)."""
        return self.split(images)[1]

    def images(self, x_0: Tensor) -> Tensor:
        raise TypeError("x_0: expected join(low, x_0), as details alone are no images")


def _check_images(shape: Sequence[int]) -> tuple[int, ...]:
    """An event shape (C, H, W) of even sizes."""
    event = Haar(shape).shape
    if len(event) != 3:
        raise ValueError(f"shape: expected (C, H, W), got {event}")
    return event
