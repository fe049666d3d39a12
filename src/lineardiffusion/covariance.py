r"""Covariances: noise levels that are not isotropic, transitions and posteriors.

Every covariance of a linear diffusion with isotropic noise is f(MᵀM) or f(MMᵀ) for one step's operator M and a scalar
function f: the transition has f(λ) = σ_t² − σ_s²λ, the posterior f(λ) = σ_s² − (σ_s⁴/σ_t²) λ. Its square root, inverse
and determinant are then √f, 1/f and Σ log f of the same operator: no matrix is ever formed.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_number, as_positive, check_constant, check_function, check_kind, got
from lineardiffusion.convergence import for_noise
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.operators.base import GramMap, LinearOperator
from lineardiffusion.operators.rules import rule
from lineardiffusion.operators.scalar import Identity, Scaled

# How far below zero, relative to the largest variance, an eigenvalue of a covariance may be for want of digits: float32
# products know λ to about 1e-6 λmax at best. The one tolerance of feasibility: σ_t² may be that much below σ_s² λmax.
FEASIBILITY = 1e-6

# Numbers in the unit vectors that a trace takes at a time.
_PROBED_NUMBERS = 2**22

# σ ≥ 0, for σ² I, or any covariance.
NoiseLevel: TypeAlias = "float | Covariance"


class Covariance(LinearOperator):
    r"""A symmetric positive definite operator Σ on events: what noise levels, transitions and posteriors are made of.

    A subclass gives `apply`, `sqrt` and `solve`. The square root may be any L with LLᵀ = Σ, symmetric or not.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> class Exchangeable(ld.Covariance):  # I + 11ᵀ, on events of n numbers
        ...     def apply(self, x):
        ...         return x + x.sum(-1, keepdim=True)
        ...     def sqrt(self, v):
        ...         n = v.shape[-1]
        ...         return v + ((1 + n) ** 0.5 - 1) / n * v.sum(-1, keepdim=True)
        ...     def solve(self, v):
        ...         return v - v.sum(-1, keepdim=True) / (1 + v.shape[-1])
        >>> q = ld.posterior(torch.ones(3), torch.zeros(3), ld.Identity((3,)), Exchangeable((3,), (3,)), 3.0)
        >>> q.mean
        tensor([0.4444, 0.4444, 0.4444])
    """

    @abstractmethod
    def sqrt(self, v: Tensor) -> Tensor:
        """L v with LLᵀ = Σ: noise of covariance Σ from white noise v."""

    @abstractmethod
    def solve(self, v: Tensor) -> Tensor:
        """Σ⁻¹ v."""

    def transpose(self, y: Tensor) -> Tensor:
        return self(y)

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """mean + L noise: a draw of N(mean, Σ) from white noise."""
        return mean + self.sqrt(noise)

    def logdet(self) -> float | Tensor:
        """log det Σ, a tensor where gradients are asked for of what Σ is made of; here from the dense matrix.

        Raises:
            ValueError: Σ is singular, or too large to be factorised.
        """
        values = self.singular_values()
        if not bool((values > 0).all()):
            raise ValueError("covariance: expected a positive definite one, got an eigenvalue of zero")
        return _log_product(values)

    def mean_variance(self) -> float:
        """tr Σ / n, here by a product with every unit vector: override it where the trace is known."""
        like = self._example(self.in_shape)
        n, total = like.numel(), 0.0
        with torch.no_grad():
            for start in range(0, n, max(1, _PROBED_NUMBERS // n)):
                units = like.new_zeros(min(n - start, max(1, _PROBED_NUMBERS // n)), n)
                units.diagonal(start).fill_(1)
                images = self(units.reshape(-1, *self.in_shape)).reshape(-1, n)
                total += float((units * images).sum())
        return total / n

    def root(self) -> LinearOperator:
        """L, as an operator."""
        return _Root(self)

    def inverse_root(self) -> LinearOperator:
        """L⁻¹ = Lᵀ Σ⁻¹, as an operator."""
        return _InverseRoot(self)


class _Root(LinearOperator):
    """L of a covariance that gives it as a function; Lᵀ is its vector–Jacobian product."""

    def __init__(self, covariance: Covariance) -> None:
        super().__init__(covariance.in_shape, covariance.in_shape)
        self.covariance = covariance

    def apply(self, x: Tensor) -> Tensor:
        return self.covariance.sqrt(x)


class _InverseRoot(LinearOperator):
    """L⁻¹ = Lᵀ Σ⁻¹, hence L⁻ᵀ = Σ⁻¹ L."""

    def __init__(self, covariance: Covariance) -> None:
        super().__init__(covariance.in_shape, covariance.in_shape)
        self.covariance, self._root = covariance, covariance.root()

    def apply(self, x: Tensor) -> Tensor:
        return self._root.transpose(self.covariance.solve(x))

    def transpose(self, y: Tensor) -> Tensor:
        return self.covariance.solve(self._root(y))


def _log_product(values: Tensor) -> float | Tensor:
    total = values.log().sum()
    return total if total.requires_grad else float(total)


def _identity(values: Tensor) -> Tensor:
    return values


class GramCovariance(Covariance):
    r"""The symmetric positive semi-definite operator Σ = f(MᵀM) on the input space of M.

    Arguments:
        operator: M; its transpose M.T gives f(MMᵀ).
        variance: f, from a float64 tensor of eigenvalues λ ≥ 0 to variances, element by element; by default λ itself,
            Σ = MᵀM.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> covariance = GramCovariance(ld.Diagonal(torch.tensor([1.0, 2.0])), lambda values: 5.0 - values)
        >>> covariance.sqrt(torch.ones(2))
        tensor([2., 1.])
    """

    def __init__(self, operator: LinearOperator, variance: SpectralFunction = _identity) -> None:
        check_kind(operator, LinearOperator, "operator", "a LinearOperator M")
        check_function(variance, "variance", "a function of eigenvalues λ")
        super().__init__(in_shape=operator.in_shape, out_shape=operator.in_shape)
        self.operator = operator
        self.variance = variance

    def apply(self, x: Tensor) -> Tensor:
        return self.operator.gram_function(self.variance, x)

    def sqrt(self, v: Tensor) -> Tensor:
        """Σ^{1/2} v: noise of covariance Σ from white noise v.

        Raises:
            ValueError: Σ has a negative eigenvalue, beyond rounding.
        """
        return self._noise_map()(v)

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        return self._noise_map()(noise, onto=mean)

    def _noise_map(self) -> GramMap:
        function = self._cached("noise", lambda: self.operator.gram_map(self.deviations))
        return function if self.has_exact_functions else for_noise(function)

    def solve(self, v: Tensor) -> Tensor:
        """Σ⁻¹ v.

        Raises:
            ValueError: Σ is singular.
        """
        return self.operator.gram_function(lambda values: 1 / self._positive(values), v)

    def logdet(self) -> float | Tensor:
        """log det Σ, a tensor where gradients are asked for of what Σ is made of.

        Raises:
            ValueError: Σ is singular, or M is of unknown structure and too large to be factorised.
        """
        return _log_product(self._positive(self._gram_eigenvalues()))

    def singular_values(self) -> Tensor:
        return self._variances(self._gram_eigenvalues())

    def mean_variance(self) -> float:
        """tr Σ / n, from the spectrum of M where its structure is known."""
        return float(self.singular_values().detach().mean()) if self.has_exact_functions else super().mean_variance()

    @property
    def has_exact_functions(self) -> bool:
        return self.operator.has_exact_functions

    def root(self) -> LinearOperator:
        return self._cached("root", lambda: self.operator.function(self.deviations))

    def inverse_root(self) -> LinearOperator:
        return self._cached(
            "inverse root", lambda: self.operator.function(lambda values: self._positive(values).rsqrt())
        )

    def _gram_eigenvalues(self) -> Tensor:
        squared = self.operator.singular_values().square()
        return torch.cat([squared, squared.new_zeros(math.prod(self.in_shape) - squared.numel())])

    def _variances(self, values: Tensor) -> Tensor:
        variances = self.variance(values)
        if torch.compiler.is_compiling() or variances.is_meta:  # values decide nothing in a graph
            return variances.clamp(min=0)
        lowest = float(variances.detach().min())
        if lowest < 0:
            # The largest may not be among the values at hand, where all are at the end of what is feasible.
            at_zero = self.variance(torch.zeros((), dtype=values.dtype, device=values.device))
            scale = max(float(variances.detach().abs().max()), float(at_zero.detach().abs().nan_to_num(0, 0, 0)))
            if lowest < -FEASIBILITY * scale:
                raise ValueError(f"covariance: expected eigenvalues ≥ 0, got {lowest:.6g} beside {scale:.6g}")
            variances = variances.clamp(min=0)
        return variances

    def deviations(self, values: Tensor) -> Tensor:
        """√f(λ), the spectrum of the square root.

        Raises:
            ValueError: f(λ) < 0, beyond rounding.
        """
        return self._variances(values).sqrt()

    def _positive(self, values: Tensor) -> Tensor:
        variances = self._variances(values)
        if bool((variances <= 0).any()):
            raise ValueError("covariance: expected a positive definite one, got an eigenvalue of zero")
        return variances


@rule("transpose", Covariance)
def _transpose(operator: Covariance) -> LinearOperator:
    return operator


@rule("function", LinearOperator)
def _function(operator: LinearOperator, f: SpectralFunction) -> LinearOperator:
    return GramCovariance(operator, f)


class Multiple(Covariance):
    r"""σ² Σ of a covariance, which shares all that Σ keeps: one spectrum serves the levels of a whole schedule.

    Arguments:
        covariance: Σ.
        sigma: σ > 0.

    Raises:
        ValueError: σ is not positive.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> from lineardiffusion.covariance import Multiple
        >>> Multiple(ld.GramCovariance(ld.Diagonal(torch.tensor([1.0, 2.0]))), 3.0)(torch.ones(2))
        tensor([ 9., 36.])
    """

    def __init__(self, covariance: Covariance, sigma: float) -> None:
        sigma = as_positive(sigma, "sigma")
        super().__init__(covariance.in_shape, covariance.in_shape)
        self.covariance, self.sigma = covariance, sigma

    def apply(self, x: Tensor) -> Tensor:
        return self.sigma**2 * self.covariance(x)

    def sqrt(self, v: Tensor) -> Tensor:
        return self.sigma * self.covariance.sqrt(v)

    def solve(self, v: Tensor) -> Tensor:
        return self.covariance.solve(v) / self.sigma**2

    def logdet(self) -> float | Tensor:
        return self.covariance.logdet() + 2 * math.prod(self.in_shape) * math.log(self.sigma)

    def singular_values(self) -> Tensor:
        return self.sigma**2 * self.covariance.singular_values()

    def mean_variance(self) -> float:
        return self.sigma**2 * self.covariance.mean_variance()

    # As multiples, which would otherwise be operators of their own, with numbers of their own on every device.
    def root(self) -> LinearOperator:
        return Scaled(self.sigma, self.covariance.root())

    def inverse_root(self) -> LinearOperator:
        return Scaled(1 / self.sigma, self.covariance.inverse_root())


class RootCovariance(Covariance):
    r"""Σ = LLᵀ of a root that is given: noise is L z with this L, triangular or what it is, not the symmetric root.

    Arguments:
        root: L, an operator on events.
        inverse: makes L⁻¹, when it is first asked for.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> from lineardiffusion.covariance import RootCovariance
        >>> root = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> of = lambda weight: ld.Matrix(weight, (2,), (2,))
        >>> RootCovariance(of(root), lambda: of(torch.linalg.inv(root))).sqrt(torch.ones(2))
        tensor([1., 3.])
    """

    def __init__(self, root: LinearOperator, inverse: Callable[[], LinearOperator]) -> None:
        super().__init__(root.in_shape, root.in_shape)
        self._root, self._inverse = root, inverse

    def apply(self, x: Tensor) -> Tensor:
        return self._root(self._root.transpose(x))

    def sqrt(self, v: Tensor) -> Tensor:
        return self._root(v)

    def solve(self, v: Tensor) -> Tensor:
        inverse = self.inverse_root()
        return inverse.transpose(inverse(v))

    def singular_values(self) -> Tensor:
        return self._root.singular_values().square()

    def root(self) -> LinearOperator:
        return self._root

    def inverse_root(self) -> LinearOperator:
        return self._cached("inverse root", self._inverse)


class Sandwich(Covariance):
    r"""Σ = L C Lᵀ with L the root of another covariance: of L z, where z has covariance C.

    Arguments:
        outer: the covariance LLᵀ.
        inner: C.
    """

    def __init__(self, outer: Covariance, inner: Covariance) -> None:
        super().__init__(outer.in_shape, outer.in_shape)
        self.outer, self.inner, self._root = outer, inner, outer.root()

    def apply(self, x: Tensor) -> Tensor:
        return self._root(self.inner(self._root.transpose(x)))

    def sqrt(self, v: Tensor) -> Tensor:
        return self._root(self.inner.sqrt(v))

    def solve(self, v: Tensor) -> Tensor:
        inverse = self.outer.inverse_root()
        return inverse.transpose(self.inner.solve(inverse(v)))

    def logdet(self) -> float | Tensor:
        return self.inner.logdet() + self.outer.logdet()


def as_covariance(level: NoiseLevel, shape: Shape) -> Covariance:
    """σ² I for a number σ; a Covariance as it is."""
    return level if isinstance(level, Covariance) else GramCovariance(level * Identity(shape))


def as_noise_level(level: NoiseLevel, shape: Shape, name: str, at: str = "") -> NoiseLevel:
    """A float σ ≥ 0, or a Covariance on events of the given shape; `at` says where, for the message."""
    if isinstance(level, Covariance):
        if level.in_shape != shape:
            raise ValueError(f"{name}: expected a covariance of events {shape}{at}, got one of {level.in_shape}")
        return level
    check_constant(level, name)
    try:
        number = as_number(level, name)
    except TypeError:
        raise TypeError(f"{name}: expected a number or a Covariance{at}, got {got(level)}") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: expected a finite number ≥ 0{at}, got {number}")
    return number
