"""Paths on which coordinates of a basis fade: the heat equation, and gains in any basis."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lineardiffusion._checks import (
    Shape,
    as_number,
    as_numbers,
    check_function,
    check_kind,
    compute_dtype,
    got,
    to_device,
)
from lineardiffusion.caches import BoundedCache
from lineardiffusion.config import configured
from lineardiffusion.operators.base import LinearOperator, apply_each, operator_bytes
from lineardiffusion.operators.bases import Basis, dct_matrix
from lineardiffusion.operators.multipliers import cast
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.operators.separable import along_axes_each, outer
from lineardiffusion.operators.spectral import SpectralFilter, dct_frequencies
from lineardiffusion.paths.base import Path, as_event
from lineardiffusion.schedules import Schedule

# Filters from clean data to the times of a batch that are kept: networks are trained on the same ones again and again.
FILTER_BYTES = 2**28


@configured("paths.heat")
class heat(Path):
    r"""The heat equation with insulated borders, diagonal in the cosine basis V:

        R_t = V diag((1 − floor) exp(−‖f_k‖² τ_t) + floor) Vᵀ,   τ_t = σ_B(t)²/2 .

    Arguments:
        shape: event shape, channels first.
        blur_sigma: σ_B in pixels: a function of a tensor of times, element by element, 0 at t = 0; or its greatest
            value, reached as σ_B,max sin²(πt/2T), the choice of Blurring Diffusion.
        floor: what is left of each frequency, in [0, 1].

    References:
        | Blurring Diffusion Models (Hoogeboom & Salimans, 2023), https://arxiv.org/abs/2209.05557

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, shape: Sequence[int], blur_sigma: float | Callable[[Tensor], Tensor] = 20.0, floor: float = 1e-3
    ) -> None:
        self.event = as_event(shape)
        if callable(blur_sigma):
            check_function(blur_sigma, "blur_sigma", "a number ≥ 0, in pixels, or a function of time")
        elif not 0 <= as_number(blur_sigma, "blur_sigma") < math.inf:
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

    def norm_at_most(self, s: float, t: float, bound: float) -> bool:
        return self.norm(s, t) <= bound

    def apply_each(self, times: Tensor, x: Tensor) -> Tensor:
        # The heat equation acts on each axis by a matrix Vᵀ diag(exp(−f² τ)) V, so that
        #     R_t x = (1 − floor) (B_1 ⊗ … ⊗ B_d) x + floor x,
        # which are half as many products as a transform forth and back.
        work = x.to(compute_dtype(x.dtype))
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        tau = cast(self._blur_sigma(to_device(times, x.device).to(wide)).square() / 2, work)
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
class spectral(Path):
    r"""R_t = V diag(r_t) Vᴴ in any orthonormal basis (`ld.bases`).

    Arguments:
        basis: V.
        gains: t ↦ r_t for a number t, a tensor that broadcasts to the coordinates of the basis; 1 at t = 0. Gains may
            be 0 from some time on.

    Raises:
        TypeError: no basis, or gains that are no function.
        ValueError: gains that are not finite, not 1 at t = 0 or of a shape that does not fit; from `between`, also such
            as are 0 at s and not at t.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> fading = ld.paths.spectral(ld.bases.Cosine((1, 4)), lambda t: torch.exp(-t * torch.arange(4.0)))
        >>> fading.between(0, 1.0)(torch.ones(1, 4))
        tensor([[1., 1., 1., 1.]])
    """

    def __init__(self, basis: Basis, gains: Callable[[float], Tensor]) -> None:
        check_kind(basis, Basis, "basis", "one of ld.bases, such as bases.Cosine(shape)")
        check_function(gains, "gains", "a function of t")
        self.basis, self._function = basis, gains
        self.event = basis.shape
        self._filters: BoundedCache[LinearOperator] = BoundedCache(FILTER_BYTES, operator_bytes)
        check_start(self.gains(0))

    def arguments(self) -> dict[str, object]:
        return {"basis": self.basis, "gains": self._function}

    def shape(self, t: float) -> Shape:
        return self.event

    def gains(self, t: float) -> Tensor:
        return gains_at(self._function, t, self.basis)

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


def gains_at(gains: Callable[[float], Tensor], t: float, basis: Basis) -> Tensor:
    """What a function of time says of the coordinates of a basis, float64 on the CPU.

    Raises:
        ValueError: complex or infinite numbers, or a shape that does not broadcast to the coordinates.
    """
    values = gains(t)
    try:
        values = as_numbers(values.detach() if isinstance(values, Tensor) else values, "gains")
    except (TypeError, ValueError):
        raise ValueError(f"gains: expected finite real numbers at t = {t}, got {got(values)}") from None
    try:
        values.broadcast_to(basis.coordinates)
    except RuntimeError:
        raise ValueError(
            f"gains: expected a shape that broadcasts to the coordinates {basis.coordinates} of {basis}, "
            f"got {tuple(values.shape)} at t = {t}"
        ) from None
    return values


def check_start(gains: Tensor) -> None:
    """Raise unless gains at t = 0 are 1."""
    if not bool((gains == 1).all()):
        raise ValueError("gains: expected 1 at t = 0, where x_0 is the data")


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Gains of R_{s→t} from those of R_t and R_s, 0 of what is gone at s.

    Raises:
        ValueError: something of it is there again at t.
    """
    gone = denominator == 0
    if bool((gone & (numerator != 0)).any()):
        raise ValueError("gains: expected ones that stay 0 once they are 0, got one that is 0 and later is not")
    return torch.where(gone, 0.0, numerator / torch.where(gone, 1.0, denominator))
