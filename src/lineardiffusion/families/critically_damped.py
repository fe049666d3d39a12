"""Critically-damped Langevin diffusion: noise enters by a velocity, and images are smooth in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_flag, as_index, as_number, as_positive, column, full_precision
from lineardiffusion.alike import uniform_numbers
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import Configured, configured
from lineardiffusion.covariance import NoiseLevel, RootCovariance
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.families.base import Card, Family
from lineardiffusion.losses import Uniform
from lineardiffusion.operators.base import LinearOperator, apply_each, operator_bytes
from lineardiffusion.operators.blocks import ChannelMix
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.paths.base import Path, as_event
from lineardiffusion.paths.fading import FILTER_BYTES
from lineardiffusion.predictions import ProcessPrediction, Time
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.ancestral import AncestralSampler
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.schedules.noise import Schedule
from lineardiffusion.times import TimeSampler

_FIRST = 1e-5  # where the paper's loss begins
_KNOWN_TIMES = 4096


class Moments(NamedTuple):
    """Of (x_t, v_t) given x_0: means μ x_0 and covariances, all of them tensors of the shape of t."""

    mu_x: Tensor
    mu_v: Tensor
    xx: Tensor
    xv: Tensor
    vv: Tensor

    @property
    def determinant(self) -> Tensor:
        return self.xx * self.vv - self.xv.square()

    @property
    def multiplier(self) -> Tensor:
        """ℓ_t with ∇_v log q = −ℓ_t ε_v, where noise is (ε_x, ε_v) times Cholesky's factor."""
        return (self.xx / self.determinant).sqrt()


@configured("families.critically_damped.Dynamics")
class Dynamics(Configured):
    """dx = m v β dt, dv = −(x + f m v) β dt + √(2 f β) dW with f = 2/√m; arguments as for `CriticallyDamped`."""

    def __init__(self, inverse_mass: float, gamma: float, beta: float, slope: float, floor: float) -> None:
        self.inverse_mass, self.gamma, self.beta, self.slope, self.floor = inverse_mass, gamma, beta, slope, floor
        self.friction = 2 / math.sqrt(inverse_mass)
        self._known: dict[float, tuple[float, float, float]] = {}

    def rate(self, t: float) -> float:
        """β(t)"""
        return self.beta + self.slope * t

    def elapsed(self, t: Tensor) -> Tensor:
        """B = ∫_0^t β"""
        return self.beta * t + 0.5 * self.slope * t.square()

    def flow(self, elapsed: Tensor) -> Tensor:
        """Φ(B), (…, 2, 2): what becomes of (x, v)."""
        m, b = self.inverse_mass, math.sqrt(self.inverse_mass) * elapsed
        rows = [torch.stack([1 + b, m * elapsed], -1), torch.stack([-elapsed, 1 - b], -1)]
        return torch.exp(-b)[..., None, None] * torch.stack(rows, -2)

    def noise(self, elapsed: Tensor, velocity: float) -> tuple[Tensor, Tensor, Tensor]:
        """Σ_xx, Σ_xv and Σ_vv after B, from an x that is known and a v of this variance."""
        m, flow = self.inverse_mass, self.flow(elapsed)
        y = 2 * math.sqrt(m) * elapsed
        # 1 − e^{−y}(1 + y + y²/2), to all digits where y is small.
        grown, decay = torch.special.gammainc(torch.full_like(y, 3.0), y), torch.exp(-y)
        xx = grown + velocity * flow[..., 0, 1].square()
        xv = decay * y.square() / (2 * math.sqrt(m)) + velocity * flow[..., 0, 1] * flow[..., 1, 1]
        vv = (grown + 2 * y * decay) / m + velocity * flow[..., 1, 1].square()
        return xx, xv, vv

    def moments(self, t: Tensor) -> Moments:
        """Of the marginal of t, v_0 integrated out (hybrid score matching)."""
        elapsed = self.elapsed(t)
        xx, xv, vv = self.noise(elapsed, self.gamma / self.inverse_mass)
        flow = self.flow(elapsed)
        return Moments(flow[..., 0, 0], flow[..., 1, 0], xx + self.floor, xv, vv + self.floor)

    def inversion(self, t: float | Tensor) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
        """What x, v and ε̂_v are multiplied by in x̂_0 (see `VelocityNoise`): numbers for a number t, which samplers come
        back to, else one for each row, where the times are."""
        if isinstance(t, Tensor):
            return _inversion(self.moments(_exact(t)))
        if t not in self._known:
            if len(self._known) >= _KNOWN_TIMES:
                self._known.clear()
            of_x, of_v, of_output = _inversion(self.moments(_number(t)))
            self._known[t] = float(of_x), float(of_v), float(of_output)
        return self._known[t]


