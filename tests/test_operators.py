"""Every operator against its own dense matrix in float64.

A product of an (m, n) matrix with a vector has a relative error of at most n·eps; the structured forms do up to six
such products. 1e-12 is 1000 times that for n ≤ 50 and far below any wrong formula. Operators without a known structure
evaluate functions through Lanczos with a tolerance of 1e-6.
"""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import lineardiffusion as ld
from conftest import ZOO
from lineardiffusion.operators.base import apply_each
from lineardiffusion.testing import Opaque
from lineardiffusion.testing.strategies import operators

EXACT = {"rtol": 1e-12, "atol": 1e-12}
LANCZOS = {"rtol": 1e-5, "atol": 1e-5}
THROUGH_LANCZOS = ("composed", "sum", "transposed", "opaque", "convolution reflect", "convolution zeros")


def draw(shape: tuple[int, ...], *batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tolerance(op: ld.LinearOperator) -> dict[str, float]:
    return LANCZOS if any(ZOO[name] is op for name in THROUGH_LANCZOS) else EXACT


def dense_function(f, gram: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ torch.diag(f(values.clamp(min=0))) @ vectors.T


def test_apply_and_transpose_are_those_of_the_dense_matrix(op):
    dense = op.to_dense()
    assert dense.shape == (math.prod(op.out_shape), math.prod(op.in_shape))
    x, y = draw(op.in_shape, 3), draw(op.out_shape, 3, seed=1)
    torch.testing.assert_close(op(x).flatten(1), x.flatten(1) @ dense.T, **EXACT)
    torch.testing.assert_close(op.transpose(y).flatten(1), y.flatten(1) @ dense, **EXACT)
    torch.testing.assert_close(op.gram(x).flatten(1), x.flatten(1) @ dense.T @ dense, **EXACT)
    torch.testing.assert_close(op.T.to_dense(), dense.T, **EXACT)


@pytest.mark.parametrize(
    "f",
    [
        lambda values: (25.0 - 0.1 * values).clamp(min=0).sqrt(),
        lambda values: 1 / (1 + values),
        lambda values: torch.exp(-values),
    ],
    ids=["square root", "inverse", "exponential"],
)
def test_functions_of_the_gram_matrices(op, f):
    dense = op.to_dense()
    x, y = draw(op.in_shape, 2), draw(op.out_shape, 2, seed=1)
    expected = x.flatten(1) @ dense_function(f, dense.T @ dense)
    torch.testing.assert_close(op.gram_function(f, x).flatten(1), expected, **tolerance(op))
    expected = y.flatten(1) @ dense_function(f, dense @ dense.T)
    torch.testing.assert_close(op.cogram_function(f, y).flatten(1), expected, **tolerance(op))


@pytest.mark.parametrize("gain", [0.3, lambda values: 1 / (1 + values)], ids=["number", "function"])
@pytest.mark.parametrize("scale", [1.0, -0.4, 0.0])
def test_correct_is_a_regularised_inverse(op, gain, scale):
    """x + Mᵀ g(MMᵀ) (y − M x), for multiples of every operator."""
    dense = scale * op.to_dense()
    x, y = draw(op.in_shape, 2), draw(op.out_shape, 2, seed=1)
    residual = y.flatten(1) - x.flatten(1) @ dense.T
    gram = dense @ dense.T
    gains = gain * torch.eye(len(gram), dtype=torch.float64) if isinstance(gain, float) else dense_function(gain, gram)
    expected = x.flatten(1) + residual @ gains @ dense
    torch.testing.assert_close((scale * op).correct(gain, x, y).flatten(1), expected, **tolerance(op))


def dense_step(dense, gain, deviation, x, y, noise, *, completed=False):
    """x + K (y − M x) + D noise by the singular vectors of M; `completed` with K = k(0) where M is zero."""
    left, singular, right = torch.linalg.svd(dense)
    rank = int((singular > 1e-12 * singular.max()).sum())
    values = F.pad(singular[:rank].square(), (0, len(right) - rank))
    if callable(gain):
        k = right[:rank].T @ torch.diag(gain(values[:rank])) @ left[:, :rank].T
        if completed:
            k = k + gain(values.new_zeros(())) * right[rank:].T @ right[rank:]
    else:
        k = gain * dense.T
    mean = x.flatten(1) + (y.flatten(1) - x.flatten(1) @ dense.T) @ k.T
    return mean if deviation is None else mean + noise.flatten(1) @ right.T @ torch.diag(deviation(values)) @ right


POLAR = lambda values: 0.5 + 0.3 * torch.exp(-values / 8)  # noqa: E731, of which no root is divided: k(0) > 0
DEVIATION = lambda values: (4 - values / 25).clamp(min=0).sqrt()  # noqa: E731


@pytest.mark.parametrize("gain", [0.03, POLAR], ids=["number", "function"])
@pytest.mark.parametrize("scale", [1.0, -0.4, 0.0])
def test_a_step_is_its_formula(op, gain, scale):
    """x + K (y − M x) + D noise for multiples of every operator; in every precision, rounded once."""
    x, y, noise = draw(op.in_shape, 2), draw(op.out_shape, 2, seed=1), draw(op.in_shape, 2, seed=2)
    # A polar factor changes by 1/σ_min times as much as M: σ_max/σ_min is below 1000 here.
    close = {name: 10 * value for name, value in tolerance(op).items()}
    if not op.has_exact_functions and callable(gain):  # no polynomial jumps at zero, where U ends
        gain = lambda values: POLAR(values) * -torch.expm1(-values)  # noqa: E731
    for deviation in (DEVIATION, None):
        step = (scale * op).step_map(gain, deviation)
        expected = dense_step(scale * op.to_dense(), gain, deviation, x, y, noise)
        torch.testing.assert_close(step(x, y, noise).flatten(1), expected, **close)
        single = step(x.float(), y.float(), noise.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.flatten(1).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(step(x, y, None).flatten(1), expected, **close)


@pytest.mark.parametrize("scale", [1.0, -0.4, 0.0])
def test_a_completed_step_carries_on_what_a_frame_makes_zero(op, scale):
    """K = k(0) there, and for 0 · M the polar factor of M; without a frame nothing changes."""
    x, y, noise = draw(op.in_shape, 2), draw(op.out_shape, 2, seed=1), draw(op.in_shape, 2, seed=2)
    completed = (scale * op).step_map(POLAR, DEVIATION, complete=True)
    assert (scale * op).has_frame == op.has_frame
    if not op.has_frame:
        if op.has_exact_functions:
            torch.testing.assert_close(completed(x, y, noise), (scale * op).step_map(POLAR, DEVIATION)(x, y, noise))
        return
    dense = op.to_dense()
    limit = scale or 1e-13  # 0 · M is the limit of small multiples
    expected = dense_step(limit * dense, POLAR, DEVIATION, x, y, noise, completed=True)
    torch.testing.assert_close(completed(x, y, noise).flatten(1), expected, rtol=1e-11, atol=1e-11)


def test_the_frame_of_a_filter_with_a_zero_gain():
    """Each of the structures that have a frame, with directions that it makes zero."""
    gain = torch.tensor([1.0, -0.5, 0.0, 0.0], dtype=torch.float64)
    fourier = ld.Convolution(torch.tensor([0.0, 0.5, 0.5]), (2, 4)).structure  # zero at the highest frequency
    blocks = ld.BlockDiagonal([ld.Diagonal(gain), ld.SpectralFilter((4,), gain)])
    for op in (ld.Diagonal(gain.expand(2, 4)), ld.SpectralFilter((2, 4), gain), fourier, blocks):
        assert op.has_frame
        x, y = draw((2, 4), 2), draw((2, 4), 2, seed=1)
        step = op.step_map(POLAR, None, complete=True)
        expected = dense_step(op.to_dense(), POLAR, None, x, y, None, completed=True)
        torch.testing.assert_close(step(x, y, None).flatten(1), expected, rtol=1e-11, atol=1e-11)
        changed = (step(x, y, None) - op.step_map(POLAR, None)(x, y, None)).abs().max()
        assert changed > 0.1
    assert not ld.BlockDiagonal([ld.Diagonal(gain), ld.Matrix(gain.diag(), (4,), (4,))]).has_frame


def test_norm_and_singular_values(op):
    expected = torch.linalg.svdvals(op.to_dense())
    assert op.norm() == pytest.approx(float(expected.max()), rel=1e-4)
    torch.testing.assert_close(op.singular_values().sort(descending=True).values, expected, rtol=1e-10, atol=1e-7)


def test_singular_value_decompositions(op):
    """M = U diag(s) Vᵀ with isometries U and V; functions of M are those of s."""
    u, s, vt = op.svd()
    assert (u.out_shape, vt.in_shape) == (op.out_shape, op.in_shape)
    assert u.in_shape == vt.out_shape == tuple(s.shape)
    assert s.dtype == torch.float64
    assert bool((s >= 0).all())
    left, right, dense = u.to_dense(), vt.to_dense(), op.to_dense()
    one = torch.eye(s.numel(), dtype=torch.float64)
    torch.testing.assert_close(left.T @ left, one, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(right @ right.T, one, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(left @ torch.diag(s.flatten()) @ right, dense, rtol=1e-10, atol=1e-10)
    # Both ways, for every batch and in half precision.
    y, z = draw(op.out_shape, 2), draw(u.in_shape, 2)
    torch.testing.assert_close(u.transpose(y).flatten(1), y.flatten(1) @ left, **EXACT)
    torch.testing.assert_close(vt.transpose(z).flatten(1), z.flatten(1) @ right, **EXACT)
    assert u(z.bfloat16()).dtype == vt.transpose(z.bfloat16()).dtype == torch.bfloat16


def test_decompositions_that_are_not_to_be_had():
    with pytest.raises(ValueError, match=r"svd: expected at most .* one of the operators of the library"):
        Opaque(ld.Identity((3, 64, 64))).svd()
    mixed = ld.BlockDiagonal([ld.Resize((4, 4), 2), ld.Matrix(draw((8, 16)), (4, 4), (4, 2))])
    with pytest.raises(ValueError, match=r"svd: expected blocks whose coordinates have one shape"):
        mixed.svd()


def test_any_batch_shape(op):
    x = draw(op.in_shape, 2, 3)
    for batched in (x, x[0], x[0, 0]):
        assert op(batched).shape == (*batched.shape[: batched.ndim - len(op.in_shape)], *op.out_shape)
    torch.testing.assert_close(op(x)[1, 2], op(x[1, 2]), **EXACT)
    torch.testing.assert_close(op.transpose(op(x))[1, 2], op.transpose(op(x[1, 2])), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_keep_the_dtype(op, dtype):
    x = draw(op.in_shape, 2).to(dtype)
    reference = op(x.double())
    error = (op(x).double() - reference).norm() / reference.norm()
    assert op(x).dtype == op.transpose(op(x)).dtype == dtype
    # Sums of at most 48 terms: 48 eps of the arithmetic plus one rounding of the result.
    assert error <= 48 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps


def test_copies_and_pickles_leave_caches_behind(op):
    op.norm()
    for twin in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert not twin._cache
        x = draw(op.in_shape)
        torch.testing.assert_close(twin(x), op(x))
        assert twin.norm() == pytest.approx(op.norm())


def test_wrong_event_shape(op):
    wrong = torch.zeros(3, *op.in_shape[:-1], op.in_shape[-1] + 1)
    with pytest.raises(ValueError, match=r"x: expected shape \(\*batch"):
        op(wrong)
    with pytest.raises(ValueError, match=r"expected shape \(\*batch"):
        op.gram_function(torch.exp, wrong)
    wrong = torch.zeros(3, *op.out_shape[:-1], op.out_shape[-1] + 1)
    with pytest.raises(ValueError, match=r"expected shape \(\*batch"):
        op.transpose(wrong)


def test_integer_images_are_refused(op):
    with pytest.raises(ValueError, match="floating-point"):
        op(torch.zeros(op.in_shape, dtype=torch.uint8))


# ---------------------------------------------------------------------------------------------- properties

seeds = st.integers(0, 2**16)


@given(operators(), seeds)
def test_adjoint_identity(op, seed):
    x, y = draw(op.in_shape, seed=seed), draw(op.out_shape, seed=seed + 1)
    assert float((op(x) * y).sum()) == pytest.approx(float((x * op.transpose(y)).sum()), rel=1e-10, abs=1e-10)


@given(operators(), seeds, st.floats(-3, 3))
def test_linearity(op, seed, scale):
    x, z = draw(op.in_shape, seed=seed), draw(op.in_shape, seed=seed + 1)
    torch.testing.assert_close(op(x + scale * z), op(x) + scale * op(z), rtol=1e-10, atol=1e-10)


@given(st.data())
def test_composition_is_associative_and_is_the_product_of_matrices(data):
    a = data.draw(operators())
    b = data.draw(operators(in_shape=a.out_shape))
    c = data.draw(operators(in_shape=b.out_shape))
    expected = c.to_dense() @ b.to_dense() @ a.to_dense()
    close = {"rtol": 1e-10, "atol": 1e-10 * (1 + float(expected.abs().max()))}
    torch.testing.assert_close(((c @ b) @ a).to_dense(), expected, **close)
    torch.testing.assert_close((c @ (b @ a)).to_dense(), expected, **close)
    torch.testing.assert_close((c @ b @ a).T.to_dense(), expected.T, **close)


# ---------------------------------------------------------------------------------------------- particular operators


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest", "nearest-exact", "area"])
@pytest.mark.parametrize("size", [(32, 24), (17, 40), (64, 48), (7, 5)])
def test_resize_equals_interpolate(mode, size):
    x = draw((3, 64, 48), 2)
    options = {"align_corners": False, "antialias": True} if mode in ("bilinear", "bicubic") else {}
    expected = F.interpolate(x, size, mode=mode, **options)
    torch.testing.assert_close(ld.Resize((3, 64, 48), size, mode)(x), expected, rtol=1e-10, atol=1e-10)


def test_resize_without_antialiasing():
    x = draw((3, 16, 16), 2)
    expected = F.interpolate(x, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ld.Resize((3, 16, 16), 8, antialias=False)(x), expected)


def test_convolution_equals_conv2d():
    kernel = draw((3, 5))
    x = draw((2, 7, 8), 3)
    for padding, mode in (("circular", "circular"), ("reflect", "reflect"), ("zeros", "constant")):
        for weights in (kernel, kernel[:, :1] @ kernel[:1]):
            padded = F.pad(x, (2, 2, 1, 1), mode=mode).reshape(-1, 1, 9, 12)
            expected = F.conv2d(padded, weights.flip(0, 1)[None, None]).reshape(x.shape)
            torch.testing.assert_close(ld.Convolution(weights, (2, 7, 8), padding)(x), expected, **EXACT)


def test_products_keep_their_structure():
    shape = (2, 8, 8)
    half, quarter = ld.Resize(shape, 4), ld.Resize((2, 4, 4), 2)
    assert isinstance(quarter @ half, ld.Separable)
    assert isinstance(ld.Diagonal(draw(shape)) @ ld.Diagonal(draw(shape)), ld.Diagonal)
    blur = ld.SpectralFilter(shape, draw((8, 8)).abs())
    assert isinstance(blur @ blur, ld.SpectralFilter)
    circular = ld.Convolution(draw((3, 3)), shape)
    assert isinstance(circular @ circular, ld.SpectralFilter)
    assert (0.5 * half).operator is half
    assert (0.5 * half @ (2.0 * ld.Identity(shape))).operator is half
    product = ld.Diagonal(draw((2, 4, 4))) @ half @ blur
    assert isinstance(product, ld.Composed)
    assert len(product.factors) == 3


def test_products_of_truncated_filters_are_truncated_filters():
    """Of every two that meet in one basis; others are composed."""
    kinds = [ld.bases.Cosine((2, 8)), ld.bases.Haar((2, 8), 2), ld.bases.Principal(draw((2, 8), 20), 12)]
    for basis, middle, small in zip(kinds, [(2, 4), (2, 4), (8,)], [(2, 2), (2, 2), (3,)], strict=True):
        half = basis.smaller(middle)
        coarse, fine = half.smaller(small).coordinates, basis.coordinates
        down = ld.Truncation(basis, middle), ld.TruncatedFilter(basis, middle, draw(half.coordinates, seed=1))
        again = ld.Truncation(half, small), ld.TruncatedFilter(half, small, draw(coarse[-1:], seed=2))
        before = ld.SpectralFilter(basis.shape, draw(fine, seed=3), basis)
        between = ld.SpectralFilter(middle, draw(half.coordinates[-1:], seed=4), half)
        pairs = [(left, right) for left in (*again, between) for right in down] + [(left, before) for left in down]
        for left, right in pairs:
            product = left @ right
            expected = ld.Truncation if type(left) is type(right) is ld.Truncation else ld.TruncatedFilter
            assert type(product) is expected
            torch.testing.assert_close(product.to_dense(), left.to_dense() @ right.to_dense(), **EXACT)
        multiple = -0.5 * down[1]
        assert isinstance(multiple, ld.TruncatedFilter)
        torch.testing.assert_close(multiple.to_dense(), -0.5 * down[1].to_dense(), **EXACT)
        assert isinstance(0.0 * down[1], ld.Scaled)
        assert isinstance(ld.Diagonal(draw(middle)) @ down[1], ld.Composed)
        assert isinstance(ld.SpectralFilter(middle, torch.ones(1), "fft") @ down[1], ld.Composed)


def test_a_structure_is_found_inside_a_composed_product():
    blur, mask = ld.SpectralFilter((1, 8), draw((8,)).abs()), ld.Diagonal(draw((1, 8)))
    assert len((blur @ (blur @ mask)).factors) == 2
    assert len(((mask @ blur) @ blur).factors) == 2


def test_shapes_that_do_not_chain():
    with pytest.raises(ValueError, match=r"a @ b: expected b\.out_shape"):
        ld.Identity((3,)) @ ld.Identity((4,))


def test_transpose_without_gradients_and_through_them():
    op = Opaque(ld.Resize((1, 8), 4))
    y = draw((1, 4), 2)
    with torch.no_grad():
        plain = op.transpose(y)
    with torch.inference_mode():
        inferred = op.transpose(y.clone())
    torch.testing.assert_close(plain, inferred.clone())
    assert not plain.requires_grad
    assert torch.autograd.gradcheck(op.transpose, y.requires_grad_())
    assert torch.autograd.gradcheck(op.gram, draw((1, 8), 2).requires_grad_())


@pytest.mark.parametrize("name", ["resize bilinear", "dct", "fft", "diagonal", "matrix wide"])
def test_gradients_through_structured_functions(name):
    op = ZOO[name]
    x = draw(op.in_shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: op.gram_function(lambda values: 1 / (1 + values), v), x)


def test_apply_that_returns_a_wrong_shape():
    class Broken(ld.LinearOperator):
        def apply(self, x):
            return x[..., :-1]

    with pytest.raises(ValueError, match=r"Broken\.apply: expected a result of shape \(2, 4\), got \(2, 3\)"):
        Broken((4,), (4,))(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ld.Identity((0, 3)), "expected at least one size"),
        (lambda: ld.Identity((2.5,)), "expected a sequence of ints"),
        (lambda: float("nan") * ld.Identity((3,)), "scale: expected a finite"),
        (lambda: ld.Diagonal(torch.tensor([1.0, float("nan")])), "weight: expected finite"),
        (lambda: ld.Matrix(torch.zeros(2, 3), (2,), (3,)), "weight: expected shape"),
        (lambda: ld.Separable([torch.zeros(2, 3)], (4,)), "factors: expected matrices"),
        (lambda: ld.Resize((3, 8, 8), 4, mode="cubic"), "mode: expected"),
        (lambda: ld.Resize((3, 8, 8), (4, 0)), "size: expected"),
        (lambda: ld.Resize((8,), (4, 4)), "size: expected"),
        (lambda: ld.SpectralFilter((1, 8), torch.ones(7)), "gain: expected a shape"),
        (lambda: ld.TruncatedFilter(ld.bases.Haar((1, 8)), (1, 4), torch.ones(8)), "gain: expected a shape"),
        (lambda: ld.TruncatedFilter(ld.bases.Haar((1, 8)), (1, 3), torch.ones(3)), "shape: expected one of the 1 halv"),
        (lambda: ld.TruncatedFilter(ld.bases.Haar((1, 8)), (1, 4), torch.tensor(math.nan)), "gain: expected finite"),
        (lambda: ld.TruncatedFilter(ld.bases.Haar((1, 8)), (1, 4), 1j * torch.ones(4)), "gain: expected real"),
        (lambda: ld.SpectralFilter((1, 8), torch.ones(8), basis="haar"), "basis: expected"),
        (lambda: ld.SpectralFilter((1, 8), torch.ones(8) + 1j), "gain: expected real"),
        (lambda: ld.SpectralFilter((1, 8), torch.arange(8.0), basis="fft"), "gain: expected gain"),
        (lambda: ld.Convolution(torch.ones(2), (1, 8)), "kernel: expected odd sizes"),
        (lambda: ld.Convolution(torch.ones(3), (1, 8), padding="same"), "padding: expected"),
        (lambda: ld.Composed(), "factors: expected at least one"),
        (lambda: ld.Sum(), "terms: expected at least one"),
        (lambda: ld.AveragePool((1, 9), 2), "factor: expected divisors"),
        (lambda: ld.BlockDiagonal([]), "blocks: expected operators of one shape, got none"),
        (lambda: ld.BlockDiagonal([ld.Identity((2,)), ld.Identity((3,))]), "blocks: expected operators of one shape"),
        (lambda: ld.ChannelMix(torch.ones(3), ld.Identity((2,))), "weight: expected a matrix"),
        (lambda: ld.OperatorChain([]), "steps: expected at least one"),
        (lambda: ld.OperatorChain([ld.Identity((2,)), ld.Identity((3,))]), "in_shape"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_batch_of_different_operators(op):
    """Row i by operator i, whatever the class: as `diffuse` does it for random times."""
    twins = [scale * op for scale in (0.5, -1.0, 2.0)] + [op, op]
    x = draw(op.in_shape, 5)
    expected = torch.stack([twin(row) for twin, row in zip(twins, x, strict=True)])
    torch.testing.assert_close(apply_each(twins, x), expected, **EXACT)


@pytest.mark.parametrize("kind", ["diagonal", "matrix", "separable", "dct", "fft", "truncated"])
def test_different_operators_of_one_class_are_applied_at_once(kind):
    make = {
        "diagonal": lambda i: ld.Diagonal(draw((2, 3, 4), seed=i)),
        "matrix": lambda i: ld.Matrix(draw((5, 24), seed=i), (2, 3, 4), (5,)),
        "separable": lambda i: ld.Separable([draw((2, 3), seed=i), draw((5, 4), seed=9 + i)], (2, 3, 4)),
        "dct": lambda i: ld.SpectralFilter((2, 3, 4), draw((3, 4), seed=i)),
        "fft": lambda i: ld.Convolution(draw((3, 3), seed=i), (2, 3, 4)).structure,
        "truncated": lambda i: ld.TruncatedFilter(ld.bases.Cosine((2, 3, 4)), (2, 2, 3), draw((2, 3), seed=i)),
    }[kind]
    members = [make(i) for i in range(4)]
    x = draw((2, 3, 4), 4, seed=7)
    expected = torch.stack([member(row) for member, row in zip(members, x, strict=True)])
    torch.testing.assert_close(type(members[0])._apply_each(members, x), expected, **EXACT)
    if kind in ("dct", "fft", "truncated"):  # by one change of basis
        calls, analyse = [], type(members[0])._to_right
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(members[0]), "_to_right", lambda self, x: calls.append(self) or analyse(self, x))
            type(members[0])._apply_each(members, x)
        assert calls == members[:1]


@given(st.data())
def test_sums_are_the_sums_of_matrices(data):
    a = data.draw(operators())
    b = data.draw(operators(in_shape=a.in_shape).filter(lambda b: b.out_shape == a.out_shape))
    expected = a.to_dense() + 2 * b.to_dense()
    close = {"rtol": 1e-10, "atol": 1e-10 * (1 + float(expected.abs().max()))}
    torch.testing.assert_close((a + 2.0 * b).to_dense(), expected, **close)
    torch.testing.assert_close((b - 0.5 * (b - a)).to_dense(), (a.to_dense() + b.to_dense()) / 2, **close)
    torch.testing.assert_close((a + b + a).T.to_dense(), (2 * a.to_dense() + b.to_dense()).T, **close)


def test_sums_keep_their_structure():
    shape = (2, 4, 4)
    one, mask, blur = ld.Identity(shape), ld.Diagonal(draw(shape)), ld.SpectralFilter(shape, draw((4, 4)))
    assert (0.5 * one - 2.0 * one).scale == -1.5
    for multiple in (one, 0.5 * one):
        for structured, kind in ((mask, ld.Diagonal), (blur, ld.SpectralFilter)):
            assert isinstance(multiple + structured, kind)
            assert isinstance(structured - multiple, kind)
    assert isinstance(mask + mask, ld.Diagonal)
    assert isinstance(blur + 2.0 * ld.Convolution(draw((3, 3)), shape), ld.Sum)  # cosine and Fourier bases
    assert len((mask + blur + mask).terms) == 3
    with pytest.raises(ValueError, match=r"a \+ b: expected operators of the same shapes"):
        mask + ld.Identity((2, 4, 5))


# ---------------------------------------------------------------------------------------------- chains


@given(st.data(), st.integers(1, 5))
def test_cumulative_products_equal_products_step_by_step(data, length):
    steps, shape = [], None
    for _ in range(length):
        steps.append(data.draw(operators(in_shape=shape)))
        shape = steps[-1].out_shape
    chain = ld.OperatorChain(steps)
    x = draw(chain.shape(0), 2)
    states = [x]
    for step in steps:
        states.append(step(states[-1]))
    for t, state in enumerate(states):
        assert chain.shape(t) == state.shape[1:]
        close = {"rtol": 1e-10, "atol": 1e-10 * (1 + float(state.abs().max()))}
        torch.testing.assert_close(chain.cumulative(t)(x), state, **close)
        for s in range(t + 1):
            torch.testing.assert_close(chain.between(s, t)(states[s]), state, **close)


def test_chain_caches_and_collapses():
    shape = (3, 16, 16)
    fine, coarse = 0.99 * ld.Identity(shape), 0.99 * ld.Identity((3, 8, 8))
    chain = ld.OperatorChain([fine] * 500 + [ld.Resize(shape, 8)] + [coarse] * 500)
    assert chain.cumulative(1001) is chain.cumulative(1001)
    assert chain.between(3, 900) is chain.between(3, 900)
    assert isinstance(chain.cumulative(1001), ld.Scaled)
    assert chain.cumulative(1001).scale == pytest.approx(0.99**1000)
    twin = pickle.loads(pickle.dumps(chain))
    assert twin.__getstate__().keys() == chain.__getstate__().keys() == {"_steps"}
    x = draw(shape)
    torch.testing.assert_close(twin.cumulative(700)(x), chain.cumulative(700)(x))


def test_chain_times_out_of_range():
    chain = ld.OperatorChain([ld.Identity((2,))] * 3)
    for call in (lambda: chain.step(0), lambda: chain.step(4), lambda: chain.between(2, 1), lambda: chain.shape(-1)):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_the_axes_a_gain_has_are_transformed():
    x = draw((3, 6, 4), 2)
    gain = draw((6, 4))
    spectrum = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")) * gain
    expected = torch.from_numpy(scipy.fft.idctn(spectrum.numpy(), axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(ld.SpectralFilter((3, 6, 4), gain)(x), expected)
    torch.testing.assert_close(ld.SpectralFilter((6, 4), gain)(x), expected)
    torch.testing.assert_close(ld.SpectralFilter((3, 6, 4), gain.expand(3, 6, 4))(x), expected)
