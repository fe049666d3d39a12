r"""Linear operators M: what every degradation of a diffusion process is, and all that a user has to write.

A subclass gives `apply`; the transpose follows as the vector–Jacobian product of `apply` (for a linear map the
Jacobian is M itself, wherever it is taken), and every covariance of the library is a function of MᵀM or MMᵀ applied
to a tensor, for which this base class uses Lanczos' method. Subclasses with a known structure override these methods
by exact closed forms; callers never ask which kind of operator they hold.

References:
    | Scale Space Diffusion (Mukhopadhyay et al., 2026), Algorithms 1–3
    | https://arxiv.org/abs/2603.08709
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor

from lineardiffusion._checks import (
    as_flag,
    as_list,
    as_number,
    as_shape,
    check_event,
    check_finite,
    check_function,
    check_kind,
    check_same_batch,
    check_tensor,
    compute_dtype,
    got,
    in_dtype,
    map_groups,
)
from lineardiffusion.chebyshev import gram_chebyshev
from lineardiffusion.convergence import for_noise, resolve_options
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.lanczos import SpectrumBounds, adjoint_lanczos, gram_lanczos, largest_at_most, spectrum_bounds
from lineardiffusion.operators.rules import dispatch

Cached = TypeVar("Cached")
GramMap = Callable[..., Tensor]
StepMap = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class StepRule(NamedTuple):
    """What a step is made of, for scale · M, since multiples of an operator share its structure; else as `step_map`."""

    gain: float | SpectralFunction
    deviation: SpectralFunction | None
    scale: float
    complete: bool
    of: float


_COMPUTED = (torch.float32, torch.float64)

# A dense singular value decomposition beyond this many entries (0.5 GiB in float64) is refused.
_MAX_DENSE_ENTRIES = 2**26


class LinearOperator(ABC):
    r"""A linear map M between events of shape `in_shape` and `out_shape`; leading dimensions are batch dimensions.

    Arguments:
        in_shape: event shape of the input, e.g. (3, 64, 64).
        out_shape: event shape of the output.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> class Vignette(ld.LinearOperator):
        ...     def __init__(self, mask):
        ...         super().__init__(in_shape=mask.shape, out_shape=mask.shape)
        ...         self.mask = mask
        ...     def apply(self, x):
        ...         return self.mask * x
        >>> vignette = Vignette(torch.tensor([1.0, 0.5]))
        >>> vignette.transpose(torch.ones(2)), (2.0 * vignette @ vignette)(torch.ones(2))
        (tensor([1.0000, 0.5000]), tensor([2.0000, 0.5000]))
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        self.in_shape = as_shape(in_shape, "in_shape")
        self.out_shape = as_shape(out_shape, "out_shape")
        self._cache: dict[Any, Any] = {}

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name in ("in_shape", "out_shape", "_cache"):
                raise AttributeError(
                    f"{type(self).__name__}: expected super().__init__(in_shape, out_shape) in its __init__, got none"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ------------------------------------------------------------------ what a subclass writes, and its consequences

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """M x, from (*batch, *in_shape) to (*batch, *out_shape)."""

    def __call__(self, x: Tensor) -> Tensor:
        """M x, with the shapes of argument and result checked.

        Raises:
            ValueError: x does not end in `in_shape`, or `apply` returned a wrong shape.
        """
        check_event(x, self.in_shape, "x")
        y = self.apply(x)
        if type(y) is not Tensor:
            check_tensor(y, f"{type(self).__name__}.apply")
        expected = self._batch(x, self.in_shape) + self.out_shape
        if tuple(y.shape) != expected:
            raise ValueError(
                f"{type(self).__name__}.apply: expected a result of shape {expected}, got {tuple(y.shape)}"
            )
        return y

    def transpose(self, y: Tensor) -> Tensor:
        r"""Mᵀ y = ∇_x ⟨y, M x⟩, from (*batch, *out_shape) to (*batch, *in_shape).

        Works under `torch.no_grad` and `torch.inference_mode`. Where gradients are enabled it is differentiable in y
        and in the parameters that `apply` uses.

        Raises:
            ValueError: y does not end in `out_shape`.
        """
        check_event(y, self.out_shape, "y")
        zeros = torch.zeros(self._batch(y, self.out_shape) + self.in_shape, dtype=y.dtype, device=y.device)
        # A graph is built only for what needs one: the zeros below must not make every result require gradients.
        differentiable = torch.is_grad_enabled() and (y.requires_grad or self.apply(zeros).requires_grad)
        with torch.inference_mode(False), torch.enable_grad():
            x = zeros.clone().requires_grad_()
            return _vjp(self.apply(x), x, y, create_graph=differentiable)

    def _pullback(self, v: Tensor, event: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Mᵀ for many vectors, of the batch shape, device and computing precision of v: the graph of `apply` is built
        once and serves them all. Where M depends on parameters whose gradients are asked for, or a subclass has a
        transpose of its own, that."""
        if v.numel() == 0:
            raise ValueError(f"expected at least one vector, got an empty batch of shape {tuple(v.shape)}")
        if type(self).transpose is not LinearOperator.transpose:
            return self.transpose
        shape, dtype = self._batch(v, event) + self.in_shape, compute_dtype(v.dtype)
        zeros = torch.zeros(shape, dtype=dtype, device=v.device)
        if torch.is_grad_enabled() and self.apply(zeros).requires_grad:
            return self.transpose
        with torch.inference_mode(False), torch.enable_grad():
            x = zeros.clone().requires_grad_()
            out = self.apply(x)

        def pull(y: Tensor) -> Tensor:
            with torch.inference_mode(False):
                return _vjp(out, x, y, retain_graph=True)

        def differentiable_pull(y: Tensor) -> Tensor:
            result: Tensor = _Transposed.apply(y, pull, self)  # type: ignore[no-untyped-call]
            return result

        return differentiable_pull if torch.is_grad_enabled() else pull

    def gram(self, x: Tensor) -> Tensor:
        """MᵀM x, from (*batch, *in_shape) to the same shape."""
        return self.transpose(self(x))

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        """f(MᵀM) x for x of shape (*batch, *in_shape).

        Here by Lanczos' method to an error of 1e-6 (see `lanczos_function`; `lanczos_options` changes it), with a
        RuntimeWarning where that is not reached; exact where a subclass knows its structure.

        Arguments:
            f: maps a float64 tensor of eigenvalues λ ≥ 0 to their images, element by element.
            x: vectors, with shape (*batch, *in_shape).
        """
        check_event(x, self.in_shape, "x")
        adjoint = self._pullback(x, self.in_shape)
        return gram_lanczos(self, adjoint, f, x, self.in_shape, self.out_shape)[0]

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        """f(MMᵀ) y for y of shape (*batch, *out_shape); otherwise as `gram_function`."""
        check_event(y, self.out_shape, "y")
        adjoint = self._pullback(y, self.out_shape)
        return gram_lanczos(adjoint, self, f, y, self.out_shape, self.in_shape)[0]

    def gram_map(self, f: SpectralFunction) -> GramMap:
        """(x, onto) ↦ onto + f(MᵀM) x, onto = 0 by default, for many x: what depends on f alone is computed once. It
        makes noise: the error of an operator of unknown structure is relative to ‖x‖ max|f|."""

        def function(x: Tensor, onto: Tensor | None = None) -> Tensor:
            result = self._gram_polynomial(f, x)
            if result is None:
                result = self.gram_function(f, x)
            return result if onto is None else onto + result

        return function

    def _gram_polynomial(self, f: SpectralFunction, x: Tensor) -> Tensor | None:
        """f(MᵀM) x by a polynomial, where its error is known beforehand: of an operator of unknown structure whose norm
        has been measured, where f is smooth. Not where gradients are asked for, which Lanczos' method has to all its
        digits."""
        if self.has_exact_functions or "norm" not in self._cache or torch.is_grad_enabled():
            return None
        check_event(x, self.in_shape, "x")
        largest, tol = self.norm() ** 2, resolve_options(None, None).tol
        if largest == 0:
            return None
        check_finite(x, "x")
        pullback = partial(self._pullback, x, self.in_shape)
        return gram_chebyshev(self, pullback, f, x, self.in_shape, self.out_shape, largest, tol)

    def correct(self, gain: float | SpectralFunction, x: Tensor, y: Tensor) -> Tensor:
        r"""x + Mᵀ g(MMᵀ) (y − M x): x corrected by what y ≈ M x says of it.

        The mean of every posterior, with g = σ_s²/σ_t²; a regularised inverse where g(λ) ≈ 1/λ. Evaluated as
        `gram_function`.

        Arguments:
            gain: g, a number or a function as in `gram_function`.
            x: with shape (*batch, *in_shape).
            y: with shape (*batch, *out_shape).
        """
        if callable(gain):
            return self.polar_correct(lambda values: values.sqrt() * gain(values), x, y)
        return self.step_map(gain, None)(x, y, None)

    def polar_correct(self, gain: SpectralFunction, x: Tensor, y: Tensor) -> Tensor:
        r"""x + U k(MᵀM) (y − M x) with U = Mᵀ(MMᵀ)^{−1/2}, the transpose of the polar factor of M: `correct` with
        k(λ) = √λ g(λ), for a k that is bounded where g = k/√λ is not.

        Arguments:
            gain: k, as in `gram_function`; where λ = 0 there is no such direction, and k plays no part.
            x: with shape (*batch, *in_shape).
            y: with shape (*batch, *out_shape).
        """
        return self.step_map(gain, None)(x, y, None)

    def step_map(
        self,
        gain: float | SpectralFunction,
        deviation: SpectralFunction | None,
        *,
        complete: bool = False,
        of: float = 1.0,
    ) -> StepMap:
        r"""(x, y, noise) ↦ x + K (y − M x) + D noise: a draw of every kernel of a linear diffusion, for many x, y and
        noise. What depends on the functions alone is computed once, and kept for each precision and device.

            K = g Mᵀ for a number g, K = U k(MᵀM) for a function k (see `polar_correct`),   D = d(MᵀM) .

        Errors of an operator of unknown structure are those of `correct`, and for D relative to ‖noise‖ max|d|.

        Arguments:
            gain: g or k.
            deviation: d, as in `gram_function`; None for no noise.
            complete: where M is diagonal in a basis of its events (`has_frame`), K = k(0) in the directions whose
                singular value is zero, as if M had let them through: the limit of a gain that tends to zero. Other
                operators know no such direction.
            of: a number by which x is multiplied first, at no cost.

        Returns:
            A function of x (*batch, *in_shape), y (*batch, *out_shape) and noise, shaped like x or None without a
            deviation; its result has the shape and dtype of x.

        Examples:
            >>> import torch, lineardiffusion as ld
            >>> step = ld.Diagonal(torch.tensor([1.0, 0.5])).step_map(0.5, lambda values: (1 - values / 2).sqrt())
            >>> step(torch.zeros(2), torch.ones(2), torch.zeros(2))
            tensor([0.5000, 0.2500])
        """
        gain = gain if callable(gain) else as_number(gain, "gain")
        of, complete = as_number(of, "of"), as_flag(complete, "complete")
        if deviation is not None:
            check_function(deviation, "deviation", "a function of eigenvalues λ, or None")
        step = self._step_map(StepRule(gain, deviation, 1.0, complete, of))
        rows, columns = len(self.in_shape), len(self.out_shape)

        def checked(x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
            if (  # all is well, as in every step of a sampler, which is to lose no time over it
                type(x) is type(y) is Tensor
                and x.dtype == y.dtype
                and x.dtype in _COMPUTED
                and x.shape[-rows:] == self.in_shape
                and y.shape[-columns:] == self.out_shape
                and x.shape[:-rows] == y.shape[:-columns]
                and (deviation is None or (type(noise) is Tensor and noise.dtype == x.dtype and noise.shape == x.shape))
            ):
                return step(x, y, noise if deviation is not None else None)
            check_event(x, self.in_shape, "x")
            check_event(y, self.out_shape, "y")
            check_same_batch(y, self.out_shape, "y", x, self.in_shape, "x")
            dtype = compute_dtype(x.dtype)
            drawn = None if deviation is None else in_dtype(_checked_noise(noise, self.in_shape), dtype)
            return in_dtype(step(in_dtype(x, dtype), in_dtype(y, dtype), drawn), x.dtype)

        return checked

    def _step_map(self, rule: StepRule) -> StepMap:
        """`step_map` by a rule, without checks."""
        gain, deviation, scale, _, of = rule
        operator = self if scale == 1 else scale * self
        noisy = None if deviation is None else operator.gram_map(deviation)
        if noisy is not None and not operator.has_exact_functions:
            noisy = for_noise(noisy)

        def step(x: Tensor, y: Tensor, noise: Tensor | None) -> Tensor:
            x = x if of == 1 else of * x
            residual = y - operator(x)
            if callable(gain):
                mean = x + operator._adjoint_function(over_root(gain), residual)
            else:
                mean = torch.add(x, operator.transpose(residual), alpha=gain)
            return mean if noisy is None else noisy(noise, onto=mean)

        return step

    def _adjoint_function(self, g: SpectralFunction, y: Tensor) -> Tensor:
        """Mᵀ g(MMᵀ) y"""
        adjoint = self._pullback(y, self.out_shape)
        return adjoint_lanczos(self, adjoint, g, y, self.in_shape, self.out_shape)[0]

    @property
    def has_exact_functions(self) -> bool:
        """Whether functions of MᵀM are exact, also where they jump; not here, where Lanczos' method evaluates them."""
        return False

    @property
    def has_frame(self) -> bool:
        """Whether M is known to be diagonal in an orthonormal basis of its events, M = V S Vᴴ, so that a direction
        which it makes zero is a direction of its results too."""
        return False

    def norm(self) -> float:
        """The largest singular value. Of an operator of unknown structure it is a bound from above, in general within
        1e-6 of it, relatively: so that noise levels which are feasible by it are feasible."""
        bounds = self._current("norm", lambda: self._gram_bounds(accuracy=2e-7))
        return math.sqrt(bounds.largest)

    def norm_at_most(self, bound: float) -> bool:
        """Whether ‖M‖ ≤ bound. Of an operator of unknown structure that takes fewer products than its norm, the fewer
        the farther both are apart; a yes is wrong with a probability of 1e-4. Where a class has a norm of its own, and
        where the two are too close to tell, that."""
        bound = as_number(bound, "bound")
        if bound < 0 or bound == math.inf:
            return bound > 0
        if bound > 0 and type(self).norm is LinearOperator.norm and "norm" not in self._cache:
            with torch.no_grad():
                decided = largest_at_most(*self._small_gram(torch.float32), bound**2)
            if decided is not None:
                return decided
        return self.norm() <= bound

    def spectrum_bounds(self) -> SpectrumBounds:
        """Rough bounds of the eigenvalues of the smaller of MᵀM and MMᵀ, for operators of unknown structure."""
        return self._current("spectrum bounds", lambda: self._gram_bounds(accuracy=0.05, least=True, max_iterations=60))

    def _gram_bounds(self, **options: Any) -> SpectrumBounds:
        with torch.no_grad():
            product, start = self._small_gram(None)
            return spectrum_bounds(product, start, event_ndim=start.ndim, **options)

    def _small_gram(self, dtype: torch.dtype | None) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Products with the smaller of MᵀM and MMᵀ, and a random vector to begin with; by default in the best precision
        there is."""
        rows = math.prod(self.out_shape) < math.prod(self.in_shape)
        event = self.out_shape if rows else self.in_shape
        noise = torch.randn(event, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        start = noise.to(self._example(event))
        start = start if dtype is None else start.to(dtype)
        pull = self._pullback(start, event)
        return (lambda y: self(pull(y))) if rows else (lambda x: pull(self(x))), start

    def _example(self, event: tuple[int, ...]) -> Tensor:
        """Zeros where this operator keeps its tensors, in the best precision there is."""
        device = _device_of(self)
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no double precision
        return torch.zeros(event, dtype=dtype, device=device)

    def singular_values(self) -> Tensor:
        """All min(prod in, prod out) singular values, unordered, float64; differentiable in the parameters of `apply`.

        Raises:
            ValueError: the structure is unknown and the operator too large to be written as a dense matrix.
        """
        self._check_small("singular_values")
        if torch.is_grad_enabled():
            dense = self.to_dense()
            if dense.requires_grad:
                followed: Tensor = torch.linalg.svdvals(dense)
                return followed
        values: Tensor = self._current("singular values", lambda: torch.linalg.svdvals(self.to_dense().detach()))
        return values

    def svd(self) -> tuple[LinearOperator, Tensor, LinearOperator]:
        r"""(U, s, Vᵀ) with M = U diag(s) Vᵀ, where the structure is known, or M small enough for a dense matrix.

        Returns:
            U, from coordinates to `out_shape`, with UᵀU = I; the singular values s ≥ 0, float64 and unordered, in the
            shape of the coordinates, which depends on the structure; and Vᵀ, from `in_shape` to coordinates, with
            VᵀV = I. There may be fewer coordinates than numbers in an event, never more.

        Raises:
            ValueError: the structure is unknown and the operator too large to be written as a dense matrix, or it has
                blocks whose coordinates have different shapes.

        Examples:
            >>> import torch, lineardiffusion as ld
            >>> u, s, vt = ld.Resize((3, 8, 6), (4, 3)).svd()
            >>> s.shape, vt.out_shape, u.in_shape
            (torch.Size([3, 4, 3]), (3, 4, 3), (3, 4, 3))
        """
        result: tuple[LinearOperator, Tensor, LinearOperator] = dispatch("svd", self)
        return result

    def _check_small(self, name: str) -> None:
        """Raise where a dense matrix would be too large."""
        entries = math.prod(self.in_shape) * math.prod(self.out_shape)
        if entries > _MAX_DENSE_ENTRIES:
            raise ValueError(
                f"{name}: expected at most {_MAX_DENSE_ENTRIES} matrix entries for an operator of unknown structure, "
                f"got {entries} ({type(self).__name__}, {self.in_shape} → {self.out_shape}); give it by one of the "
                f"operators of the library, as ld.Separable or ld.SpectralFilter, if it is one"
            )

    def to_dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The matrix of M, with shape (prod out, prod in)."""
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype: expected a real floating-point one such as torch.float64, got {got(dtype)}")
        columns = self(torch.eye(math.prod(self.in_shape), dtype=dtype).reshape(-1, *self.in_shape))
        return columns.reshape(columns.shape[0], -1).T

    # ------------------------------------------------------------------ algebra

    # What NumPy would do by looking into an operator is refused.
    __array_ufunc__ = None

    @property
    def T(self) -> LinearOperator:
        """The transpose as an operator, of the same structure."""
        result: LinearOperator = dispatch("transpose", self)
        return result

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        """The product M N, simplified as far as the two structures allow.

        Raises:
            ValueError: shapes that do not chain.
        """
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if self.in_shape != other.out_shape:
            raise ValueError(
                f"a @ b: expected b.out_shape = a.in_shape = {self.in_shape}, got {other.out_shape} "
                f"(a: {self}, b: {other})"
            )
        result: LinearOperator = dispatch("product", self, other)
        return result

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """The sum M + N, simplified as far as the two structures allow.

        Raises:
            ValueError: different shapes.
        """
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if (self.in_shape, self.out_shape) != (other.in_shape, other.out_shape):
            raise ValueError(f"a + b: expected operators of the same shapes, got {self} and {other}")
        result: LinearOperator = dispatch("sum", self, other)
        return result

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return self + -1.0 * other if isinstance(other, LinearOperator) else NotImplemented

    def function(self, f: SpectralFunction) -> LinearOperator:
        """f(MᵀM) as an operator, of the same structure where that is closed under functions."""
        check_function(f, "f", "a function of eigenvalues λ")
        result: LinearOperator = dispatch("function", self, f=f)
        return result

    def __mul__(self, scale: float) -> LinearOperator:
        if not isinstance(scale, Real):
            return NotImplemented
        result: LinearOperator = dispatch("scale", self, scale=float(scale))
        return result

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        return -1.0 * self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_shape} → {self.out_shape})"

    @classmethod
    def _apply_each(cls, operators: Sequence[Any], x: Tensor) -> Tensor:
        """Row i of the result is operators[i] applied to row i of x; all are of this class and have the same shapes.

        Here one call for each distinct operator. Structures that can apply different members at once override it.
        """
        return by_rows(operators, x, key=id, apply=lambda members, rows: members[0](rows))

    # ------------------------------------------------------------------ caches: never pickled, never copied

    def _cached(self, key: Any, make: Callable[[], Cached]) -> Cached:
        if key not in self._cache:
            with torch.inference_mode(False):  # what is kept may be needed for gradients later
                self._cache[key] = make()
        return self._cache[key]  # type: ignore[no-any-return]

    def _current(self, key: str, make: Callable[[], Cached]) -> Cached:
        """`_cached`, until what this operator, of unknown structure, holds is replaced or changed in place; of a change
        through `.data` torch does not tell."""
        state = list(_state_of(self))  # kept with the value, so that nothing else is given their identities
        version = [(id(part), part._version) if isinstance(part, Tensor) else part for part in state]
        kept = self._cache.get(key)
        if kept is None or kept[0] != version:
            with torch.inference_mode(False):
                kept = self._cache[key] = version, state, make()
        value: Cached = kept[2]
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    @staticmethod
    def _batch(x: Tensor, event: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(x.shape[: x.ndim - len(event)])


def over_root(k: SpectralFunction) -> SpectralFunction:
    """k(λ)/√λ, and 0 at 0."""
    return lambda values: torch.where(values > 0, k(values) / torch.where(values > 0, values, 1).sqrt(), 0)


def apply_each(operators: Sequence[LinearOperator], x: Tensor) -> Tensor:
    """Row i of the result is operators[i] applied to row i of x, for operators of the same shapes; in as few calls as
    their structures allow."""
    return by_rows(operators, x, key=type, apply=lambda members, rows: type(members[0])._apply_each(members, rows))


def by_rows(
    operators: Sequence[LinearOperator],
    x: Tensor,
    key: Callable[[LinearOperator], object],
    apply: Callable[[Sequence[LinearOperator], Tensor], Tensor],
) -> Tensor:
    """Group the rows of x by the key of their operators, apply each group's operators, and put the rows back."""
    if all(op is operators[0] for op in operators):
        return operators[0](x)
    groups: dict[object, list[int]] = {}
    for row, op in enumerate(operators):
        groups.setdefault(key(op), []).append(row)
    if len(groups) == 1:
        return apply(operators, x)
    return map_groups(x, groups, lambda name, part: apply([operators[row] for row in groups[name]], part))


def _checked_noise(noise: Tensor | None, event: tuple[int, ...]) -> Tensor:
    if noise is None:
        raise TypeError("noise: expected a tensor, since there is a deviation, got None")
    check_event(noise, event, "noise")
    return noise


def _vjp(out: Tensor, x: Tensor, y: Tensor, **graph: bool) -> Tensor:
    """∇_x ⟨y, out⟩, with `create_graph` or `retain_graph` as in `torch.autograd.grad`."""
    cotangent = (y.clone() if y.is_inference() else y).to(out.dtype)
    (result,) = torch.autograd.grad(out, x, grad_outputs=cotangent, **graph)
    return result


class _Transposed(torch.autograd.Function):
    """y ↦ Mᵀ y by a graph that serves many y; its derivative is M."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, pull: Callable[[Tensor], Tensor], operator: LinearOperator) -> Tensor:
        ctx.operator = operator
        return pull(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.operator.apply(gradient), None, None


def _state_of(value: object) -> Iterator[Tensor | float]:
    """The tensors and floats in a value: in an operator, in lists and dictionaries; of a module the tensors. Integers
    are sizes, or count something."""
    if isinstance(value, (Tensor, float)):
        yield value
    elif isinstance(value, torch.nn.Module):
        yield from itertools.chain(value.parameters(), value.buffers())
    elif isinstance(value, LinearOperator):
        for name, part in vars(value).items():
            if name != "_cache":
                yield from _state_of(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _state_of(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _state_of(part)


def _device_of(operator: LinearOperator) -> torch.device:
    """The device of the tensors of an operator: an accelerator if any of them is on one, else the CPU."""
    devices = (part.device for part in _state_of(operator) if isinstance(part, Tensor))
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))


def count_numbers(operator: LinearOperator) -> int:
    """How many numbers the tensors of an operator hold."""
    return sum(part.numel() for part in _state_of(operator) if isinstance(part, Tensor))


def operator_bytes(operator: LinearOperator) -> int:
    """Of the numbers of an operator in float64 and in float32, and of transforms of them."""
    return 16 * count_numbers(operator)


def prepared_bytes(operator: LinearOperator) -> int:
    """What a map of an operator that is prepared for its spectrum keeps, about: a handful of numbers for each that the
    operator has, in both precisions; nothing where Lanczos' method evaluates it."""
    return 64 * count_numbers(operator) if operator.has_exact_functions else 0


def as_operators(operators: object, name: str) -> list[LinearOperator]:
    """A list of operators, checked to be some."""
    listed = as_list(operators, name, "operators, such as [ld.Resize(shape, size)]")
    for operator in listed:
        check_kind(operator, LinearOperator, name, "LinearOperators")
    return listed
