r"""Paths: what becomes of an image in time, apart from how bright it is and how much noise is added.

A path is the degradation R_{s→t} between any two times, R_{0→t} = R_t for short, with R_{s→u} = R_{t→u} R_{s→t}. In data
range: c_t = R_t x_0 looks like the data. A process is a path and a schedule,

    x_t = a_t R_t x_0 + σ_t ε .

Where a shape is kept, R_t is diagonal in one orthonormal basis for all times, the frame of the path: R_t = V diag(r_t) Vᵀ.
Solvers of higher order extrapolate in it, each direction by its own signal-to-noise ratio a_t² r_t² / σ_t².
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_index, as_number, as_shape, column, compute_dtype
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import Configured, configured
from lineardiffusion.operators.base import LinearOperator, apply_each, count_numbers
from lineardiffusion.operators.bases import Basis, dct_matrix
from lineardiffusion.operators.chain import OperatorChain
from lineardiffusion.operators.multipliers import cast
from lineardiffusion.operators.orthogonal import AveragePool
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.operators.separable import Mode, Resize, Separable, along_axes_each, outer, spatial_axes
from lineardiffusion.operators.spectral import SpectralFilter, dct_frequencies
from lineardiffusion.schedules import ResolutionSchedule, Schedule, as_changes, convex_decay
from lineardiffusion.schedules.noise import Constants

_ONE = torch.ones((), dtype=torch.float64)
# Filters from clean data to the times of a batch that are kept: networks are trained on the same ones again and again.
_FILTER_BYTES = 2**28


def _event(shape: Sequence[int]) -> Shape:
    """An event shape. A single number is a mistake more often than an event of one axis."""
    if isinstance(shape, int):
        raise TypeError(
            f"shape: expected the sizes of an event, channels first, such as (3, {shape}, {shape}), or ({shape},) for "
            f"{shape} numbers in a row, got {shape}"
        )
    return as_shape(shape)


class Path(Configured, ABC):
    r"""R_{s→t} for 0 ≤ s ≤ t ≤ T, in data range, R_0 = I."""

    integral = False  # whether integer times alone are known

    @abstractmethod
    def shape(self, t: float) -> Shape:
        """Event shape of x_t."""

    @abstractmethod
    def between(self, s: float, t: float) -> LinearOperator:
        """R_{s→t}"""

    def changes(self) -> list[float]:
        """The times t_j at which the shape changes, ascending: x_{t_j} has the new shape, all before it the old one."""
        return []

    def gain(self, t: float | Tensor) -> float | Tensor:
        """What a_t has beside the signal scale of the schedule: 1, but for orthonormal levels, which are brighter."""
        return 1.0

    def gains(self, t: float) -> Tensor:
        """r_t: the gains of R_t in the frame of shape(t), float64, relative to those of the first time that has this
        shape; one number where they are alike."""
        return _ONE

    def filter(self, t: float, weights: Tensor) -> LinearOperator:
        """V diag(weights) Vᵀ in the frame of shape(t)."""
        return float(weights) * Identity(self.shape(t))

    def scaled(self, s: float, t: float, scale: float) -> LinearOperator:
        """scale · R_{s→t}"""
        return scale * self.between(s, t)

    def norm(self, s: float, t: float) -> float:
        """‖R_{s→t}‖"""
        return self.between(s, t).norm()

    def norm_at_most(self, s: float, t: float, bound: float) -> bool:
        """Whether ‖R_{s→t}‖ ≤ bound, at the cost of finding that out; False may mean that it is too close to tell."""
        return self.norm(s, t) <= bound

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        """R_t x for a time of its own for each row of x, all of one shape."""
        return apply_each([self.between(0, t) for t in times.tolist()], x)

    def on(self, schedule: Schedule) -> Path:
        """This path on the time axis of a schedule: itself, unless it is defined by that axis."""
        return self


# ------------------------------------------------------------------------------------------------------- identity


@configured("paths.identity")
class IdentityPath(Path):
    """R = I: all that time does is noise."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.event = _event(shape)
        self._operator = Identity(self.event)

    def arguments(self) -> dict[str, object]:
        return {"shape": self.event}

    def shape(self, t: float) -> Shape:
        return self.event

    def between(self, s: float, t: float) -> LinearOperator:
        return self._operator

    def norm(self, s: float, t: float) -> float:
        return 1.0

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        return x


