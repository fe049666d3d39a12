"""Is it linear, is its transpose its transpose, is it pure, and are its functions right?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_index, check_kind
from lineardiffusion.operators.base import LinearOperator

# Errors are measured against the sizes of what is compared. float32 weights inside an operator cost 1e-6 or so, and
# Lanczos' method is asked for 1e-6; a wrong formula costs of the order of one.
TOLERANCE = 1e-4

# Functions of the Gram matrices are compared with the dense matrix up to this number of rows and columns.
_LARGEST_DENSE = 512


class Opaque(LinearOperator):
    """The same operator with its structure hidden, known by `apply` alone: everything else goes by VJP and Lanczos.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.testing.check_operator(ld.testing.Opaque(ld.Resize((1, 8), 4)))
    """

    def __init__(self, operator: LinearOperator) -> None:
        check_kind(operator, LinearOperator, "operator", "a LinearOperator")
        super().__init__(operator.in_shape, operator.out_shape)
        self.operator = operator

    def apply(self, x: Tensor) -> Tensor:
        return self.operator.apply(x)


def check_operator(operator: LinearOperator, seed: int = 0) -> None:
    r"""Raise unless `operator` behaves as a linear operator, on random vectors in float64 (float32 where that is all).

    Checked are

    - linearity, M(αx + z) = αMx + Mz, and that M 0 = 0;
    - the shapes of `apply` and `transpose`, with one, two and no batch dimension;
    - that float32 vectors have float32 images, equal to the float64 ones within rounding;
    - purity: the same input gives the same output and is left unchanged;
    - that the samples of a batch do not influence each other;
    - the adjoint identity ⟨Mx, y⟩ = ⟨x, Mᵀy⟩, and `T`;
    - that `norm` bounds ‖Mx‖/‖x‖;
    - `gram_function` and `cogram_function` against powers of MᵀM and MMᵀ; and up to 512 rows and columns against the
      dense matrix, as are `singular_values` and `norm`.

    Arguments:
        operator: the operator.
        seed: of the random vectors.

    Raises:
        ValueError: with the property that fails, and by how much.

    Examples:
        >>> import lineardiffusion as ld
        >>> ld.testing.check_operator(ld.Resize((1, 8), 4))
        >>> class Shift(ld.LinearOperator):
        ...     def apply(self, x):
        ...         return x + 1
        >>> ld.testing.check_operator(Shift((3,), (3,)))
        Traceback (most recent call last):
        ValueError: Shift is not linear: M 0 has the norm 1.73, expected 0
    """
    check_kind(operator, LinearOperator, "operator", "a LinearOperator")
    with torch.no_grad():
        _Check(operator, as_index(seed, -(2**63), 2**64 - 1, "seed")).run()


class _Check:
    def __init__(self, operator: LinearOperator, seed: int) -> None:
        self.operator, self.name = operator, type(operator).__name__
        generator = torch.Generator().manual_seed(seed)

        def vectors(event: Shape) -> Tensor:
            noise = torch.randn(3, *event, generator=generator, dtype=torch.float64)
            return noise.to(operator._example(event))

        self.x, self.z, self.y = vectors(operator.in_shape), vectors(operator.in_shape), vectors(operator.out_shape)

    def run(self) -> None:
        self.apply()
        self.dtype()
        self.transpose()
        self.functions()
        self.norm()

    def apply(self) -> None:
        operator, name, x, z = self.operator, self.name, self.x, self.z
        zero = float(operator(torch.zeros_like(x[:1])).norm())
        if zero > 0:
            raise ValueError(f"{name} is not linear: M 0 has the norm {zero:.3g}, expected 0")
        before = x.clone()
        image = operator(x)
        if not torch.equal(x, before):
            raise ValueError(f"{name}.apply changes its argument in place")
        _compare(f"{name} is not pure: two calls with the same x", operator(x), image)
        _compare(f"{name} is not linear: M (2.5 x + z)", operator(2.5 * x + z), 2.5 * image + operator(z))
        _compare(f"{name} mixes the samples of a batch: M x[:1]", operator(x[:1]), image[:1])
        _compare(f"{name} does not take an x without batch dimensions: M x[0]", operator(x[0]), image[0])
        _compare(f"{name} does not take several batch dimensions: M x[None]", operator(x[None])[0], image)

    def dtype(self) -> None:
        single = self.operator(self.x.float())
        if single.dtype != torch.float32:
            raise ValueError(
                f"{self.name}.apply: expected float32 for a float32 x, got {single.dtype} (cast what it holds: w.to(x))"
            )
        _compare(f"{self.name} loses precision: M x in float32", single.to(self.x), self.operator(self.x))

    def transpose(self) -> None:
        operator, name, x, y = self.operator, self.name, self.x, self.y
        back = operator.transpose(y)
        if back.shape != x.shape:
            raise ValueError(f"{name}.transpose: expected shape {tuple(x.shape)}, got {tuple(back.shape)}")
        check_adjoint(operator, x, y, f"{name}.transpose")
        _compare(f"{name}.T is not the transpose: M.T y", operator.T(y), back)
        _compare(f"{name}.gram is not MᵀM: MᵀM x", operator.gram(x), operator.transpose(operator(x)))

    def functions(self) -> None:
        operator, name = self.operator, self.name
        for method, function, gram, v in (
            ("gram_function", operator.gram_function, operator.gram, self.x),
            ("cogram_function", operator.cogram_function, lambda y: operator(operator.transpose(y)), self.y),
        ):
            linear = gram(v)
            _compare(f"{name}.{method}: f(λ) = λ", function(lambda values: values, v), linear)
            _compare(f"{name}.{method}: f(λ) = λ²", function(lambda values: values.square(), v), gram(linear))
            _compare(f"{name}.{method}: f(λ) = 3", function(lambda values: 3 + 0 * values, v), 3 * v)
        if max(math.prod(operator.in_shape), math.prod(operator.out_shape)) > _LARGEST_DENSE:
            return
        dense = operator.to_dense(self.x.dtype).to("cpu", torch.float64)
        scale = float(torch.linalg.matrix_norm(dense, 2)) ** 2 + 1e-300
        for method, function, matrix, v in (
            ("gram_function", operator.gram_function, dense.T @ dense, self.x),
            ("cogram_function", operator.cogram_function, dense @ dense.T, self.y),
        ):
            inverse = torch.linalg.inv(torch.eye(len(matrix), dtype=torch.float64) + matrix / scale)
            expected = (v.flatten(1).to(inverse) @ inverse).reshape(v.shape).to(v)
            result = function(lambda values: 1 / (1 + values / scale), v)
            _compare(f"{name}.{method}: f(λ) = 1/(1 + λ/λmax), against the dense matrix,", result, expected)
        values = operator.singular_values().sort(descending=True).values
        _compare(f"{name}.singular_values, against the dense matrix,", values, torch.linalg.svdvals(dense))
        if operator.norm() > 1.01 * math.sqrt(scale):
            raise ValueError(
                f"{name}.norm: expected {math.sqrt(scale):.6g}, by the dense matrix, got {operator.norm():.6g}"
            )

    def norm(self) -> None:
        operator, x = self.operator, self.x
        claimed, gain = operator.norm(), 0.0
        for _ in range(10):  # towards the singular vector of the largest singular value
            image = operator(x)
            lengths = x.flatten(1).norm(dim=1).clamp(min=1e-300)
            gain = max(gain, float((image.flatten(1).norm(dim=1) / lengths).max()))
            x = operator.transpose(image)
            x = x / (x.abs().amax() + 1e-300)
        if gain > claimed * (1 + TOLERANCE):
            raise ValueError(f"{self.name}.norm: expected at least ‖M x‖/‖x‖ = {gain:.6g}, got {claimed:.6g}")


def check_adjoint(operator: LinearOperator, x: Tensor, y: Tensor, name: str) -> None:
    """Raise ValueError unless ⟨Mx, y⟩ = ⟨x, Mᵀy⟩, and say that it is `name` which is not the adjoint."""
    image = operator(x)
    left, right = float((image * y).sum()), float((x * operator.transpose(y)).sum())
    size = float(image.norm() * y.norm()) + 1e-300
    if not abs(left - right) <= TOLERANCE * size:
        raise ValueError(f"{name} is not the adjoint: ⟨M x, y⟩ = {left:.6g}, but ⟨x, Mᵀ y⟩ = {right:.6g}")


def relative_difference(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).norm() / (expected.norm() + 1e-300))


def _compare(what: str, result: Tensor, expected: Tensor) -> None:
    if result.shape != expected.shape:
        raise ValueError(f"{what} has shape {tuple(result.shape)}, expected {tuple(expected.shape)}")
    error = relative_difference(result, expected)
    if not error <= TOLERANCE:
        raise ValueError(f"{what} has a relative difference of {error:.3g}, expected at most {TOLERANCE}")
