"""Pyramidal Flow Matching: the numbers of the authors' code, and what holds for every flow in stages."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import avg_pool2d

import lineardiffusion as ld
from lineardiffusion.families.stages import Stages, StageVelocity
from lineardiffusion.operators.bases import Haar
from vectors import load, relative_error

DOUBLE = 1e-10
SINGLE = 1e-6  # their tables of timesteps, and their Euler steps, are in float32


@pytest.fixture(scope="module")
def vectors(shared):
    return load(shared / "vectors" / "families" / "pyramid_flow.safetensors")[1]


@pytest.fixture(scope="module")
def process(vectors):
    """With the levels of their table, which are in float32."""
    return ld.families.PyramidFlow((1, 16, 16), vectors["end_sigmas"].flip(0).tolist())


def frames(x):
    """Without the axis of frames."""
    return x.squeeze(2)


def time(process, stage, ratio):
    """Of a stage counted from the coarsest, and a ratio; just below a change of shape at 1."""
    k = 2 - stage
    return (k + ratio) / 3 if ratio < 1 or stage == 0 else process.before((k + 1) / 3)


def noise(vectors, name, stage):
    """Their noise of a stage: means, as bright as white noise."""
    result = frames(vectors[name])
    for _ in range(2 - stage):
        result = 2 * avg_pool2d(result, 2)
    return result


def test_levels_and_timesteps(vectors, process):
    stages = process.stages
    for ours, theirs in (
        (stages.starts, "start_sigmas"),
        (stages.ends, "end_sigmas"),
        ([*stages.ends[1:], 1.0], "original_start_sigmas"),
    ):
        assert relative_error(torch.tensor(ours[::-1], dtype=torch.float64), vectors[theirs]) <= DOUBLE
    published = ld.families.PyramidFlow((1, 16, 16)).stages
    torch.testing.assert_close(
        torch.tensor(published.starts[::-1]), vectors["start_sigmas"].float(), rtol=SINGLE, atol=0
    )
    inference = process.stage_times([4, 4, 4])
    for stage in range(3):
        t = [time(process, stage, float(r)) for r in vectors[f"stage{stage}.sigmas"]]
        told = process.timestep(torch.tensor(t, dtype=torch.float64))
        assert relative_error(told, vectors[f"stage{stage}.timesteps"]) <= SINGLE
        assert relative_error(1 - vectors["timestep_indices"] / 1000, vectors[f"stage{stage}.sigmas"]) <= SINGLE
        times = torch.tensor(inference[4 * stage : 4 * stage + 4], dtype=torch.float64)
        ratios = torch.cat([3 * times - (2 - stage), torch.zeros(1)])
        assert relative_error(ratios, vectors[f"stage{stage}.inference_sigmas"]) <= DOUBLE
        times[0] = time(process, stage, 1.0)  # where the network is called first
        assert relative_error(process.timestep(times), vectors[f"stage{stage}.inference_timesteps"]) <= SINGLE


def test_training(vectors, process):
    x0 = frames(vectors["x0"])
    prediction = process.prediction
    for stage in range(3):
        image, eps = x0[stage : stage + 1], noise(vectors, "train.noise", stage)[stage : stage + 1]
        assert relative_error(process.clean(x0, (2 - stage) / 3), frames(vectors[f"latent{stage}"])) <= DOUBLE
        for j in range(4):
            expected = {name: vectors[f"train{j}.stage{stage}.{name}"] for name in ("ratio", "timestep", "x", "target")}
            t = time(process, stage, float(expected["ratio"]))
            assert relative_error(process.diffuse(image, t, eps), frames(expected["x"])) <= DOUBLE
            told = process.timestep(torch.tensor([t], dtype=torch.float64))[0]
            assert abs(float(told - expected["timestep"])) <= 1000 * SINGLE  # of a table from 1000 on
            target = prediction.answer(process, t, image, eps)
            if j:  # one number of it
                target = target.flatten()[:1]
            assert relative_error(target.flatten(), expected["target"].flatten()) <= DOUBLE


def test_jump(vectors, process):
    """Mean α U x and covariance β² (4/3)(I − P), whatever is said of the image; afterwards the noise is white."""
    for t in process.shape_changes():
        s, k = process.before(t), process.stages.stage(t)
        alpha = 1 / (1 + process.stages.ends[k])
        beta = 3**0.5 * alpha * process.stages.ends[k]
        x = torch.randn(2, *process.shape(t), dtype=torch.float64)
        jump = process.posterior(x, torch.randn(2, *process.shape(s), dtype=torch.float64) * 0, t, s)
        assert relative_error(jump.mean, alpha * x.repeat_interleave(2, -1).repeat_interleave(2, -2)) <= DOUBLE
        dense = jump.covariance.to_dense()
        n = process.shape(s)[-1]
        corner = [0, 1, n, n + 1]
        assert relative_error(dense[corner][:, corner], beta**2 * vectors["block_covariance"]) <= SINGLE  # their γ
        assert float(dense[corner][:, 2:n].abs().max()) <= 1e-12
        up = torch.kron(torch.ones(2, 1), torch.eye(n // 2)).reshape(2, n // 2, n // 2).transpose(0, 1).reshape(n, -1)
        up = torch.kron(up, up).double()
        total = dense + alpha**2 * process.sigma(t) ** 2 * up @ up.T
        assert relative_error(total, process.sigma(s) ** 2 * torch.eye(n * n, dtype=torch.float64)) <= DOUBLE


def toy(x, timestep):
    """The stand-in for a network that their sampler was run with."""
    return 0.2 * x.roll(1, -1) - 0.8 * x.tanh() + 2e-4 * timestep[:, None, None, None]


def test_sampler(vectors, process):
    """Every state of their trajectory, to float32, in which they take Euler's steps."""
    calls = []

    def network(x, timestep):
        calls.append((x, toy(x, timestep)))
        return calls[-1][1]

    sampler = process.sampler(process.denoiser(network), process.stage_times([4, 4, 4]))
    assert isinstance(sampler, ld.families.JumpSampler)
    x = noise(vectors, "sampler.white_full", 0)
    assert relative_error(x, frames(vectors["sampler.start"])) <= DOUBLE
    for t, s in itertools.pairwise(sampler.times):
        stage, white = 2 - process.stages.stage(t), None
        if t in process.shape_changes():
            end = process.stages.ends[process.stages.stage(t)]
            assert relative_error(x, frames(vectors[f"sampler.stage{stage}.end"])) <= SINGLE
            # β n = s (I − P) z
            block = frames(vectors[f"sampler.stage{stage + 1}.block_noise"])
            white = 3**0.5 * end / (1 + end) / process.sigma(process.before(t)) * block
        x = sampler.step(x, t, s, noise=white)
    assert relative_error(x, frames(vectors["sampler.stage2.end"])) <= SINGLE
    assert len(calls) == 12
    for stage, step in itertools.product(range(3), (0, 3)):
        state, answer = calls[4 * stage + step]
        assert relative_error(state, frames(vectors[f"sampler.stage{stage}.step{step}.x"])) <= SINGLE
        assert relative_error(answer, frames(vectors[f"sampler.stage{stage}.step{step}.net"])) <= SINGLE


