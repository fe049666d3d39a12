r"""SciPy: its solvers on an operator of the library, and its sparse matrices and operators as degradations.

Events are flattened: x of shape `in_shape` is a vector of prod(in_shape) numbers, in the order of `x.reshape(-1)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_shape, missing
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.operators.dense import Matrix
from lineardiffusion.testing.operators import check_adjoint

try:
    from scipy import sparse
    from scipy.sparse import linalg
except ModuleNotFoundError as error:
    raise missing("scipy", error) from error


def to_scipy(operator: LinearOperator) -> linalg.LinearOperator:
    """M as a `scipy.sparse.linalg.LinearOperator` of shape (prod out, prod in), for `lsqr`, `svds`, `cg` and the like.

    It computes on the CPU, in float64, and follows no gradients.

    Arguments:
        operator: M.

    Raises:
        TypeError: no LinearOperator.
        ValueError: from its products, complex vectors.

    Examples:
        >>> import numpy as np, lineardiffusion as ld
        >>> from scipy.sparse.linalg import lsqr
        >>> from lineardiffusion.integrations.scipy import to_scipy
        >>> pool = to_scipy(ld.AveragePool((1, 2, 4), 2))
        >>> pool.shape, lsqr(pool, np.array([1.0, 2.0]))[0].round(6).tolist()
        ((2, 8), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0])
    """
    if not isinstance(operator, LinearOperator):
        raise TypeError(f"operator: expected a LinearOperator, got {type(operator).__name__}")
    transpose = operator.T

    def matmat(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return _columns(operator, x)

    def rmatmat(y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return _columns(transpose, y)

    return linalg.LinearOperator(
        shape=(math.prod(operator.out_shape), math.prod(operator.in_shape)),
        matvec=lambda x: matmat(x.reshape(-1, 1))[:, 0],
        rmatvec=lambda y: rmatmat(y.reshape(-1, 1))[:, 0],
        matmat=matmat,
        rmatmat=rmatmat,
        dtype=np.float64,
    )


def from_scipy(A: Any, in_shape: Sequence[int], out_shape: Sequence[int]) -> LinearOperator:
    """The operator of a matrix, a sparse matrix or a SciPy operator, through which gradients flow.

    A NumPy array becomes an `ld.Matrix`, of which everything is known. Of all others products alone are: those of
    SciPy, on the CPU and in float64, wherever x is and whatever its dtype.

    Arguments:
        A: of shape (prod out, prod in): an array, a sparse matrix or array, or a `scipy.sparse.linalg.LinearOperator`,
            with a `rmatvec`.
        in_shape, out_shape: event shapes.

    Raises:
        TypeError: something else.
        ValueError: another shape, complex numbers, no `rmatvec`, or one that is not the adjoint of `matvec`.

    Examples:
        >>> import scipy.sparse, torch, lineardiffusion as ld
        >>> from lineardiffusion.integrations.scipy import from_scipy
        >>> shift = from_scipy(scipy.sparse.eye_array(4, k=1), (1, 4), (1, 4))
        >>> shift(torch.arange(4.0)[None]), shift.transpose(torch.arange(4.0)[None])
        (tensor([[1., 2., 3., 0.]]), tensor([[0., 0., 1., 2.]]))
    """
    is_array = isinstance(A, np.ndarray)
    if not is_array and not sparse.issparse(A) and not isinstance(A, linalg.LinearOperator):
        raise TypeError(
            f"A: expected a NumPy array, a sparse matrix or a scipy.sparse.linalg.LinearOperator, got "
            f"{type(A).__name__}"
        )
    events = as_shape(in_shape, "in_shape"), as_shape(out_shape, "out_shape")
    expected = (math.prod(events[1]), math.prod(events[0]))
    if tuple(A.shape) != expected:
        raise ValueError(f"A: expected shape (prod out, prod in) = {expected}, got {tuple(A.shape)}")
    if np.issubdtype(A.dtype, np.complexfloating):
        raise ValueError(
            f"A: expected real numbers, got {A.dtype}: give the operator of real and imaginary parts, "
            f"[[Re A, −Im A], [Im A, Re A]]"
        )
    if is_array:
        return Matrix(torch.from_numpy(np.array(A, dtype=np.float64)), *events)
    operator = _Products(linalg.aslinearoperator(A), *events)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(event, generator=generator, dtype=torch.float64) for event in events)
    try:
        check_adjoint(operator, x, y, "A.rmatvec")
    except (NotImplementedError, TypeError) as error:  # SciPy raises one or the other
        raise ValueError("A: expected an operator with a rmatvec, Aᵀ y, got one whose rmatvec fails") from error
    return operator


class _Products(LinearOperator):
    def __init__(self, matrix: linalg.LinearOperator, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.matrix = matrix

    def apply(self, x: Tensor) -> Tensor:
        return self._product(self.matrix, x, self.in_shape, self.out_shape)

    def transpose(self, y: Tensor) -> Tensor:
        return self._product(self.matrix.H, y, self.out_shape, self.in_shape)

    def _product(self, matrix: linalg.LinearOperator, x: Tensor, event: Shape, image: Shape) -> Tensor:
        rows: Tensor = _Product.apply(x.reshape(-1, math.prod(event)), matrix)  # type: ignore[no-untyped-call]
        return rows.reshape(*self._batch(x, event), *image)


class _Product(torch.autograd.Function):
    """A x for each row x of a matrix; its derivative is the same with Aᵀ, and so on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: linalg.LinearOperator) -> Tensor:
        ctx.matrix = matrix
        images = matrix.matmat(x.detach().cpu().double().numpy().T)
        return torch.from_numpy(np.ascontiguousarray(images.T)).to(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(gradient, ctx.matrix.H), None  # type: ignore[no-untyped-call]


def _columns(operator: LinearOperator, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """M x for each column x."""
    if np.iscomplexobj(x):
        raise ValueError(f"x: expected real numbers, got {x.dtype}: apply the operator to real and imaginary parts")
    rows = torch.from_numpy(np.array(x.T, dtype=np.float64, order="C"))
    with torch.no_grad():
        images = operator(rows.reshape(-1, *operator.in_shape))
    result: np.ndarray[Any, Any] = images.reshape(len(rows), -1).numpy().T
    return result