# ------------------------------------------------------------------------------------------------- frequencies fade


@configured("paths.heat")
class HeatPath(Path):
    """`heat`"""

    def __init__(
        self, shape: Sequence[int], blur_sigma: float | Callable[[Tensor], Tensor] = 20.0, floor: float = 1e-3
    ) -> None:
        self.event = _event(shape)
        if not callable(blur_sigma) and not 0 <= as_number(blur_sigma, "blur_sigma") < math.inf:
            raise ValueError(f"blur_sigma: expected a number ≥ 0, in pixels, or a function of time, got {blur_sigma}")
        if not 0 <= as_number(floor, "floor") <= 1:
            raise ValueError(f"floor: expected a number in [0, 1], got {floor}")
        self.blur_sigma, self.floor = blur_sigma, floor
        self._end: float | None = None
        self._frequencies = dct_frequencies(self.event)
        if callable(blur_sigma) and float(self._blur_sigma(torch.zeros(1, dtype=torch.float64))[0]) != 0:
            raise ValueError("blur_sigma: expected 0 at t = 0, where x_0 is the data")

    def arguments(self) -> dict[str, object]:
        return {"shape": self.event, "blur_sigma": self.blur_sigma, "floor": self.floor}

    def on(self, schedule: Schedule) -> Path:
        if callable(self.blur_sigma):
            return self
        bound = copy.copy(self)
        bound._end = schedule.end
        return bound

    def shape(self, t: float) -> Shape:
        return self.event

    def _blur_sigma(self, times: Tensor) -> Tensor:
        """σ_B for each of some times."""
        if not callable(self.blur_sigma):
            if self._end is None:
                raise ValueError("blur_sigma: a number is reached at the end of a schedule; make the process first")
            sigma: Tensor = self.blur_sigma * (math.pi / 2 / self._end * times).sin().square()
            return sigma
        try:
            sigma = self.blur_sigma(times)
        except (TypeError, ValueError, RuntimeError):  # a function of one number
            sigma = torch.tensor([float(self.blur_sigma(t)) for t in times.tolist()], dtype=torch.float64)
        return torch.as_tensor(sigma, dtype=times.dtype, device=times.device).expand(times.shape)

    def _dissipation(self, t: float) -> float:
        """τ_t = σ_B²/2, for which the heat equation has run."""
        sigma = float(self._blur_sigma(torch.tensor([t], dtype=torch.float64))[0])
        if not math.isfinite(sigma):
            raise ValueError(f"blur_sigma: expected a finite number at t = {t}, got {sigma}")
        return sigma**2 / 2

    def gains(self, t: float) -> Tensor:
        if t == 0:
            return torch.ones([len(axis) for axis in self._frequencies], dtype=torch.float64)
        tau = self._dissipation(t)
        heat = outer([torch.exp(-tau * axis.square()) for axis in self._frequencies])
        return (1 - self.floor) * heat + self.floor

    def filter(self, t: float, weights: Tensor) -> LinearOperator:
        if weights.ndim == 0:
            return super().filter(t, weights)
        return SpectralFilter(self.event, weights, "dct")

    def between(self, s: float, t: float) -> LinearOperator:
        if s == t:
            return Identity(self.event)
        return SpectralFilter(self.event, ratio(self.gains(t), self.gains(s)), "dct")

    def scaled(self, s: float, t: float, scale: float) -> LinearOperator:
        if s == t:
            return super().scaled(s, t, scale)
        return SpectralFilter(self.event, scale * ratio(self.gains(t), self.gains(s)), "dct")

    def norm(self, s: float, t: float) -> float:
        # Each gain falls as long as the blur grows, and the mean of an image stays as it is.
        return 1.0 if self._dissipation(t) >= self._dissipation(s) else super().norm(s, t)

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        # The heat equation acts on each axis by a matrix Vᵀ diag(exp(−f² τ)) V, so that
        #     R_t x = (1 − floor) (B_1 ⊗ … ⊗ B_d) x + floor x,
        # which are half as many products as a transform forth and back.
        work = x.to(compute_dtype(x.dtype))
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        tau = cast(self._blur_sigma(times.to(x.device).to(wide)).square() / 2, work)
        blurs: dict[int, Tensor] = {}
        for axis in self._frequencies:
            if len(axis) not in blurs:
                squared = squared_frequencies(len(axis), work.dtype, work.device)
                decay = torch.exp(-tau[:, None] * squared)
                transform = dct_matrix(len(axis), work)
                blurs[len(axis)] = (transform.T * decay[:, None, :]) @ transform
        first, *others = (blurs[len(axis)] for axis in self._frequencies)
        blurred = along_axes_each([(1 - self.floor) * first, *others], work)
        return blurred.add_(work, alpha=self.floor).to(x.dtype)


