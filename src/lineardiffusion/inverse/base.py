r"""What samplers of inverse problems share: the measurement, and the estimate of x_0 with its derivative.

Of an image x_0 that a diffusion model knows as p(x_0), a measurement is given,

    y = A x_0 + σ_y n,   n ~ N(0, I),

and samples of p(x_0 | y) are asked for. The network knows nothing of A. Each method corrects its estimate x̂_0(x_t), or
the state that follows, by what y says; a file is one method. Those that need p(y | x_t) take its gradient through the
network,

    J = ∂x̂_0/∂x_t,   Cov(x_0 | x_t) = J Σ_t/a_t   (Tweedie's formula, for x_t = a_t x_0 + Σ_t^{1/2} ε) .

A is any operator of the library, and every function of AᵀA in these methods is evaluated by its structure. Where that
is unknown it is taken for a matrix once, as these functions jump, at s = 0 for one; beyond 4096 × 4096 numbers Lanczos'
method has to follow them, and warns where it cannot.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, as_number, check_event, check_finite, compute_dtype, full_precision
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.dense import Matrix
from lineardiffusion.operators.scalar import Identity
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.samplers.draws import Draws
from lineardiffusion.samplers.history import History
from lineardiffusion.schedules.grids import Steps

# What an operator of unknown structure may have as a matrix: a minute of factorisation, once.
_MOST_ENTRIES = 2**24

Pullback = Callable[[Tensor], Tensor]


class InverseSampler(Sampler):
    r"""A sampler of p(x_0 | y) for y = A x_0 + σ_y n. A subclass gives `move`, one step.

    It is called as every sampler, sampler(n, seeds=, generator=, progress=, start=, prior=, **conditioning); sample i
    depends on seeds[i] and its own measurement alone. Guidance is a constant to gradients that pass through a step.

    `to_config` leaves A and y out, as it does the network: they are the problem, not the method. `from_config` is given
    them again, from_config(config, network=…, A=…, y=…).

    Arguments:
        denoiser: estimates x_0 from x_t.
        A: the operator of the measurement, from images, shape(0), to `A.out_shape`.
        y: the measurement, with shape (*A.out_shape) for all samples, or (n, *A.out_shape): row i for sample i.
        sigma_y: σ_y ≥ 0, in the units of the data: images in [−1, 1] have twice the σ_y of images in [0, 1].
        steps, clip: as `Sampler`; clip is applied to x̂_0 before y corrects it.
        repeats: how often each step is taken: after all but the last time noise leads back from x_s to x_t. Each is a
            call of the network.

    Raises:
        TypeError: no Denoiser, or an A that is no operator.
        ValueError: an A that is not linear or is not of images of the process, a y of another shape, σ_y < 0.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        A: LinearOperator,
        y: Tensor,
        sigma_y: float,
        steps: Steps,
        clip: tuple[float, float] | None,
        repeats: int = 1,
    ) -> None:
        super().__init__(denoiser, steps, clip)
        if not isinstance(A, LinearOperator):
            raise TypeError(
                f"A: expected an ld.LinearOperator, got {type(A).__name__}: subclass it with an `apply`, from images "
                f"to measurements"
            )
        if A.in_shape != denoiser.process.shape(0):
            raise ValueError(
                f"A: expected an operator on images of shape {denoiser.process.shape(0)}, got one on {A.in_shape}"
            )
        check_event(y, A.out_shape, "y")
        if y.ndim > len(A.out_shape) + 1 or y.numel() == 0:
            raise ValueError(f"y: expected shape {A.out_shape} or (n, *{A.out_shape}), got {tuple(y.shape)}")
        check_finite(y, "y")
        _check_linear(A, y)
        self.A, self.y, self.sigma_y = A, y.detach(), as_number(sigma_y, "sigma_y")
        if not 0 <= self.sigma_y < math.inf:
            raise ValueError(f"sigma_y: expected a number ≥ 0, the noise's standard deviation, got {sigma_y}")
        self.repeats = as_index(repeats, 1, 2**31, "repeats")
        self._kept: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._structured: LinearOperator | None = None

    @abstractmethod
    def move(self, x_t: Tensor, t: float, s: float, draws: Draws, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """x_s and x̂_0, as the network estimates it. Arguments as `Sampler.advance`, `given` the conditioning."""

    def advance(
        self, x_t: Tensor, t: float, s: float, draws: Draws, history: History, conditioning: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        with full_precision(x_t):
            for _ in range(self.repeats - 1):
                x_s, _ = self.move(x_t, t, s, draws, conditioning)
                transition = self.denoiser.process.transition(t, s)
                x_t = transition.sample(self.denoiser.process.operator(s, t)(x_s), draws.other(x_t))
            return self.move(x_t, t, s, draws, conditioning)

    # ------------------------------------------------------------------ what methods are made of

    def measurement(self, x: Tensor) -> Tensor:
        """y for each row of x.

        Raises:
            ValueError: measurements of another number of images.
        """
        key = x.dtype, x.device
        if key not in self._kept:
            self._kept[key] = self.y.to(x)
        y = self._kept[key]
        if y.ndim == len(self.A.out_shape):
            return y.expand(len(x), *y.shape)
        if len(y) != len(x):
            raise ValueError(f"y: expected one measurement for each of {len(x)} samples, or one for all, got {len(y)}")
        return y

    def misfit(self, clean: Tensor) -> Tensor:
        """y − A x̂_0"""
        return self.measurement(clean) - self.A(clean)

    def estimate(self, x_t: Tensor, t: float, conditioning: dict[str, Any]) -> Tensor:
        """x̂_0"""
        clean, r = self.denoiser.estimate(x_t, t, **conditioning)
        return self.clipped(self.denoiser.carry(clean, r, 0))

    def estimate_with_pullback(self, x_t: Tensor, t: float, conditioning: dict[str, Any]) -> tuple[Tensor, Pullback]:
        """x̂_0 and v ↦ Jᵀ v, from one call of the network; each Jᵀ v passes back through it."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            clean = self.estimate(x, t, conditioning)
        if not clean.requires_grad:
            warnings.warn(
                "network: its result does not follow from its input as far as autograd knows, so that there is no "
                "guidance; is it called within torch.no_grad?",
                RuntimeWarning,
                stacklevel=2,
            )
            return clean, lambda v: torch.zeros_like(x)

        def pull(v: Tensor) -> Tensor:
            with torch.inference_mode(False):
                (gradient,) = torch.autograd.grad(clean, x, v, retain_graph=True)
            return gradient

        return clean.detach(), pull

    def markov_step(self, x_t: Tensor, t: float, s: float, eta: float, clean: Tensor, draws: Draws) -> Tensor:
        """x_s from the Markov kernel of η (`ld.ddim_kernel`) around an estimate of x_0."""
        if s == 0:
            return clean
        process = self.denoiser.process
        kernel, clean = process.step_kernel(t, s, eta, of="clean"), process.clean(clean, s)
        return kernel.mean(x_t, clean) if kernel.is_deterministic else kernel.sample(x_t, clean, draws.kernel(clean))

    def by_directions(
        self, x: Tensor, y: Tensor, gain: SpectralFunction, deviation: SpectralFunction | None, noise: Tensor | None
    ) -> Tensor:
        r"""x + V diag(k) (Uᵀy − s Vᵀx) + V diag(d) Vᵀ noise for A = U diag(s) Vᵀ, by the structure of A.

        Arguments:
            x, y: with shapes (B, *A.in_shape) and (B, *A.out_shape).
            gain, deviation: k and d as functions of the singular values s, which are 0 where A sees nothing.
            noise: as x; None without a deviation.
        """
        of_squares = self._of_singular_values(x.dtype)
        noisy = None if deviation is None else of_squares(deviation)
        return self._operator().step_map(of_squares(gain), noisy)(x, y, noise)

    def in_directions(self, gain: SpectralFunction, x: Tensor) -> Tensor:
        """V diag(f) Vᵀ x for f of the singular values, as `by_directions`."""
        return self._operator().gram_function(self._of_singular_values(x.dtype)(gain), x)

    def _operator(self) -> LinearOperator:
        """A, with exact functions where it can have them."""
        if self._structured is None:
            rows, columns = math.prod(self.A.in_shape), math.prod(self.A.out_shape)
            self._structured = self.A
            if not self.A.has_exact_functions and rows * columns <= _MOST_ENTRIES:
                with torch.no_grad():
                    units = torch.eye(rows, dtype=self.y.dtype, device=self.y.device)
                    images = self.A(units.reshape(rows, *self.A.in_shape))
                self._structured = Matrix(images.reshape(rows, columns).T, self.A.in_shape, self.A.out_shape)
        return self._structured

    def _of_singular_values(self, dtype: torch.dtype) -> Callable[[SpectralFunction], SpectralFunction]:
        """f(λ) from f(s). A singular value that is zero by rounding is zero: what is measured there is rounding, too.
        (The bound is that of the numerical rank of matrices; Lanczos' method knows λ alone to so many digits.)"""
        size = max(math.prod(self.A.in_shape), math.prod(self.A.out_shape))
        rounding = size * torch.finfo(compute_dtype(dtype)).eps
        operator = self._operator()
        least = operator.norm() ** 2 * (rounding**2 if operator.has_exact_functions else rounding)
        return lambda f: lambda values: f(torch.where(values > least, values, 0).sqrt())


def reciprocal(values: Tensor) -> Tensor:
    """1/s, and 0 where A sees nothing."""
    return torch.where(values > 0, 1 / torch.where(values > 0, values, 1), 0)


def regularised(tau: float) -> SpectralFunction:
    """s ↦ s/(s² + τ), of Aᵀ(AAᵀ + τI)⁻¹, and 0 where A sees nothing."""
    return lambda values: reciprocal(values + tau * reciprocal(values))


# ---------------------------------------------------------------------- what methods ask of a process


def check_fixed_shape(denoiser: Denoiser, why: str) -> None:
    """Raise where the shape changes."""
    changes = denoiser.process.shape_changes()
    if changes:
        raise ValueError(
            f"denoiser: expected a process of one shape, as {why}, got one whose shape changes at t = {changes}; "
            f"ld.inverse.DiffPIR is for any shape"
        )


def check_white(denoiser: Denoiser, why: str) -> None:
    """Raise where the noise is not isotropic."""
    if not denoiser.process.is_isotropic:
        raise ValueError(
            f"denoiser: expected a process with isotropic noise, as {why}, got {denoiser.process!r}; ld.inverse.DPS "
            f"and MMPS are for noise of any covariance"
        )


def check_undegraded(denoiser: Denoiser, times: list[float], why: str) -> None:
    """Raise unless R_t = I, at these times."""
    check_fixed_shape(denoiser, why)
    if not all(isinstance(denoiser.process.degradation(0, t), Identity) for t in times):
        raise ValueError(
            f"denoiser: expected a process that does nothing to the image but scale it and add noise (DDPM, EDM, flow "
            f"matching, …), as {why}, got {denoiser.process!r}; ld.inverse.DPS and DiffPIR are for any degradation"
        )


def _check_linear(A: LinearOperator, y: Tensor) -> None:
    """Raise unless A(2u + v) = 2A u + A v within rounding, for two random images."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        u, v = (torch.randn(1, *A.in_shape, generator=generator).to(y) for _ in range(2))
        parts, whole = (2 * A(u), A(v)), A(2 * u + v)
    size = sum(part.abs().amax() for part in (*parts, whole))
    if not bool((whole - parts[0] - parts[1]).abs().amax() <= torch.finfo(y.dtype).eps ** 0.5 * size):
        raise ValueError(f"A: expected a linear operator, got {A}, with A(2u + v) ≠ 2A(u) + A(v)")