# --------------------------------------------------------------------------------------------- of all flows in stages


SMALL = ld.families.PyramidFlow((1, 4, 8))


def test_distributions_fit_together():
    ld.testing.check_process(SMALL, samples=300)


@pytest.mark.parametrize("t", [0.2, SMALL.before(1 / 3), 0.5, SMALL.before(2 / 3), 0.9, 1.0])
def test_velocity_tells_of_the_image(t):
    """Also where all detail is gone, and where all signal is."""
    x0, eps = torch.randn(2, 1, 4, 8, dtype=torch.float64), torch.randn(2, *SMALL.shape(t), dtype=torch.float64)
    d = SMALL.denoiser(lambda x, timestep: SMALL.prediction.answer(SMALL, t, x0, eps))
    x_t, end = SMALL.diffuse(x0, t, eps), SMALL.stages.end_of(t)
    clean, r = d.estimate(x_t, t)
    assert r == end
    assert relative_error(clean, SMALL.clean(x0, end)) <= DOUBLE
    clean, _ = d.estimate(x_t, torch.full((2,), t, dtype=torch.float64))
    assert relative_error(clean, SMALL.clean(x0, end)) <= DOUBLE
    s = end + 0.3 * (t - end)
    euler = x_t + (s - t) * 3 * SMALL.prediction.answer(SMALL, t, x0, eps)
    for sampler in (SMALL.sampler(d), ld.DDIMSampler(d, 9), ld.DDIMSampler(d, 9, order=2)):
        assert relative_error(sampler.step(x_t, t, s), euler) <= DOUBLE


