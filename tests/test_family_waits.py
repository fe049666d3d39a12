"""What training and sampling do on an accelerator, for every family: nothing is waited for once it was done before."""

from __future__ import annotations

import pytest
import torch
from benchmarks.gpu_waits import Network, diffuse, families, loss, steps

import lineardiffusion as ld
from costs import Operations
from lineardiffusion.operators.base import apply_each
from lineardiffusion.testing import Opaque

SHAPE = (3, 8, 8)
# With fewer steps than published, whose noise levels take seconds to make.
SHORT = {name: {"num_steps": 50} for name in ("Matryoshka", "PyramidNoise", "OffsetNoise", "EqualSNR")}
SHORT["CascadedDiffusion"] = {"num_steps": 25, "augmentation": 5}


@pytest.mark.parametrize("kind", families(None), ids=lambda kind: kind.__name__)
def test_nothing_is_waited_for(kind):
    """On the device that stands in for one, whatever looks at a value would raise. Times are numbers on the CPU, which
    are moved without waiting; a step has none."""
    shape = (3, 32, 32) if kind is ld.families.ColdDiffusion else SHAPE  # whose kernels are as large
    process = kind(shape, **SHORT.get(kind.__name__, {}))
    x0 = process.data(torch.zeros(4, *shape, device="meta"))
    denoiser = process.denoiser(Network(kind.__name__).to("meta"))
    for run in (diffuse, loss, steps):
        _, function = run(denoiser, x0)
        function()
        with Operations() as operations:
            function()
        assert operations.names
        assert operations.waits == []
        if run is steps:
            assert operations.elsewhere == []


def test_a_wait_is_seen():
    """Of what is on another device at each call, of an index there, and of what Python gives."""
    weights, rows = torch.ones(3, 2), torch.tensor([0, 2])
    x = torch.zeros(3, 2, device="meta")
    with Operations() as operations:
        x * weights.to("meta")
        weights[0, 0].to("meta")
        x[rows]
        x[[0, 2]]
        x[[0, 2]] = x[:2]
        x[0, 0] = 1.0
    assert len(operations.waits) == 6
    with Operations() as operations:
        x[rows.to("meta", non_blocking=True)]
        torch.where(x > 0, x, 1.0)
        2.0 * x[1:]
    assert operations.waits == []


def test_rows_of_several_operators_are_put_together_without_waiting():
    """Of several kinds, and of a chain whose products are not known."""
    x, gain = torch.zeros(3, 1, 8, device="meta"), torch.linspace(1, 0.1, 8)
    operators = [ld.SpectralFilter((1, 8), gain), 0.5 * ld.Identity((1, 8)), ld.SpectralFilter((1, 8), gain)]
    chain = ld.OperatorChain([Opaque(ld.SpectralFilter((1, 8), gain)) for _ in range(3)])
    for run in (lambda: apply_each(operators, x), lambda: chain.apply_cumulative([3, 1, 2], x)):
        run()
        with Operations() as operations:
            assert run().shape == x.shape
        assert operations.waits == []
