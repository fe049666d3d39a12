"""The kit for people who write operators: it passes what is right and names what is wrong."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lineardiffusion as ld
from lineardiffusion.paths import HeatPath, Path
from lineardiffusion.testing import strategies


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


class NormTooLarge(Broken):
    def apply(self, x):
        return 2 * x

    def norm(self):
        return 3.0


class OneVectorOnly(Broken):
    def apply(self, x):
        return x - x[:, :1] if x.ndim == 2 else x


class WrongDtype(Broken):
    def apply(self, x):
        return torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) * x


class Imprecise(Broken):
    def apply(self, x):
        return (2 * x).to(torch.float16).to(x.dtype) if x.dtype == torch.float32 else 2 * x


class WrongGram(Broken):
    def apply(self, x):
        return 2 * x

    def gram(self, x):
        return 2 * x


class WrongGramFunction(Broken):
    """Right for powers, wrong elsewhere: f is evaluated at the wrong place as soon as it is not homogeneous."""

    def apply(self, x):
        return 2 * x

    def gram_function(self, f, x):
        return f(torch.tensor(2.0, dtype=torch.float64)) * x


class WrongSingularValues(Broken):
    def apply(self, x):
        return 2 * x

    def singular_values(self):
        return torch.ones(4, dtype=torch.float64)


def test_large_operators_are_checked_without_their_matrix():
    ld.testing.check_operator(ld.testing.Opaque(ld.Resize((3, 40, 24), (17, 12))))


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
        (NormTooLarge, r"NormTooLarge\.norm: expected 2, by the dense matrix, got 3"),
        (OneVectorOnly, r"OneVectorOnly does not take an x without batch"),
        (WrongDtype, r"WrongDtype\.apply: expected float32 for a float32 x, got torch\.float64"),
        (Imprecise, r"Imprecise loses precision: M x in float32 has a relative difference"),
        (WrongGram, r"WrongGram\.gram is not MᵀM"),
        (WrongGramFunction, r"WrongGramFunction\.gram_function: f\(λ\) = λ has a relative difference of 0\.5"),
        (WrongSingularValues, r"WrongSingularValues\.singular_values, against the dense matrix"),
    ],
)
def test_what_is_wrong_is_named(operator, message):
    with pytest.raises(ValueError, match=message):
        ld.testing.check_operator(operator())


# ---------------------------------------------------------------------------------------------- processes


def pyramidal_flow() -> ld.LinearDiffusion:
    return ld.LinearDiffusion(ld.paths.pyramid((1, 8), 2, ld.changes_at([0.45]), "area"), ld.schedules.flow())


@pytest.mark.parametrize(
    "process",
    [
        ld.DDPM((3, 8, 8)),
        ld.BlurringDiffusion((2, 8, 6)),
        ld.ScaleSpaceDiffusion((1, 16, 12), levels=3),
        ld.ScaleSpaceDiffusion((1, 8, 8), levels=3, mode="haar", num_steps=40),
        ld.LinearDiffusion(
            [ld.Convolution(torch.tensor([0.25, 0.5, 0.25]), (1, 8), "zeros")] * 3, [0.0, 0.3, 0.4, 0.6]
        ),
        ld.EDM((1, 4)),
        pyramidal_flow(),
        ld.LinearDiffusion(ld.paths.identity((1, 4)), ld.schedules.zero_terminal_snr(ld.schedules.cosine(20))),
        ld.LinearDiffusion(ld.paths.heat((1, 8), 4.0), [0.0] + [0.1] * 10, coupling="shared"),
        ld.LinearDiffusion(
            [ld.Diagonal(torch.tensor([0.5, 0.9]))] * 3,
            [0.0, ld.GramCovariance(ld.Diagonal(torch.tensor([1.0, 0.7]))), 1.1, 1.3],
        ),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore:x_T is not noise")
def test_the_processes_of_the_library_pass(process):
    ld.testing.check_process(process, samples=300)


@pytest.mark.filterwarnings("ignore:x_T is not noise")
@settings(max_examples=25)
@given(strategies.processes(max_steps=4), st.integers(0, 2**16))
def test_random_processes_pass(process, seed):
    ld.testing.check_process(process, samples=200, seed=seed, false_alarm_rate=1e-9)


class WrongPosterior(ld.DDPM):
    """The variance of the transition where that of the posterior belongs: a classical mistake."""

    def kernel(self, x_t, mean_s, t, s, eta):
        q = super().kernel(x_t, mean_s, t, s, eta)
        return type(q)(q.mean, self.transition(t, s))


class WrongMean(ld.ScaleSpaceDiffusion):
    """Interpolation where the transpose belongs."""

    def kernel(self, x_t, mean_s, t, s, eta):
        q = super().kernel(x_t, mean_s, t, s, eta)
        if x_t.shape == mean_s.shape:
            return q
        residual = x_t - self.operator(s, t)(mean_s)
        up = torch.nn.functional.interpolate(residual, mean_s.shape[-2:], mode="bilinear")
        return type(q)(mean_s + (self.sigma(s) / self.sigma(t)) ** 2 * up, q.covariance)


class WrongNoise(ld.ScaleSpaceDiffusion):
    """Isotropic noise of the right total variance."""

    def kernel(self, x_t, mean_s, t, s, eta):
        q = super().kernel(x_t, mean_s, t, s, eta)
        variance = q.covariance.mean_variance()
        return type(q)(q.mean, ld.GramCovariance(variance**0.5 * ld.Identity(q.covariance.in_shape)))


class WrongShare(ld.FlowMatching):
    """All of the noise of x_t, and half of it again."""

    def shared_noise_kernel(self, x_t, mean_t, mean_s, t, s, gamma):
        q = super().shared_noise_kernel(x_t, mean_t, mean_s, t, s, gamma)
        return type(q)(q.mean + gamma / 2 * (x_t - mean_t), q.covariance)


class Rounding(HeatPath):
    """Whole steps alone: the part of a step that lies between s and t counts as all of it."""

    def between(self, s, t):
        return super().between(math.floor(s), math.ceil(t))

    def scaled(self, s, t, scale):
        return scale * self.between(s, t)

    apply_each = Path.apply_each


class OneForAll(HeatPath):
    """A batch of times blurred by the first of them."""

    def apply_each(self, times, x):
        return self.between(0, times.tolist()[0])(x)


class WrongTransition(ld.DDPM):
    def transition(self, t, s=None):
        return ld.GramCovariance(self.sigma(t) * ld.Identity(self.shape(t)))


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (WrongPosterior((1, 6, 6), num_steps=10), r"the posterior from t = \S+ to s = \S+ does not keep the marginal"),
        (WrongMean((1, 8, 8), levels=2, num_steps=20), r"the posterior from t = 20 to s = 6 does not keep"),
        (WrongNoise((1, 8, 8), levels=2, num_steps=20), r"the DDIM kernel .* in a direction is"),
        (
            WrongShare((1, 6)),
            r"the kernel of shared noise \(γ = \S+\) from t = \S+ to s = \S+ does not keep the marginal",
        ),
        (WrongTransition((1, 6, 6), num_steps=10), r"M Σ_s Mᵀ \+ Cov.* differs from Σ_t at s = 0\.25, t = 0\.75 by"),
        (
            ld.LinearDiffusion(Rounding((1, 6), 2.0), ld.schedules.cosine(10)),
            r"M_\(s→t\) M_\(1:s\) x differs from M_\(1:t\) x at s = 0\.25, t = 0\.75 by",
        ),
        (
            ld.LinearDiffusion(OneForAll((1, 6), 2.0), ld.schedules.vp()),
            r"x_s and x_t of one batch of times differ from those of one time at s = 0.001, t = 0.125 by",
        ),
    ],
)
def test_what_is_wrong_with_a_process_is_named(process, message):
    with pytest.raises(ValueError, match=message):
        ld.testing.check_process(process)


def test_false_alarms_are_as_rare_as_stated():
    """At a rate of 10 %, split over all comparisons, 80 runs raise at most 17: a binomial count exceeds this with a
    probability below 1e-3, and the union bound only makes it rarer."""
    process = ld.FlowMatching((1, 2, 2))
    alarms = 0
    for seed in range(80):
        try:
            ld.testing.check_process(process, samples=100, seed=seed, false_alarm_rate=0.1)
        except ValueError:
            alarms += 1
    assert alarms <= 17


def test_bad_arguments_of_check_process():
    with pytest.raises(ValueError, match="samples: expected"):
        ld.testing.check_process(ld.DDPM((1, 2)), samples=10)
    with pytest.raises(ValueError, match="false_alarm_rate: expected"):
        ld.testing.check_process(ld.DDPM((1, 2)), false_alarm_rate=0.0)
