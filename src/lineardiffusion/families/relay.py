"""Relay Diffusion: a second stage that starts from a small image, enlarged, in the place of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion import paths
from lineardiffusion._checks import (
    Shape,
    as_index,
    as_number,
    as_shape,
    check_event,
    column,
    compute_dtype,
    device_of,
    draw_noise,
    full_precision,
)
from lineardiffusion.config import Configured, configured
from lineardiffusion.covariance import GramCovariance, NoiseLevel
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family, check_loss
from lineardiffusion.kernels import as_eta
from lineardiffusion.losses import EDM, Weighting
from lineardiffusion.operators.bases import BlockCosine
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.predictions import EDMPrediction
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules import Schedule
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.times import TimeSampler

# Of the normal law of ln σ.
_MEAN, _STD = -1.2, 1.2


class RelayDiffusion(Family):
    r"""x_u = R_u x_0 + σ_u (ε + s B ε'),   u in [0, 1], the place of σ in a truncated log-normal law,

        R_u: the heat equation in each block of 4 × 4 pixels, gains 0.999 exp(−‖f‖² b²/2) + 0.001, b = 3 sin²(πu/2),
        σ_u = exp(1.2 Φ⁻¹(0.93 u) − 1.2),
        B: circular sums over 4 × 4 pixels divided by 4, so that Σ_u = σ_u² (I + s² BBᵀ), s = 0.15.

    Where u is large, an image is as good as the small image of its blocks' means, enlarged: sampling starts from that,
    made by another model, and noise (`start`). σ_u is the paper's, of the white part alone: the noise of a pixel is
    √(1 + s²) times as strong. The network is preconditioned as EDM's with this σ, and its estimate is x̂_0 (not c_u).

    Exact, by shared noise (`SharedNoiseSampler`); the paper's start approximates x_u, which is not blurred all the way.
    What is ours: times are u, where the paper's code has σ (`karras_times`), and the two draws of noise are one.

    References:
        | Relay Diffusion (Teng et al., 2024), Sec. 3.1–3.3 and Algorithm 1, https://arxiv.org/abs/2309.03350
        | Constants as for ImageNet in https://github.com/THUDM/RelayDiffusion; those of CelebA-HQ are blur_sigma = 2
        | with prob_length = 0.89 in training and 1.05 in sampling, there from σ = 0.95.

    Arguments:
        shape: event shape of the large image, channels first.
        factor: how many times larger it is; the size of blocks.
        blur_sigma, floor: the greatest b, in pixels, and what is left of each frequency.
        block_scale: s ≥ 0.
        prob_length: the share of the log-normal law that is used, in (0, 1).

    Raises:
        ValueError: sizes that the factor does not divide, or a number out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.RelayDiffusion((3, 8, 8))
        >>> sampler = p.sampler(p.denoiser(lambda x, c_noise: torch.zeros_like(x)), p.karras_times(20))
        >>> start = p.start(torch.zeros(2, 3, 2, 2), sampler.times[0], torch.Generator().manual_seed(0))
        >>> sampler(2, seeds=[0, 1], start=start, progress=False).shape
        torch.Size([2, 3, 8, 8])
    """

    card = Card(
        paper="Teng et al., 2024",
        url="https://arxiv.org/abs/2309.03350",
        degradation=r"heat equation in blocks of $4 \times 4$, $b = 3 \sin^2(\pi u/2)$ pixels, floor $10^{-3}$",
        noise=r"$\sigma^2(I + 0.15^2 BB^\top)$, $B$ sums over blocks",
        schedule=r"$a = 1$, $\sigma = \exp(1.2\,\Phi^{-1}(0.93u) - 1.2)$",
        prediction=r"preconditioned $F$ of EDM, $\sigma_d = 0.5$, of $x_0$",
        sampler=r"noise kept by $\sqrt{1 - 0.2^2}\,\sigma_s/\sigma_t$, second order, from the small image",
        exact="exact",
    )
    weighting: Weighting = EDM(0.5)

    def __init__(
        self,
        shape: Sequence[int],
        factor: int = 4,
        blur_sigma: float = 3.0,
        floor: float = 1e-3,
        block_scale: float = 0.15,
        prob_length: float = 0.93,
    ) -> None:
        event, self.factor = as_shape(shape), as_index(factor, 2, 2**31, "factor")
        for name, value, low, high in (
            ("blur_sigma", blur_sigma, 0.0, math.inf),
            ("floor", floor, 0.0, 1.0),
            ("block_scale", block_scale, 0.0, math.inf),
        ):
            if not low <= as_number(value, name) <= high or math.isinf(value):
                raise ValueError(f"{name}: expected a number in [{low:g}, {high:g}], got {value}")
        path = paths.spectral(
            BlockCosine(event, self.factor), BlockBlur(self.factor, len(event) - 1, blur_sigma, floor)
        )
        schedule = RelaySchedule(self.factor, block_scale, prob_length)
        super().__init__(path, schedule, coupling="shared")
        self.prediction = RelayPrediction(0.5)
        # The paper's code puts the 0.93 on this side too.
        self.drawn_times = ClampedUniform(prob_length**2 * self.schedule.time(-2 * math.log(7.5e-3)))

    def karras_times(self, num_steps: int = 200) -> list[float]:
        """The paper's times: those below σ = 0.9 of the `num_steps` of Karras' grid from 80 to 0.008 (ρ = 7)."""
        n = as_index(num_steps, 2, 2**31, "num_steps")
        roots = torch.linspace(80 ** (1 / 7), 0.008 ** (1 / 7), n, dtype=torch.float64)
        sigmas = roots**7
        times: list[float] = self.schedule.time(-2 * sigmas[sigmas < 0.9].log()).tolist()
        return times

    def start(self, low_resolution: Tensor, t: float, generator: torch.Generator | None = None) -> tuple[float, Tensor]:
        """(t, x_t) to start a sampler from: small images, each pixel repeated, and noise.

        Arguments:
            low_resolution: images of the first stage, with shape (B, C, H/4, W/4).
            t: the first time of the sampler.
            generator: the source of the noise; the global one by default.
        """
        small = (self.shape(0)[0], *(n // self.factor for n in self.shape(0)[1:]))
        check_event(low_resolution, small, "low_resolution")
        mean = F.interpolate(low_resolution, scale_factor=float(self.factor))
        return t, self.add_noise(mean, t, draw_noise(mean, None, generator))

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> RelaySampler:
        return RelaySampler(denoiser, self.karras_times() if steps is None else steps, **settings)

    def loss(
        self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None, **conditioning: Any
    ) -> Tensor:
        """(σ² + σ_d²)/(σ σ_d)² times the mean of (x̂_0 − x_0)², for u uniform, but not below that of σ ≈ 0.0075. The
        paper's code limits the weight to 10⁵, which these u do not reach. Arguments as `Family.loss`."""
        check_loss(self, denoiser, x0, self.prediction)
        t, x0 = self.drawn_times.sample(self, len(x0), generator), x0.to(compute_dtype(x0.dtype))
        estimate, _ = denoiser.estimate(self.diffuse(x0, t, generator=generator), t, **conditioning)
        error = (estimate - x0).square().flatten(1).mean(1)
        return column(self.weighting(self.snr(t)), error) * error


@configured("families.BlockBlur")
@dataclass(frozen=True, eq=False, repr=False)
class BlockBlur(Configured):
    """Gains of the heat equation in blocks of `axes` axes: (1 − floor) exp(−‖f‖² b²/2) + floor, f = πk/block."""

    block: int
    axes: int
    blur_sigma: float
    floor: float

    def __call__(self, t: float) -> Tensor:
        if t == 0:
            return torch.ones((self.block,) * self.axes, dtype=torch.float64)
        b = self.blur_sigma * math.sin(math.pi * t / 2) ** 2
        squared = (math.pi * torch.arange(self.block, dtype=torch.float64) / self.block).square()
        total = torch.stack(torch.meshgrid([squared] * self.axes, indexing="ij")).sum(0)
        return (1 - self.floor) * torch.exp(-total * b**2 / 2) + self.floor


@configured("families.RelaySchedule")
class RelaySchedule(Schedule):
    r"""a = 1, σ_u = exp(1.2 Φ⁻¹(prob_length u) − 1.2), and Σ_u = σ_u² (I + s² BBᵀ)."""

    is_isotropic = False

    def __init__(self, block: int, block_scale: float, prob_length: float) -> None:
        if not 0 < as_number(prob_length, "prob_length") < 1:
            raise ValueError(f"prob_length: expected a number in (0, 1), got {prob_length}")
        self.block, self.block_scale, self.prob_length = block, block_scale, prob_length
        self.first = self.time(-2 * math.log(0.008))  # the least level that the paper samples at
        self._shares: dict[Shape, Tensor] = {}

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), (_STD * torch.special.ndtri(self.prob_length * t) + _MEAN).exp()

    def _inverse(self, log_snr: Tensor) -> Tensor:
        place: Tensor = torch.special.ndtr((-0.5 * log_snr - _MEAN) / _STD)
        return place / self.prob_length

    def noise(self, t: float, shape: Shape) -> NoiseLevel:
        sigma = self.sigma(t)
        return GramCovariance(SpectralFilter(shape, sigma * self._deviations(shape), "fft")) if sigma else 0.0

    def _deviations(self, shape: Shape) -> Tensor:
        """√(1 + s²|B̂|²), of Fourier coordinates."""
        if shape not in self._shares:
            box = torch.zeros(shape[1:], dtype=torch.float64)
            box[tuple(slice(self.block) for _ in shape[1:])] = self.block ** (-0.5 * (len(shape) - 1))
            self._shares[shape] = (1 + (self.block_scale * torch.fft.fftn(box).abs()).square()).sqrt()
        return self._shares[shape]


