"""Denoisers: what networks are given and return, and what becomes of it, against dense algebra."""

from __future__ import annotations

import copy
import io
import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load, save

import lineardiffusion as ld
from conftest import ZOO
from costs import Operations
from lineardiffusion.time_inputs import NearestIndex, NoiseLevel

STEPS = 60
KEEPING, FINE = (1, 8), (2, 8, 6)


def draw(shape, batch=3, seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def processes():
    identity, schedules = ld.paths.identity(KEEPING), ld.schedules
    matrices = [torch.eye(8, dtype=torch.float64) - 0.1 * draw((8,), 8, seed) / 8**0.5 for seed in range(6)]
    chain = [0.9 * ld.Matrix(matrix / torch.linalg.matrix_norm(matrix, 2), KEEPING, KEEPING) for matrix in matrices]
    return {
        "ddpm": ld.LinearDiffusion(identity, schedules.linear(STEPS)),
        "flow": ld.LinearDiffusion(identity, schedules.flow(3.0)),
        "edm": ld.LinearDiffusion(identity, schedules.edm()),
        "zero snr": ld.LinearDiffusion(identity, schedules.zero_terminal_snr(schedules.linear(STEPS))),
        "heat": ld.LinearDiffusion(ld.paths.heat(KEEPING, 1.0), schedules.cosine(STEPS)),
        "heat flow": ld.LinearDiffusion(ld.paths.heat(KEEPING, 1.0), schedules.flow()),
        "chain": ld.LinearDiffusion(chain, [0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0]),
        "scalars": ld.LinearDiffusion([0.9 * ld.Identity(KEEPING)] * 4, [0, 0.3, 0.5, 0.7, 0.9]),
    }


PROCESSES = processes()
PYRAMID = ld.LinearDiffusion(ld.paths.pyramid(FINE, 2, ld.changes_at([40])), ld.schedules.linear(STEPS))
HAAR_FLOW = ld.LinearDiffusion(ld.paths.pyramid(FINE, 2, ld.changes_at([0.6]), mode="haar"), ld.schedules.flow())
PREDICTIONS = ["clean", "data", "noise", "velocity", "flow", ld.EDMPrediction(0.7)]


def dense(process, x0, t):
    """R_t x_0"""
    matrix = process.degradation(0, t).to_dense()
    return (x0.flatten(1) @ matrix.T).reshape(len(x0), *process.shape(t))


class Oracle(torch.nn.Module):
    """A network that knows x_0 and the state it is given, and returns what it should."""

    def __init__(self, process, x0, noise, prediction):
        super().__init__()
        self.process, self.x0, self.noise, self.prediction = process, x0, noise, prediction

    def forward(self, x, time, size=None, at=None):
        p, t = self.process, at
        a, sigma = p.signal_scale(t), p.sigma(t)
        if self.prediction == "clean":
            return dense(p, self.x0, p.before(t))
        if self.prediction == "data":
            return self.x0
        c = dense(p, self.x0, t)
        if isinstance(self.prediction, str):
            return {"noise": self.noise, "velocity": a * self.noise - sigma * c, "flow": self.noise - c}[
                self.prediction
            ]
        data = self.prediction.sigma_data
        v = math.sqrt(sigma**2 + a**2 * data**2)
        torch.testing.assert_close(x, (a * c + sigma * self.noise) / v, rtol=1e-12, atol=1e-12)
        return (sigma * c - a * data**2 * self.noise) / (data * v)


def undone(matrix, c):
    """c + Aᵀ h(AAᵀ) (c − A c), h(λ) = λ/(λ² + τ⁴), by the singular values of a dense A."""
    u, s, vt = torch.linalg.svd(matrix)
    inverse = vt.T @ torch.diag(s**3 / (s**4 + 0.05**4)) @ u.T
    return (c.flatten(1) + (c.flatten(1) - c.flatten(1) @ matrix.T) @ inverse.T).reshape(c.shape)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
@pytest.mark.parametrize("name", PROCESSES)
def test_every_prediction_yields_the_clean_image_at_s(name, prediction):
    p = PROCESSES[name]
    if prediction == "noise" and p.signal_scale(p.end) == 0:
        with pytest.raises(ValueError, match=r"expected 'velocity', 'flow', 'data' or 'clean' .*ends without signal"):
            ld.Denoiser(lambda x, time: x, p, prediction)
        return
    x0, noise = draw(KEEPING), draw(KEEPING, seed=1)
    d = ld.Denoiser(Oracle(p, x0, noise, prediction), p, prediction)
    whole = [(1, None), (3, 2), (4, 1), (4, 0)]
    between = {"chain": [], "scalars": []}.get(name, [(2.5, 0.7), (59.3, 20.0)])
    pairs = whole + between if p.num_steps else [(1.0, None), (1.0, 0.25), (0.5, 0.4), (0.3, 0.0), (1e-3, 5e-4)]
    for t, s in pairs:
        x_t = p.signal_scale(t) * dense(p, x0, t) + p.sigma(t) * noise
        below = p.before(t) if s is None else s
        r = {"clean": p.before(t), "data": 0}.get(prediction, t)
        expected = dense(p, x0, below)
        if below < r:
            expected = undone(p.degradation(below, r).to_dense(), dense(p, x0, r))
        # Rounding of ε is amplified by σ/a, which at the end of the zero-SNR table's last step but one is 140.
        torch.testing.assert_close(d(x_t, t, s, at=t), expected, rtol=1e-10, atol=1e-10)
        clean, time = d.estimate(x_t, t, at=t)
        assert time == r
        torch.testing.assert_close(clean, dense(p, x0, r), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_time_for_each_sample_is_that_time_for_each(name, prediction):
    p = PROCESSES[name]
    if prediction == "noise" and p.signal_scale(p.end) == 0:
        return
    d = ld.Denoiser(lambda x, time: 0.3 * x + 0.1, p, prediction)
    times = torch.tensor([1, 4, 3, 1]) if p.num_steps else torch.tensor([0.1, 1.0, 0.5, 0.1], dtype=torch.float64)
    x = draw(KEEPING, 4)
    rows = torch.cat([d(x[i : i + 1], t) for i, t in enumerate(times.tolist())])
    torch.testing.assert_close(d(x, times), rows, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------- changes of shape


@pytest.mark.parametrize(("p", "change"), [(PYRAMID, 40), (HAAR_FLOW, 0.6)], ids=["pyramid", "haar flow"])
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
def test_predictions_across_a_change_of_shape(p, change, prediction):
    x0, noise = draw(FINE), draw(p.shape(change), seed=1)
    if prediction == "noise" and p is HAAR_FLOW:
        return
    lift = None if prediction in ("clean", "data") else "pseudoinverse"
    d = ld.Denoiser(Oracle(p, x0, noise, prediction), p, prediction, lift=lift)
    x_t = p.signal_scale(change) * dense(p, x0, change) + p.sigma(change) * noise
    for s in (None, 0.4 * change):
        below = p.before(change) if s is None else s
        expected = dense(p, x0, below)
        if lift:
            pinv = torch.linalg.pinv(p.degradation(below, change).to_dense())
            expected = (dense(p, x0, change).flatten(1) @ pinv.T).reshape(x0.shape)
        torch.testing.assert_close(d(x_t, change, s, at=change), expected, rtol=1e-11, atol=1e-11)
    times = torch.tensor([change] * 3, dtype=torch.float64 if p is HAAR_FLOW else torch.long)
    if not lift:
        torch.testing.assert_close(d(x_t, times, at=change), dense(p, x0, p.before(change)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "flow", ld.EDMPrediction()], ids=str)
def test_without_a_lift_a_change_of_shape_leaves_them_undefined(prediction):
    with pytest.raises(ValueError, match=r"expected 'clean' or 'data' for a process that changes shape.*lift="):
        ld.Denoiser(lambda x, time: x, PYRAMID, prediction)


@pytest.mark.parametrize("name", ["matrix singular", "scaled resize", "opaque", "orthogonal rows transposed"])
def test_a_lift_is_the_pseudoinverse(name):
    operator = ZOO[name] if name != "orthogonal rows transposed" else ZOO["average pool"]
    p = ld.LinearDiffusion([operator], [0.0, 1.0])
    d = ld.Denoiser(lambda x, time: 0 * x, p, "flow", lift="pseudoinverse")
    c = draw(operator.out_shape)
    expected = c.flatten(1) @ torch.linalg.pinv(operator.to_dense(), rtol=1e-6).T
    torch.testing.assert_close(d.carry(c, 1, 0).flatten(1), expected, rtol=1e-5, atol=1e-5)


def test_what_a_degradation_removed_is_not_amplified():
    """A blur with a zero in its spectrum: the rest comes back, and errors of the estimate grow tenfold at most."""
    blur = ld.Convolution(torch.full((3,), 1 / 3, dtype=torch.float64), (1, 12))
    assert blur.singular_values().min() < 1e-12
    p = ld.LinearDiffusion([blur] * 4, [0, 0.1, 0.2, 0.3, 0.4])
    x0, error = draw((1, 12)), draw((1, 12), seed=1)
    exact = ld.Denoiser(lambda x, time: p.clean(x0, 3), p)(x0, 4, s=1)
    wrong = ld.Denoiser(lambda x, time: p.clean(x0, 3) + error, p)(x0, 4, s=1)
    assert ((wrong - exact).norm() / error.norm()) <= 12
    low = torch.fft.rfft(exact - p.clean(x0, 1))[..., :3]
    assert low.abs().max() <= 1e-3


# ------------------------------------------------------------------------------------ what networks take and return


def given(process, t, prediction="clean", **arguments):
    """What the network is told of time t."""
    seen = []

    def network(x, time):
        seen.append(time)
        return 0 * x

    d = ld.Denoiser(network, process, prediction, **arguments)
    d(torch.ones(2, *KEEPING), t)
    assert seen[0].shape[:1] == (2,)
    return seen[0]


def test_the_time_that_a_network_is_told():
    ddpm, flow, edm = PROCESSES["ddpm"], PROCESSES["flow"], PROCESSES["edm"]
    for t in (5, 5.0, torch.tensor(5), torch.tensor([5, 5])):
        index, time = given(ddpm, t), given(ddpm, t, time_input="time")
        assert (index.dtype, index.tolist(), time.dtype, time.tolist()) == (torch.long, [4, 4], torch.long, [5, 5])
    for t in (5.5, torch.tensor([5.5, 5.5])):
        index, time = given(ddpm, t), given(ddpm, t, time_input="time")
        assert (index.dtype, index.tolist(), time.tolist()) == (torch.float32, [4.5, 4.5], [5.5, 5.5])
    for t in (0.25, torch.tensor([0.25, 0.25]), torch.tensor([0.25, 0.25], dtype=torch.float64)):
        assert given(flow, t).tolist() == given(flow, t, time_input="time").tolist() == [0.25, 0.25]
        ratio = edm.sigma(0.25)
        torch.testing.assert_close(given(edm, t, time_input="log_snr"), torch.full((2,), -2 * math.log(ratio)))
        for arguments in ({"time_input": "edm"}, {"prediction": ld.EDMPrediction()}):
            torch.testing.assert_close(given(edm, t, **arguments), torch.full((2,), math.log(ratio) / 4))
        own = given(flow, t, time_input=lambda process, t: torch.stack([process.sigma(t), 2 * t], 1))
        torch.testing.assert_close(own, torch.tensor([[flow.sigma(0.25), 0.5]] * 2))
    assert given(edm, 0.25, ld.EDMPrediction(), time_input="time").tolist() == [0.25, 0.25]
    assert given(flow, torch.tensor([1, 1])).dtype == torch.float32
    with pytest.raises(
        ValueError, match=r"time_input: expected one of 'index', 'time', 'log_snr', 'edm', or a function"
    ):
        ld.Denoiser(lambda x, time: x, flow, time_input="sigma")
    assert given(ddpm, 10.5, time_input=NearestIndex()).tolist() == [10, 10]  # to even, as others round
    assert given(ddpm, torch.tensor([1.0, 3.7]), time_input=NearestIndex()).tolist() == [0, 3]
    shifted = ld.FlowMatching(KEEPING, shift=3.0)
    assert given(shifted, 0.5, "flow", time_input=NoiseLevel(1000)).tolist() == [750.0, 750.0]
    with pytest.raises(ValueError, match="scale: expected a positive number, got 0"):
        NoiseLevel(0)
    with pytest.raises(ValueError, match=r"time_input: expected a function that returns a tensor \(2, …\), got 3"):
        given(flow, 0.25, time_input=lambda process, t: 3)


def test_the_size_that_a_network_is_told():
    seen = []

    def network(x, time, size):
        seen.append(tuple(size))
        return x.new_zeros(len(x), 2, *size)

    for prediction, sizes in (("clean", [(8, 6), (8, 6)]), ("data", [(8, 6), (8, 6)]), ("flow", [(8, 6), (4, 3)])):
        seen.clear()
        d = ld.Denoiser(network, PYRAMID, prediction, lift="pseudoinverse")
        for t in (39, 40):
            assert d(draw(PYRAMID.shape(t)), t).shape == (3, *FINE)
        assert seen == sizes
    unaware = ld.Denoiser(lambda x, time: x, PYRAMID, "flow", lift="pseudoinverse")
    assert unaware(draw(PYRAMID.shape(40)), 40).shape == (3, *FINE)
    ld.Denoiser(lambda *arguments, **options: 0, PYRAMID)
    for without in (lambda x, time: x, lambda x, size, /: x, torch.nn.Identity()):
        with pytest.raises(TypeError, match="network: expected one with a parameter `size`"):
            ld.Denoiser(without, PYRAMID)


def test_outputs_as_others_return_them():
    p, x = PROCESSES["ddpm"], draw(KEEPING)
    expected = ld.Denoiser(lambda x, time: 0.3 * x, p, "noise")(x, 30)
    for network in (
        lambda x, time: SimpleNamespace(sample=0.3 * x),
        lambda x, time: torch.cat([0.3 * x, torch.ones_like(x)], 1),
        lambda x, time: SimpleNamespace(sample=torch.cat([0.3 * x, torch.ones_like(x)], 1)),
    ):
        assert torch.equal(ld.Denoiser(network, p, "noise")(x, 30), expected)
    for output, got in (
        (x[:, :, :7], r"\(3, 1, 7\)"),
        (torch.cat([x] * 3, 1), r"\(3, 3, 8\)"),
        (x[:2], r"\(2, 1, 8\)"),
    ):
        with pytest.raises(ValueError, match=rf"network: expected an output of shape \(3, 1, 8\), got {got}"):
            ld.Denoiser(lambda x, time, output=output: output, p)(x, 30)
    with pytest.raises(ValueError, match=r"network: expected a tensor, or an object with one as \.sample, got tuple"):
        ld.Denoiser(lambda x, time: (x,), p)(x, 30)


def test_networks_compute_in_the_precision_of_their_weights():
    network = torch.nn.Conv1d(1, 1, 1).bfloat16()
    d = ld.Denoiser(Recorded(network), PROCESSES["ddpm"], "noise")
    assert d(draw(KEEPING), 5).dtype == torch.float64
    assert d(draw(KEEPING).half(), 5.5).dtype == torch.float16
    assert d.network.seen == [(torch.bfloat16, torch.long), (torch.bfloat16, torch.float32)]
    assert d.estimate(draw(KEEPING).half(), 5)[0].dtype == torch.float32


class Recorded(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.inner, self.seen = network, []

    def forward(self, x, time, **conditioning):
        self.seen.append((x.dtype, time.dtype))
        return self.inner(x)


def test_conditioning_reaches_the_network():
    d = ld.Denoiser(lambda x, time, y: x * y[:, None, None], PROCESSES["ddpm"])
    x = torch.ones(2, 1, 8)
    assert torch.equal(d(x, 3, y=torch.tensor([0.0, 2.0]))[:, 0, 0], torch.tensor([0.0, 2.0]))


# ----------------------------------------------------------------------------------------------------------- errors


def test_bad_arguments():
    p, network = PROCESSES["ddpm"], lambda x, time: x
    with pytest.raises(TypeError, match=r"expected ld.Denoiser\(network, process\), got them in the other order"):
        ld.Denoiser(p, network)
    with pytest.raises(TypeError, match="network: expected a module or another function"):
        ld.Denoiser(3, p)
    with pytest.raises(TypeError, match="network: expected a module or another function"):
        ld.Denoiser(torch.nn.Identity, p)
    with pytest.raises(TypeError, match="process: expected a LinearDiffusion"):
        ld.Denoiser(network, [0.1, 0.2])
    with pytest.raises(ValueError, match="got 'epsilon': did you mean 'noise'"):
        ld.Denoiser(network, p, "epsilon")
    with pytest.raises(ValueError, match="lift: expected 'pseudoinverse' or None, got 'nearest'"):
        ld.Denoiser(network, p, lift="nearest")
    coloured = ld.GramCovariance(ld.SpectralFilter(KEEPING, torch.linspace(0.7, 1.4, 8)))
    coloured = ld.LinearDiffusion([0.5 * ld.Identity(KEEPING)], [0.0, coloured])
    for prediction in ("velocity", "flow", ld.EDMPrediction()):
        with pytest.raises(ValueError, match="expected 'clean', 'data' or 'noise' for noise that is not isotropic"):
            ld.Denoiser(network, coloured, prediction)


def test_bad_calls():
    d = ld.Denoiser(lambda x, time, size: x, PYRAMID)
    x, change = draw(FINE, 2), 40
    for t in (0, 61, -1, torch.tensor([0, 1])):
        with pytest.raises(ValueError, match="t: expected 0 < t ≤ 60"):
            d(x, t)
    with pytest.raises(ValueError, match="s: expected s < t = 5, got 5"):
        d(x, 5, 5)
    with pytest.raises(ValueError, match="s: expected None"):
        d(x, torch.tensor([5, 6]), 3)
    with pytest.raises(ValueError, match="got 3"):
        d(x, torch.tensor([5, 6, 7]))
    with pytest.raises(ValueError, match="x_t: expected shape"):
        d(x, STEPS)
    with pytest.raises(ValueError, match="must start at one of"):
        d(draw(PYRAMID.shape(45), 2), 45, 39)
    with pytest.raises(ValueError, match=r"share shape\(t\) and the shape just below t.*ByShape.*group_by_shape"):
        d(draw(PYRAMID.shape(40), 2), torch.tensor([40, 41]))
    with pytest.raises(ValueError, match=r"network: expected an output of shape \(2, 2, 8, 6\), got \(2, 2, 4, 3\)"):
        d(draw(PYRAMID.shape(change), 2), change)
    with pytest.raises(ValueError, match=r"s: expected a time of the shape of the estimate.*lift='pseudoinverse'"):
        d.carry(draw(PYRAMID.shape(45), 2), 45, 3)


# ---------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
@pytest.mark.parametrize("p", [PROCESSES["edm"], PROCESSES["ddpm"], PYRAMID], ids=["edm", "ddpm", "pyramid"])
def test_denoisers_are_their_configuration(p, prediction):
    lift = "pseudoinverse" if p is PYRAMID else None
    d = ld.Denoiser(lambda x, time, size: x, p, prediction, lift=lift)
    config = json.loads(json.dumps(d.to_config()))
    again = ld.from_config(config, network=lambda x, time, size: 2 * x)
    assert again == d != ld.Denoiser(d.network, p, "data" if prediction != "data" else "clean", lift=lift)
    assert again != ld.Denoiser(d.network, p, prediction, time_input="log_snr", lift=lift)
    assert again.prediction == d.prediction
    assert set(config) == {"type", "process", "prediction", "time_input", "lift"}
    assert "prediction=" in repr(d)
    assert len({d, again}) == 2  # as modules are


def test_parameters_and_state_are_those_of_the_network_and_what_they_are_for():
    network = torch.nn.Linear(8, 8)
    d = ld.Denoiser(Recorded(network), PROCESSES["ddpm"])
    assert list(d.parameters()) == list(network.parameters())
    state = d.state_dict()
    assert set(state) == {"network.inner.weight", "network.inner.bias", "_extra_state"}
    for carried in (state, load(save(state))):
        other = ld.Denoiser(Recorded(torch.nn.Linear(8, 8)), PROCESSES["ddpm"])
        other.load_state_dict(carried)
        assert torch.equal(other.network.inner.weight, network.weight)
    # Copies and pickles are whole, also of one that has been used.
    d = ld.Denoiser(network_of_half(), PROCESSES["heat"], "noise")
    x = draw(KEEPING)
    expected = d(x, 5)
    file = io.BytesIO()
    torch.save(d, file)
    file.seek(0)
    for other in (copy.deepcopy(d), torch.load(file, weights_only=False)):
        assert other == d
        assert torch.equal(other(x, 5), expected)


def network_of_half():
    return Recorded(torch.nn.Identity())


def test_weights_of_another_denoiser_are_refused():
    def denoiser(p, prediction="noise", **arguments):
        return ld.Denoiser(torch.nn.Identity(), p, prediction, **arguments)

    ddpm, chain = PROCESSES["ddpm"], PROCESSES["chain"]
    cosine = ld.LinearDiffusion(ld.paths.identity(KEEPING), ld.schedules.cosine(STEPS))
    others = [
        (denoiser(cosine), "process: expected .*linear.*got .*cosine"),
        (denoiser(ddpm, "velocity"), 'prediction: expected "noise", got "velocity"'),
        (denoiser(ddpm, time_input="edm"), 'time_input: expected "index", got "edm"'),
        (denoiser(ddpm, time_input=given), 'time_input: expected "index", got "given"'),
        (denoiser(chain), "process: expected .*paths.identity.*got .*levels"),
    ]
    for other, message in others:
        state = other.state_dict()
        with pytest.raises(ValueError, match=rf"state_dict: weights of another denoiser.*{message}"):
            denoiser(ddpm).load_state_dict(state)
    # Of a chain of operators the levels are known.
    denoiser(chain).load_state_dict(denoiser(PROCESSES["chain"]).state_dict())
    louder = ld.LinearDiffusion(chain.path.operators, [0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.1])
    with pytest.raises(ValueError, match=r"process: expected .*levels"):
        denoiser(louder).load_state_dict(denoiser(chain).state_dict())


# ------------------------------------------------------------------------------------------------------------- cost


def times_of(p, count):
    last = p.num_steps or 1
    times = torch.linspace(0.1 * last, last, count, dtype=torch.float64)
    return times.long() if p.num_steps else times


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
@pytest.mark.parametrize("name", ["ddpm", "flow", "edm", "heat", "heat flow", "pyramid"])
def test_on_an_accelerator_nothing_is_made_elsewhere_nor_waited_for(name, prediction):
    """The meta device has no values: what would wait for one raises."""
    p = PYRAMID if name == "pyramid" else PROCESSES[name]
    if prediction == "noise" and p.signal_scale(p.end) == 0:
        return
    d = ld.Denoiser(lambda x, time, size=None: x, p, prediction, lift="pseudoinverse")
    x0 = torch.zeros(4, *p.shape(0), device="meta")
    # Where the shape changes, the values of times have to be known.
    times = torch.tensor([1, 5, 20, 39]) if p is PYRAMID else times_of(p, 4).to("meta")
    steps = [(39, 20), (39, None), (39.5, 7.5)] if p.num_steps else [(1.0, 0.5), (0.3, None)]

    def run():
        assert ld.denoising_loss(d, x0, times).is_meta
        for t, s in steps:
            assert d(x0, t, s).is_meta
        if "heat" not in name or prediction in ("clean", "data"):  # others are carried by operators of each time
            assert d(x0, times).is_meta

    run()
    with Operations() as operations:
        run()
    assert operations.names
    assert [made for made in operations.elsewhere if p is not PYRAMID or made[1] != (4,)] == []


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
@pytest.mark.parametrize("name", ["ddpm", "flow", "heat", "heat flow"])
def test_training_costs_no_more_operations_for_more_samples(name, prediction):
    p = PROCESSES[name]
    if prediction == "noise" and p.signal_scale(p.end) == 0:
        return
    d = ld.Denoiser(lambda x, time: 0.3 * x, p, prediction)
    counts = []
    for batch in (8, 8, 40):
        with Operations() as operations:
            ld.denoising_loss(d, draw(KEEPING, batch), times_of(p, batch), draw(KEEPING, batch, seed=1))
            if "heat" not in name:
                d(draw(KEEPING, batch), times_of(p, batch))
        counts.append(len(operations.names))
    assert counts[1] == counts[2]


def test_an_estimate_compiles_into_one_graph():
    p, x = PROCESSES["heat"], draw(KEEPING)
    d = ld.Denoiser(Recorded(torch.nn.Identity()), p, ld.EDMPrediction())
    expected = d(x, 39, 20)  # maps between times are made, and kept, here
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: d(x, 39, 20), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
