"""What operators cost, in what can be counted: operations of a device, applications of an operator, bytes that are
kept."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from conftest import ZOO
from costs import Operations
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


COMPILED = "scalar", "dct", "fft", "scaled resize", "average pool", "block diagonal", "channel mix", "resize nearest"


@pytest.mark.parametrize("name", COMPILED)
def test_a_prepared_step_compiles_into_one_graph(name):
    op = ZOO[name]
    step = op.step_map(POLAR, DEVIATION, complete=True)
    inputs = [draw(shape, 2, seed=i).float() for i, shape in enumerate((op.in_shape, op.out_shape, op.in_shape))]
    expected = step(*inputs)
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), expected)
