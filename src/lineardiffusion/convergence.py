r"""When a Krylov space is large enough: the error of f(A) v ≈ ‖v‖ Q_k f(T_k) e_1 that is stated.

The stated error of a sample has two parts, both relative to max(‖y‖, c ‖v‖ max|f|), y = f(A) v and c = 1e-3: without
the second a result that is zero would never be known.

- *Truncation.* The larger of two estimates. What is missing is exactly

      f(A) v − ‖v‖ Q f(T) e_1 = ‖v‖ β_k g(A) q_{k+1},     g(λ) = Σ_i (u_i)_k (u_i)_1 f[θ_i, λ],

  with the eigenpairs (θ_i, u_i) of T and divided differences f[·,·]: at most β_k max |g| over the spectrum, of which
  the Ritz values are what is known. The other estimate is that of a sequence which goes on to converge as it did: with
  d_k the change of the result in step k and r = d_k / d_{k−1}, its error is d_k r / (1 − r).
- *Rounding.* Products with A are known to about eps·‖A‖, so the eigenvalues are; a shift of T by δ of this size moves
  the result by ‖f(T + δ) e_1 − f(T − δ) e_1‖ / 2, which no further step reduces. How large δ is, the products say: what
  they leave along the basis is rounding.

How often an error is larger than what is stated is measured by benchmarks/lanczos.py.

References:
    | Saad, Analysis of some Krylov subspace approximations to the matrix exponential operator, 1992
    | Chow & Saad, Preconditioned Krylov subspace methods for sampling multivariate Gaussian distributions, 2014
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion._checks import as_index, as_positive, images_under
from lineardiffusion.krylov import KrylovSpace, SpectralFunction

_VANISHING = 1e-3  # c
_RATE = 0.95  # the slowest convergence that an estimate takes for real
_FLOOR, _DEFECT = 1.0, 1.0
_FACTOR = 3.0  # to which the floor of rounding is known
_NEAR = 1e-6  # relative distance at which a difference is taken for a derivative


@dataclass(frozen=True)
class LanczosInfo:
    """How a Lanczos iteration ended.

    Attributes:
        iterations: products with A that were computed.
        error: stated error of each sample, ‖y − f(A)v‖ / max(‖y‖, 1e-3 ‖v‖ max|f|), with shape (*batch).
        converged: whether every sample's error is within the tolerance.
    """

    iterations: int
    error: Tensor
    converged: bool


class Options(NamedTuple):
    tol: float
    max_iterations: int
    noise: bool = False  # see `Measure`


Result = TypeVar("Result")

_DEFAULT = Options(tol=1e-6, max_iterations=100)
_OPTIONS: ContextVar[Options] = ContextVar("lanczos options", default=_DEFAULT)


def resolve_options(tol: float | None, max_iterations: int | None) -> Options:
    """The options given, and those of `lanczos_options` in the place of None.

    Raises:
        ValueError: a tolerance that is not positive, or fewer than one iteration.
    """
    current = _OPTIONS.get()
    return current._replace(
        tol=current.tol if tol is None else as_positive(tol, "tol"),
        max_iterations=current.max_iterations
        if max_iterations is None
        else as_index(max_iterations, 1, 2**31, "max_iterations"),
    )


@contextlib.contextmanager
def lanczos_options(tol: float | None = None, max_iterations: int | None = None) -> Iterator[None]:
    """What Lanczos' method is to reach, and may cost, wherever an operator of unknown structure uses it.

    Arguments:
        tol: error at which to stop (see `lanczos_function`); 1e-6 where nothing else is said.
        max_iterations: products at most; 100 where nothing else is said.

    Raises:
        ValueError: a tolerance that is not positive, or fewer than one iteration.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> blur = ld.testing.Opaque(ld.Convolution(torch.tensor([0.25, 0.5, 0.25]), (1, 64)))
        >>> with ld.lanczos_options(tol=1e-3):
        ...     sample = ld.posterior(torch.zeros(1, 64), torch.zeros(1, 64), blur, 0.5, 0.6).sample()
    """
    with _using(resolve_options(tol, max_iterations)):
        yield


@contextlib.contextmanager
def _using(options: Options) -> Iterator[None]:
    token = _OPTIONS.set(options)
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def for_noise(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function, with errors that count against the greatest deviation of the noise it makes (see `Measure`)."""

    def noisy(*arguments: Any, **options: Any) -> Result:
        with _using(_OPTIONS.get()._replace(noise=True)):
            return function(*arguments, **options)

    return noisy


