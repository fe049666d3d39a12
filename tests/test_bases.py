"""Orthonormal bases, against their definitions and against SciPy and NumPy. A transform sums at most 48 products here:
1e-12 is a hundred times its rounding."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import scipy.fft
import torch

import lineardiffusion as ld
from lineardiffusion.testing import check_operator
from test_operators import POLAR, dense_step, draw

B = ld.bases
EXACT = {"rtol": 1e-12, "atol": 1e-12}
IMAGES = draw((2, 3, 5), 40)
BASES = {
    "cosine": B.Cosine((3, 5, 8)),
    "cosine of sequences": B.Cosine((2, 7)),
    "cosine of one axis": B.Cosine((9,)),
    "cosine of the last axis": B.Cosine((2, 3, 5), axes=1),
    "fourier": B.Fourier((2, 5, 6)),
    "fourier of sequences": B.Fourier((1, 7)),
    "block cosine": B.BlockCosine((2, 6, 15), (2, 5)),
    "block cosine of one axis": B.BlockCosine((3, 2, 8), (4,)),
    "standard": B.Standard((2, 3, 4)),
    "haar": B.Haar((2, 4, 12), levels=2),
    "haar 1-D": B.Haar((1, 24), levels=3),
    "haar 3-D": B.Haar((1, 2, 4, 2)),
    "haar of no level": B.Haar((2, 3, 5), levels=0),
    "principal": B.Principal(IMAGES, rank=30),
    "principal of lower rank": B.Principal(IMAGES, rank=4),
    "principal of few images": B.Principal(IMAGES[:6], rank=6),
}
CUT = [
    (BASES["cosine"], (3, 3, 4)),
    (B.Cosine((2, 9)), (2, 4)),
    (BASES["cosine of the last axis"], (2, 3, 2)),
    (B.BlockCosine((2, 8, 12), 4), (2, 4, 9)),
    (BASES["haar"], (2, 2, 6)),
    (BASES["haar"], (2, 1, 3)),
    (BASES["haar 3-D"], (1, 1, 2, 1)),
    (BASES["standard"], (2, 1, 2)),
    (BASES["principal"], (7,)),
    (BASES["principal of lower rank"], (4,)),
]


@pytest.fixture(params=list(BASES))
def basis(request: pytest.FixtureRequest) -> B.Basis:
    return BASES[request.param]


def matrix(basis: B.Basis) -> torch.Tensor:
    """Vᴴ, with a row for each coordinate."""
    n = math.prod(basis.shape)
    return basis.analyse(torch.eye(n, dtype=torch.float64).reshape(n, *basis.shape)).reshape(n, -1).T


def test_bases_are_orthonormal(basis):
    rows = matrix(basis)
    assert rows.shape == (math.prod(basis.coordinates), math.prod(basis.shape))
    torch.testing.assert_close(rows @ rows.mH, torch.eye(len(rows), dtype=rows.dtype), **EXACT)
    assert basis.is_complete == (rows.shape[0] == rows.shape[1])
    x = draw(basis.shape, 2, 3)
    z = basis.analyse(x)
    assert z.shape == (2, 3, *basis.coordinates)
    torch.testing.assert_close(z.reshape(2, 3, -1), (x.reshape(2, 3, -1).to(z.dtype) @ rows.T), **EXACT)
    projected = (x.reshape(2, 3, -1) @ (rows.mH @ rows).real).reshape(x.shape)
    torch.testing.assert_close(basis.synthesise(z), projected, **EXACT)
    torch.testing.assert_close(basis.analyse(basis.synthesise(z)), z, **EXACT)
    torch.testing.assert_close(basis.analyse(x[0, 0]), z[0, 0], **EXACT)


def test_precisions_gradients_and_transformations(basis):
    x = draw(basis.shape, 2)
    for dtype in (torch.float32, torch.bfloat16):
        z = basis.analyse(x.to(dtype))
        assert basis.synthesise(z).dtype == (torch.float32 if z.is_complex() else dtype)
        error = (basis.synthesise(z).double() - basis.synthesise(basis.analyse(x))).abs().max()
        assert error <= 4 * torch.finfo(dtype).eps * x.abs().max() * math.sqrt(math.prod(basis.shape))
    assert torch.autograd.gradcheck(lambda v: basis.synthesise(basis.analyse(v)), x[:1].requires_grad_())
    torch.testing.assert_close(torch.func.vmap(basis.analyse)(x), basis.analyse(x))
    if not isinstance(basis, B.Fourier):  # torch.fft takes no empty batch
        assert basis.synthesise(basis.analyse(torch.zeros(0, *basis.shape))).shape == (0, *basis.shape)


def test_bases_are_what_they_are_made_with(basis):
    twin = pickle.loads(pickle.dumps(basis))
    assert twin == basis == type(basis)(**basis.arguments())
    assert hash(twin) == hash(basis)
    assert type(basis).__name__ in repr(basis)
    assert all(getattr(basis, name) == value for name, value in basis.arguments().items() if isinstance(value, int))
    assert [name for name, other in BASES.items() if other == basis] == [
        name for name, other in BASES.items() if other is basis
    ]


def test_cosines_and_fourier_are_those_of_scipy():
    x = draw((3, 5, 8), 2)
    for axes in (2, 1):
        expected = scipy.fft.dctn(x.numpy(), axes=tuple(range(-axes, 0)), norm="ortho")
        np.testing.assert_allclose(B.Cosine((3, 5, 8), axes).analyse(x), expected, atol=1e-12)
        expected = scipy.fft.fftn(x.numpy(), axes=tuple(range(-axes, 0)), norm="ortho")
        np.testing.assert_allclose(B.Fourier((3, 5, 8), axes).analyse(x), expected, atol=1e-12)
    long = B.Cosine((1, 4000)).analyse(draw((1, 4000)))  # high frequencies keep their digits
    np.testing.assert_allclose(long, scipy.fft.dctn(draw((1, 4000)), axes=(-1,), norm="ortho"), atol=1e-11)


def test_blocks_are_transformed_one_by_one():
    x = draw((2, 6, 15))
    z = B.BlockCosine((2, 6, 15), (2, 5)).analyse(x)
    assert z.shape == (2, 3, 3, 2, 5)
    for i, j in ((0, 0), (1, 2), (2, 1)):
        block = x[:, 2 * i : 2 * i + 2, 5 * j : 5 * j + 5].numpy()
        np.testing.assert_allclose(z[:, i, j], scipy.fft.dctn(block, axes=(-2, -1), norm="ortho"), atol=1e-12)


def test_wavelets_are_sums_and_differences():
    """The sums are the average pool, brighter; the rest by hand: (+ −), (− +) and (+ −; − +) over 2."""
    x = draw((1, 4, 12))
    z = B.Haar((1, 4, 12), levels=2).analyse(x)
    torch.testing.assert_close(z[:, :1, :3], 4 * ld.AveragePool((1, 4, 12), 4)(x), **EXACT)
    a, b, c, d = x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
    torch.testing.assert_close(z[:, :2, 6:], (a - b + c - d) / 2, **EXACT)
    torch.testing.assert_close(z[:, 2:, :6], (a + b - c - d) / 2, **EXACT)
    torch.testing.assert_close(z[:, 2:, 6:], (a - b - c + d) / 2, **EXACT)


def test_principal_directions_are_those_of_numpy():
    """More images than numbers, and fewer; the signs are those of the largest entries, whatever LAPACK says."""
    for images in (IMAGES, IMAGES[:12]):
        rows = images.flatten(1) - images.flatten(1).mean(0)
        _, values, vectors = np.linalg.svd(rows.numpy(), full_matrices=False)
        basis = B.Principal(images, rank=5)
        found = matrix(basis).numpy()
        np.testing.assert_allclose(np.abs(found @ vectors[:5].T), np.eye(5), atol=1e-10)
        assert (found[np.arange(5), np.abs(found).argmax(1)] > 0).all()
        np.testing.assert_allclose(basis.analyse(rows.reshape(images.shape)).square().sum(0), values[:5] ** 2)
    assert B.Principal(IMAGES.tolist(), 3) == B.Principal(IMAGES, 3) != B.Principal(IMAGES + 1, 3)


# ---------------------------------------------------------------------------------------------- operators in a basis


def test_filters_in_every_basis(basis):
    """M = V diag(g) Vᴴ with all that follows from it; what a basis of lower rank leaves out is zero, and carried on."""
    gain = torch.rand(basis.coordinates, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gain[..., -1] = 0
    if isinstance(basis, B.Fourier):  # with phases
        gain = basis.analyse(draw(basis.shape))
    op = ld.SpectralFilter(basis.shape, gain, basis)
    rows = matrix(basis)
    dense = (rows.mH @ torch.diag(gain.flatten()).to(rows.dtype) @ rows).real
    torch.testing.assert_close(op.to_dense(), dense, **EXACT)
    torch.testing.assert_close(op.T.to_dense(), dense.T, **EXACT)
    for other in (0.5 * op, op @ op, op + op, op - op.T, op + ld.Identity(basis.shape)):
        check_operator(other)
    torch.testing.assert_close((op @ op.T + op).to_dense(), dense @ dense.T + dense, **EXACT)
    x, y, noise = (draw(basis.shape, 2, seed=seed) for seed in range(3))
    f = lambda values: 1 / (1 + values)  # noqa: E731
    torch.testing.assert_close(op.function(f)(x), op.gram_function(f, x))
    step = op.step_map(POLAR, f, complete=True)(x, y, noise)
    expected = dense_step(dense, POLAR, f, x, y, noise, completed=True)
    torch.testing.assert_close(step.flatten(1), expected, rtol=1e-10, atol=1e-10)
    u, s, vt = op.svd()
    torch.testing.assert_close(u.to_dense() @ torch.diag(s.flatten()) @ vt.to_dense(), dense, **EXACT)
    gains = [ld.SpectralFilter(basis.shape, k * gain, basis) for k in (1.0, 2.0)]
    torch.testing.assert_close(type(op)._apply_each(gains, x), torch.stack([op(x[0]), 2 * op(x[1])]), **EXACT)


def test_named_bases_are_those_of_the_axes_of_a_gain():
    shape, gain = (2, 6, 4), draw((6, 4))
    assert ld.SpectralFilter(shape, gain).transform == B.Cosine(shape)
    assert ld.SpectralFilter(shape, draw(shape)).transform == B.Cosine(shape)
    assert ld.SpectralFilter(shape, gain[0], "dct").transform == B.Cosine(shape, axes=1)
    product = ld.SpectralFilter(shape, gain) @ ld.SpectralFilter(shape, draw(shape), B.Cosine(shape))
    assert isinstance(product, ld.SpectralFilter)
    assert isinstance(ld.SpectralFilter(shape, gain) @ ld.SpectralFilter(shape, gain[0]), ld.Composed)


@pytest.mark.parametrize(("basis", "shape"), CUT)
def test_truncation_keeps_the_coordinates_of_a_smaller_event(basis, shape):
    op = ld.Truncation(basis, shape)
    assert (op.in_shape, op.out_shape) == (basis.shape, shape)
    dense = op.to_dense()
    torch.testing.assert_close(dense @ dense.T, torch.eye(len(dense), dtype=torch.float64), **EXACT)
    x = draw(basis.shape, 2)
    kept = tuple(slice(n) for n in op.small.coordinates)
    torch.testing.assert_close(op.small.analyse(op(x)), basis.analyse(x)[(slice(None), *kept)], **EXACT)
    check_operator(op)
    assert op.norm() == 1


def test_truncations_by_name():
    shape = (2, 4, 12)
    haar = ld.Truncation(B.Haar(shape, 2), (2, 1, 3))
    torch.testing.assert_close(haar.to_dense(), (4 * ld.AveragePool(shape, 4)).to_dense(), **EXACT)
    x = draw((1, 8))
    coarse = scipy.fft.idct(scipy.fft.dct(x.numpy(), norm="ortho")[:, :5], norm="ortho")
    np.testing.assert_allclose(ld.Truncation(B.Cosine((1, 8)), (1, 5))(x), coarse, atol=1e-12)
    twice = ld.Truncation(B.Cosine((1, 5)), (1, 2)) @ ld.Truncation(B.Cosine((1, 8)), (1, 5))
    assert isinstance(twice, ld.Truncation)
    np.testing.assert_allclose(twice(x), ld.Truncation(B.Cosine((1, 8)), (1, 2))(x), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: B.Cosine((3, 8), axes=3), "axes: expected 1 ≤ axes ≤ 2"),
        (lambda: B.BlockCosine((3, 8, 9), 4), r"block: expected divisors of the last sizes of \(3, 8, 9\)"),
        (lambda: B.BlockCosine((8,), (2, 2)), "block: expected divisors"),
        (lambda: B.Haar((3, 12, 8), levels=3), r"multiples of 8, got \(3, 12, 8\), which allows 2"),
        (lambda: B.Principal(IMAGES, rank=31), "rank: expected 1 ≤ rank ≤ 30"),
        (lambda: B.Principal(IMAGES[0, 0, 0], rank=1), "images: expected real numbers of shape"),
        (lambda: B.Principal(float("nan") * IMAGES, rank=1), "images: expected finite"),
        (lambda: B.Haar((2, 8)).analyse(torch.zeros(2, 9)), "x: expected shape"),
        (lambda: B.BlockCosine((2, 8), 4).synthesise(torch.zeros(2, 8)), r"z: expected coordinates of .*, 2, 2, 4"),
        (lambda: ld.SpectralFilter((2, 8), torch.ones(2, 8), B.Haar((2, 4))), "basis: expected one of events"),
        (lambda: ld.SpectralFilter((2, 8), torch.ones(8), B.BlockCosine((2, 8), 4)), "gain: expected a shape"),
        (lambda: ld.SpectralFilter((2, 8), 1j * torch.ones(8), B.Haar((2, 8))), "gain: expected real"),
        (lambda: ld.Truncation(B.Cosine((2, 8)), (1, 4)), "shape: expected that of smaller events"),
        (lambda: ld.Truncation(B.Cosine((2, 8)), (2, 9)), "shape: expected that of smaller events"),
        (lambda: ld.Truncation(B.Haar((2, 8), 2), (2, 1)), "shape: expected one of the 2 halvings"),
        (lambda: ld.Truncation(B.Haar((2, 8, 8), 2), (2, 4, 2)), "shape: expected one of the 2 halvings"),
        (lambda: ld.Truncation(B.BlockCosine((2, 8), 4), (2, 3)), "as many whole pixels"),
        (lambda: ld.Truncation(B.Fourier((2, 8)), (2, 4)), "basis: expected Standard, Cosine, BlockCosine"),
        (lambda: ld.Truncation(B.Principal(IMAGES, 4), (5,)), r"shape: expected \(k,\), k ≤ 4 principal coordinates"),
    ],
)  # fmt: skip
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
