"""What training and sampling do on an accelerator, for every family: nothing is waited for once it was done before."""

from __future__ import annotations

import pytest
import torch
from benchmarks.gpu_waits import Network, diffuse, families, loss, steps

import lineardiffusion as ld
from costs import Operations

SHAPE = (3, 8, 8)


def work(kind, run):
    """A function that does what benchmarks/gpu.py counts, on the device that stands in for an accelerator."""
    shape = (3, 32, 32) if kind is ld.families.ColdDiffusion else SHAPE  # whose kernels are as large
    process = kind(shape)
    x0 = process.data(torch.zeros(4, *shape, device="meta"))
    return run(process.denoiser(Network(kind.__name__).to("meta")), x0)[1]


@pytest.mark.parametrize("kind", families(None), ids=lambda kind: kind.__name__)
def test_nothing_is_waited_for(kind):
    """Whatever looks at a value would raise. Times are numbers on the CPU, moved without waiting; a step has none."""
    for run in (diffuse, loss, steps):
        function = work(kind, run)
        function()
        with Operations() as operations:
            function()
        assert operations.names
        assert operations.waits == []
        if run is steps:
            assert operations.elsewhere == []
