"""Blue noise for diffusion models: noise of high frequencies near the data, white noise at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor

from lineardiffusion import paths
from lineardiffusion._checks import (
    Shape,
    as_numbers,
    as_positive,
    as_shape,
    column,
    compute_dtype,
    device_of,
    draw_noise,
    full_precision,
    in_dtype,
    to_device,
)
from lineardiffusion.config import configured
from lineardiffusion.covariance import GramCovariance, NoiseLevel, RootCovariance
from lineardiffusion.denoiser import Denoiser, first_weight
from lineardiffusion.families.base import Card, Family, check_loss
from lineardiffusion.networks import as_tensor
from lineardiffusion.operators.blocks import ChannelMix
from lineardiffusion.operators.dense import Matrix
from lineardiffusion.operators.spectral import SpectralFilter
from lineardiffusion.predictions import ProcessPrediction, Time
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.schedules.noise import Schedule

_TRAINED_STEPS = 1000  # T of the paper: d_2 is trained for steps of 1/T


@configured("families.blue_noise.Mixed")
class Mixed(Schedule):
    """a_t = 1 − t and Σ_t^{1/2} = t ((1 − γ_t) L + γ_t I); arguments as for `BlueNoise`."""

    is_isotropic = False

    def __init__(self, shape: Sequence[int], tau: float, root: Tensor | None) -> None:
        self.shape, self.tau = as_shape(shape), tau
        self.root = None if root is None else as_numbers(root, "root")
        axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in self.shape[1:]]
        frequency = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
        self.gain = frequency / frequency.square().mean().sqrt()
        # tr LLᵀ/n and tr L/n
        self._square, self._mean = 1.0, float(self.gain.mean())
        if self.root is not None:
            self._square = float(self.root.square().sum()) / len(self.root)
            self._mean = float(self.root.diagonal().mean())

    @overload
    def gamma(self, t: float) -> float: ...
    @overload
    def gamma(self, t: Tensor) -> Tensor: ...
    def gamma(self, t: float | Tensor) -> float | Tensor:
        """γ_t"""
        start, end = 0.5, 1 / (1 + math.exp(-3 / self.tau))
        x = 3 * t / self.tau
        at = torch.sigmoid(x) if isinstance(x, Tensor) else 1 / (1 + math.exp(-x))
        return (at - start) / (end - start)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        gamma = self.gamma(t)
        blue = (1 - gamma).square() * self._square + 2 * gamma * (1 - gamma) * self._mean
        return 1 - t, t * (blue + gamma.square()).sqrt()

    def mixed(self, blue: float, white: float) -> SpectralFilter | ChannelMix:
        """blue · L + white · I"""
        if self.root is None:
            return SpectralFilter(self.shape, blue * self.gain + white, "fft")
        return self._each_channel(blue * self.root + white * torch.eye(len(self.root), dtype=torch.float64))

    def _each_channel(self, weight: Tensor) -> ChannelMix:
        return ChannelMix(torch.eye(self.shape[0]), Matrix(weight, self.shape[1:], self.shape[1:]))

    def _unmixed(self, weight: Tensor) -> ChannelMix:
        return self._each_channel(torch.linalg.inv(weight))

    def noise(self, t: float, shape: Shape) -> NoiseLevel:
        if self._check_time(t) == 0:
            return 0.0
        gamma = self.gamma(t)
        root = self.mixed(t * (1 - gamma), t * gamma)
        if isinstance(root, SpectralFilter):
            return GramCovariance(root)
        assert isinstance(root.operator, Matrix)
        weight = root.operator.weight
        return RootCovariance(root, partial(self._unmixed, weight))


@configured("families.blue_noise.TwoParts")
class TwoParts(ProcessPrediction):
    """d_1 and d_2 as 2C channels, of which the first tells of the data, x_t + t d_1."""

    def time(self, process: LinearDiffusion, t: Time) -> float:
        return 0

    def image(self, process: LinearDiffusion, t: float | Tensor, x_t: Tensor, output: Tensor) -> Tensor:
        with full_precision(x_t):
            return x_t + column(t, x_t) * output

    def answer(self, process: LinearDiffusion, t: float | Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        return x0 - process.add_noise(torch.zeros_like(noise), t, noise) / column(t, noise)


def _parts(denoiser: Denoiser, x_t: Tensor, t: Tensor, conditioning: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """d_1 and d_2 in the dtype of x_t, whatever that of the network.

    Raises:
        ValueError: the network returned another number of channels.
    """
    weight = first_weight(denoiser)
    dtype = x_t.dtype if weight is None else weight.dtype
    time = to_device(t.to(compute_dtype(dtype)), x_t.device)
    output = as_tensor(denoiser.network(in_dtype(x_t, dtype), time, **conditioning))
    if output.shape != (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:]):
        raise ValueError(
            f"network: expected two parts as {2 * x_t.shape[1]} channels, for events of {x_t.shape[1]}, got "
            f"{tuple(output.shape)}"
        )
    first, second = in_dtype(output, x_t.dtype).chunk(2, 1)
    return first, second


class BlueNoise(Family):
    r"""x_t = (1 − t) x_0 + t n_t for t in [0, 1], with noise n_t = ((1 − γ_t) L + γ_t I) ε from blue to white,

        γ_t = (sigmoid(3t/τ) − ½)/(sigmoid(3/τ) − ½).

    A network returns two parts, trained on d_1 = x_0 − n_t and d_2 = (t − 1/T)(L − I) ε, T = 1000, the second with the
    weight Δγ_t/Δt, at times k/T. Exact; the paper's step (`TwoPartSampler`) is the exact move between marginals where
    the parts are known and steps are 1/T, and approximates it for longer ones.

    References:
        | Blue noise for diffusion models (Huang et al., 2024), Sec. 4, https://arxiv.org/abs/2402.04930

    Arguments:
        shape: event shape, channels first.
        tau: τ > 0; the paper's code has 0.2 for larger images and 1000, nearly γ_t = t, for the 64² of cats.
        root: L, (n, n) for the n pixels of each channel. The paper's, for 64², is a download; the default is ours: the
            filter with a gain in proportion to the frequency and a mean square of 1, in the Fourier basis. A process
            with an L of yours is not checked for feasibility (coupling="shared"), which takes products of it for
            hundreds of times.

    Raises:
        ValueError: τ that is not positive, an L of another shape, or events of a single pixel.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.BlueNoise((1, 8, 8))
        >>> d = p.denoiser(lambda x, t: torch.cat([-x, 0 * x], 1))
        >>> p.sampler(d, 10)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    card = Card(
        paper="Huang et al., 2024",
        url="https://arxiv.org/abs/2402.04930",
        degradation="$I$",
        noise=r"$\Sigma_t^{1/2} = t((1 - \gamma_t) L + \gamma_t I)$, $L$ blue",
        schedule=r"$a_t = 1 - t$; $\gamma_t$ a sigmoid, $\tau = 0.2$",
        prediction=r"two parts, $x_0 - n_t$ and $(t - 1/T)(L - I)\varepsilon$",
        sampler=r"$x_s = x_t + (t - s) d_1 + (\gamma_t - \gamma_s) d_2$, 250 steps",
        exact="exact; $L$ is ours, the paper's is a download",
    )
    prediction = TwoParts()

    def __init__(self, shape: Sequence[int], tau: float = 0.2, root: Tensor | None = None) -> None:
        tau = as_positive(tau, "tau")
        pixels = math.prod(as_shape(shape)[1:])
        if len(as_shape(shape)) < 2 or pixels < 2:
            raise ValueError(f"shape: expected channels of more than one pixel, got {tuple(shape)}")
        if root is not None:
            root = as_numbers(root, "root")
            if root.shape != (pixels, pixels):
                raise ValueError(f"root: expected a matrix {(pixels, pixels)} of pixels, got {tuple(root.shape)}")
        self.mixing = Mixed(shape, tau, root)
        self._turn = self.mixing.mixed(1.0, -1.0)
        super().__init__(paths.identity(shape), self.mixing, coupling="markov" if root is None else "shared")

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        return Denoiser(network, self, self.prediction, "time")

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> TwoPartSampler:
        return TwoPartSampler(denoiser, 250 if steps is None else steps, **settings)

    def loss(
        self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None, **conditioning: Any
    ) -> Tensor:
        check_loss(self, denoiser, x0, self.prediction)
        x0, device = x0.to(compute_dtype(x0.dtype)), device_of(generator)
        steps = torch.randint(1, _TRAINED_STEPS + 1, (len(x0),), generator=generator, device=device)
        t = steps.double() / _TRAINED_STEPS
        before = (steps - 1).double() / _TRAINED_STEPS
        noise = draw_noise(x0, None, generator)
        x_t = self.diffuse(x0, t, noise)
        first, second = _parts(denoiser, x_t, t, conditioning)
        with full_precision(x0):
            turned = column(before, x0) * self._turn(noise)
            error = (first - (x0 - (x_t - column(1 - t, x0) * x0) / column(t, x0))).square().flatten(1).mean(1)
            weight = (self.mixing.gamma(t) - self.mixing.gamma(before)) * _TRAINED_STEPS
            return error + column(weight, error) * (second - turned).square().flatten(1).mean(1)