def test_loss(generator):
    x0 = torch.randn(3, 1, 4, 8, generator=generator, dtype=torch.float64)
    seen = []

    def network(x, timestep):
        seen.append(timestep)
        return torch.ones_like(x)

    loss = SMALL.loss(SMALL.denoiser(network), x0, torch.Generator().manual_seed(1))
    again = torch.Generator().manual_seed(1)
    t = SMALL.drawn_times.sample(SMALL, 3, again)
    k = SMALL.stages.stage(float(t[0]))
    eps = torch.randn(3, *SMALL.shape(float(t[0])), generator=again).double()
    start = SMALL.end if k == 2 else SMALL.before((k + 1) / 3)
    velocity = SMALL.diffuse(x0, start, eps) - SMALL.diffuse(x0, k / 3, eps)
    torch.testing.assert_close(loss, (1 - velocity).square().flatten(1).mean(1))
    torch.testing.assert_close(seen[0], SMALL.timestep(t))


def test_samples_of_every_order_and_with_guidance():
    process = ld.families.PyramidFlow((3, 32, 32))
    d = process.denoiser(lambda x, timestep, y=None: 0.1 * x)
    assert process.sampler(d)(1, seeds=[0], progress=False).shape == (1, 3, 32, 32)
    assert len(process.sampler(d).times) == 61
    for order in (2, 3):
        times = process.stage_times([4, 4, 4])
        x = ld.families.JumpSampler(d, times, order=order, rule="midpoint", corrector=True)(
            2, seeds=[0, 1], progress=False
        )
        assert x.isfinite().all()
    guided = ld.guided(d, 3.0, null={"y": 0.0})
    a, b = (process.sampler(e, 6)(1, seeds=[0], progress=False, y=torch.ones(1)) for e in (d, guided))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("family", [ld.families.PyramidFlow, ld.families.PixelFlow, ld.families.Helios])
def test_higher_orders_are_nearer_to_the_flow(family):
    """On Gaussian data, also with the times of the papers, whose stages end in a step that is long in log-SNR: against
    many steps in each stage."""
    process = family((1, 8, 8))
    denoiser = ld.lab.OptimalDenoiser(process, ld.lab.power_law((1, 8, 8)))

    def sample(each, **settings):
        times = process.stage_times([each] * process.stages.count)
        return ld.families.JumpSampler(denoiser, times, **settings)(8, seeds=range(8), progress=False)

    flow = sample(60, order=3)
    for each in (3, 5, 8):
        first = (sample(each) - flow).norm()
        for settings in ({"order": 2}, {"order": 3}, {"order": 2, "rule": "midpoint", "corrector": True}):
            assert (sample(each, **settings) - flow).norm() < 0.9 * first


def test_other_samplers_jump_too(generator):
    """With the time just below a change among theirs, whatever the network says."""
    t, d = 2 / 3, SMALL.denoiser(lambda x, timestep: x.tanh())
    x_t, z = torch.randn(2, 1, 1, 2, generator=generator), torch.randn(2, 1, 2, 4, generator=generator)
    assert SMALL.shape(t) == x_t.shape[1:]
    jumped = SMALL.jump(x_t, t, z)
    for sampler in (ld.DDIMSampler(d, 3), ld.AncestralSampler(d, 3)):
        torch.testing.assert_close(sampler.step(x_t, t, SMALL.before(t), noise=z), jumped)


def test_configuration():
    assert ld.from_config(SMALL.to_config()) == SMALL != ld.families.PyramidFlow((1, 8, 8))
    network = torch.nn.Identity()
    d = SMALL.denoiser(network)
    assert ld.from_config(d.to_config(), network=network) == d
    sampler = SMALL.sampler(d)
    assert ld.from_config(sampler.to_config(), network=network) == sampler


def test_bad_arguments():
    with pytest.raises(ValueError, match="levels: expected sizes that can be halved 2 times"):
        ld.families.PyramidFlow((3, 30, 32))
    for ends in ([], [0.1, 0.5], [0.0, 0.5, 0.5], [0.0, 1.0]):
        with pytest.raises(ValueError, match="ends: expected 0 = e_0 < e_1"):
            ld.families.PyramidFlow((3, 32, 32), ends)
    with pytest.raises(ValueError, match="steps: expected a number for each of 3 stages"):
        SMALL.stage_times([4, 4])
    with pytest.raises(ValueError, match="process: expected a flow in stages"):
        ld.Denoiser(lambda x, t: x, ld.DDPM((1, 8, 8)), StageVelocity())


def test_stages_of_one_and_of_three_axes():
    assert Stages((2, 8), [0.0]).starts == [1.0]
    stages = Stages((1, 4, 4, 4), [0.0, 0.5])
    assert stages.basis == Haar((1, 4, 4, 4), 1)
    assert stages.starts[0] == pytest.approx(1 - 0.5 / (0.5 + 8**0.5 * 0.5))


def test_stage_without_steps_is_refused():
    with pytest.raises(ValueError, match="steps: expected 1"):
        ld.families.PyramidFlow((1, 8, 8)).stage_times([2, 0, 2])
