"""Denoisers and the training loss."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest
import torch
from examples.experiment.config import WEIGHTINGS, OptimizationConfig

import lineardiffusion as ld
from test_operators import draw
from test_processes import SCHEDULE, STEPS, families

FAMILIES = families()
KEEPING_SHAPE = ["DDPM", "blurring", "scalars"]


def oracle(process, x0, prediction):
    """A network that knows x_0 and returns what it should predict."""

    def network(x_t, t_index, size=None):
        assert t_index.shape == (len(x_t),)
        assert t_index.dtype == torch.long
        rows = []
        for x, target, index in zip(x_t, x0, t_index.tolist(), strict=True):
            t = index + 1
            clean, a, sigma = process.clean(target, t), process.signal_scale(t), process.sigma(t)
            if prediction == "clean":
                rows.append(process.clean(target, t - 1))
                assert size is None or tuple(size) == process.shape(t - 1)[1:]
            else:
                noise = (x - a * clean) / sigma
                rows.append(noise if prediction == "noise" else a * noise - sigma * clean)
        return torch.stack(rows)

    return network


@pytest.mark.parametrize("prediction", ["clean", "noise", "velocity"])
@pytest.mark.parametrize("name", KEEPING_SHAPE)
def test_every_prediction_yields_the_clean_image_at_s(name, prediction):
    p = FAMILIES[name]
    x0 = draw(p.shape(0), 3)
    d = ld.Denoiser(oracle(p, x0, prediction), p, prediction)
    # Damping leaves (τ²/λ)² of the difference between c_r and c_s: nothing of it for numbers, and for one step of blur,
    # λ ≥ 0.7, 1.3e-5 of a difference below 0.5. Rounding is amplified by σ/a ≤ 150 at the last t.
    close = {"rtol": 0, "atol": 1e-5 if name == "blurring" else 1e-9}
    pairs = [(1, None), (10, None), (STEPS, None), (30, 28)]
    if name != "blurring":
        pairs += [(30, 12), (STEPS, 0)]
    for t, s in pairs:
        x_t = p.diffuse(x0, t, noise=draw(p.shape(0), 3, seed=1))
        torch.testing.assert_close(d(x_t, t, s), p.clean(x0, t - 1 if s is None else s), **close)
    times = torch.tensor([1, 20, STEPS])
    x_t = p.diffuse(x0, times, noise=draw(p.shape(0), 3, seed=1))
    torch.testing.assert_close(d(x_t, times), p.clean(x0, times - 1), **close)


def test_clean_predictions_across_a_change_of_shape():
    p = FAMILIES["scale space"]
    x0 = draw(p.shape(0), 3)
    d = ld.Denoiser(oracle(p, x0, "clean"), p)
    for t in (1, 20, *p.shape_changes(), STEPS):
        x_t = p.diffuse(x0, t, noise=draw(p.shape(t), 3, seed=1))
        assert d(x_t, t).shape == (3, *p.shape(t - 1))
        torch.testing.assert_close(d(x_t, t), p.clean(x0, t - 1))
    t = p.shape_changes()[0]
    torch.testing.assert_close(d(p.diffuse(x0, t), t, s=3), p.clean(x0, 3), rtol=1e-10, atol=1e-10)


def test_what_a_degradation_removed_is_not_amplified():
    """A blur with a zero in its spectrum: the rest comes back, and errors of the estimate grow tenfold at most."""
    blur = ld.Convolution(torch.full((3,), 1 / 3, dtype=torch.float64), (1, 12))
    assert blur.singular_values().min() < 1e-12
    p = ld.LinearDiffusion([blur] * 4, [0, 0.1, 0.2, 0.3, 0.4])
    x0 = draw((1, 12), 3)
    error = draw((1, 12), 3, seed=1)
    exact = ld.Denoiser(lambda x, t_index: p.clean(x0, 3), p)(x0, 4, s=1)
    wrong = ld.Denoiser(lambda x, t_index: p.clean(x0, 3) + error, p)(x0, 4, s=1)
    assert ((wrong - exact).norm() / error.norm()) <= 12
    low = torch.fft.rfft(exact - p.clean(x0, 1))[..., :3]
    assert low.abs().max() <= 1e-3


def test_conditioning_reaches_the_network():
    p = ld.DDPM((1, 4), STEPS, SCHEDULE)
    d = ld.Denoiser(lambda x, t_index, y: x * y[:, None, None], p)
    x = torch.ones(2, 1, 4)
    assert torch.equal(d(x, 3, y=torch.tensor([0.0, 2.0]))[:, 0, 0], torch.tensor([0.0, 2.0]))


def test_parameters_and_state_are_those_of_the_network():
    network = torch.nn.Linear(4, 4)
    d = ld.Denoiser(network, ld.DDPM((1, 4), STEPS, SCHEDULE))
    assert list(d.parameters()) == list(network.parameters())
    assert set(d.state_dict()) == {"network.weight", "network.bias"}


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (ld.MinSNR(5.0), lambda snr: min(snr, 5.0)),
        (ld.MinSNR(0.5), lambda snr: min(snr, 0.5)),
        (ld.SNR(), lambda snr: snr),
        (ld.MaxSNR(5.0), lambda snr: max(snr, 5.0)),
        (ld.MaxSNR(0.5), lambda snr: max(snr, 0.5)),
        (ld.TruncatedSNR(), lambda snr: max(snr, 1.0)),
        (ld.InverseSNR(), lambda snr: 1 / snr),
        (ld.Uniform(), lambda snr: 1.0),
        (None, lambda snr: min(snr, 5.0)),
    ],
)
def test_loss_is_the_weighted_error_of_the_clean_image(weighting, expected):
    p = FAMILIES["scale space"]
    d = ld.Denoiser(lambda x, t_index, size: x.new_zeros(len(x), 2, *size), p)
    x0 = draw(p.shape(0), 4)
    for t in (1, 15, p.shape_changes()[0]):
        error = p.clean(x0, t - 1).square().flatten(1).mean(1)
        loss = ld.denoising_loss(d, x0, t, weighting=weighting)
        torch.testing.assert_close(loss, expected(p.snr(t)) * error)
    times = torch.tensor([1, 5, 9, 20])
    weights = torch.tensor([expected(p.snr(int(t))) for t in times], dtype=torch.float64)
    error = p.clean(x0, times - 1).square().flatten(1).mean(1)
    torch.testing.assert_close(ld.denoising_loss(d, x0, times, weighting=weighting), weights * error)


def test_programs_know_every_weighting():
    assert set(get_args(get_type_hints(OptimizationConfig)["weighting"])) == set(WEIGHTINGS)
    assert {type(weighting) for weighting in WEIGHTINGS.values()} == {
        ld.MinSNR, ld.MaxSNR, ld.SNR, ld.InverseSNR, ld.TruncatedSNR, ld.Uniform
    }  # fmt: skip


def test_snr_weighting_is_the_error_of_the_noise():
    """The simple loss of DDPM, Eq. 14 of Ho et al. (2020)."""
    p = ld.DDPM((1, 8), STEPS, SCHEDULE)
    x0, noise = draw((1, 8), 5), draw((1, 8), 5, seed=1)
    d = ld.Denoiser(lambda x, t_index: 0.3 * x, p, "noise")
    expected = (0.3 * p.diffuse(x0, 30, noise=noise) - noise).square().flatten(1).mean(1)
    torch.testing.assert_close(ld.denoising_loss(d, x0, 30, noise=noise, weighting=ld.SNR()), expected)


def test_a_blur_makes_snr_weighting_more_than_the_error_of_the_noise():
    """The error of c_{t−1} is that of c_t with the blur of a step undone."""
    p = ld.BlurringDiffusion((1, 16), num_steps=50)
    x0, noise = draw((1, 16), 5), draw((1, 16), 5, seed=1)
    d = ld.Denoiser(lambda x, t_index: 0 * x, p, "noise")
    loss = ld.denoising_loss(d, x0, 10, noise=noise, weighting=ld.SNR())
    assert (loss > 2 * noise.square().flatten(1).mean(1)).all()


def test_weights_where_no_signal_is_left():
    snr = torch.tensor([0.0, 0.5, math.inf], dtype=torch.float64)
    assert ld.InverseSNR()(snr).tolist() == [1.0, 2.0, 0.0]
    assert ld.MaxSNR(2.0)(snr).tolist() == [2.0, 2.0, math.inf]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_images_are_computed_in_float32(dtype):
    p = FAMILIES["DDPM"]
    conv = torch.nn.Conv2d(2, 2, 1, bias=False)
    network = lambda x, t_index: conv(x)  # noqa: E731
    x0, noise = draw(p.shape(0), 4).to(dtype), draw(p.shape(0), 4, seed=1).float()
    for t in (1, torch.tensor([1, 9, 20, 60])):
        expected = ld.denoising_loss(ld.Denoiser(network, p), x0.float(), t, noise)
        assert torch.equal(ld.denoising_loss(ld.Denoiser(network, p), x0, t, noise), expected)


def test_gradients_reach_the_network():
    p = FAMILIES["DDPM"]
    network = torch.nn.Conv2d(2, 2, 1).double()
    d = ld.Denoiser(lambda x, t_index: network(x), p, "velocity")
    ld.denoising_loss(d, draw(p.shape(0), 3), torch.tensor([1, 30, 60])).sum().backward()
    assert network.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_predictions_that_a_change_of_shape_leaves_undefined(prediction):
    with pytest.raises(ValueError, match="expected 'clean' for a process that changes shape"):
        ld.Denoiser(lambda x, t_index: x, FAMILIES["scale space"], prediction)


def test_bad_input():
    p = FAMILIES["scale space"]
    change = p.shape_changes()[0]
    d = ld.Denoiser(lambda x, t_index, size: x, p)
    x = draw(p.shape(0), 2)
    with pytest.raises(ValueError, match="prediction: expected"):
        ld.Denoiser(lambda x, t_index: x, p, "score")
    with pytest.raises(ValueError, match="t: expected 1 ≤ t ≤ 60"):
        d(x, 0)
    with pytest.raises(ValueError, match="t: expected 1 ≤ t ≤ 60"):
        d(x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="s: expected s < t = 5, got 5"):
        d(x, 5, 5)
    with pytest.raises(ValueError, match="s: expected None"):
        d(x, torch.tensor([5, 6]), 3)
    with pytest.raises(ValueError, match="x_t: expected shape"):
        d(x, STEPS)
    with pytest.raises(ValueError, match="must start at one of"):
        d(draw(p.shape(change + 5), 2), change + 5, change - 1)
    with pytest.raises(ValueError, match=r"share shape\(t\) and shape\(t − 1\)"):
        d(draw(p.shape(change), 2), torch.tensor([change, change + 1]))
    with pytest.raises(ValueError, match=r"network: expected an output of shape \(2, 2, 8, 6\), got \(2, 2, 4, 3\)"):
        d(draw(p.shape(change), 2), change)
    with pytest.raises(ValueError, match="x0: expected finite"):
        ld.denoising_loss(d, x * math.nan, 3)
    for weighting in (ld.MinSNR, ld.MaxSNR):
        for gamma in (0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match="gamma: expected a positive number"):
                weighting(gamma)