@lru_cache(maxsize=64)
def squared_frequencies(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Squared frequencies (π k / n)² of the cosine transform, kept where they are used."""
    with torch.inference_mode(False):
        return (math.pi * torch.arange(n, dtype=torch.float64) / n).square().to(dtype).to(device)


@configured("paths.spectral")
class SpectralPath(Path):
    """`spectral`"""

    def __init__(self, basis: Basis, gains: Callable[[float], Tensor]) -> None:
        if not isinstance(basis, Basis) or not callable(gains):
            raise TypeError(f"basis, gains: expected one of ld.bases and a function of t, got {basis!r} and {gains!r}")
        self.basis, self._function = basis, gains
        self.event = basis.shape
        self._filters: BoundedCache[LinearOperator] = BoundedCache(_FILTER_BYTES, _filter_bytes)
        if not bool((self.gains(0) == 1).all()):
            raise ValueError("gains: expected 1 at t = 0, where x_0 is the data")

    def arguments(self) -> dict[str, object]:
        return {"basis": self.basis, "gains": self._function}

    def shape(self, t: float) -> Shape:
        return self.event

    def gains(self, t: float) -> Tensor:
        values = torch.as_tensor(self._function(t)).detach()
        if values.is_complex() or not bool(values.isfinite().all()):
            raise ValueError(f"gains: expected finite real numbers at t = {t}, got {values}")
        try:
            values.broadcast_to(self.basis.coordinates)
        except RuntimeError:
            raise ValueError(
                f"gains: expected a shape that broadcasts to the coordinates {self.basis.coordinates} of {self.basis}, "
                f"got {tuple(values.shape)} at t = {t}"
            ) from None
        return values.cpu().double()

    def filter(self, t: float, weights: Tensor) -> LinearOperator:
        if weights.ndim == 0:
            return super().filter(t, weights)
        return SpectralFilter(self.event, weights, self.basis)

    def between(self, s: float, t: float) -> LinearOperator:
        if s == t:
            return Identity(self.event)
        return self.filter(t, ratio(self.gains(t), self.gains(s)))

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        filters = [self._filters.get(t, lambda t=t: self.between(0, t)) for t in times.tolist()]  # type: ignore[misc]
        return apply_each(filters, x)


def _filter_bytes(operator: LinearOperator) -> int:
    """Of its gains in float64 and in float32."""
    return 16 * count_numbers(operator)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Gains of R_{s→t} from those of R_t and R_s, 0 of what is gone at s.

    Raises:
        ValueError: something of it is there again at t.
    """
    gone = denominator == 0
    if bool((gone & (numerator != 0)).any()):
        raise ValueError("gains: expected ones that stay 0 once they are 0, got one that is 0 and later is not")
    return torch.where(gone, 0.0, numerator / torch.where(gone, 1.0, denominator))


# -------------------------------------------------------------------------------------------------- resolutions fall


@configured("paths.pyramid")
class PyramidPath(Path):
    """`pyramid`"""

    def __init__(
        self,
        shape: Sequence[int],
        levels: int | None = None,
        resolution_schedule: ResolutionSchedule | Sequence[int] | None = None,
        mode: Mode | Literal["haar"] = "bilinear",
        factor: float | Sequence[Any] = 2,
    ) -> None:
        self.event = _event(shape)
        self.sizes = _sizes(self.event, levels, factor)
        self.levels, self.mode, self.factor = len(self.sizes), mode, factor
        self.resolution_schedule = convex_decay(0.5) if resolution_schedule is None else resolution_schedule
        self._steps = [_one_level(fine, coarse, mode) for fine, coarse in itertools.pairwise(self.sizes)]
        self._changes: list[float] | None = None
        self._between: dict[tuple[int, int], LinearOperator] = {}

    def arguments(self) -> dict[str, object]:
        return {
            "shape": self.event,
            "levels": self.levels,
            "resolution_schedule": self.resolution_schedule,
            "mode": self.mode,
            "factor": self.factor,
        }

    def on(self, schedule: Schedule) -> Path:
        bound = copy.copy(self)
        changes = as_changes(self.resolution_schedule, self.levels, schedule)
        bound._changes = [t for t in changes if t <= schedule.end]
        return bound

    def level(self, t: float) -> int:
        """How many of the changes are at t or before; 0 is full size."""
        if self._changes is None:
            raise ValueError("resolution_schedule: times belong to a schedule of noise; make the process first")
        return sum(change <= t for change in self._changes)  # a graph that is being compiled knows no bisection

    def shape(self, t: float) -> Shape:
        return self.sizes[self.level(t)]

    def changes(self) -> list[float]:
        self.level(0)
        return sorted(set(self._changes or []))

    def between(self, s: float, t: float) -> LinearOperator:
        pair = self.level(s), self.level(t)
        if pair not in self._between:
            self._between[pair] = self._product(*pair)
        return self._between[pair]

    def _product(self, fine: int, coarse: int) -> LinearOperator:
        if self.mode == "haar" and fine < coarse:
            return AveragePool(self.sizes[fine], 2 ** (coarse - fine))  # means of means are means
        product: LinearOperator = Identity(self.sizes[fine])
        for step in self._steps[fine:coarse]:
            product = step @ product
        return product

    def norm_at_most(self, s: float, t: float, bound: float) -> bool:
        # Large images need not be factorised for it.
        steps = self._steps[self.level(s) : self.level(t)]
        return math.prod(map(_norm_bound, steps)) <= bound or super().norm_at_most(s, t, bound)

    def gain(self, t: float | Tensor) -> float | Tensor:
        if self.mode != "haar":
            return 1.0
        per_level = 2 ** (spatial_axes(self.event) / 2)
        if not isinstance(t, Tensor):
            return float(per_level ** self.level(t))
        dtype = torch.float32 if t.device.type == "mps" else torch.float64
        levels = torch.zeros(t.shape, dtype=dtype, device=t.device)
        for change in self._changes or []:
            levels += t >= change
        return per_level**levels

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        return self.between(0, times.tolist()[0])(x)  # all of one shape

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_between": {}}


def _norm_bound(operator: LinearOperator) -> float:
    """‖A‖ or a little more: ‖A‖² ≤ ‖A‖_1 ‖A‖_∞ for the matrix A of each axis, the largest sums of columns and rows."""
    if not isinstance(operator, Separable):
        return operator.norm()
    sizes = [factor.abs() for factor in operator.factors]
    return math.prod(math.sqrt(float(size.sum(0).max() * size.sum(1).max())) for size in sizes)


def _one_level(fine: Shape, coarse: Shape, mode: Mode | Literal["haar"]) -> LinearOperator:
    axes = spatial_axes(fine)
    if mode != "haar":
        return Resize(fine, coarse[-axes:], mode)
    if any(n != 2 * m for n, m in zip(fine[-axes:], coarse[-axes:], strict=True)):
        raise ValueError(f"mode: expected even sizes, each twice the next, for 'haar', got {fine} → {coarse}")
    return AveragePool(fine, 2)


def _sizes(shape: Shape, levels: int | None, factor: float | Sequence[Any]) -> list[Shape]:
    """Event shapes of all levels: each axis ⌈n / factor^level⌉, or as they are listed."""
    axes = spatial_axes(shape)
    channels, full = shape[: len(shape) - axes], shape[-axes:]
    if isinstance(factor, (int, float)):
        count = as_index(4 if levels is None else levels, 1, 64, "levels")
        if not 1 < factor < math.inf:
            raise ValueError(f"factor: expected a ratio > 1 between levels, or a list of sizes, got {factor}")
        sizes = [tuple(math.ceil(round(n / factor**level, 9)) for n in full) for level in range(count)]
    else:
        listed = [(size,) * axes if isinstance(size, int) else as_shape(size, "factor") for size in factor]
        sizes = listed if listed and listed[0] == full else [full, *listed]
        if levels is not None and levels != len(sizes):
            raise ValueError(f"factor: expected {levels - 1} sizes for {levels} levels, got {list(factor)}")
    for level, (fine, coarse) in enumerate(itertools.pairwise(sizes), start=1):
        if len(coarse) != axes or any(m > n for n, m in zip(fine, coarse, strict=False)) or coarse == fine:
            raise ValueError(
                f"levels: expected each level smaller than the one before, got {fine} and then {coarse}: at most "
                f"{level} for shape {shape}"
            )
    return [channels + size for size in sizes]


# ------------------------------------------------------------------------------------------------ chains of operators


@configured("paths.chain")
class ChainPath(Path):
    """`chain`; with signal scales a_t, operators are M_t = (a_t/a_{t−1}) R_{t−1→t}."""

    integral = True

    def __init__(
        self, operators: OperatorChain | Sequence[LinearOperator], signal_scales: Sequence[float] | None = None
    ) -> None:
        self.operators = operators if isinstance(operators, OperatorChain) else OperatorChain(operators)
        self.signal_scales = None if signal_scales is None else list(signal_scales)
        if self.signal_scales is not None and min(self.signal_scales) == 0:
            raise ValueError(
                "signal_scales: expected a_t > 0 with the whole operators M_t, since c_t = M_{1:t} x_0 / a_t, got 0; "
                "give R_1, …, R_T as ld.paths.chain([…])"
            )
        self._scales = Constants(torch.tensor(self.signal_scales or [1.0], dtype=torch.float64))
        shapes = [self.operators.shape(t) for t in range(len(self.operators) + 1)]
        self._shapes, self._changes = shapes, [t for t in range(1, len(shapes)) if shapes[t] != shapes[t - 1]]

    def shape(self, t: float) -> Shape:
        return self._shapes[int(t)]

    def changes(self) -> list[float]:
        return list(self._changes)

    def between(self, s: float, t: float) -> LinearOperator:
        return self.scaled(s, t, 1.0)

    def scaled(self, s: float, t: float, scale: float) -> LinearOperator:
        product = self.operators.between(int(s), int(t))
        if self.signal_scales is not None:
            scale = scale * self.signal_scales[int(s)] / self.signal_scales[int(t)]
        # The whole operators need no factor, and rounding is to make none.
        return product if abs(scale - 1) < 1e-12 else scale * product

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        rows = [int(t) for t in times.tolist()]
        degraded = self.operators.apply_cumulative(rows, x)
        if self.signal_scales is None:
            return degraded
        return degraded / column(self._scales.on(x.device)[times.to(x.device).long()], degraded)

    def on(self, schedule: Schedule) -> Path:
        if schedule.num_steps != len(self.operators):
            raise ValueError(
                f"schedule: expected one of {len(self.operators)} steps for as many operators, got {schedule}"
            )
        return self


# ------------------------------------------------------------------------------------------------------ public names


def identity(shape: Sequence[int]) -> Path:
    """R = I on events of a shape: DDPM, flow matching, EDM.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.LinearDiffusion(ld.paths.identity((1, 8)), ld.schedules.flow()).shape(0.5)
        (1, 8)
    """
    return IdentityPath(shape)


def heat(shape: Sequence[int], blur_sigma: float | Callable[[Tensor], Tensor] = 20.0, floor: float = 1e-3) -> Path:
    r"""The heat equation with insulated borders, diagonal in the cosine basis V:

        R_t = V diag((1 − floor) exp(−‖f_k‖² τ_t) + floor) Vᵀ,   τ_t = σ_B(t)²/2 .

    Arguments:
        shape: event shape, channels first.
        blur_sigma: σ_B in pixels: a function of a tensor of times, element by element, 0 at t = 0; or its greatest value,
            reached as σ_B,max sin²(πt/2T), the choice of Blurring Diffusion.
        floor: what is left of each frequency, in [0, 1].

    References:
        | Blurring Diffusion Models (Hoogeboom & Salimans, 2023), https://arxiv.org/abs/2209.05557

    Raises:
        ValueError: an argument out of range.
    """
    return HeatPath(shape, blur_sigma, floor)


def spectral(basis: Basis, gains: Callable[[float], Tensor]) -> Path:
    r"""R_t = V diag(r_t) Vᴴ in any orthonormal basis (`ld.bases`).

    Arguments:
        basis: V.
        gains: t ↦ r_t, a tensor that broadcasts to the coordinates of the basis; 1 at t = 0. Gains may be 0.

    Raises:
        ValueError: gains that are not finite, or not 1 at t = 0.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> fading = ld.paths.spectral(ld.bases.Cosine((1, 4)), lambda t: torch.exp(-t * torch.arange(4.0)))
        >>> fading.between(0, 1.0)(torch.ones(1, 4))
        tensor([[1., 1., 1., 1.]])
    """
    return SpectralPath(basis, gains)


def pyramid(
    shape: Sequence[int],
    levels: int | None = None,
    resolution_schedule: ResolutionSchedule | Sequence[int] | None = None,
    mode: Mode | Literal["haar"] = "bilinear",
    factor: float | Sequence[Any] = 2,
) -> Path:
    r"""Resolutions that fall, level by level; between its changes a path of R = I.

    Arguments:
        shape: event shape of the data, channels first.
        levels: number of resolutions, 4 by default.
        resolution_schedule: when they change, such as `ld.convex_decay(0.5)` (the default) or `ld.changes_at([…])`; or the
            level of each x_1, …, x_T.
        mode: how `Resize` resamples, with antialiasing where the mode has it; or "haar" for the orthonormal levels of the
            Haar basis, for which a_t has a factor 2^{d/2} for each level.
        factor: the ratio > 1 between levels, ⌈n / factor^l⌉ pixels at level l; or the sizes of the lower levels.

    Raises:
        ValueError: levels beyond what the shape holds, odd sizes for "haar", an unknown mode.

    Examples:
        >>> import lineardiffusion as ld
        >>> path = ld.paths.pyramid((3, 48, 64), 3, ld.changes_at([300, 600]), factor=1.5)
        >>> p = ld.LinearDiffusion(path, ld.schedules.linear(1000))
        >>> p.shape(299), p.shape(300), p.shape(600)
        ((3, 48, 64), (3, 32, 43), (3, 22, 29))
    """
    return PyramidPath(shape, levels, resolution_schedule, mode, factor)


def chain(operators: OperatorChain | Sequence[LinearOperator]) -> Path:
    r"""R_{s→t} = R_t ⋯ R_{s+1} for any operators, at integer times.

    Arguments:
        operators: R_1, …, R_T, in data range; each takes what the one before gives.

    Raises:
        ValueError: no operator, or shapes that do not chain.
    """
    return ChainPath(operators)
