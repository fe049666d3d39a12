"""Classifier-free guidance against two calls of the network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import lineardiffusion as ld
from test_denoiser import FINE, KEEPING, PROCESSES, PYRAMID, draw


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.calls = []

    def forward(self, x, time, size=None, y=None, text=None, strength=1.0):
        self.calls.append(len(x))
        shape = (-1, *[1] * (x.ndim - 1))
        x = x.new_ones(len(x), x.shape[1], *size) if size is not None else x
        result = self.weight * x + 0.1 * y.reshape(shape) + 0.01 * time.reshape(shape)
        return SimpleNamespace(sample=strength * (result + text.mean((1, 2)).reshape(shape)))


@pytest.mark.parametrize("prediction", ["clean", "noise", "velocity", ld.EDMPrediction()], ids=str)
@pytest.mark.parametrize(("p", "t"), [(PROCESSES["ddpm"], 30), (PROCESSES["ddpm"], None), (PYRAMID, 40)], ids=str)
def test_one_call_is_what_two_calls_are(p, t, prediction):
    network = Network()
    d = ld.Denoiser(network, p, prediction, lift="pseudoinverse")
    t = torch.tensor([3, 30, 3]) if t is None else t
    x = draw(p.shape(30 if isinstance(t, torch.Tensor) else t))
    y, text, empty = torch.tensor([1.0, 2.0, 3.0]), draw((4, 2), seed=1), draw((4, 2), 1, seed=2)[0]
    guided = ld.guided(d, 2.5, null={"y": 7, "text": empty})
    without = d(x, t, y=torch.full((3,), 7.0), text=empty.expand(3, -1, -1), strength=0.5)
    expected = without + 2.5 * (d(x, t, y=y, text=text, strength=0.5) - without)
    network.calls.clear()
    result = guided(x, t, y=y, text=text, strength=0.5)
    assert network.calls == [6]
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_a_guided_denoiser_is_a_denoiser():
    p = PROCESSES["ddpm"]
    d = ld.Denoiser(Network(), p, "noise", time_input="log_snr")
    guided = ld.guided(d, 2, null={"y": 0})
    assert isinstance(guided, ld.Denoiser)
    assert (guided.process, guided.prediction, guided.time_input) == (p, d.prediction, "log_snr")
    assert list(guided.parameters()) == list(d.parameters())
    again = ld.from_config(guided.to_config(), network=Network())
    assert again == guided != ld.guided(d, 3, null={"y": 0})
    assert guided != d
    again.load_state_dict(guided.state_dict())
    with pytest.raises(ValueError, match="scale: expected 3"):
        ld.guided(d, 3, null={"y": 0}).load_state_dict(guided.state_dict())


def test_a_network_without_size_is_not_given_one():
    d = ld.Denoiser(lambda x, time, y: x * y[:, None, None, None], PYRAMID, "flow", lift="pseudoinverse")
    assert ld.guided(d, 2.0, null={"y": 0.0})(draw(PYRAMID.shape(40)), 40, y=torch.ones(3)).shape == (3, *FINE)


def test_bad_input():
    d = ld.Denoiser(Network(), PROCESSES["ddpm"])
    for denoiser in (d.network, PROCESSES["ddpm"]):
        with pytest.raises(TypeError, match=r"denoiser: expected an ld\.Denoiser"):
            ld.guided(denoiser, 2.0, null={"y": 0})
    for scale in (float("nan"), "2", None, True):
        with pytest.raises((TypeError, ValueError), match=r"scale: expected a (finite )?number"):
            ld.guided(d, scale, null={"y": 0})
    for null in ({}, None, 1000):
        with pytest.raises(TypeError, match="null: expected the conditioning that means none"):
            ld.guided(d, 2.0, null=null)
    guided, x, text = ld.guided(d, 2.0, null={"y": 0}), draw(KEEPING), draw((4, 2))
    with pytest.raises(ValueError, match="y: expected conditioning to guide to, got none"):
        guided(x, 5, text=text)
    for y in (None, 3, torch.ones(2)):
        with pytest.raises(ValueError, match="y: expected a tensor with a row for each of 3 samples"):
            guided(x, 5, y=y, text=text)