@dataclass(frozen=True)
class Measure:
    r"""What of a result counts, in units of ‖v‖: the length of o x + W f(A) v.

    rows: W = Mᵀ, where A = MMᵀ; else W = I.
    at_zero: f(0) where zero may be an eigenvalue that v does not tell of.
    beside: o, where v = M x.
    ratio: ‖x‖/‖v‖, (B,), where v = M x or v = Mᵀ x.
    noise: whether an error counts against the greatest deviation, ‖v‖ max|f|, and not against the result: what a
        covariance that nearly vanishes is asked for.
    """

    rows: bool = False
    at_zero: Tensor | None = None
    beside: Tensor | None = None
    ratio: Tensor | float = 0.0
    noise: bool = False

    def weight(self, values: Tensor) -> Tensor:
        """The square of the factor by which W lengthens an eigenvector of A."""
        return values.clamp(min=0) if self.rows else torch.ones_like(values)

    def part(self, space: KrylovSpace, coefficients: Tensor) -> Tensor:
        """Length of W Q_k c, (B,)."""
        values, vectors = space.eigen
        along = torch.bmm(coefficients[:, None], vectors)[:, 0]
        return (self.weight(values) * along.square()).sum(-1).sqrt()

    def whole(self, space: KrylovSpace, coefficients: Tensor) -> Tensor:
        """Length of the result with W Q_k c in it, (B,)."""
        part = self.part(space, coefficients)
        if self.beside is None:
            return part
        # ⟨x, Mᵀ Q c⟩ = ⟨M x, Q c⟩ = c_1
        direct, cross = self.beside * self.ratio, self.beside * coefficients[:, 0]
        return (direct.square() + 2 * cross + part.square()).clamp(min=0).sqrt()

    def largest(self, space: KrylovSpace, images: Tensor) -> Tensor:
        """Greatest length that the result of a vector as long as this could have, (B,), as far as is known."""
        factors, length = self.factors(space, images)
        return factors.amax(-1) * length

    def factors(self, space: KrylovSpace, images: Tensor) -> tuple[Tensor, Tensor | float]:
        """By how much the result lengthens eigenvectors, (B, k), and the length of a sample, (B,) or 1."""
        values = space.eigen[0]
        if self.beside is not None:
            return (self.beside + values * images).abs().maximum(self.beside.abs()), self.ratio
        return (self.weight(values).sqrt() * images).abs(), 1.0

    def scale(self, space: KrylovSpace, coefficients: Tensor, images: Tensor) -> Tensor:
        """What an error counts against, (B,)."""
        whole, largest = self.whole(space, coefficients), self.largest(space, images)
        length = torch.maximum(whole, largest if self.noise else _VANISHING * largest)
        elsewhere = 0.0 if self.at_zero is None else _VANISHING * float(self.at_zero.abs())
        return torch.where(length > 0, length, elsewhere or 1.0)

    def rounding(self, space: KrylovSpace, coefficients: Tensor, images: Tensor) -> Tensor:
        """What rounding is relative to, (B,): the results of the vectors that it adds to those at hand, before and
        after the iteration. The spectrum is that of all samples, since the space of one may lack eigenvectors."""
        (factors, length), norm = self.factors(space, images), space.eigen[0].abs().max().sqrt()
        largest = factors.max()
        if self.at_zero is not None:
            largest = largest.maximum(self.at_zero.abs())
        outside = norm * (
            torch.linalg.vector_norm(coefficients, dim=-1) if self.rows else self.ratio * images.abs().max()
        )
        return largest * length + outside


