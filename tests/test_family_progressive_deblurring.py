"""Progressive Deblurring, against the numbers of the authors' code, all of them in float64."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import DeblurringSampler, ProgressiveDeblurring
from lineardiffusion.families.progressive_deblurring import BlurModes
from vectors import load, relative_error

EXACT = 1e-10


@pytest.fixture(scope="module")
def file(shared):
    return load(shared / "vectors" / "families" / "blur_diffusion_lee.safetensors")[1]


@pytest.fixture(scope="module")
def process():
    return ProgressiveDeblurring((1, 8, 8))


def test_every_tensor_is_compared(file):
    kinds = {"x0", "kernel", "basis", "singular_values", "t"}
    kinds |= {"B", "B_bar", "white", "x_t", "score", "step_white", "step"}
    assert {name.split(".")[-1] for name in file} == kinds
    assert sum(name.endswith(".step") for name in file) == 3


def test_blur(file):
    """Singular vectors are theirs up to sign, and to order where values are alike: what is compared is U D Uᵀ."""
    modes = BlurModes((1, 8, 8), 0.4)
    values = modes.singular_values.flatten().sort(descending=True).values
    assert relative_error(values, file["singular_values"]) <= EXACT
    theirs = file["basis"] @ torch.diag(file["singular_values"]) @ file["basis"].T
    ours = ld.SpectralFilter((1, 8, 8), modes.singular_values, modes).to_dense(torch.float64)
    assert relative_error(ours, theirs) <= EXACT
    # Theirs is the blur that it should be: convolution with the kernel, along both axes. None of it is below 0.03.
    blur = ld.Convolution(torch.outer(file["kernel"][4:11], file["kernel"][4:11]), (1, 8, 8), padding="zeros")
    assert relative_error(blur.to_dense(torch.float64), ours) <= EXACT


def test_process(file, process):
    x0 = file["x0"]
    for index, t in enumerate(file["t"].tolist()):
        at = {name.split(".")[1]: value for name, value in file.items() if name.startswith(f"{index}.")}
        step, whole = process.operator(t - 1, t), process.operator(0, t)
        for operator, gains in ((step, at["B"]), (whole, at["B_bar"])):
            ours = operator.gain.square().flatten().sort(descending=True).values
            assert relative_error(ours, gains) <= EXACT
        assert relative_error(process.diffuse(x0, t, at["white"]), at["x_t"]) <= EXACT
        score = process.noise_covariance(t).solve(whole(x0) - at["x_t"])
        assert relative_error(score, at["score"]) <= EXACT


def test_their_step(file, process):
    compared = 0
    for index, t in enumerate(file["t"].tolist()):
        if f"{index}.step" not in file:
            continue
        d = process.denoiser(lambda x, k, index=index: file[f"{index}.white"])
        x_t, noise = file[f"{index}.x_t"], file[f"{index}.step_white"]
        x_s = DeblurringSampler(d).step(x_t, t, t - 1, noise=noise)
        if t == 2:  # the numbers have noise here, which their loop leaves out
            x_s = x_s + process.transition(t, t - 1).sqrt(noise)
        assert relative_error(x_s, file[f"{index}.step"]) <= EXACT
        compared += 1
    assert compared == 3


@pytest.fixture(scope="module")
def small():
    return ProgressiveDeblurring((2, 3, 4), num_steps=30, blur_sigma=0.7, blur_sigma_max=0.9)


def test_fits_together(small):
    ld.testing.check_process(small)


@pytest.mark.parametrize(("t", "s"), [(2, 1), (17, 16), (30, 8)])
def test_posterior_is_that_of_dense_algebra(small, t, s):
    """Bayes' rule with the marginal of s and the transition to t; and Q = U (I − B) Uᵀ."""
    step, direct = (small.operator(u, v).to_dense(torch.float64) for u, v in ((s, t), (0, s)))
    eye = torch.eye(len(step), dtype=torch.float64)
    cov_s, noise = eye - direct @ direct.T, eye - step @ step.T
    torch.testing.assert_close(small.noise_covariance(s).to_dense(torch.float64), cov_s)
    torch.testing.assert_close(small.transition(t, s).to_dense(torch.float64), noise)
    expected = torch.linalg.inv(torch.linalg.inv(cov_s) + step.T @ torch.linalg.inv(noise) @ step)
    x_t, mean_s = torch.randn(2, 24, dtype=torch.float64)
    gain = expected @ step.T @ torch.linalg.inv(noise)
    posterior = small.posterior(x_t.reshape(2, 3, 4), mean_s.reshape(2, 3, 4), t, s)
    torch.testing.assert_close(posterior.mean.flatten(), mean_s + gain @ (x_t - step @ mean_s))
    torch.testing.assert_close(posterior.covariance.to_dense(torch.float64), expected)