def _inversion(moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    total = moments.xx * moments.mu_v - moments.xv * moments.mu_x
    # Of v, what it has in ε̂_v too: Σ_xx − Σ/Σ_vv = Σ_xv²/Σ_vv.
    of_x, of_v = -moments.xv / total, moments.xv.square() / (moments.vv * total)
    return of_x, of_v, -moments.determinant * moments.multiplier / total


def _number(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def _exact(t: Tensor) -> Tensor:
    """Times in the best precision that their device has."""
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)


def _mix(weight: Tensor, shape: Shape) -> ChannelMix:
    """A matrix for (x, v), for the channels of each, at every pixel."""
    return ChannelMix(torch.kron(weight.contiguous(), torch.eye(shape[0], dtype=torch.float64)), Identity(shape[1:]))


def _unmix(weight: Tensor, shape: Shape) -> ChannelMix:
    return _mix(torch.linalg.inv(weight), shape)


def _cholesky(xx: Tensor, xv: Tensor, vv: Tensor) -> Tensor:
    first = xx.sqrt()
    return torch.stack([torch.stack([first, 0 * xv]), torch.stack([xv / first, (vv - xv.square() / xx).sqrt()])])


@configured("families.critically_damped.PhaseSpace")
class PhaseSpace(Path):
    """(x, v) as 2C channels from t = 1e-5 on, the image alone below."""

    def __init__(self, shape: Sequence[int], dynamics: Dynamics) -> None:
        self.event, self.dynamics = as_event(shape), dynamics
        self._operators: BoundedCache[LinearOperator] = BoundedCache(FILTER_BYTES, operator_bytes)

    def arguments(self) -> dict[str, object]:
        return {"shape": self.event, "dynamics": self.dynamics}

    def shape(self, t: float) -> Shape:
        return self.event if t < _FIRST else (2 * self.event[0], *self.event[1:])

    def changes(self) -> list[float]:
        return [_FIRST]

    def between(self, s: float, t: float) -> LinearOperator:
        if s == t or t < _FIRST:
            return Identity(self.shape(t))
        if s < _FIRST:
            return _mix(self.dynamics.flow(self.dynamics.elapsed(_number(t)))[:, :1], self.event)
        elapsed = self.dynamics.elapsed(_number(t)) - self.dynamics.elapsed(_number(s))
        return _mix(self.dynamics.flow(elapsed), self.event)

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        return apply_each([self._operators.get(t, partial(self.between, 0, t)) for t in times.tolist()], x)


@configured("families.critically_damped.Thermal")
class Thermal(Schedule):
    """a_t = 1 and Σ_t, 2 × 2 for each pixel, by Cholesky's factor; σ_t² is the mean of both variances."""

    is_isotropic = False
    first = _FIRST

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.dynamics.moments(t)
        variance = torch.where(t < _FIRST, self.dynamics.floor, (moments.xx + moments.vv) / 2)
        return torch.ones_like(t), variance.sqrt()

    def noise(self, t: float, shape: Shape) -> NoiseLevel:
        if self._check_time(t) < _FIRST:
            return self.sigma(t)
        moments = self.dynamics.moments(_number(t))
        root, event = _cholesky(moments.xx, moments.xv, moments.vv), (shape[0] // 2, *shape[1:])
        return RootCovariance(_mix(root, event), partial(_unmix, root, event))


@configured("families.critically_damped.VelocityNoise")
class VelocityNoise(ProcessPrediction):
    r"""F of the velocity's noise, ε_v = v/(ℓ_t Σ_vv) + F, which tells of the image

        x̂_0 = (Σ_xx v − Σ_xv x − Σ ℓ_t ε̂_v) / (Σ_xx μ_v − Σ_xv μ_x),   Σ = det Σ_t,

    the only x̂_0 whose score of the velocity is −ℓ_t ε̂_v.
    """

    keeps_shape = False

    def time(self, process: LinearDiffusion, t: Time) -> float:
        return 0

    def image(self, process: LinearDiffusion, t: float | Tensor, x_t: Tensor, output: Tensor) -> Tensor:
        of_x, of_v, of_output = _dynamics(process).inversion(t)
        x, v = x_t.chunk(2, 1)
        with full_precision(x_t):
            return column(of_x, x) * x + column(of_v, x) * v + column(of_output, x) * output

    def answer(self, process: LinearDiffusion, t: float | Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        moments = _dynamics(process).moments(_exact(t) if isinstance(t, Tensor) else _number(t))
        velocity = process.diffuse(x0, t, noise).chunk(2, 1)[1]
        return noise.chunk(2, 1)[1] - column(1 / (moments.multiplier * moments.vv), velocity) * velocity

    def check(self, process: LinearDiffusion) -> None:
        _dynamics(process)


@configured("families.critically_damped.FromFirst")
class FromFirst(TimeSampler):
    """Uniform from t = 1e-5 on, each image on its own."""

    def sample(self, process: LinearDiffusion, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        fractions = uniform_numbers((as_index(batch_size, 1, 2**31, "batch_size"),), generator)
        return _FIRST + (1 - _FIRST) * fractions


def _dynamics(process: LinearDiffusion) -> Dynamics:
    if not isinstance(process.path, PhaseSpace):
        raise ValueError(f"process: expected a CriticallyDamped, got {process}")
    return process.path.dynamics


class CriticallyDamped(Family):
    r"""u = (x, v), an image and a velocity, as 2C channels for t in [1e-5, 1] and the image alone below; with x_0 known
    and v_0 of variance γ/m integrated out

        u_t = Φ(B) (x_0, 0) + Σ_t^{1/2} ε,   B = ∫_0^t β,   Φ(B) = exp(B [[0, m], [−1, −2√m]]),
        Σ_t = S − Φ S Φᵀ + Φ diag(0, γ/m) Φᵀ + 1e-9 I,   S = diag(1, 1/m),

    2 × 2 matrices for each pixel, with Cholesky's factor as a root. A network returns F of the noise of the velocity
    alone, ε̂_v = v/(ℓ_t Σ_vv) + F, trained on (ε̂_v − ε_v)²: it determines x̂_0. Exact: posteriors are those of the
    process; the paper's samplers (`SplittingSampler`, `ReverseLangevinSampler`) approximate its reverse SDE.

    References:
        | Score-Based Generative Modeling with Critically-Damped Langevin Diffusion (Dockhorn et al., 2022), Sec. 3 and
        | Appendices B and D, https://arxiv.org/abs/2112.07068

    Arguments:
        shape: event shape of the data, channels first.
        inverse_mass: m > 0.
        gamma: γ > 0, by which v_0 is colder than v_1.
        beta, slope: β(t) = beta + slope · t > 0.
        floor: added to both variances; the paper has 1e-9 for CIFAR-10 and 1e-6 for CelebA.

    Raises:
        ValueError: a constant out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.families.CriticallyDamped((3, 8, 8))
        >>> p.shape(0), p.shape(0.5)
        ((3, 8, 8), (6, 8, 8))
        >>> d = p.denoiser(lambda u, t: 0 * u.chunk(2, 1)[0])
        >>> p.sampler(d, 10)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 3, 8, 8])
    """

    card = Card(
        paper="Dockhorn et al., 2022",
        url="https://arxiv.org/abs/2112.07068",
        degradation=r"$x \mapsto \Phi(B)(x, 0)$, a velocity beside the image",
        noise=r"$2 \times 2$ for each pixel, correlated between image and velocity",
        schedule=r"$\beta = 4$, $m = 4$, $\gamma = 0.04$",
        prediction="noise of the velocity, in part (mixed score)",
        sampler="ancestral, 500 steps (there: `SplittingSampler`, Euler–Maruyama, or an ODE solver)",
        exact="exact",
    )
    prediction = VelocityNoise()
    drawn_times = FromFirst()
    weighting = Uniform()

    def __init__(
        self,
        shape: Sequence[int],
        inverse_mass: float = 4.0,
        gamma: float = 0.04,
        beta: float = 4.0,
        slope: float = 0.0,
        floor: float = 1e-9,
    ) -> None:
        for name, value in (("inverse_mass", inverse_mass), ("gamma", gamma), ("beta", beta), ("floor", floor)):
            as_positive(value, name)
        if not -beta < as_number(slope, "slope") < math.inf:
            raise ValueError(f"slope: expected a number above −beta = {-beta}, got {slope}")
        self.dynamics = Dynamics(inverse_mass, gamma, beta, slope, floor)
        super().__init__(PhaseSpace(shape, self.dynamics), Thermal(self.dynamics))

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        return Denoiser(network, self, self.prediction, "time")

    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> AncestralSampler:
        return AncestralSampler(denoiser, 500 if steps is None else steps, **settings)


class _LangevinSampler(Sampler):
    """What both have in common: the score of the velocity, and the step to the image."""

    def __init__(self, denoiser: Denoiser, steps: Steps = 500) -> None:
        super().__init__(denoiser, steps)
        if not isinstance(denoiser.process, CriticallyDamped):
            raise TypeError(f"denoiser: expected one of a families.CriticallyDamped, got one of {denoiser.process!r}")
        self.dynamics = denoiser.process.dynamics

    def arguments(self) -> dict[str, object]:
        return {"denoiser": self.denoiser, "steps": self.steps}

    def score(self, u: Tensor, t: float, clean: Tensor) -> Tensor:
        """∇_v log q(u | x_0) at an estimate of x_0."""
        mu_x, mu_v, xx, xv, vv = (float(value) for value in self.dynamics.moments(_number(t)))
        x, v = u.chunk(2, 1)
        return (xv * (x - mu_x * clean) - xx * (v - mu_v * clean)) / (xx * vv - xv**2)

    def to_image(self, u: Tensor, t: float) -> Tensor:
        """The mean of Euler's step to t = 0, of the image."""
        x, v = u.chunk(2, 1)
        return x - self.dynamics.inverse_mass * self.dynamics.rate(t) * t * v

    def estimate(self, u: Tensor, t: float, conditioning: dict[str, Any]) -> Tensor:
        clean, r = self.denoiser.estimate(u, t, **conditioning)
        return self.denoiser.carry(clean, r, 0)


@configured("families.ReverseLangevinSampler")
class ReverseLangevinSampler(_LangevinSampler):
    """Euler–Maruyama for the reverse SDE, or Euler's method for the probability flow; the last step, to the image,
    draws nothing. Approximates `AncestralSampler`, to first order in t − s.

    Arguments:
        denoiser: of a CriticallyDamped.
        steps: as `Sampler`.
        flow: whether it is the probability flow (the paper solves it by a Runge–Kutta method of adaptive steps).

    Raises:
        TypeError: a denoiser of another process.
    """

    def __init__(self, denoiser: Denoiser, steps: Steps = 500, flow: bool = False) -> None:
        super().__init__(denoiser, steps)
        self.flow = as_flag(flow, "flow")

    def arguments(self) -> dict[str, object]:
        return {**super().arguments(), "flow": self.flow}

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        clean = self.estimate(x_t, t, conditioning)
        with full_precision(x_t):
            if s < _FIRST:
                return self.to_image(x_t, t), clean
            x, v = x_t.chunk(2, 1)
            m, f, h = self.dynamics.inverse_mass, self.dynamics.friction, self.dynamics.rate(t) * (t - s)
            score = self.score(x_t, t, clean)
            v_s = v + h * (x + f * m * v + (1 if self.flow else 2) * f * score)
            if not self.flow:
                v_s = v_s + math.sqrt(2 * f * h) * draws.kernel(x_t).chunk(2, 1)[1]
            return torch.cat([x - m * h * v, v_s], 1), clean


@configured("families.SplittingSampler")
class SplittingSampler(_LangevinSampler):
    """The paper's symmetric splitting (SSCS): half a step of what is known of the reverse SDE, exactly; a step of what
    the score adds, by Euler's method; and half a step again. The last step, to the image, is that of
    `ReverseLangevinSampler`. Approximates the reverse SDE, to second order in t − s but for the score.

    Arguments:
        denoiser: of a CriticallyDamped.
        steps: as `Sampler`.

    Raises:
        TypeError: a denoiser of another process.
    """

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        if s < _FIRST:
            return self.to_image(x_t, t), self.estimate(x_t, t, conditioning)
        middle = (t + s) / 2
        with full_precision(x_t):
            u = self._known(x_t, t, middle, draws.kernel(x_t))
        clean = self.estimate(u, t, conditioning)
        with full_precision(x_t):
            x, v = u.chunk(2, 1)
            m, f, h = self.dynamics.inverse_mass, self.dynamics.friction, self.dynamics.rate(t) * (t - s)
            v = v + 2 * f * h * (self.score(u, t, clean) + m * v)
            return self._known(torch.cat([x, v], 1), middle, s, draws.other(x_t)), clean

    def _known(self, u: Tensor, t: float, s: float, noise: Tensor) -> Tensor:
        """The forward SDE from s to t with its velocity turned round."""
        elapsed = self.dynamics.elapsed(_number(t)) - self.dynamics.elapsed(_number(s))
        turned = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        event = (u.shape[1] // 2, *u.shape[2:])
        xx, xv, vv = self.dynamics.noise(elapsed, 0.0)
        moved = _mix(turned * self.dynamics.flow(elapsed), event)(u)
        return moved + _mix(_cholesky(xx, -xv, vv), event)(noise)
