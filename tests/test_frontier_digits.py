"""benchmarks/frontier_digits.py: the samplers it chooses from, and a step of each training."""

import json
from itertools import pairwise

import pytest
import torch
from benchmarks.frontier_digits import MODELS
from benchmarks.frontier_training import (
    BLURRING,
    DDPM,
    PYRAMID,
    SSD,
    denoiser_of,
    network_of,
    parts_of,
    process_of,
    train,
)
from benchmarks.frontier_ways import cost, power, sampler_of, tried


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("budget", [3, 10, 50])
def test_samplers_that_are_tried_cost_no_more_than_the_budget(model, budget):
    ways = tried(model, budget)
    assert ways
    for way in ways:
        process = process_of(model, way.changes)
        assert budget / 2 < cost(model, way) <= budget + 1e-9
        assert way.times[0] == process.end
        assert way.times[-1] > 0
        assert all(s < t for t, s in pairwise(way.times))
        if way.changes:
            assert set(way.changes) <= set(way.times)  # where a network that leaves a resolution is called


def test_a_budget_is_counted_in_calls_of_ddpm():
    assert cost(DDPM, tried(DDPM, 7)[0]) == pytest.approx(7)


def test_times_by_a_power_of_their_place():
    assert power(4, 1.0) == [1000, 750, 500, 250]
    assert power(4, 1.0, 800, 400) == [800, 700, 600, 500]
    assert power(4, 2.0) == [1000, 562, 250, 62]


@pytest.mark.parametrize(("model", "names"), [(SSD, ["time", "both"]), (BLURRING, ["time"]), (PYRAMID, ["time"])])
def test_a_step_of_training_and_a_sample(model, names, tmp_path):
    images = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    train(model, 0, images, 0.01, tmp_path)
    known = json.loads((tmp_path / "training.json").read_text())
    assert {name: each["steps"] for name, each in known.items()} == dict.fromkeys(names, 1)
    network, fresh = network_of(model), network_of(model)
    network.load_state_dict(torch.load(tmp_path / "time.pt", weights_only=True))
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), fresh.parameters(), strict=True))
    sampler = sampler_of(model, network.requires_grad_(False), tried(model, 3)[0], None)
    assert sampler(2, seeds=[0, 1], progress=False).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("model", MODELS)
def test_networks_predict_images(model):
    """But that of the pyramidal flow, also where the process is of a family that predicts noise."""
    denoiser = denoiser_of(model, network_of(model))
    assert denoiser.prediction.estimate(0.5, 0.5) == (0.0, 1.0) or model == PYRAMID


def test_pairs_of_resolutions_have_the_times_at_which_they_are_met():
    times: list[tuple[tuple[int, ...], tuple[int, ...], float, float]] = []

    class Seen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, index, size=None):
            size = x.shape[2:] if size is None else size
            times.append((tuple(x.shape[2:]), tuple(size), float(index.min()) + 1, float(index.max()) + 1))
            return self.weight * x.new_ones(*x.shape[:2], *size)

    images = torch.zeros(80, 1, 32, 32)
    for step in range(2):
        for count, losses in parts_of(SSD, step):
            assert losses(Seen(), images[:count], torch.Generator().manual_seed(step)).shape == (count,)
    kinds = {(here[0], there[0]) for here, there, _, _ in times}
    assert kinds == {(32, 32), (16, 16), (16, 32), (8, 8), (8, 16)}
    for here, there, first, last in times:
        assert here == there or first == last  # a change of shape is at one time for all images
