r"""azula: schedules, denoisers and covariances, both ways, so that its samplers run our denoisers, and ours its own.

azula writes x_t = α_t x + σ_t z for t in [0, 1], with a little noise at t = 0, by which its samplers divide; here data
are clean at t = 0, and t ends at T. Its time t is our t T, and no earlier than the first one of our schedule.

References:
    | azula: Diffusion models in PyTorch (Rozet, 2024), https://github.com/probabilists/azula
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from lineardiffusion._checks import compute_dtype, missing
from lineardiffusion.covariance import Covariance, GramCovariance
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.integrations.shared import check_additive, trained_time
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.diagonal import Diagonal
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.paths import identity
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import Schedule

try:
    import azula.denoise
    import azula.linalg.covariance
    import azula.noise
except ModuleNotFoundError as error:
    raise missing("azula", error) from error

_Isotropic = azula.linalg.covariance.IsotropicCovariance


@overload
def to_azula(ours: Schedule) -> azula.noise.Schedule: ...
@overload
def to_azula(ours: Denoiser) -> azula.denoise.Denoiser: ...
@overload
def to_azula(ours: Covariance) -> azula.linalg.covariance.Covariance: ...
def to_azula(ours: Schedule | Denoiser | Covariance) -> Any:
    """A noise schedule, a denoiser or a covariance as azula's.

    A denoiser returns a `DiracPosterior` of its estimate of x_0, and takes conditioning. A covariance keeps its
    structure: sums with and multiples of an `IsotropicCovariance` and inverses are functions of the same operator.

    Arguments:
        ours: a schedule of isotropic noise, a denoiser of a process without a degradation, or a covariance.

    Raises:
        TypeError: something else.
        ValueError: coloured noise, or a process that blurs or changes shape.

    Examples:
        >>> import torch, azula.sample, lineardiffusion as ld
        >>> from lineardiffusion.integrations.azula import to_azula
        >>> to_azula(ld.schedules.flow())(torch.tensor(0.25))
        (tensor(0.7500), tensor(0.2500))
        >>> denoiser = to_azula(ld.Denoiser(lambda x, time: 0 * x, ld.DDPM((3, 8, 8)), "data"))
        >>> sampler = azula.sample.DDIMSampler(denoiser, steps=10, silent=True)
        >>> sampler(sampler.init((2, 3, 8, 8))).shape
        torch.Size([2, 3, 8, 8])
    """
    if isinstance(ours, Schedule):
        return ours.schedule if isinstance(ours, _FromSchedule) else _ToSchedule(ours)
    if isinstance(ours, Denoiser):
        return _ToDenoiser(ours)
    if isinstance(ours, Covariance):
        return ours.covariance if isinstance(ours, _FromCovariance) else _ToCovariance(ours)
    raise TypeError(f"ours: expected a schedule, an ld.Denoiser or an ld.Covariance, got {type(ours).__name__}")


@overload
def from_azula(theirs: azula.noise.Schedule) -> Schedule: ...
@overload
def from_azula(theirs: azula.denoise.Denoiser, shape: Sequence[int]) -> Denoiser: ...
@overload
def from_azula(theirs: azula.linalg.covariance.Covariance, shape: Sequence[int] | None = None) -> Covariance: ...
def from_azula(theirs: Any, shape: Sequence[int] | None = None) -> Any:
    """A noise schedule, a denoiser or a covariance of azula as one of the library.

    A schedule keeps its times; at t = 0 itself data are clean. A denoiser predicts the data, by the mean of its
    posterior, and brings its process: no degradation, and its own schedule.

    Arguments:
        theirs: the schedule, denoiser or covariance.
        shape: event shape: of a denoiser, and of an `IsotropicCovariance`, which do not know it.

    Raises:
        TypeError: something else, or no shape where it is needed.

    Examples:
        >>> import torch, azula.denoise, azula.noise, lineardiffusion as ld
        >>> from lineardiffusion.integrations.azula import from_azula
        >>> schedule = from_azula(azula.noise.RectifiedSchedule(alpha_min=0.0, sigma_min=0.0))
        >>> schedule.sigma(0.25), round(schedule.time(0.0), 6)
        (0.25, 0.5)
        >>> variance = azula.linalg.covariance.IsotropicCovariance(0.25)
        >>> theirs = azula.denoise.GaussianDenoiser(torch.zeros(3, 8, 8), variance, azula.noise.VPSchedule())
        >>> ld.DDIMSampler(from_azula(theirs, (3, 8, 8)), steps=4)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 3, 8, 8])
    """
    if isinstance(theirs, azula.noise.Schedule):
        return theirs.schedule if isinstance(theirs, _ToSchedule) else _FromSchedule(theirs)
    if isinstance(theirs, azula.denoise.Denoiser):
        process = LinearDiffusion(identity(_given(shape, theirs)), from_azula(theirs.schedule))
        return Denoiser(_Network(theirs), process, prediction="data", time_input=_fraction)
    if isinstance(theirs, _Isotropic):
        return GramCovariance(float(theirs.lmbda) ** 0.5 * Identity(_given(shape, theirs)))
    if isinstance(theirs, azula.linalg.covariance.DiagonalCovariance):
        return GramCovariance(Diagonal(theirs.D.sqrt()))
    if isinstance(theirs, azula.linalg.covariance.Covariance):
        return theirs.covariance if isinstance(theirs, _ToCovariance) else _FromCovariance(theirs)
    raise TypeError(f"theirs: expected a schedule, a denoiser or a covariance of azula, got {type(theirs).__name__}")


def _given(shape: Sequence[int] | None, theirs: object) -> Sequence[int]:
    if shape is None:
        raise TypeError(f"shape: expected an event shape, which a {type(theirs).__name__} does not know, got none")
    return shape


# --------------------------------------------------------------------------------------------------------- schedules


class _ToSchedule(azula.noise.Schedule):  # type: ignore[misc]
    def __init__(self, schedule: Schedule) -> None:
        if not schedule.is_isotropic:
            raise ValueError(f"ours: expected a schedule of isotropic noise, as azula knows no other, got {schedule}")
        self.schedule = schedule

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self.schedule(_our_time(self.schedule, t))
        return signal.to(t.dtype), sigma.to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return self(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self(t)[1]


def _our_time(schedule: Schedule, t: Tensor) -> Tensor:
    wide = t if t.device.type == "mps" else t.double()
    return trained_time(schedule, schedule.end * wide)


class _FromSchedule(Schedule):
    def __init__(self, schedule: azula.noise.Schedule) -> None:
        self.schedule = schedule
        if float(schedule(torch.zeros((), dtype=torch.float64))[1]) > 0:
            self.first = 1e-15  # where it has the noise of azula's t = 0, to all digits

    def arguments(self) -> dict[str, object]:
        return {"schedule": (type(self.schedule), vars(self.schedule))}  # azula's are equal to themselves alone

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self.schedule(t)
        return signal, sigma


# --------------------------------------------------------------------------------------------------------- denoisers


class _ToDenoiser(azula.denoise.Denoiser):  # type: ignore[misc]
    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        check_additive(denoiser.process, "ours")
        self.denoiser, self.schedule = denoiser, to_azula(denoiser.process.schedule)

    def forward(self, x_t: Tensor, t: Tensor, **conditioning: Any) -> azula.denoise.DiracPosterior:
        time = _our_time(self.denoiser.process.schedule, t)
        mean = self.denoiser(x_t, time if t.ndim else float(time), **conditioning)
        return azula.denoise.DiracPosterior(mean=mean)


class _Network(nn.Module):
    """The mean of azula's posterior, from x_t and azula's time."""

    def __init__(self, denoiser: azula.denoise.Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, time: Tensor, **conditioning: Any) -> Tensor:
        # Many of azula's denoisers take one time for all, which costs a wait on an accelerator.
        time = time[0] if bool((time == time[0]).all()) else time
        mean: Tensor = self.denoiser(x, time, **conditioning).mean
        return mean


def _fraction(process: LinearDiffusion, t: Tensor) -> Tensor:
    """t/T, azula's time."""
    return t / process.end