@configured("families.TwoPartSampler")
class TwoPartSampler(Sampler):
    r"""x_s = x_t + (t − s) d_1 + (γ_t − γ_s) d_2 (see `BlueNoise`), to the end.

    Arguments:
        denoiser: from `BlueNoise.denoiser`.
        steps, clip: as `Sampler`, with x̂_0 = x_t + t d_1.

    Raises:
        TypeError: a denoiser of another process.
    """

    def __init__(self, denoiser: Denoiser, steps: Steps = 250, clip: tuple[float, float] | None = None) -> None:
        super().__init__(denoiser, steps, clip)
        if not isinstance(denoiser.process, BlueNoise):
            raise TypeError(f"denoiser: expected one of a families.BlueNoise, got one of {denoiser.process!r}")
        if not isinstance(denoiser.prediction, TwoParts):
            raise TypeError(
                f"denoiser: expected one of BlueNoise.denoiser, got one that predicts {denoiser.prediction}"
            )
        self.mixing = denoiser.process.mixing

    def arguments(self) -> dict[str, object]:
        return {"denoiser": self.denoiser, "steps": self.steps, "clip": self.clip}

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        times = torch.full((len(x_t),), t, dtype=torch.float64, device=x_t.device)
        first, second = _parts(self.denoiser, x_t, times, conditioning)
        turn = self.mixing.gamma(t) - self.mixing.gamma(s)
        with full_precision(x_t):
            clean = self.clipped(x_t + t * first)
            return x_t + (1 - s / t) * (clean - x_t) + turn * second, clean