def test_their_step_is_the_posterior_to_first_order():
    """Of the mean: at half the distance between times, where I − W is half as large, the difference is a quarter."""
    x_t = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    errors = []
    for steps in (200, 400):
        p = ProgressiveDeblurring((1, 6, 6), num_steps=steps)
        d = p.denoiser(lambda x, t: 0.9 * x.flip(-1))
        t = steps // 2
        none = torch.zeros_like(x_t)
        theirs = DeblurringSampler(d).step(x_t, t, t - 1, noise=none)
        errors.append(float((ld.AncestralSampler(d).step(x_t, t, t - 1, noise=none) - theirs).norm()))
    assert errors[1] < 0.3 * errors[0]


def test_last_steps_have_no_noise(process):
    """Theirs draw none from t = 2 on."""
    x = torch.randn(1, 1, 8, 8)
    sampler = DeblurringSampler(process.denoiser(lambda x, t: torch.zeros_like(x)))
    for t, drawn in ((3, True), (2, False), (1, False)):
        with_noise, without = (sampler.step(x, t, t - 1, noise=f * torch.ones_like(x)) for f in (1.0, 0.0))
        assert torch.equal(with_noise, without) != drawn


def test_loss(small):
    """‖ε − ε̂‖², for 1 … T − 1, of which the network is told t itself."""
    told = []
    d = small.denoiser(lambda x, t: told.append(t) or torch.zeros_like(x))
    losses = small.loss(d, torch.rand(6, 2, 3, 4, dtype=torch.float64), torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    t = torch.randint(1, 30, (6,), generator=generator)
    noise = torch.randn(6, 2, 3, 4, generator=generator).double()
    assert torch.equal(told[0], t)
    torch.testing.assert_close(losses, noise.square().mean((1, 2, 3)))


def test_configuration(small):
    assert ld.from_config(small.to_config()) == small
    assert small != ProgressiveDeblurring((2, 3, 4), num_steps=30, blur_sigma=0.7, blur_sigma_max=0.8)


def test_sample_of_images():
    p = ProgressiveDeblurring((3, 16, 16), num_steps=40)
    d = p.denoiser(lambda x, t: torch.zeros_like(x))
    assert p.sampler(d).times == [*range(39, -1, -1)]
    for sampler in (p.sampler(d), DeblurringSampler(d, range(39, 0, -1), clip=(-1, 1))):
        assert sampler(2, seeds=[0, 1], progress=False).isfinite().all()


@pytest.mark.parametrize(("argument", "value"), [("blur_sigma", 0.0), ("blur_sigma_max", -1.0), ("num_steps", 0)])
def test_refused(argument, value):
    with pytest.raises(ValueError, match=argument if argument != "num_steps" else "num_steps|T"):
        ProgressiveDeblurring((1, 8, 8), **{argument: value})


def test_one_step_is_refused():
    """It would neither be trained nor visited."""
    with pytest.raises(ValueError, match="num_steps: expected 2"):
        ProgressiveDeblurring((1, 8, 8), num_steps=1)
