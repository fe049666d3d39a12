"""What an operator holds: constants that are copied and checked in one place, or parameters that are learned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lineardiffusion as ld
from lineardiffusion.covariance import GramCovariance
from lineardiffusion.testing import Opaque
from test_operators import draw

# Every class that takes numbers, from a square matrix of them.
CLASSES = {
    "Diagonal": lambda w: ld.Diagonal(w),
    "Matrix": lambda w: ld.Matrix(w, (3,), (3,)),
    "Separable": lambda w: ld.Separable([w], (1, 3)),
    "SpectralFilter": lambda w: ld.SpectralFilter((3, 3), w),
    "Convolution": lambda w: ld.Convolution(w, (1, 5, 5)),
    "ChannelMix": lambda w: ld.ChannelMix(w, ld.Identity((2,))),
}


@pytest.mark.parametrize("name", list(CLASSES))
def test_what_is_being_learned_is_refused_and_not_silently_detached(name):
    parameter = nn.Parameter(draw((3, 3)))
    with pytest.raises(ValueError, match=r"expected a constant, .* \w+\.detach\(\)"):
        CLASSES[name](parameter)
    with pytest.raises(ValueError, match="expected a constant"):
        CLASSES[name](2 * parameter)
    CLASSES[name](parameter.detach())
    with torch.no_grad():  # where no gradient is asked for, none is lost
        CLASSES[name](parameter)


@pytest.mark.parametrize("name", list(CLASSES))
def test_constants_are_copies(name):
    """What the caller does to his tensor afterwards changes nothing, before or after the first use."""
    weight = draw((3, 3))
    op = CLASSES[name](weight)
    x = draw(op.in_shape)
    expected, norm = op(x), op.norm()
    weight.mul_(100)
    torch.testing.assert_close(op(x), expected)
    torch.testing.assert_close(op.gram_function(lambda v: v, x), op.gram(x))
    assert CLASSES[name](weight).norm() == pytest.approx(100 * norm)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "SpectralFilter"])
@pytest.mark.parametrize("bad", [1j, float("nan"), float("inf")])
def test_complex_and_infinite_constants_are_refused(name, bad):
    weight = draw((3, 3)).to(torch.complex128 if isinstance(bad, complex) else torch.float64)
    weight[1, 1] = bad
    with pytest.raises(ValueError, match=r"expected (real numbers|finite values)"):
        CLASSES[name](weight)


@pytest.mark.parametrize("name", list(CLASSES))
def test_what_is_no_tensor_is_refused(name):
    with pytest.raises((TypeError, AttributeError)):
        CLASSES[name]([[1.0, 0.0, 0.0]] * 3)


def test_complex_data_are_refused_by_every_class(op):
    """An imaginary part is never lost; it goes in as a channel."""
    x, y = draw(op.in_shape).to(torch.complex64), draw(op.out_shape).to(torch.complex64)
    calls = [
        lambda: op(x),
        lambda: op.transpose(y),
        lambda: op.gram(x),
        lambda: op.gram_function(torch.exp, x),
        lambda: op.cogram_function(torch.exp, y),
        lambda: op.correct(0.5, x, y),
        lambda: ld.posterior(y, x, 0.1 / op.norm() * op, 0.5, 0.6),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="view_as_real"):
            call()


def test_complex_data_as_pairs():
    """Real and imaginary parts as channels: an operator that acts on both alike."""
    z = torch.complex(draw((4, 6)), draw((4, 6), seed=1))
    kernel = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    pairs = torch.view_as_real(z).movedim(-1, 0)
    result = ld.Convolution(kernel, (2, 4, 6))(pairs)
    back = torch.view_as_complex(result.movedim(0, -1).contiguous())
    torch.testing.assert_close(back, z + 0.5 * z.roll(1, -1))


class Learned(ld.LinearOperator):
    """Weights in every place where an operator may keep them."""

    def __init__(self, weight: torch.Tensor, kind: str) -> None:
        super().__init__((3,), (3,))
        module = nn.Linear(3, 3, bias=False).double()
        module.weight = nn.Parameter(weight)
        self.kept = {"tensor": weight, "module": module, "list": [weight], "dict": {"w": weight}}[kind]
        self.kind = kind

    def apply(self, x):
        weight = {"tensor": lambda k: k, "module": lambda k: k.weight, "list": lambda k: k[0], "dict": lambda k: k["w"]}
        return x @ weight[self.kind](self.kept).T


@pytest.mark.parametrize("kind", ["tensor", "module", "list", "dict"])
@pytest.mark.parametrize("wrap", [lambda op: op, lambda op: 0.5 * op, lambda op: op.T, lambda op: op @ op, Opaque])
def test_norms_and_singular_values_follow_changed_weights(kind, wrap):
    op = wrap(Learned(torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), kind))
    norm, values, bounds = op.norm(), op.singular_values().sort().values, op.spectrum_bounds()
    power = 2 if isinstance(op, ld.Composed) else 1
    weight = op
    while not isinstance(weight, Learned):
        weight = weight.factors[0] if isinstance(weight, ld.Composed) else weight.operator
    with torch.no_grad():
        {"tensor": lambda k: k, "module": lambda k: k.weight, "list": lambda k: k[0], "dict": lambda k: k["w"]}[kind](
            weight.kept
        ).mul_(10)
    assert op.norm() == pytest.approx(10**power * norm)
    torch.testing.assert_close(op.singular_values().sort().values, 10**power * values)
    assert op.spectrum_bounds().largest == pytest.approx(10 ** (2 * power) * bounds.largest)
    with pytest.raises(ValueError, match="smallest feasible"):
        ld.transition(op, 1.0, 1.01 * norm)


def test_norms_follow_replaced_weights_and_numbers():
    """A new tensor may be given the identity of one that is gone; the cache holds one value, not all there were."""
    op = Learned(torch.eye(3, dtype=torch.float64), "tensor")
    for scale in range(1, 30):
        op.kept = torch.full((3,), float(scale), dtype=torch.float64).diag()
        assert op.norm() == pytest.approx(scale)
        assert op.singular_values().max() == pytest.approx(scale)
        assert op.spectrum_bounds().largest == pytest.approx(scale**2)
    assert len(op._cache) == 3

    class Gain(ld.LinearOperator):
        gain = 1.0

        def apply(self, x):
            return self.gain * x

    op = Gain((3,), (3,))
    white = ld.LinearDiffusion([op], [0.0, 1.0])
    coloured = ld.LinearDiffusion([op], [0.0, GramCovariance(ld.Diagonal(torch.ones(3)))])
    assert op.norm() == white.terminal_snr() == coloured.terminal_snr() == pytest.approx(1)
    op.gain = 0.5
    assert op.norm() == pytest.approx(0.5)
    assert white.terminal_snr() == coloured.terminal_snr() == pytest.approx(0.25)


OPAQUE = Opaque(ld.Diagonal(torch.tensor([0.5, 0.8])))
REAL, PAIR = torch.ones(3, 2), torch.full((3, 2), 1 + 1j)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ld.DDPM((2,), 10).diffuse(REAL, 3, noise=PAIR),
        lambda: ld.DDPM((2,), 10).add_noise(PAIR, 3, REAL),
        lambda: ld.DDPM((2,), 10).add_noise(REAL, 3, PAIR),
        lambda: ld.DDPM((2,), 1000).prior(3, noise=PAIR),
        lambda: ld.DDPM((2,), 1000).prior(3, dtype=torch.complex64),
        lambda: ld.posterior(REAL, REAL, OPAQUE, 0.5, 0.6).sample(PAIR),
        lambda: ld.GaussianMarginal(OPAQUE, 0.5).sample(REAL, PAIR),
        lambda: ld.GaussianMarginal(OPAQUE, 0.5).log_prob(REAL, PAIR),
        lambda: ld.GaussianMarginal(OPAQUE, 0.5).log_prob(PAIR, REAL),
        lambda: ld.Denoiser(lambda x, t: 1j * x, ld.DDPM((2,), 10))(REAL, 3),
        lambda: ld.Denoiser(lambda x, t: 1j * x, ld.DDPM((2,), 10), "noise")(REAL, 3),
        lambda: ld.lanczos_function(lambda x: 1j * x, REAL, torch.exp, event_ndim=1),
        lambda: ld.DDPM((2,), 2, torch.tensor([1, 0.5 + 0.1j, 0.2])),
        lambda: ld.LinearDiffusion([OPAQUE], [0.0, 1.0], torch.tensor([1, 1 + 1j])),
        lambda: ld.LinearDiffusion([OPAQUE], torch.tensor([0, 1 + 1j])),
        lambda: ld.Residual({(2, 1): PAIR}),
    ],
)
def test_an_imaginary_part_is_never_lost(call):
    with pytest.raises((ValueError, TypeError), match=r"expected a (real|number)|expected real"):
        call()


def learned(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values if len(values) > 1 else values[0]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ld.LinearDiffusion([OPAQUE], learned(0.0, 1.0)),
        lambda: ld.LinearDiffusion([OPAQUE], [0.0, learned(1.0)]),
        lambda: ld.LinearDiffusion([OPAQUE], [0.0, 1.0], learned(1.0, 0.5)),
        lambda: ld.LinearDiffusion([OPAQUE], [0.0, 1.0], [1.0, learned(0.5)]),
        lambda: ld.posterior(REAL, REAL, OPAQUE, learned(0.5), 0.6),
        lambda: ld.transition(OPAQUE, 0.5, learned(0.6)),
        lambda: ld.GaussianMarginal(OPAQUE, learned(0.5)),
        lambda: ld.DDPM((2,), 1, learned(1.0, 0.5)),
        lambda: ld.Residual({(2, 1): learned(1.0, 0.5)}),
    ],
)
def test_learned_noise_and_scales_are_refused_and_not_silently_detached(call):
    with pytest.raises(ValueError, match=r"requires gradients.*detach"):
        call()
    with torch.no_grad():
        call()
