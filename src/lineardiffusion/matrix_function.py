r"""f(A) v ≈ ‖v‖ Q_k f(T_k) e_1 for a symmetric A, with an error that is stated, and gradients that are right.

The stated error of a sample has two parts, both relative to max(‖y‖, c ‖v‖ max|f|), y = f(A) v and c = 1e-3: without
the second a result that is zero would never be known.

- *Truncation.* The larger of two estimates. What is missing is exactly

      f(A) v − ‖v‖ Q f(T) e_1 = ‖v‖ β_k g(A) q_{k+1},     g(λ) = Σ_i (u_i)_k (u_i)_1 f[θ_i, λ],

  with the eigenpairs (θ_i, u_i) of T and divided differences f[·,·]: at most β_k max |g| over the spectrum, of which the
  Ritz values are what is known. The other estimate is that of a sequence which goes on to converge as it did: with d_k
  the change of the result in step k and r = d_k / d_{k−1}, its error is d_k r / (1 − r).
- *Rounding.* Products with A are known to about eps·‖A‖, so the eigenvalues are; a shift of T by δ of this size moves
  the result by ‖f(T + δ) e_1 − f(T − δ) e_1‖ / 2, which no further step reduces.

How often an error is larger than what is stated is measured by benchmarks/lanczos.py.

Gradients do not go through the iteration, in which repeated eigenvalues and spaces that end early divide by zero. For
L = ⟨g, f(A) v⟩ they are

    ∂L/∂v = f(A) g,      dL = Σ_ij C_ij ⟨q_i(g), dA q_j(v)⟩,

with the Krylov bases q(g), q(v) of both vectors, and C the divided differences f[θ_i, θ_j] of their Ritz values, in
these bases.

References:
    | Chow & Saad, Preconditioned Krylov subspace methods for sampling multivariate Gaussian distributions, 2014
    | Kandolf, Koskela, Relton & Schweitzer, Computing low-rank approximations of the Fréchet derivative of a matrix
    | function using Krylov subspace methods, 2021
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion._checks import as_index
from lineardiffusion.krylov import KrylovSpace, Matvec, SpectralFunction, krylov_spaces

_VANISHING = 1e-3  # c
_RATE = 0.95  # the slowest convergence that an estimate takes for real
_FLOOR, _DEFECT = 1.0, 1.0
_FACTOR = 3.0  # to which the floor of rounding is known
_THIRD = 6e-6  # a third of the digits of float64
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


_OPTIONS: ContextVar[Options] = ContextVar("lanczos options", default=Options(tol=1e-6, max_iterations=100))


def resolve_options(tol: float | None, max_iterations: int | None) -> Options:
    """The options given, and those of `lanczos_options` in the place of None.

    Raises:
        ValueError: a tolerance that is not positive, or fewer than one iteration.
    """
    current = _OPTIONS.get()
    if tol is not None and not 0 < tol < math.inf:
        raise ValueError(f"tol: expected a positive number, got {tol}")
    return current._replace(
        tol=current.tol if tol is None else float(tol),
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

    Example:
        >>> import torch, lineardiffusion as ld
        >>> blur = ld.testing.Opaque(ld.Convolution(torch.tensor([0.25, 0.5, 0.25]), (1, 64)))
        >>> with ld.lanczos_options(tol=1e-3):
        ...     sample = ld.posterior(torch.zeros(1, 64), torch.zeros(1, 64), blur, 0.5, 0.6).sample()
    """
    token = _OPTIONS.set(resolve_options(tol, max_iterations))
    try:
        yield
    finally:
        _OPTIONS.reset(token)


@contextlib.contextmanager
def for_noise() -> Iterator[None]:
    """Errors of functions count against the greatest deviation of the noise that they make, as in `Measure`."""
    token = _OPTIONS.set(_OPTIONS.get()._replace(noise=True))
    try:
        yield
    finally:
        _OPTIONS.reset(token)


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
        values = space.eigen[0]
        if self.beside is not None:
            return (self.beside + values * images).abs().amax(-1).maximum(self.beside.abs()) * self.ratio
        return (self.weight(values).sqrt() * images).abs().amax(-1)

    def scale(self, space: KrylovSpace, coefficients: Tensor, images: Tensor) -> Tensor:
        """What an error counts against, (B,)."""
        whole, largest = self.whole(space, coefficients), self.largest(space, images)
        elsewhere = torch.zeros(()) if self.at_zero is None else self.at_zero.abs()
        if self.noise:
            return torch.maximum(whole, largest.maximum(elsewhere)).clamp(min=torch.finfo(whole.dtype).tiny)
        length = torch.maximum(whole, _VANISHING * largest)
        return torch.where(length > 0, length, _VANISHING * elsewhere if elsewhere > 0 else 1.0)

    def rounding(self, space: KrylovSpace, coefficients: Tensor, images: Tensor) -> Tensor:
        """What rounding is relative to, (B,): the results of the vectors that it adds to those at hand, before and after
        the iteration. The spectrum is that of all samples, since the space of one may lack eigenvectors."""
        largest, norm = self.largest(space, images), space.eigen[0].abs().max().sqrt()
        if self.at_zero is not None:
            largest = largest.maximum(self.at_zero.abs())
        outside = norm * (
            torch.linalg.vector_norm(coefficients, dim=-1) if self.rows else self.ratio * images.abs().max()
        )
        return largest.amax() + outside


