"""Operators of a function: right where it is linear, refused where it is not."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.nn import functional as F

import lineardiffusion as ld

SHAPE = (2, 6, 5)


def blur(x):
    kernel = torch.tensor([[1.0, 2.0, 1.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64).to(x)
    return F.conv2d(x, kernel.expand(2, 1, 3, 3), groups=2, padding=1)


FUNCTIONS = {
    "blur": blur,
    "half": lambda x: F.interpolate(x, size=(3, 2), mode="bilinear", antialias=True, align_corners=False),
    "spectrum": lambda x: torch.view_as_real(torch.fft.rfft2(x, norm="ortho")),
    "sum": lambda x: x.flatten(1).sum(1, keepdim=True),
    "nothing": lambda x: 0 * x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_an_operator(name):
    ld.testing.check_operator(ld.from_function(FUNCTIONS[name], SHAPE))


def test_its_matrix_and_transpose_are_those_of_the_function():
    op = ld.from_function(FUNCTIONS["half"], SHAPE)
    assert (op.in_shape, op.out_shape) == (SHAPE, (2, 3, 2))
    jacobian = torch.autograd.functional.jacobian(lambda x: FUNCTIONS["half"](x[None])[0], torch.zeros(SHAPE).double())
    dense = jacobian.reshape(12, 60)
    assert torch.allclose(op.to_dense(), dense, rtol=0, atol=1e-15)
    y = torch.randn(3, 4, *op.out_shape, dtype=torch.float64)
    assert torch.allclose(op.transpose(y).reshape(12, 60), y.reshape(12, 12) @ dense, rtol=0, atol=1e-14)


def test_dtype_follows_and_parameters_learn():
    op = ld.from_function(blur, SHAPE)
    assert op(torch.zeros(1, *SHAPE)).dtype == torch.float32
    gain = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    learned = ld.from_function(lambda x: gain.to(x) * x, (4,))
    (learned(torch.ones(4)).sum() + learned.transpose(torch.ones(4)).sum()).backward()
    assert float(gain.grad) == 8.0


def test_modules_and_pickles():
    linear = torch.nn.Linear(4, 3, bias=False).double()
    op = ld.from_function(linear, (4,))
    assert torch.equal(op.to_dense(), linear.weight)
    assert torch.equal(pickle.loads(pickle.dumps(op)).to_dense(), linear.weight)


def straight_through(x):
    return x + (torch.round(64 * x) / 64 - x).detach()


REFUSED = {
    "a constant": (lambda x: x + 1, ValueError, "f\\(0\\) with entries up to 1: leave the constant out"),
    "a square": (lambda x: x.square(), ValueError, "linear function, got f\\(x \\+ z\\) ≠ f\\(x\\) \\+ f\\(z\\)"),
    "a clamp": (lambda x: x.clamp(-9, 9), ValueError, "got f\\(100 x\\) ≠ 100 f\\(x\\)"),
    "rounding": (straight_through, ValueError, "linear function"),
    "a slight curve": (lambda x: x + 1e-5 * x**3, ValueError, "linear function"),
    "a mixed batch": (lambda x: x - x.mean(0), ValueError, "depends on the rest of its batch"),
    "an unbatched function": (lambda x: x[:, 0], ValueError, None),
    "no gradient": (lambda x: x.detach(), ValueError, "without a gradient; write it with torch's"),
    "half a gradient": (lambda x: x + x.detach(), ValueError, "with the gradient of a linear one"),
    "complex": (lambda x: torch.fft.fft(x), ValueError, "torch.view_as_real"),
    "another dtype": (lambda x: x.float(), ValueError, "expected a result of the dtype of its argument, torch.float64"),
    "float32 inside": (lambda x: x @ torch.ones(4, 4), TypeError, r"kernel.to\(x\)"),
    "no tensor": (lambda x: [x], TypeError, "returns a tensor, got list"),
    "a number": (lambda x: x.sum(), ValueError, "an event for each of 5 in a batch"),
    "a row of numbers": (lambda x: x.sum(1), ValueError, "of at least one dimension"),
    "no function": (torch.eye(4), TypeError, "f: expected a function"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    f, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        ld.from_function(f, (4,))


def test_is_part_of_a_process():
    op = ld.from_function(lambda x: 0.9 * x + 0.05 * (x.roll(1, -1) + x.roll(-1, -1)), (1, 8))
    known = ld.Matrix(op.to_dense(), (1, 8), (1, 8))
    x, noise = torch.randn(2, 3, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas = [0.0, 0.3, 0.6, 0.9]
    draws = [ld.LinearDiffusion([m] * 3, sigmas).posterior(x, x / 2, t=2).sample(noise) for m in (op, known)]
    assert torch.allclose(*draws, rtol=0, atol=1e-5)
