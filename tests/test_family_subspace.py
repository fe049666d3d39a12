"""Subspace Diffusion, against its authors' numbers: float64 but for x_0, the noise of the jumps and the score."""

from __future__ import annotations

import json
import math

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import SubspaceDiffusion, SubspaceSampler
from test_operators import draw
from vectors import load, relative_error

TWO = {"changes": (0.5, 0.5), "detail": tuple(SubspaceDiffusion.DETAIL["cifar10"].values())}


@pytest.fixture(scope="module")
def vectors(shared):
    return load(shared / "vectors" / "families" / "subspace_diffusion.safetensors")[1]


def silent(x, t):
    return torch.zeros_like(x)


def test_marginals(vectors):
    """`down16`, `down8` (float64 means of float32 pixels), `time*`, `stds`."""
    ve = SubspaceDiffusion((3, 32, 32), changes=(0.5, 0.9), detail=TWO["detail"])
    x0 = vectors["x0"].double()
    for t, name in ((0.6, "down16"), (1.0, "down8")):
        assert relative_error(ve.operator(0, t)(x0), vectors[name]) <= 1e-10
    assert list(TWO["detail"]) == vectors["stds"].tolist()
    sub = ld.schedules.sub_vp()
    for i in range(4):
        t = float(vectors[f"time{i}.t"])
        assert ve.sigma(t) == pytest.approx(float(vectors[f"time{i}.ve_std"]), rel=1e-10)
        assert sub.signal(t) == pytest.approx(float(vectors[f"time{i}.subvp_mean"]), rel=1e-10)
        assert sub.sigma(t) == pytest.approx(float(vectors[f"time{i}.subvp_std"]), rel=1e-9)  # they subtract from 1


def test_jumps(vectors):
    """To full size from one subspace, over a level where two changes fall together; theirs is passed 2a for images in
    [−1, 1], where the detail is twice as large."""
    ve = SubspaceDiffusion((3, 32, 32))
    sub = SubspaceDiffusion((3, 32, 32), (0.5, 0.5), [2 * s for s in TWO["detail"]], ld.schedules.sub_vp())
    for process, name in ((ve, "jump_ve_16to32"), (sub, "jump_subvp_8to32")):
        low, high, white = (vectors[f"{name}.{part}"] for part in ("low", "high", "white"))
        sampler = process.sampler(process.denoiser(silent), steps=4)
        assert process.sigma(0.5) == pytest.approx(float(vectors[f"{name}.sigma"]))
        scale = 1 if process is ve else 2
        assert scale * process.schedule.signal(0.5) == pytest.approx(float(vectors[f"{name}.alpha"]))
        assert relative_error(sampler.jump(low, 0.5, white.double()), high) <= 1e-10


def test_score(vectors):
    """Float32."""
    process = SubspaceDiffusion((3, 32, 32))
    t = process.schedule.time(-2 * math.log(float(vectors["score.sigma"])))
    given = []

    def network(x, time):
        given.append(x)
        return -vectors["score.subspace_output"] * process.sigma(t)

    sampler = process.sampler(process.denoiser(network), steps=4)
    score = sampler.score(vectors["score.x_t"].double(), t)
    assert relative_error(given[0], vectors["score.subspace_input"]) <= 1e-10
    assert relative_error(score, vectors["score.full"]) <= 1e-6


PROCESSES = {
    "Haar": lambda: SubspaceDiffusion((1, 8, 8), (0.4, 0.7), (0.3, 0.5)),
    "sub-VP": lambda: SubspaceDiffusion((2, 8), (0.4, 0.7), (0.3, 0.5), ld.schedules.sub_vp()),
    "components": lambda: SubspaceDiffusion(
        (1, 4, 4), (0.5,), (0.2,), None, ld.bases.Principal(draw((1, 4, 4), 40), 16), [(6,)]
    ),
}