def converge(
    spaces: Iterator[KrylovSpace], f: SpectralFunction, options: Options, measure: Measure
) -> tuple[KrylovSpace, Tensor, Tensor, LanczosInfo]:
    """Grow the space until the stated error is within the tolerance, or is that of rounding; returns the space, the
    images of its Ritz values, the coefficients of the result, and how it ended."""
    tol, max_iterations, _ = options
    latest, due = torch.zeros(0, 0, dtype=torch.float64), 1
    coefficients = scale = left = floor = latest
    done = torch.tensor(False)
    for iterations, space in enumerate(spaces, start=1):
        last_chance = iterations == max_iterations or bool(space.exhausted.all())
        if iterations < due and not last_chance:
            continue
        # Each step at first, later after every sixteenth of the work done: eigendecompositions are not for nothing.
        due = iterations + max(1, iterations // 16)
        images = _images(f, space)
        plain = images.detach()
        previous, latest = latest, space.coefficients(plain)
        unit = measure.scale(space, latest, plain)
        if iterations == 1:
            last = change = left = floor = scale = torch.full_like(unit, math.inf)
            coefficients, done = latest, torch.zeros_like(space.exhausted)
        else:
            last, change = change, measure.part(space, latest - _widened(previous, latest))
        truncation = torch.maximum(_sequence(last, change), _residual(space, f, plain, measure)) / unit
        truncation = torch.where(space.exhausted, 0.0, truncation)
        rounding = _shifted(space, f, plain, measure) / unit
        # A sample that has converged stays as it is, so that it does not depend on how long the others take.
        coefficients = torch.where(done[:, None], _widened(coefficients, latest), latest)
        left, scale = torch.where(done, left, truncation), torch.where(done, scale, unit)
        floor = torch.where(done, floor, rounding)
        done = done | (truncation <= torch.maximum(torch.tensor(tol), rounding))
        if last_chance or bool(done.all()):
            break
    floor = floor + torch.finfo(space.basis.dtype).eps * measure.rounding(space, coefficients, plain) / scale
    converged = bool((left <= tol).all() and (floor <= _FACTOR * tol).all())
    info = LanczosInfo(iterations, left + floor, converged)
    if not converged:
        _warn(info, tol, limited=bool(done.all()), dtype=space.basis.dtype)
    return space, images, coefficients, info


def _sequence(last: Tensor, change: Tensor) -> Tensor:
    """The error of a sequence whose changes go on to fall as the last two did."""
    rate = torch.where(last.isfinite(), change / last.clamp(min=1e-300), 0.5).clamp(max=_RATE)
    return change * rate / (1 - rate)


def _residual(space: KrylovSpace, f: SpectralFunction, images: Tensor, measure: Measure) -> Tensor:
    """β_k max |g(λ)| over the Ritz values λ, (B,)."""
    values, vectors = space.eigen
    near = values + _NEAR * values.abs().amax(-1, keepdim=True)
    differences = (f(near).detach()[:, None, :] - images[:, :, None]) / (near[:, None, :] - values[:, :, None])
    g = (vectors[:, -1, :] * vectors[:, 0, :])[:, None, :] @ differences
    return space.next_off_diagonal * (measure.weight(near).sqrt() * g[:, 0]).abs().amax(-1)


def _images(f: SpectralFunction, space: KrylovSpace) -> Tensor:
    """f of the Ritz values.

    Raises:
        ValueError: f is not finite at one of them.
    """
    # An eigenvalue within rounding of zero is zero: there is where f may jump, or have no value.
    values = space.eigen[0]
    cutoff = 4 * torch.finfo(space.basis.dtype).eps * values.abs().amax(-1, keepdim=True)
    values = torch.where(values.abs() > cutoff, values, 0)
    images = images_under(f, values)
    if not bool(images.isfinite().all()):
        worst = float(values[~images.isfinite()].flatten()[0])
        raise ValueError(
            f"f: expected finite values at the eigenvalues, got f({worst:.6g}) = {float(f(torch.tensor(worst)))}; the "
            f"inverse of a singular matrix does not exist"
        )
    return images


def _shifted(space: KrylovSpace, f: SpectralFunction, images: Tensor, measure: Measure) -> Tensor:
    """By how much a shift of T by the rounding of the products moves the result, (B,)."""
    eps = torch.finfo(space.basis.dtype).eps
    values = space.eigen[0]
    shift = torch.maximum(_FLOOR * eps * values.abs().amax(-1), _DEFECT * space.defect)
    # Where the space ends, what was left out is taken for rounding.
    shift = torch.where(space.exhausted, torch.maximum(shift, space.next_off_diagonal), shift)[:, None]
    above, below = f(values + shift).detach(), f(values - shift).detach()
    # Where f ends between the two, as a square root does at zero, all of the way counts.
    ends = torch.where(above.isfinite(), above, torch.where(below.isfinite(), below, images)) - images
    moved = torch.where(below.isfinite() & above.isfinite(), (above - below) / 2, ends)
    return measure.part(space, space.coefficients(moved))


def _warn(info: LanczosInfo, tol: float, limited: bool, dtype: torch.dtype) -> None:
    reached = f"Lanczos stopped after {info.iterations} iterations at an error of {float(info.error.max()):.1e}"
    if limited:
        remedy = f"rounding in {str(dtype).removeprefix('torch.')} allows no less: use float64"
        remedy = remedy if dtype != torch.float64 else "rounding allows no less: the function is ill-conditioned here"
    else:
        remedy = f"raise max_iterations, with ld.lanczos_options(max_iterations={4 * info.iterations})"
    warnings.warn(
        f"{reached}; tol = {tol:.1e} was not reached: {remedy}, or allow for it with ld.lanczos_options(tol=…)",
        RuntimeWarning,
        stacklevel=4,
    )


def _widened(coefficients: Tensor, like: Tensor) -> Tensor:
    """Coefficients in a smaller space, (B, j), as coefficients in a larger one, (B, k)."""
    return F.pad(coefficients, (0, like.shape[-1] - coefficients.shape[-1]))
