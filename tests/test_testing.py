"""The kit for people who write operators: it passes what is right and names what is wrong."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld


def test_every_operator_of_the_library_passes(op):
    ld.testing.check_operator(op)


class Broken(ld.LinearOperator):
    def __init__(self):
        super().__init__((4,), (4,))
        self.calls = 0


class Affine(Broken):
    def apply(self, x):
        return x + 1


class Absolute(Broken):
    def apply(self, x):
        return x.abs()


class InPlace(Broken):
    def apply(self, x):
        return x.mul_(2)


class Mixing(Broken):
    def apply(self, x):
        return x - x.mean(0, keepdim=True) if x.ndim > 1 and len(x) > 1 else x


class OneBatchDimension(Broken):
    def apply(self, x):
        return x * torch.arange(1.0, 1 + len(x))[(..., *[None] * (x.ndim - 1))] if x.ndim > 2 else x * 2


class Random(Broken):
    def apply(self, x):
        self.calls += 1
        return self.calls * x


class WrongTranspose(Broken):
    def apply(self, x):
        return 2 * x

    def transpose(self, y):
        return y / 2


class WrongShape(Broken):
    def apply(self, x):
        return x

    def transpose(self, y):
        return y[..., :3]


class WrongNorm(Broken):
    def apply(self, x):
        return 2 * x

    def norm(self):
        return 1.0


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (Affine, r"Affine is not linear: M 0"),
        (Absolute, r"Absolute is not linear: M \(2\.5 x \+ z\)"),
        (InPlace, r"InPlace\.apply changes its argument"),
        (Mixing, r"Mixing mixes the samples|Mixing does not take"),
        (OneBatchDimension, r"OneBatchDimension does not take several"),
        (Random, r"Random is not pure"),
        (WrongTranspose, r"WrongTranspose\.transpose is not the adjoint"),
        (WrongShape, r"WrongShape\.transpose: expected shape"),
        (WrongNorm, r"WrongNorm\.norm: expected at least"),
    ],
)
def test_what_is_wrong_is_named(operator, message):
    with pytest.raises(ValueError, match=message):
        ld.testing.check_operator(operator())
