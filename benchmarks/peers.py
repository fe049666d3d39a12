"""The same product, √(I − ρMᵀM) v, by other libraries, those that are installed. Like ours, they get M as a function.

Each peer works in the large space of v, on all samples of the batch at once, in float32. cola-ml and linear-operator
take the product with MᵀM in torch, through the same `apply` and its VJP; matfree takes it in JAX, compiled, with M as
two matrix products.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lineardiffusion as ld
from lineardiffusion.testing import Opaque


@dataclass(frozen=True)
class Peer:
    """`make(setting)` returns a function that computes the product; settings are tried in order, cheapest first: those
    of `easy` where the covariance is well conditioned, those of `hard` where it is nearly singular."""

    name: str
    easy: Sequence[Any]
    hard: Sequence[Any]
    make: Callable[[Any], Callable[[], Tensor]]


def peers(resize: ld.Resize, rho: float, v: Tensor) -> Iterator[Peer]:
    for build in (_linear_operator, _matfree, _cola):
        try:
            yield build(resize, rho, v)
        except ImportError as error:
            warnings.warn(f"not compared with {build.__name__.strip('_')}: {error}", stacklevel=2)


def _product(resize: ld.Resize, rho: float) -> Callable[[Tensor], Tensor]:
    """(I − ρMᵀM) X for columns X, (…, n, b)."""
    operator = Opaque(resize)

    def product(columns: Tensor) -> Tensor:
        rows = columns.mT
        x = rows.reshape(-1, *resize.in_shape)
        return (x - rho * operator.gram(x)).reshape(rows.shape).mT

    return product


def _cola(resize: ld.Resize, rho: float, v: Tensor) -> Peer:
    import cola

    n = v[0].numel()
    matrix = cola.PSD(cola.ops.LinearOperator(torch.float32, (n, n), matmat=_product(resize, rho)))
    columns = v.flatten(1).T.contiguous()

    def make(iterations: int) -> Callable[[], Tensor]:
        method = cola.linalg.Lanczos(max_iters=iterations, tol=1e-12)
        return lambda: (cola.linalg.sqrt(matrix, method) @ columns).T.reshape(v.shape)

    return Peer("cola-ml (Lanczos)", (4, 6, 8), (60, 80), make)


def _linear_operator(resize: ld.Resize, rho: float, v: Tensor) -> Peer:
    from linear_operator import settings
    from linear_operator.operators import LinearOperator
    from linear_operator.utils.contour_integral_quad import contour_integral_quad

    n, product = v[0].numel(), _product(resize, rho)
    columns = v.flatten(1).T.contiguous()

    class Covariance(LinearOperator):
        def _matmul(self, rhs: Tensor) -> Tensor:
            return product(rhs)

        def _size(self) -> torch.Size:
            return torch.Size((n, n))

        def _transpose_nonbatch(self) -> Covariance:
            return self

    def make(setting: tuple[int, int]) -> Callable[[], Tensor]:
        points, iterations = setting

        def run() -> Tensor:
            with settings.num_contour_quadrature(points), settings.max_cg_iterations(iterations):
                solves, weights, _, _ = contour_integral_quad(Covariance(torch.zeros(1)), columns)
            return (solves * weights).sum(0).T.reshape(v.shape)

        return run

    return Peer("linear-operator (CIQ; points, iterations)", ((5, 20), (7, 20)), ((7, 100), (10, 200), (15, 400)), make)


def _matfree(resize: ld.Resize, rho: float, v: Tensor) -> Peer:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from matfree import decomp, funm

    rows, columns = (jnp.asarray(factor.numpy(), dtype=jnp.float32) for factor in resize.factors)
    flat = jnp.asarray(v.flatten(1).numpy())

    def matvec(x: Any) -> Any:
        image = x.reshape(resize.in_shape)
        return (image - rho * (rows.T @ (rows @ image @ columns.T) @ columns)).reshape(-1)

    def make(iterations: int) -> Callable[[], Tensor]:
        root = funm.dense_funm_sym_eigh(lambda values: jnp.sqrt(jnp.maximum(values, 0)))
        function = funm.funm_lanczos_sym(root, decomp.tridiag_sym(iterations, reortho="full"))
        compiled = jax.jit(jax.vmap(lambda x: function(matvec, x)))
        return lambda: torch.from_numpy(np.array(compiled(flat))).reshape(v.shape)

    return Peer("matfree (Lanczos, JAX)", (4, 5, 6, 8), (50, 60, 70, 80), make)
