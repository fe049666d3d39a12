r"""What a network returns, and how that becomes an estimate of the clean image.

With c_t = R_t x_0 and x_t = a_t c_t + σ_t ε, every prediction is two linear rules, of what the network returns, F, and
of what it is trained to return, F*:

    ĉ_r = p x_t + q F          F* = α c_r + β ε          with coefficients that are functions of a_t and σ_t,

    prediction    F*                        r                   p                      q
    clean         c just below t            just below t        0                      1
    data          x_0                       0                   0                      1
    noise         ε                         t                   1/a                    −σ/a
    velocity      a ε − σ c_t               t                   a/(a² + σ²)            −σ/(a² + σ²)
    flow          ε − c_t                   t                   1/(a + σ)              −σ/(a + σ)
    EDM           (c_t − p x_t)/q           t                   a σ_d²/(σ² + a²σ_d²)   σσ_d/√(σ² + a²σ_d²)
    coloured      ρ Σ_t^{1/2} ε / σ_t       t                   1/a                    −σ/(a ρ)

An error of F is one of ĉ_r that is q times as large. In a process with steps "just below t" is t − 1. Rules that are no
such numbers are a `ProcessPrediction`.

References:
    | noise: Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239
    | velocity: Progressive Distillation (Salimans & Ho, 2022), https://arxiv.org/abs/2202.00512
    | flow: Flow Matching (Lipman et al., 2023), https://arxiv.org/abs/2210.02747
    | EDM: Elucidating the Design Space (Karras et al., 2022), Table 1, https://arxiv.org/abs/2206.00364
    | clean: Scale Space Diffusion (Mukhopadhyay et al., 2026), https://arxiv.org/abs/2603.08709
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from lineardiffusion._checks import as_positive, column, got, is_batch, to_device
from lineardiffusion.config import Configured, configured
from lineardiffusion.processes.base import LinearDiffusion

Level = TypeVar("Level", float, Tensor)
Time = TypeVar("Time", bound="float | Tensor")
Coefficients: TypeAlias = "tuple[float | Tensor, float | Tensor]"


class Prediction(Configured, ABC):
    """The two rules, for levels that are numbers, or tensors with one for each sample."""

    time_input: ClassVar[str] = "index"  # what the network is told of the time, where a user does not say
    keeps_shape: ClassVar[bool] = True  # whether F has the shape of x_t, wherever a step leads
    scales_input: ClassVar[bool] = False  # whether `input_scale` is any but 1

    @abstractmethod
    def time(self, process: LinearDiffusion, t: Time) -> Time | float:
        """r, the time whose degradation the estimated clean image has."""

    @abstractmethod
    def estimate(self, a: Level, sigma: Level) -> Coefficients:
        """(p, q) of ĉ_r = p x_t + q F."""

    @abstractmethod
    def target(self, a: Level, sigma: Level) -> Coefficients:
        """(α, β) of F* = α c_r + β ε; what has no part in it has the number 0."""

    def input_scale(self, a: Level, sigma: Level) -> float | Tensor:
        """The network is given x_t times this."""
        return 1.0

    def check(self, process: LinearDiffusion) -> None:
        """Raise ValueError if the process does not define it."""


class ProcessPrediction(Prediction):
    """A prediction whose rules need the process itself, as those of a gain for every direction do. A loss weighs the
    error of F as it is, q = 1."""

    @abstractmethod
    def image(self, process: LinearDiffusion, t: float | Tensor, x_t: Tensor, output: Tensor) -> Tensor:
        """ĉ_r from x_t and F, in the dtype of F; t one time or (B,)."""

    @abstractmethod
    def answer(self, process: LinearDiffusion, t: float | Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        """F* from the data and the noise of x_t."""

    def estimate(self, a: Level, sigma: Level) -> Coefficients:
        return 0.0, 1.0

    def target(self, a: Level, sigma: Level) -> Coefficients:
        return 1.0, 0.0


# ------------------------------------------------------------------------------------------------- of a clean image


class _Image(Prediction):
    keeps_shape = False

    def estimate(self, a: Level, sigma: Level) -> Coefficients:
        return 0.0, 1.0

    def target(self, a: Level, sigma: Level) -> Coefficients:
        return 1.0, 0.0


class Clean(_Image):
    """The clean image just below t, c_{t−1} in a process with steps: what a step needs where the shape changes too."""

    def time(self, process: LinearDiffusion, t: Time) -> Time:
        return just_below(process, t)


class Data(_Image):
    """The data x_0 itself: c_s = R_s x̂_0 is then exact for every s, and nothing has to be inverted."""

    def time(self, process: LinearDiffusion, t: Time) -> float:
        return 0


# ------------------------------------------------------------------------------------------- of c_t and the noise


class Noise(Prediction):
    """ε, of white noise also where Σ_t is not isotropic: x_t = a_t c_t + Σ_t^{1/2} ε."""

    def time(self, process: LinearDiffusion, t: Time) -> Time:
        return t

    def estimate(self, a: Level, sigma: Level) -> Coefficients:
        return 1 / a, -sigma / a

    def target(self, a: Level, sigma: Level) -> Coefficients:
        return 0.0, 1.0

    def check(self, process: LinearDiffusion) -> None:
        if process.signal_scale(process.end) == 0:
            raise ValueError(
                "prediction: expected 'velocity', 'flow', 'data' or 'clean' for a process that ends without signal, "
                "a_T = 0, got 'noise': x_T is the noise, which tells nothing of the image"
            )


class _Mixture(Prediction):
    """Of both the image and the noise, which has to be isotropic for that."""

    def time(self, process: LinearDiffusion, t: Time) -> Time:
        return t

    def check(self, process: LinearDiffusion) -> None:
        if not process.is_isotropic:
            raise ValueError(
                f"prediction: expected 'clean', 'data' or 'noise' for noise that is not isotropic, got {self}"
            )


class Velocity(_Mixture):
    """v = a_t ε − σ_t c_t."""

    def estimate(self, a: Level, sigma: Level) -> Coefficients:
        total = a**2 + sigma**2
        return a / total, -sigma / total

    def target(self, a: Level, sigma: Level) -> Coefficients:
        return -sigma, a


class Flow(_Mixture):
    """u = ε − c_t, the velocity dx_t/dt of x_t = (1 − t) c + t ε."""

    def estimate(self, a: Level, sigma: Level) -> Coefficients:
        return 1 / (a + sigma), -sigma / (a + sigma)

    def target(self, a: Level, sigma: Level) -> Coefficients:
        return -1.0, 1.0


@configured("EDMPrediction")
@dataclass(frozen=True, eq=False, repr=False)  # Configured has these
class EDMPrediction(_Mixture):
    r"""The F of EDM's preconditioning, D = c_skip x̃ + c_out F(c_in x̃, ¼ ln σ̃), of x̃ = x_t/a_t and σ̃ = σ_t/a_t.

    In a_t and σ_t, with v² = σ_t² + a_t² σ_d², so that a_t = 0 is no exception:

        c_skip/a_t = a_t σ_d²/v²,   c_out = σ_t σ_d/v,   c_in/a_t = 1/v,   F* = (σ_t c_t − a_t σ_d² ε)/(σ_d v) .

    Arguments:
        sigma_data: σ_d, the standard deviation of the data.

    Raises:
        ValueError: σ_d is not positive.

    Examples:
        >>> import lineardiffusion as ld
        >>> prediction = ld.EDMPrediction(sigma_data=0.5)
        >>> prediction.estimate(1.0, 0.5)  # c_skip and c_out
        (0.5, 0.35355339059327373)
    """

    sigma_data: float = 0.5
    time_input: ClassVar[str] = "edm"
    scales_input: ClassVar[bool] = True

    def __post_init__(self) -> None:
        as_positive(self.sigma_data, "sigma_data")

    def estimate(self, a: Level, sigma: Level) -> Coefficients:
        total = self._total(a, sigma)
        return a * self.sigma_data**2 / total, sigma * self.sigma_data / total**0.5

    def target(self, a: Level, sigma: Level) -> Coefficients:
        root = self._total(a, sigma) ** 0.5
        return sigma / (self.sigma_data * root), -a * self.sigma_data / root

    def input_scale(self, a: Level, sigma: Level) -> float | Tensor:
        scale: float | Tensor = self._total(a, sigma) ** -0.5
        return scale

    def _total(self, a: Level, sigma: Level) -> Level:
        return sigma**2 + a**2 * self.sigma_data**2


@configured("ColouredNoise")
@dataclass(frozen=True, eq=False, repr=False)
class ColouredNoise(ProcessPrediction):
    r"""The noise of x_t as it is, F* = ρ Σ_t^{1/2} ε / σ_t with σ_t² = tr Σ_t / n: where networks that are trained by
    DDPM's rule on noise of another covariance are right. `Noise` is that before it was coloured.

    Arguments:
        rms: ρ, the root mean square of F*; with √(tr N / n) it is N^{1/2} ε where Σ_t is a multiple of N.

    Raises:
        ValueError: ρ is not positive.

    Examples:
        >>> from lineardiffusion.predictions import ColouredNoise
        >>> ColouredNoise().estimate(0.5, 0.25)
        (2.0, -0.5)
    """

    rms: float = 1.0

    def __post_init__(self) -> None:
        as_positive(self.rms, "rms")

    def time(self, process: LinearDiffusion, t: Time) -> Time:
        return t

    def check(self, process: LinearDiffusion) -> None:
        Noise().check(process)

    def estimate(self, a: Level, sigma: Level) -> Coefficients:
        return 1 / a, -sigma / (a * self.rms)

    def image(self, process: LinearDiffusion, t: float | Tensor, x_t: Tensor, output: Tensor) -> Tensor:
        p, q = self.estimate(*levels(process, t, output.device))
        return combine(p, x_t, q, output)

    def answer(self, process: LinearDiffusion, t: float | Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        _, sigma = levels(process, t, x0.device)
        coloured = process.add_noise(torch.zeros_like(noise), t, noise)
        return cast(Tensor, coloured * (self.rms / column(sigma, noise)))


# ------------------------------------------------------------------------------------------------------------- names

PREDICTIONS: dict[str, Prediction] = {
    "clean": Clean(),
    "data": Data(),
    "noise": Noise(),
    "velocity": Velocity(),
    "flow": Flow(),
}
# What these are called elsewhere.
_OTHER_NAMES = {
    "epsilon": "noise", "eps": "noise", "sample": "data", "x0": "data", "x_0": "data", "x_start": "data",
    "start_x": "data", "v": "velocity", "v_prediction": "velocity", "flow_prediction": "flow", "flow_matching": "flow",
    "rectified_flow": "flow",
}  # fmt: skip


def as_prediction(prediction: str | Prediction) -> Prediction:
    """The prediction of a name, or itself.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a Prediction.
    """
    if isinstance(prediction, Prediction):
        return prediction
    if not isinstance(prediction, str):
        raise TypeError(
            f"prediction: expected one of {list(PREDICTIONS)} or an object such as ld.EDMPrediction(sigma_data=0.5), "
            f"got {got(prediction)}"
        )
    if prediction not in PREDICTIONS:
        name = _OTHER_NAMES.get(prediction.lower().replace("-", "_"))
        remedy = f"did you mean {name!r}?" if name else "EDM's is ld.EDMPrediction(sigma_data=0.5)"
        raise ValueError(f"prediction: expected one of {list(PREDICTIONS)}, got {prediction!r}: {remedy}")
    return PREDICTIONS[prediction]


def name_of(prediction: Prediction) -> str | Prediction:
    """What `as_prediction` makes the prediction of: its name where it has one."""
    return next((name for name, known in PREDICTIONS.items() if known == prediction), prediction)


# ------------------------------------------------------------------------------------------------ levels, and their use


def just_below(process: LinearDiffusion, t: Time) -> Time:
    """`process.before` of a number, or of each of a tensor of times."""
    if not is_batch(t):
        return cast(Time, process.before(cast(float, t)))
    if process.num_steps:
        below = (t - 1).clamp(min=0)
    else:
        exact = t.float() if t.device.type == "mps" else t.double()
        below = torch.nextafter(exact, torch.zeros_like(exact))
    return cast(Time, below)


def levels(process: LinearDiffusion, t: float | Tensor, device: torch.device) -> tuple[Any, Any]:
    """a_t and σ_t: floats for a number, else tensors on the device."""
    if not is_batch(t):
        return process.signal_scale(t), process.sigma(t)
    t = process.times_for(t, device)
    signal, sigma = process.schedule(t)
    return to_device(signal * process.path.gain(t), device), to_device(sigma, device)


def combine(p: float | Tensor, x: Tensor, q: float | Tensor, y: Tensor) -> Tensor:
    """p x + q y for coefficients that are numbers, or tensors with one for each sample; 0 · x is nothing."""
    if not isinstance(p, Tensor) and p == 0:
        return _times(q, y)
    if not isinstance(p, Tensor) and not isinstance(q, Tensor) and q == 1:
        return torch.add(y, x, alpha=p)
    if not isinstance(q, Tensor):
        return torch.add(_times(p, x), y, alpha=q) if q else _times(p, x)
    return torch.addcmul(_times(p, x), column(q, y), y)


def _times(factor: float | Tensor, x: Tensor) -> Tensor:
    return x if not isinstance(factor, Tensor) and factor == 1 else column(factor, x) * x
