"""PixelFlow: the numbers of the authors' code, which are in float32 but for the times of stages."""

from __future__ import annotations

import itertools

import pytest
import torch

import lineardiffusion as ld
from vectors import load, relative_error

DOUBLE = 1e-10
SINGLE = 1e-6


@pytest.fixture(scope="module")
def vectors(shared):
    return load(shared / "vectors" / "families" / "pixelflow.safetensors")[1]


PROCESS = ld.families.PixelFlow((3, 16, 16))


def time(stage, inner):
    """Of a stage counted from the coarsest, and their time in it; just below a change of shape at 0."""
    k = 3 - stage
    return (k + 1 - float(inner)) / 4 if inner > 0 or stage == 0 else PROCESS.before((k + 1) / 4)


def test_levels_and_timesteps(vectors):
    stages = PROCESS.stages
    for ours, theirs in (
        (stages.starts, "start_t"),
        (stages.ends, "end_t"),
        ([*stages.ends[1:], 1.0], "original_start_t"),
    ):
        assert relative_error(1 - torch.tensor(ours[::-1], dtype=torch.float64), vectors[theirs]) <= DOUBLE
    inference = PROCESS.stage_times([4, 4, 4, 4])
    for stage in range(4):
        assert relative_error(vectors["indices"] / 1000, vectors[f"stage{stage}.t"]) <= SINGLE
        t = torch.tensor([time(stage, inner) for inner in vectors[f"stage{stage}.t"]], dtype=torch.float64)
        assert relative_error(PROCESS.timestep(t), vectors[f"stage{stage}.timesteps"]) <= DOUBLE
        times = torch.tensor(inference[4 * stage : 4 * stage + 4], dtype=torch.float64)
        inner = torch.cat([4 - stage - 4 * times, torch.ones(1)])
        assert relative_error(inner, vectors[f"stage{stage}.inference_t"]) <= DOUBLE
        times[0] = time(stage, 0)  # where the network is called first
        assert relative_error(PROCESS.timestep(times), vectors[f"stage{stage}.inference_timesteps"]) <= DOUBLE


def test_training(vectors):
    for stage in range(4):
        image, eps = vectors["x0"][stage : stage + 1], vectors[f"train.stage{stage}.noise"]
        target = PROCESS.prediction.answer(PROCESS, time(stage, 0.5), image, eps)
        assert relative_error(target, vectors[f"train.stage{stage}.target"]) <= SINGLE
        for j, inner in enumerate(vectors[f"stage{stage}.t"]):
            t = time(stage, inner)
            assert relative_error(PROCESS.diffuse(image, t, eps), vectors[f"train{j}.stage{stage}.x"]) <= SINGLE
            told = PROCESS.timestep(torch.tensor([t], dtype=torch.float64))[0]
            assert abs(float(told - vectors[f"train{j}.stage{stage}.timestep"])) <= 1000 * SINGLE


def toy(x, timestep):
    """The stand-in for a network that their sampler was run with."""
    return 0.2 * x.roll(1, -1) - 0.7 * x.tanh() + 3e-4 * timestep[:, None, None, None]


def mean(x):
    """P"""
    return ld.AveragePool(x.shape[1:], 2).T(4 * ld.AveragePool(x.shape[1:], 2)(x))


def test_sampler(vectors):
    """Every state of their trajectory. Their jump's noise has 10⁻⁶ of variance too much: what that adds to the means of
    blocks is put in by hand."""
    calls = []

    def network(x, timestep):
        calls.append((x, toy(x, timestep)))
        return calls[-1][1]

    sampler = PROCESS.sampler(PROCESS.denoiser(network), PROCESS.stage_times([4, 4, 4, 4]))
    x = vectors["sampler.start"].double()  # sixteen steps of theirs in float32 are enough rounding
    for t, s in itertools.pairwise(sampler.times):
        if t in PROCESS.shape_changes():
            k = PROCESS.stages.stage(t)
            end, start = PROCESS.stages.ends[k], PROCESS.before(t)
            beta = 3**0.5 * end / (1 + end)
            block = vectors[f"sampler.stage{4 - k}.block_noise"].double()
            zeros = torch.zeros(1, *PROCESS.shape(start), dtype=torch.float64)
            jump = PROCESS.posterior(x, zeros, t, start)
            expected = beta**2 * vectors["block_covariance"].double()
            corner = [0, 1, PROCESS.shape(start)[-1], PROCESS.shape(start)[-1] + 1]
            found = jump.covariance.to_dense()[corner][:, corner]
            assert float((found - expected).abs().max()) <= 2e-6 * beta**2
            landed = jump.mean + beta * block
            assert relative_error(landed, vectors[f"sampler.stage{4 - k}.step0.x"]) <= SINGLE
            # β (I − P) n = s (I − P) z
            ours = PROCESS.jump(x, t, beta / PROCESS.sigma(start) * block)
            assert relative_error(ours, landed - beta * mean(block)) <= SINGLE
            x, t = landed, start
        x = sampler.step(x, t, s)
    image = (x / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert relative_error(image, vectors["sampler.image"]) <= SINGLE
    assert len(calls) == 16
    for stage, step in itertools.product(range(4), (0, 3)):
        state, answer = calls[4 * stage + step]
        assert relative_error(state, vectors[f"sampler.stage{stage}.step{step}.x"]) <= SINGLE
        assert relative_error(answer, vectors[f"sampler.stage{stage}.step{step}.net"]) <= SINGLE


def test_process_and_loss(generator):
    p = ld.families.PixelFlow((1, 8, 8))
    ld.testing.check_process(p, samples=200)
    x0 = torch.randn(3, 1, 8, 8, generator=generator)
    loss = p.loss(p.denoiser(lambda x, timestep: torch.zeros_like(x)), x0, torch.Generator().manual_seed(1))
    again = torch.Generator().manual_seed(1)
    t = float(p.drawn_times.sample(p, 3, again)[0])
    velocity = p.prediction.answer(p, t, x0, torch.randn(3, *p.shape(t), generator=again))
    torch.testing.assert_close(loss, velocity.square().flatten(1).mean(1))


def test_samples_and_bad_arguments():
    d = PROCESS.denoiser(lambda x, timestep: 0.1 * x)
    assert PROCESS.sampler(d)(1, seeds=[0], progress=False).shape == (1, 3, 16, 16)
    assert len(PROCESS.sampler(d).times) == 121
    assert ld.from_config(d.to_config(), network=d.network) == d
    with pytest.raises(ValueError, match="levels: expected sizes that can be halved 3 times"):
        ld.families.PixelFlow((3, 12, 16))
