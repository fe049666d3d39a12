"""What operators cost, in what can be counted: operations of a device, applications of an operator, bytes that are
kept."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

import lineardiffusion as ld
from conftest import ZOO
from costs import Operations
from lineardiffusion.krylov import krylov_spaces
from lineardiffusion.lanczos import largest_at_most
from lineardiffusion.operators import chain as chain_module
from lineardiffusion.operators.memory import held_bytes
from lineardiffusion.testing import Opaque
from test_operators import DEVIATION, POLAR, draw
from test_precision import STRUCTURED


def step_inputs(op: ld.LinearOperator, **options) -> list[torch.Tensor]:
    return [torch.zeros(2, *shape, **options) for shape in (op.in_shape, op.out_shape, op.in_shape)]


@pytest.mark.parametrize("name", [name for name in STRUCTURED if name != "orthogonal rows transposed"])
@pytest.mark.parametrize("gain", [0.3, POLAR], ids=["number", "function"])
def test_a_prepared_step_makes_no_tensor_on_the_cpu(name, gain):
    """After the first one; nor does it wait for a value, which "meta" has none of."""
    op = 0.7 * ZOO[name]
    step = op.step_map(gain, DEVIATION, complete=True)
    inputs = step_inputs(op, device="meta")
    step(*inputs)
    with Operations() as operations:
        assert step(*inputs).is_meta
    assert operations.names
    assert not operations.elsewhere


def test_a_step_by_multiples_of_the_identity_is_two_multiply_adds():
    op = 0.7 * ld.Identity((3, 4))
    for complete in (False, True):
        step, inputs = op.step_map(POLAR, DEVIATION, complete=complete), step_inputs(op)
        with Operations() as operations:
            step(*inputs)
        assert operations.names == ["mul", "add", "add"]


@pytest.mark.parametrize("name", ["dct", "fft", "resize bilinear", "matrix wide", "channel mix", "average pool"])
def test_a_step_is_one_synthesis(name, monkeypatch):
    op, syntheses = ZOO[name], []
    owner = op.operator if name == "channel mix" else op
    method = "transpose" if name == "average pool" else "_from_right"
    original = getattr(owner, method)
    monkeypatch.setattr(owner, method, lambda z: syntheses.append(len(z)) or original(z))
    op.step_map(POLAR, DEVIATION)(*step_inputs(op))
    assert len(syntheses) == (2 if name == "channel mix" else 1)  # one for each channel


@pytest.mark.parametrize("name", ["scalar", "fft", "scaled resize", "average pool", "channel mix", "resize nearest"])
def test_a_prepared_step_compiles_into_one_graph(name):
    op = ZOO[name]
    step = op.step_map(POLAR, DEVIATION, complete=True)
    inputs = [draw(shape, 2, seed=i).float() for i, shape in enumerate((op.in_shape, op.out_shape, op.in_shape))]
    expected = step(*inputs)
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), expected)


# ---------------------------------------------------------------------------------------------- applications


class Counted(ld.LinearOperator):
    """Of unknown structure, and counts its applications."""

    def __init__(self, operator: ld.LinearOperator) -> None:
        super().__init__(operator.in_shape, operator.out_shape)
        self.operator, self.calls = operator, 0

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.operator.apply(x)


def calls(*operators: Counted) -> list[int]:
    """Since they were last asked for."""
    counts = [operator.calls for operator in operators]
    for operator in operators:
        operator.calls = 0
    return counts


SHAPE = (1, 8, 6)
COMBINED = {
    "product": lambda a, b: a @ b,
    "sum": lambda a, b: a + b,
    "multiple": lambda a, b: 0.5 * a + 2.0 * (b @ a),
}


@pytest.mark.parametrize("name", list(COMBINED))
def test_the_graph_of_a_transpose_is_built_once_for_all_products(name):
    """n products with MᵀM take n applications of M, for the gradient of each, and one for the graph that they share."""
    a, b = Counted(ld.SpectralFilter(SHAPE, draw((8, 6)).abs())), Counted(ld.Diagonal(draw(SHAPE)))
    op = COMBINED[name](a, b)
    x = draw(SHAPE, 2)
    with torch.no_grad():
        op(x)
        once = calls(a, b)
        pull = op._pullback(x, SHAPE)
        assert calls(a, b) == once
        for _ in range(3):
            torch.testing.assert_close(pull(x), op.transpose(x))
            calls(a, b)
            pull(x)
            assert calls(a, b) == [0, 0]
    assert torch.autograd.gradcheck(op._pullback(x, SHAPE), x.clone().requires_grad_())


def test_whether_a_norm_is_at_most_a_bound(op):
    """Of what is known by products alone; and of multiples, transposes and blocks of that."""
    slack = 0.03
    opaque = Counted(op)
    norm = op.norm()
    wrapped = [
        (1, opaque),
        (2, -2.0 * opaque),
        (1, opaque.T),
        (3, ld.BlockDiagonal([opaque, 3.0 * opaque])),
        (4, ld.ChannelMix(torch.tensor([[0.0, 4.0]]), opaque)),
    ]
    for scale, operator in wrapped:
        assert operator.norm_at_most((1 + slack) * scale * norm)
        assert not operator.norm_at_most((1 - slack) * scale * norm)
        assert operator.norm_at_most(math.inf)
        assert not operator.norm_at_most(-1.0)
        assert "norm" not in opaque._cache
    assert op.norm_at_most((1 + slack) * norm)
    assert not op.norm_at_most((1 - slack) * norm)


def test_products_that_a_bound_takes():
    """64² pixels; what a norm takes is 128."""
    profile = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    blur = Counted(ld.Convolution(profile[:, None] * profile, (3, 64, 64), "reflect"))
    norm = blur.operator.norm()
    for slack, most in ((1.0, 15), (0.1, 30), (0.01, 55)):
        assert blur.norm_at_most(norm * math.sqrt(1 + slack))
        assert calls(blur)[0] <= most
    assert not blur.norm_at_most(0.9 * norm)
    assert calls(blur)[0] <= 15


def test_a_norm_that_a_user_knows_is_asked():
    class Mask(Opaque):
        def norm(self):
            return 1.0

    mask = Mask(ld.Identity((4,)))
    assert mask.norm_at_most(1.0)
    assert not mask.norm_at_most(0.999)


def test_a_bound_is_never_said_to_hold_where_it_does_not():
    """Of 300 spectra of five kinds, by one random vector each: a yes would be wrong once in 10 000."""
    generator = torch.Generator().manual_seed(0)
    kinds = [
        lambda u: u,
        lambda u: u**6,
        lambda u: 0.9 + 0.1 * u,
        lambda u: (u > 0.5).double(),
        lambda u: torch.where(torch.arange(len(u)) == 0, 1, 0.1 * u),
    ]
    for trial in range(300):
        n = int(torch.randint(2, 300, (1,), generator=generator))
        values = kinds[trial % 5](torch.rand(n, generator=generator, dtype=torch.float64))
        values = (values / values.max().clamp(min=1e-9)).float()
        v = torch.randn(n, generator=generator)
        if values.max() == 0:
            continue
        assert not largest_at_most(lambda x, values=values: values * x, v, 1 - 1e-4)
        assert largest_at_most(lambda x, values=values: values * x, v, 1 + 1e-2)


def opaque_chain(length: int) -> tuple[ld.OperatorChain, list[Counted]]:
    """With one change of shape in the middle."""
    steps = [Counted(ld.SpectralFilter(SHAPE, 0.9 + 0.1 * draw((8, 6), seed=t).abs())) for t in range(length // 2)]
    steps.append(Counted(ld.AveragePool(SHAPE, 2)))
    steps += [Counted(ld.Diagonal(draw((1, 4, 3), seed=t))) for t in range(length - len(steps))]
    return ld.OperatorChain(steps), steps


@pytest.mark.parametrize("times", [[7, 12, 9, 12, 11], [12, 12], [5, 0, 3, 5], [0, 0]])
def test_a_batch_of_times_takes_no_more_applications_than_there_are_steps(times):
    chain, steps = opaque_chain(12)
    x = draw(SHAPE, len(times))
    expected = torch.stack([chain.cumulative(t)(row) for t, row in zip(times, x, strict=True)])
    calls(*steps)
    torch.testing.assert_close(chain.apply_cumulative(times, x), expected, rtol=1e-12, atol=1e-12)
    assert calls(*steps) == [1] * max(times) + [0] * (12 - max(times))
    half = chain.apply_cumulative(times, x.bfloat16())  # rounded once
    assert half.dtype == torch.bfloat16
    reference = chain.apply_cumulative(times, x.bfloat16().double())
    torch.testing.assert_close(half.double(), reference, rtol=2**-8, atol=1e-6)


# ---------------------------------------------------------------------------------------------- bytes


def test_products_of_matrices_are_kept_within_a_bound(monkeypatch):
    """60 products of 40 kB and their factorisations; those that are gone are made again from the nearest."""
    monkeypatch.setattr(chain_module, "_KEPT_BYTES", limit := 600_000)
    rotation = torch.linalg.qr(draw((70, 70))).Q
    chain = ld.OperatorChain([ld.Matrix(rotation, (70,), (70,))] * 60)
    x = draw((70,), 3)
    for s, t in [(0, t) for t in range(61)] + [(t, t + 5) for t in range(50)]:
        product = chain.between(s, t)
        torch.testing.assert_close(product(x), x @ torch.linalg.matrix_power(rotation, t - s).T)
        product.gram_function(lambda values: 1 + values, x.float())
        product(x.float())
    kept = list(chain._products._kept.values())
    held = held_bytes([product for product, _ in kept], chain._products._apart)
    last = held_bytes(kept[-1][0], chain._products._apart)  # what the last one will hold is not known yet
    assert 0.5 * limit <= held <= limit + last
    made = []
    monkeypatch.setattr(chain, "step", lambda t, step=chain.step: made.append(t) or step(t))
    chain.cumulative(60)
    chain.cumulative(59)
    assert len(made) <= 60 + 8  # the root of 60, from the last product that was kept on the way


def test_matrices_that_cannot_all_be_kept_are_applied_one_by_one(monkeypatch):
    monkeypatch.setattr(chain_module, "_KEPT_BYTES", 30_000)
    weights = [draw((10, 10), seed=t) / 3 for t in range(50)]
    chain = ld.OperatorChain([ld.Matrix(weight, (10,), (10,)) for weight in weights])
    x, times = draw((10,), 4), [50, 3, 20, 3]
    expected = torch.stack([_product(weights[:t]) @ row for t, row in zip(times, x, strict=True)])
    torch.testing.assert_close(chain.apply_cumulative(times, x), expected)
    assert not chain._products._kept


def _product(weights: list[torch.Tensor]) -> torch.Tensor:
    result = torch.eye(10, dtype=torch.float64)
    for weight in weights:
        result = weight @ result
    return result


def test_weights_are_cast_once_for_each_of_a_few_precisions():
    op = ld.Matrix(draw((6, 8)), (8,), (6,))
    step = op.step_map(POLAR, DEVIATION)
    for dtype in (torch.float32, torch.float64):
        inputs = [part.to(dtype) for part in (draw((8,)), draw((6,)), draw((8,)))]
        for function, arguments in ((step, inputs), (op, inputs[:1]), (op.transpose, inputs[1:2])):
            function(*arguments)
            with Operations() as operations:
                function(*arguments)
            assert "_to_copy" not in operations.names
    casts = op._cache["weight"]._kept
    for device in ("meta", "cpu"):
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            op._weight(torch.zeros((), dtype=dtype, device=device))
    assert len(casts) == 4


@pytest.mark.parametrize("learned", [False, True])
def test_a_krylov_basis_is_kept_once(learned):
    """Products with the basis are kept beside it only where gradients of what the matrix depends on are followed."""
    weight = nn.Parameter(0.5 + draw((50,)).abs(), requires_grad=learned)
    _, spaces = krylov_spaces(lambda x: weight * x, draw((50,), 2), event_ndim=1)
    space = next(itertools.islice(spaces, 9, None))
    assert space.basis.shape == (2, 10, 50)
    assert len(space.products) == (10 if learned else 0)