_PLAIN = Measure()


def apply_function(
    matvec: Matvec, v: Tensor, f: SpectralFunction, event_ndim: int, options: Options, measure: Measure = _PLAIN
) -> tuple[Tensor, LanczosInfo]:
    """f(A) v, differentiable in v and in what A depends on, and how it came about.

    Arguments:
        matvec: x ↦ A x.
        v: with shape (*batch, *event), in at least single precision.
        f: maps a float64 tensor of eigenvalues to their images, element by element.
        event_ndim: number of trailing dimensions of v that form one vector.
        options: when to stop.
        measure: of the error.

    Raises:
        ValueError: as `krylov_spaces`, or f is not finite at an eigenvalue.
    """
    norms, spaces = krylov_spaces(matvec, v, event_ndim)
    space, images, coefficients, info = _converge(spaces, f, options, measure)
    flat = v.reshape(len(norms), -1)
    products = [product for product in space.products if product.requires_grad]
    run = _Run(matvec, f, event_ndim, options, v.shape, space, norms, coefficients)
    if torch.is_grad_enabled() and (flat.requires_grad or products or images.requires_grad):
        stacked = torch.stack([product.reshape(flat.shape) for product in products], 1) if products else None
        result: Tensor = _Function.apply(flat, images, stacked, run)  # type: ignore[no-untyped-call]
    else:
        result = run.result()
    return result.reshape(v.shape), replace(info, error=info.error.reshape(v.shape[: v.ndim - event_ndim]))


@dataclass(frozen=True)
class _Run:
    """A finished iteration, and what it takes to do another like it."""

    matvec: Matvec
    f: SpectralFunction
    event_ndim: int
    options: Options
    shape: torch.Size
    space: KrylovSpace
    norms: Tensor
    coefficients: Tensor

    def result(self) -> Tensor:
        """‖v‖ Q_k f(T_k) e_1, (B, n)."""
        return self.norms[:, None] * self.space.combine(self.coefficients)


class _Function(torch.autograd.Function):
    """(v, f(θ), [A q_j(v)]) ↦ f(A) v: the last two are arguments so that gradients reach what f and A depend on."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, images: Tensor, products: Tensor | None, run: _Run) -> Tensor:
        ctx.run = run
        return run.result()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        run: _Run = ctx.run
        needs_v, needs_images, needs_products, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() and (needs_images or needs_products):
            raise NotImplementedError(
                "second derivatives of a function of an operator are known with respect to the vector only, not to "
                "the parameters of the operator or of the function"
            )
        to_v = to_images = to_products = None
        space, norms = run.space, run.norms.double().cpu()
        if needs_v and torch.is_grad_enabled():
            wide = gradient.reshape(run.shape)
            to_v = apply_function(run.matvec, wide, run.f, run.event_ndim, run.options)[0].reshape(gradient.shape)
        elif needs_v or needs_products:
            norms_g, spaces = krylov_spaces(run.matvec, gradient.reshape(run.shape), run.event_ndim)
            other, _, coefficients, _ = _converge(spaces, run.f, run.options, _PLAIN)
            to_v = norms_g[:, None] * other.combine(coefficients)
            if needs_products:
                vectors_g, vectors = other.eigen[1], space.eigen[1]
                differences = _divided_differences(run.f, other.eigen[0], space.eigen[0])
                weights = vectors_g[:, 0, :, None] * differences * vectors[:, 0, None, :]
                in_bases = vectors_g @ weights @ vectors.mT * (norms_g.double().cpu() * norms)[:, None, None]
                to_products = torch.bmm(in_bases.mT.to(other.basis), other.basis)
        if needs_images:
            vectors = space.eigen[1]
            along = torch.bmm(space.basis, gradient[..., None])[..., 0].double().cpu()  # Qᵀ g
            to_images = norms[:, None] * vectors[:, 0, :] * torch.bmm(vectors.mT, along[..., None])[..., 0]
        return to_v, to_images, to_products, None


def _divided_differences(f: SpectralFunction, a: Tensor, b: Tensor) -> Tensor:
    """f[a_i, b_j] = (f(a_i) − f(b_j)) / (a_i − b_j), (B, k, l), from values (B, k) and (B, l); where the two are close,
    a central difference over a third of the digits, which is the derivative to two thirds of them."""
    x, y = (values.expand(-1, a.shape[1], b.shape[1]) for values in (a[:, :, None], b[:, None, :]))
    size = torch.maximum(x.abs(), y.abs())
    apart = _THIRD * torch.maximum(size, _THIRD * size.amax()).clamp(min=torch.finfo(size.dtype).tiny)
    close, middle = (x - y).abs() < apart, (x + y) / 2
    middle = torch.where(middle >= 0, torch.maximum(middle, apart / 2), middle)  # not on both sides of zero
    x, y = torch.where(close, middle - apart / 2, x), torch.where(close, middle + apart / 2, y)
    images = f(torch.stack([x, y]).detach()).detach()
    return (images[1] - images[0]) / (y - x)


def _converge(
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
    images = f(values)
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