@configured("families.RelayPrediction")
@dataclass(frozen=True, eq=False, repr=False)
class RelayPrediction(EDMPrediction):
    """EDM's preconditioning of a network that estimates x_0 from a state that is blurred."""

    keeps_shape = False

    def time(self, process: LinearDiffusion, t: Any) -> Any:
        return 0

    def target(self, a: Any, sigma: Any) -> Any:
        raise ValueError("prediction: expected the loss of RelayDiffusion: F* is no mixture of x_0 and the noise alone")

    def check(self, process: LinearDiffusion) -> None:
        pass


@configured("families.ClampedUniform")
@dataclass(frozen=True, eq=False, repr=False)
class ClampedUniform(TimeSampler):
    """max(u, least) for u uniform in (0, 1]."""

    least: float

    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        device = device_of(generator)
        u = torch.rand(as_index(batch_size, 1, 2**31, "batch_size"), generator=generator, device=device)
        return u.cpu().double().clamp(min=self.least)


@configured("families.RelaySampler")
class RelaySampler(Sampler):
    r"""Two calls of the network a step. With x̂ = x̂_0(x_t), a step of shared noise to x' (`SharedNoiseSampler`), and

        x_s = R_s x* + γ (x_t − R_t x*) + η Σ_s^{1/2} z,   x* = ½ x̂ + ½ (x_t − (σ_t/σ_s)(x' − x̂_0(x'))),

    γ = √(1 − η²) σ_s/σ_t, with noise drawn anew: the slopes (x − x̂_0)/σ are averaged, as Heun's method does. The last
    step returns x̂ itself.

    References:
        | Relay Diffusion (Teng et al., 2024), Algorithm 1, https://arxiv.org/abs/2309.03350

    Arguments:
        denoiser, steps, clip: as `Sampler`.
        eta: η in [0, 1].

    Raises:
        TypeError, ValueError: as `Sampler`, or η out of range.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: Steps = None,
        eta: float = 0.2,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(denoiser, steps, clip)
        self.eta = as_eta(eta)

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        data = self._data(x_t, t, conditioning)
        if s == 0:
            return data, data
        ratio = self.denoiser.process.sigma(s) / self.denoiser.process.sigma(t)
        with full_precision(x_t):
            euler = self._step(x_t, data, t, s, ratio, draws.other(x_t))
        slope = euler - self._data(euler, s, conditioning)
        with full_precision(x_t):
            star = (data + x_t - slope / ratio) / 2
            return self._step(x_t, star, t, s, ratio, draws.kernel(x_t)), data

    def _data(self, x: Tensor, t: float, conditioning: dict[str, Any]) -> Tensor:
        return self.clipped(self.denoiser.carry(*self.denoiser.estimate(x, t, **conditioning), 0))

    def _step(self, x_t: Tensor, data: Tensor, t: float, s: float, ratio: float, noise: Tensor) -> Tensor:
        process = self.denoiser.process
        kernel = process.shared_step_kernel(t, s, math.sqrt(1 - self.eta**2) * ratio)
        mean_t, mean_s = (process.operator(0, u)(data) for u in (t, s))
        return kernel.sample(x_t, mean_t, mean_s, noise)
