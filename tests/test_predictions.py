"""Predictions: the algebra of their two rules, and the formulas of their papers."""

from __future__ import annotations

import math

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.predictions import PREDICTIONS, ProcessPrediction, as_prediction

OF_NOISE = {name: PREDICTIONS[name] for name in ("noise", "velocity", "flow")} | {"EDM": ld.EDMPrediction(0.7)}
# (a, σ): variance preserving, flow, variance exploding, almost clean, and no signal at all.
LEVELS = [(0.8, 0.6), (0.3, 0.7), (1.0, 80.0), (0.99999, 0.002), (1e-6, 1.0), (0.0, 1.0)]


def formula(name, c, noise, a, sigma):
    """What the network is trained to return, as its paper writes it."""
    if name == "noise":
        return noise
    if name == "velocity":
        return a * noise - sigma * c
    if name == "flow":
        return noise - c
    # Table 1 of Karras et al., of x̃ = c + σ̃ ε.
    level, data = sigma / a, 0.7
    skip, out = data**2 / (level**2 + data**2), level * data / math.sqrt(level**2 + data**2)
    return (c - skip * (c + level * noise)) / out


@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("name", OF_NOISE)
def test_the_target_is_that_of_the_paper_and_the_estimate_undoes_it(name, as_tensors):
    prediction, generator = OF_NOISE[name], torch.Generator().manual_seed(0)
    c, noise = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    for a, sigma in LEVELS:
        if a == 0 and name == "noise":
            continue
        given = [torch.tensor(level, dtype=torch.float64) for level in (a, sigma)] if as_tensors else (a, sigma)
        alpha, beta = prediction.target(*given)
        p, q = prediction.estimate(*given)
        target = alpha * c + beta * noise
        if a:
            # σ̃ = 2e-3 cancels three digits in the formula of the paper.
            torch.testing.assert_close(target, formula(name, c, noise, a, sigma), rtol=1e-11, atol=1e-11)
        # Rounding of ε is amplified as ε is, by |q|.
        close = {"rtol": 0, "atol": 1e-15 * 20 * (1 + float(abs(q)))}
        torch.testing.assert_close(p * (a * c + sigma * noise) + q * target, c, **close)


@pytest.mark.parametrize("name", OF_NOISE)
def test_errors_of_the_output_are_q_times_as_large_in_the_clean_image(name):
    """1/q² is what the mean squared error of the output is a weighting by, of the error of the clean image."""
    for a, sigma in LEVELS[:4]:
        a, sigma = (a, sigma) if name != "velocity" else (a / math.hypot(a, sigma), sigma / math.hypot(a, sigma))
        snr = torch.tensor((a / sigma) ** 2, dtype=torch.float64)
        weighting = {
            "noise": ld.SNR(), "velocity": ld.Velocity(), "flow": ld.Flow(), "EDM": ld.losses.EDM(0.7)
        }[name]  # fmt: skip
        assert OF_NOISE[name].estimate(a, sigma)[1] ** -2 == pytest.approx(float(weighting(snr)), rel=1e-12)


def test_edm_scales_what_the_network_is_given():
    a, sigma, data = 0.6, 0.9, 0.7
    c_in = 1 / math.sqrt((sigma / a) ** 2 + data**2)
    assert ld.EDMPrediction(0.7).input_scale(a, sigma) == pytest.approx(c_in / a, rel=1e-15)
    assert PREDICTIONS["flow"].input_scale(a, sigma) == 1


def test_predictions_are_told_apart_by_what_they_are():
    assert as_prediction("noise") == type(PREDICTIONS["noise"])() != as_prediction("flow")
    assert ld.EDMPrediction(0.5) == ld.EDMPrediction() != ld.EDMPrediction(0.6)
    assert len({ld.EDMPrediction(0.5), ld.EDMPrediction(), as_prediction("noise"), as_prediction("noise")}) == 2
    assert as_prediction(ld.EDMPrediction(0.6)) is not None
    assert repr(ld.EDMPrediction(0.6)) == "EDMPrediction(sigma_data=0.6)"
    with pytest.raises(AttributeError):
        ld.EDMPrediction(0.6).sigma_data = 1.0


@pytest.mark.parametrize(
    ("given", "meant"),
    [("epsilon", "noise"), ("eps", "noise"), ("sample", "data"), ("x0", "data"), ("v_prediction", "velocity"),
     ("v-prediction", "velocity"), ("flow_matching", "flow"), ("edm", r"EDMPrediction\(sigma_data=0.5\)"),
     ("score", "EDMPrediction")],
)  # fmt: skip
def test_names_that_others_use_are_understood(given, meant):
    with pytest.raises(ValueError, match=rf"prediction: expected one of .*got '{given}'.*{meant}"):
        as_prediction(given)


def test_bad_predictions():
    for given in (None, 3, ld.EDMPrediction):
        with pytest.raises(TypeError, match="prediction: expected one of"):
            as_prediction(given)
    for sigma_data in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="sigma_data: expected a positive number"):
            ld.EDMPrediction(sigma_data)


class Step(ProcessPrediction):
    """F* = M_{1:t}⁻¹ x_t − x_0, of a path that can be undone; the times of a batch are one."""

    def time(self, process, t):
        return 0

    def image(self, process, t, x_t, output):
        return self._undone(process, t, x_t) - output

    def answer(self, process, t, x0, noise):
        return self._undone(process, t, process.diffuse(x0, t, noise)) - x0

    def _undone(self, process, t, x_t):
        t = int(t[0]) if isinstance(t, torch.Tensor) else t
        inverse = process.operator(0, t).function(lambda values: 1 / values)
        return inverse(process.operator(0, t).transpose(x_t))


def test_a_prediction_may_have_rules_of_the_process(generator):
    p = ld.LinearDiffusion(ld.paths.heat((1, 8), 1.0, floor=0.1), ld.schedules.cosine(10))
    x0, noise = (torch.randn(3, 1, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    answer, x_t = Step().answer(p, 4, x0, noise), p.diffuse(x0, 4, noise)
    exact = ld.Denoiser(lambda x, index, y=None: answer.repeat(len(x) // 3, 1, 1), p, Step())
    torch.testing.assert_close(exact(x_t, 4, 2), p.clean(x0, 2))
    torch.testing.assert_close(exact(x_t, torch.full((3,), 4)), p.clean(x0, 3))
    assert float(ld.denoising_loss(exact, x0, 4, noise).max()) <= 1e-20
    zero = ld.Denoiser(lambda x, index: torch.zeros_like(x), p, Step())
    expected = 5.0 * answer.square().flatten(1).mean(1)
    torch.testing.assert_close(ld.denoising_loss(zero, x0, 4, noise, weighting=lambda snr: 5.0 + 0 * snr), expected)
    guided = ld.guided(exact, 2.0, null={"y": 0.0})
    torch.testing.assert_close(guided(x_t, 4, 2, y=torch.ones(3)), p.clean(x0, 2))