# ------------------------------------------------------------------------------------------------------- covariances


class _ToCovariance(azula.linalg.covariance.Covariance):  # type: ignore[misc]
    def __init__(self, covariance: Covariance) -> None:
        self.covariance = covariance

    @property
    def shape(self) -> Sequence[int]:
        return self.covariance.in_shape

    def __add__(self, other: Any) -> _ToCovariance:
        if not isinstance(other, _Isotropic):
            return NotImplemented
        constant = float(other.lmbda)
        return self._function(lambda values: values + constant)

    def __mul__(self, other: Any) -> _ToCovariance:
        if not isinstance(other, _Isotropic):
            return NotImplemented
        factor = float(other.lmbda)
        return self._function(lambda values: factor * values)

    def __matmul__(self, x: Tensor) -> Tensor:
        return self.covariance(x)

    def color(self, x: Tensor) -> Tensor:
        return self.covariance.sqrt(x)

    @property
    def inv(self) -> _ToCovariance:
        return self._function(torch.reciprocal)

    def logdet(self) -> Tensor:
        value = self.covariance.logdet()
        return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)

    def _function(self, f: SpectralFunction) -> _ToCovariance:
        """f(Σ)"""
        covariance = self.covariance
        if isinstance(covariance, GramCovariance):
            variance = covariance.variance
            return _ToCovariance(GramCovariance(covariance.operator, lambda values: f(variance(values))))
        return _ToCovariance(GramCovariance(covariance, lambda values: f(values.sqrt())))  # ΣᵀΣ has λ²


class _FromCovariance(Covariance):
    def __init__(self, covariance: azula.linalg.covariance.Covariance) -> None:
        super().__init__(tuple(covariance.shape), tuple(covariance.shape))
        self.covariance = covariance

    def apply(self, x: Tensor) -> Tensor:
        return self._computed(lambda covariance, work: covariance @ work, x)

    def sqrt(self, v: Tensor) -> Tensor:
        return self._computed(lambda covariance, work: covariance.color(work), v)

    def solve(self, v: Tensor) -> Tensor:
        return self._computed(lambda covariance, work: covariance.inv @ work, v)

    def logdet(self) -> float | Tensor:
        value: Tensor = self.covariance.logdet()
        return value if value.requires_grad else float(value)

    def _computed(self, function: Callable[[Any, Tensor], Tensor], x: Tensor) -> Tensor:
        """Of the covariance with the precision and on the device of x."""
        work = x.to(compute_dtype(x.dtype))
        return function(self.covariance.to(dtype=work.dtype, device=work.device), work).to(x.dtype)