@pytest.mark.parametrize("name", list(PROCESSES))
def test_process_and_exactness(name):
    """White noise stays white; jumps and scores are exact for data whose coordinates left out are that Gaussian."""
    process = PROCESSES[name]()
    ld.testing.check_process(process, samples=200)
    sampler = process.sampler(process.denoiser(silent), steps=6)
    n = math.prod(process.shape(0))
    basis = process.path.basis
    for k, t in enumerate(process.shape_changes()):
        below, a, sigma = process.before(t), process.schedule.signal(t), process.sigma(t)
        down = process.operator(below, t).to_dense()
        fine, coarse = down.shape[1], down.shape[0]
        s = process.detail[k]
        band = ((n - coarse) * s**2 - (n - fine) * process.detail[k - 1] ** 2) / (fine - coarse) if k else s**2
        matrix = sampler.jump(torch.zeros(fine, *process.shape(t)).double(), t, torch.eye(fine).double().reshape(
            fine, *process.shape(below))).flatten(1).T  # fmt: skip
        expected = (sigma**2 + a**2 * band) * (torch.eye(fine).double() - down.T @ down)
        torch.testing.assert_close(matrix @ matrix.T, expected, rtol=1e-9, atol=1e-12)
        y = draw(process.shape(t), 2)
        back = sampler.jump(y, t, draw(process.shape(below), 2))
        torch.testing.assert_close(process.operator(below, t)(back), y, rtol=1e-9, atol=1e-9)
    # N(0, P_kᵀ P_k c² + s_k² (I − P_kᵀP_k)): the network knows the subspace, and the score is that of the whole.
    t, c = process.end, 1.7
    a, sigma, s = process.schedule.signal(t), process.sigma(t), process.detail[-1]
    variance = sigma**2 + (a * c) ** 2
    own = process.sampler(process.denoiser(lambda x, time: x * sigma / variance), steps=6)
    rows = ld.Truncation(basis, process.shape(t)).to_dense()
    seen = rows.T @ rows
    covariance = variance * seen + (sigma**2 + (a * s) ** 2) * (torch.eye(n).double() - seen)
    x = draw(process.shape(0), 3)
    expected = -torch.linalg.solve(covariance, x.flatten(1).T).T
    torch.testing.assert_close(own.score(x, t).flatten(1), expected, rtol=1e-9, atol=1e-12)


def test_langevin_steps_move_the_new_directions_alone():
    process = PROCESSES["Haar"]()
    sampler = SubspaceSampler(process.denoiser(lambda x, t: 0.3 * x), 5, process.detail, 2, snr=0.1)
    jumped = sampler.jump(draw((1, 2, 2), 2), 0.7, draw((1, 4, 4), 2))
    below, z = process.before(0.7), draw((1, 4, 4), 2, seed=5)
    moved = sampler._langevin(jumped, below, 0.7, z, {})
    operator = process.operator(below, 0.7)
    torch.testing.assert_close(operator(moved), operator(jumped), rtol=1e-9, atol=1e-9)
    score, noise = (v - operator.gram(v) for v in (-0.3 * jumped / process.sigma(below), z))
    for row in range(2):
        delta = 2 * (0.1 * noise[row].norm() / score[row].norm()) ** 2
        expected = jumped[row] + delta * score[row] + (2 * delta).sqrt() * noise[row]
        torch.testing.assert_close(moved[row], expected)


def test_sampling_and_configuration():
    for process in (SubspaceDiffusion((3, 32, 32)), PROCESSES["components"]()):
        calls = []
        denoiser = process.denoiser(lambda x, t, calls=calls: calls.append(x.shape[1:]) or torch.zeros_like(x))
        sampler = process.sampler(denoiser, steps=6)
        x = sampler(2, seeds=[0, 1], progress=False)
        assert x.shape == (2, *process.shape(0))
        assert bool(x.isfinite().all())
        assert calls == [process.shape(1.0)] * 3 + [process.shape(0)] * 5  # two of them after the jump
        torch.testing.assert_close(x[1:], sampler(1, seeds=[1], progress=False))
        again = ld.from_config(json.loads(json.dumps(sampler.to_config())), network=denoiser.network)
        assert again == sampler
    assert process.sampler(denoiser).times[0] == 1.0
    assert len(process.sampler(denoiser).times) == 1001


def test_loss_is_that_of_the_noise(generator):
    process = PROCESSES["sub-VP"]()
    loss = process.loss(process.denoiser(silent), draw((2, 8), 4).float(), generator)
    state = torch.Generator().manual_seed(0)
    t = process.drawn_times.sample(process, 4, state)
    noise = torch.randn(4, *process.shape(float(t[0])), generator=state)
    torch.testing.assert_close(loss, noise.square().flatten(1).mean(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SubspaceDiffusion((1, 8, 8), (0.4, 0.7)), "detail: expected one for each of 2 subspaces"),
        (lambda: SubspaceDiffusion((1, 8), schedule=ld.schedules.linear(10)), "schedule: expected one of continuous"),
        (lambda: SubspaceDiffusion((1, 8), basis=ld.bases.Cosine((1, 8))), "basis, subspaces: expected both"),
        (lambda: SubspaceDiffusion((1, 7, 8)), "levels: expected sizes that can be halved"),
        (
            lambda: SubspaceSampler(ld.Denoiser(silent, ld.EDM((1, 8)), "noise"), 4, [1.0]),
            "denoiser: expected one of a SubspaceDiffusion",
        ),
        (
            lambda: SubspaceSampler(SubspaceDiffusion((1, 8)).denoiser(silent), 4, [-1.0]),
            "detail: expected a number ≥ 0 for each of 1 subspaces",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("arguments", "name"), [({"changes": (2.0,)}, "changes"), ({"detail": (-0.1,)}, "detail")])
def test_numbers_out_of_range_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        ld.families.SubspaceDiffusion((1, 8, 8), **arguments)
