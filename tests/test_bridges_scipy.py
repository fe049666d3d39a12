"""SciPy's solvers on our operators, and SciPy's operators as ours, against dense float64 algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lineardiffusion as ld
from conftest import ZOO

scipy = pytest.importorskip("scipy")
from scipy import sparse  # noqa: E402
from scipy.sparse import linalg  # noqa: E402

from lineardiffusion.integrations.scipy import from_scipy, to_scipy  # noqa: E402

RNG = np.random.default_rng(0)
SPARSE = sparse.random_array((6, 8), density=0.4, rng=np.random.default_rng(1))
DENSE = SPARSE.toarray()
IN, OUT = (2, 4), (3, 2)


@pytest.mark.parametrize("name", ZOO)
def test_products_are_those_of_the_dense_matrix(name):
    op = ZOO[name]
    theirs, dense = to_scipy(op), op.to_dense().numpy()
    x, y = RNG.normal(size=(dense.shape[1], 3)), RNG.normal(size=(dense.shape[0], 3))
    assert theirs.dtype == np.float64
    assert theirs.shape == dense.shape
    for result, expected in (
        (theirs @ x, dense @ x),
        (theirs.matvec(x[:, 0]), dense @ x[:, 0]),
        (theirs.matvec(x[:, :1]), dense @ x[:, :1]),
        (theirs.rmatvec(y[:, 0]), dense.T @ y[:, 0]),
        (theirs.H @ y, dense.T @ y),
        (theirs.T.rmatmat(x), dense @ x),
        (theirs @ np.ones(dense.shape[1], dtype=int), dense.sum(1)),
    ):
        assert result.shape == expected.shape
        assert np.allclose(result, expected, rtol=0, atol=1e-12 * (1 + np.abs(dense).sum()))


def test_solvers():
    op = ld.Convolution(torch.tensor([0.2, 0.5, 0.2]), (1, 12), padding="zeros") @ ld.Diagonal(1 + torch.rand(1, 12))
    theirs, dense = to_scipy(op), op.to_dense().numpy()
    y = RNG.normal(size=12)
    assert np.allclose(linalg.lsqr(theirs, y, atol=1e-14, btol=1e-14)[0], np.linalg.solve(dense, y), atol=1e-9)
    values = linalg.svds(theirs, k=3, return_singular_vectors=False)
    assert np.allclose(np.sort(values), np.sort(np.linalg.svd(dense)[1])[-3:], atol=1e-12)
    solution, failed = linalg.cg(theirs.H @ theirs, dense.T @ y, rtol=1e-13)
    assert not failed
    assert np.allclose(solution, np.linalg.solve(dense, y), atol=1e-8)


def adjointless(x):
    return DENSE @ x


FORMS = {
    "array": DENSE,
    "float32 array": DENSE.astype(np.float32),
    "sparse array": SPARSE,
    "csr matrix": sparse.csr_matrix(DENSE),
    "operator": linalg.LinearOperator((6, 8), adjointless, rmatvec=lambda y: DENSE.T @ y, dtype=float),
    "sum": linalg.aslinearoperator(SPARSE) + linalg.aslinearoperator(DENSE),
    "ours": to_scipy(ld.Matrix(torch.tensor(DENSE), IN, OUT)),
}


@pytest.mark.parametrize("name", FORMS)
def test_theirs_are_operators(name):
    op = from_scipy(FORMS[name], IN, OUT)
    dense = torch.tensor(DENSE * (2 if name == "sum" else 1))
    assert torch.allclose(op.to_dense(), dense, rtol=0, atol=1e-15 if name != "float32 array" else 1e-7)
    ld.testing.check_operator(op)
    assert isinstance(op, ld.Matrix) == ("array" in name and "sparse" not in name)


def test_gradients_of_first_and_second_order():
    op = from_scipy(SPARSE, IN, OUT)
    x = torch.randn(3, *IN, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, *OUT, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, x)
    assert torch.autograd.gradgradcheck(lambda x: op(x).square(), x)
    assert torch.autograd.gradcheck(op.transpose, y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_follows_the_input(dtype):
    op = from_scipy(SPARSE, IN, OUT)
    x = torch.randn(5, *IN, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = (x.double().reshape(5, 8) @ torch.tensor(DENSE).T).reshape(5, *OUT).to(dtype)
    assert op(x).dtype == dtype
    assert torch.allclose(op(x), expected, rtol=torch.finfo(dtype).eps, atol=1e-12)


def test_a_sparse_degradation_diffuses_as_its_matrix_does():
    band = sparse.diags_array([0.25, 0.5, 0.25], offsets=[-1, 0, 1], shape=(8, 8))
    sigmas = [0.0, 0.3, 0.6]
    sparse_process, process = (
        ld.LinearDiffusion([from_scipy(matrix, (1, 8), (1, 8))] * 2, sigmas) for matrix in (band, band.toarray())
    )
    x, noise = torch.randn(2, 3, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws = [p.posterior(x, x / 2, t=2).sample(noise) for p in (sparse_process, process)]
    assert torch.allclose(*draws, rtol=0, atol=1e-5)


WRONG = linalg.LinearOperator((6, 8), adjointless, rmatvec=lambda y: 1.01 * DENSE.T @ y, dtype=float)
REFUSED = {
    "a list": (DENSE.tolist(), IN, OUT, TypeError, "A: expected a NumPy array, a sparse matrix or a scipy"),
    "another shape": (SPARSE, OUT, IN, ValueError, r"A: expected shape \(prod out, prod in\) = \(8, 6\), got \(6, 8\)"),
    "complex": (1j * SPARSE, IN, OUT, ValueError, r"complex128: give the operator of real and imaginary parts, \[\["),
    "no adjoint": (linalg.LinearOperator((6, 8), adjointless, dtype=float), IN, OUT, ValueError, "with a rmatvec"),
    "a wrong adjoint": (WRONG, IN, OUT, ValueError, "A.rmatvec is not the adjoint"),
    "no event": (SPARSE, (2.5,), OUT, TypeError, "in_shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    *arguments, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        from_scipy(*arguments)


def test_ours_refuses_complex_vectors_and_what_is_no_operator():
    with pytest.raises(ValueError, match="x: expected real numbers, got complex128"):
        to_scipy(ld.Identity((3,))) @ np.array([1j, 0, 0])
    with pytest.raises(TypeError, match="operator: expected a LinearOperator, got ndarray"):
        to_scipy(DENSE)
