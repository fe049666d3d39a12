"""Decomposable Flow Matching: every band of an image has a flow of its own, the coarse one ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lineardiffusion import paths
from lineardiffusion._checks import Shape, as_index, as_number, as_shape, to_device
from lineardiffusion.config import Configured, configured
from lineardiffusion.covariance import GramCovariance, NoiseLevel
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import Uniform
from lineardiffusion.operators.bases import Haar, first
from lineardiffusion.operators.separable import spatial_axes
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.predictions import ProcessPrediction, Time
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.ddim import DDIMSampler
from lineardiffusion.schedules import Schedule
from lineardiffusion.schedules.grids import Steps


@configured("families.Bands")
class Bands(Configured):
    """The bands of a Haar basis and their noise levels τ_b, coarsest first; as a function of t, their path's gains.

    Arguments:
        shape, levels, threshold: as for `DecomposableFlow`.
    """

    def __init__(self, shape: Sequence[int], levels: int, threshold: float) -> None:
        self.shape, self.levels = as_shape(shape), as_index(levels, 1, 64, "levels")
        self.threshold = as_number(threshold, "threshold")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold: expected a noise level in (0, 1), got {threshold}")
        self.basis = Haar(self.shape, self.levels - 1)
        sizes = self.shape[-spatial_axes(self.shape) :]
        self.labels = torch.zeros(sizes, dtype=torch.long)  # b of each coordinate
        for b in reversed(range(self.levels)):
            first(self.labels, [n >> (self.levels - 1 - b) for n in sizes]).fill_(b)
        self.shares = self.labels.flatten().bincount() / self.labels.numel()

    def noise(self, t: Tensor) -> Tensor:
        """τ_b(t), with shape (*shape of t, levels)."""
        bands = torch.arange(self.levels, dtype=t.dtype, device=t.device)
        finest = bands == self.levels - 1  # which has a single line
        ends = torch.where(finest, 0, 1 - bands / self.levels - 1 / self.levels)
        low = torch.where(finest, 0, torch.full_like(bands, self.threshold))
        first_line = low + (1 - low) * (t[..., None] - ends) * self.levels
        second_line = low * t[..., None] / ends.clamp(min=1 / self.levels)
        return torch.where(t[..., None] >= ends, first_line, second_line).clamp(0, 1)

    def each(self, values: Tensor) -> Tensor:
        """For each coordinate the value of its band."""
        return values[self.labels]

    def __call__(self, t: float) -> Tensor:
        signal = 1 - self.noise(torch.tensor(t, dtype=torch.float64))
        if signal[0] == 0:  # t = 1
            return self.each(torch.tensor([1.0] + [0.0] * (self.levels - 1), dtype=torch.float64))
        return self.each(signal / signal[0])


@configured("families.BandSchedule")
class BandSchedule(Schedule):
    """a_t of the coarsest band, and Σ_t = V diag(τ_b²) Vᵀ.

    Arguments:
        bands: the bands.
    """

    is_isotropic = False

    def __init__(self, bands: Bands) -> None:
        self.bands = bands

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        noise = self.bands.noise(t)
        return 1 - noise[..., 0], (noise.square() * to_device(self.bands.shares, t.device)).sum(-1).sqrt()

    def noise(self, t: float, shape: Shape) -> NoiseLevel:
        if t == 0:
            return 0.0
        levels = self.bands.each(self.bands.noise(torch.tensor(t, dtype=torch.float64)))
        return GramCovariance(SpectralFilter(shape, levels, self.bands.basis))


@configured("families.BandVelocity")
class BandVelocity(ProcessPrediction):
    """v = ε − x_0, in every band the velocity of its flow: x_0 = x_t − Σ_t^{1/2} v."""

    def time(self, process: LinearDiffusion, t: Time) -> float:
        return 0

    def image(self, process: LinearDiffusion, t: float | Tensor, x_t: Tensor, output: Tensor) -> Tensor:
        return process.add_noise(x_t, t, -output)

    def answer(self, process: LinearDiffusion, t: float | Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        return noise - x0


@configured("families.BandTimes")
class BandTimes(Configured):
    """What a network of bands is told: the flow time 1 − τ_b of each, (B, levels), 0 for noise."""

    def __call__(self, process: LinearDiffusion, t: Tensor) -> Tensor:
        if not isinstance(process.schedule, BandSchedule):
            raise ValueError(f"process: expected a DecomposableFlow, got {process}")
        return 1 - process.schedule.bands.noise(t)


class DecomposableFlow(Family):
    r"""Bands b of an image, the coarsest first, each with a flow of its own time,

        x_t = V diag(1 − τ_b(t)) Vᵀ x_0 + V diag(τ_b(t)) Vᵀ ε,    v = ε − x_0.

    A band is noise until the one before has come down to a threshold: τ_b falls from 1 to it in the b-th of equal parts
    of t, from t = 1 on, and then all reach 0 at t = 0. Euler's step is the kernel of η = 0. Approximates the paper: its
    Laplacian pyramid, which has more numbers than the image, is a Haar basis here, a decomposition that it allows;
    training follows the times of sampling, where theirs draws one for each band; and the threshold and the equal parts
    are ours.

    References:
        | Improving Progressive Generation with Decomposable Flow Matching (Haji-Ali et al., 2025)
        | https://arxiv.org/abs/2506.19839

    Arguments:
        shape: event shape, channels first, each size a multiple of 2^{levels − 1}.
        levels: number of bands.
        threshold: in (0, 1).

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.DecomposableFlow((1, 8, 8), levels=2)
        >>> p.schedule.bands.noise(torch.tensor([1.0, 0.5, 0.25]))
        tensor([[1.0000, 1.0000],
                [0.3000, 1.0000],
                [0.1500, 0.5000]])
        >>> d = p.denoiser(lambda x, times: torch.zeros_like(x))
        >>> p.sampler(d, 8)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="Haji-Ali et al., 2025",
        url="https://arxiv.org/abs/2506.19839",
        degradation="bands of a Haar basis, which fade one after the other",
        noise=r"$V\,\mathrm{diag}(\tau_b^2)\,V^\top$, a level for each band",
        schedule=r"$1 - \tau_b$ and $\tau_b$, linear in two parts",
        prediction=r"the velocity $\varepsilon - x_0$",
        sampler="Euler's method, 50 steps (ours)",
        exact="Haar bands for a Laplacian pyramid; thresholds and spans are ours",
    )
    prediction = BandVelocity()
    weighting = Uniform()

    def __init__(self, shape: Sequence[int], levels: int = 2, threshold: float = 0.3) -> None:
        bands = Bands(shape, levels, threshold)
        super().__init__(paths.spectral(bands.basis, bands), BandSchedule(bands))

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        return Denoiser(network, self, self.prediction, BandTimes())

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> DDIMSampler:
        return DDIMSampler(denoiser, 50 if steps is None else steps, **settings)
