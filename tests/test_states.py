"""States, and the noise they are made of: in float32 or better whatever the network computes in, and the same for the
same seed."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from test_operators import draw
from test_processes import STEPS, families
from test_sampling import shrinking

FAMILIES = families()


class InItsDtype(torch.nn.Module):
    """The optimal denoiser of Gaussian data, with inputs and outputs in the dtype of its weight."""

    def __init__(self, process, covariance, dtype):
        super().__init__()
        self.exact = [ld.lab.OptimalDenoiser(process, covariance)]  # not a submodule
        self.weight = torch.nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x, t_index, size=None):
        assert x.dtype == self.weight.dtype
        return self.exact[0](x.double(), int(t_index[0]) + 1).to(x.dtype)


@pytest.mark.parametrize("make", [ld.DDPM, lambda shape: ld.ScaleSpaceDiffusion(shape, 2)], ids=["DDPM", "scale space"])
def test_a_thousand_steps_of_a_half_precision_network_keep_the_variance(make):
    """States in bfloat16 would lose a tenth of it at low frequencies."""
    p, data = make((1, 16)), ld.lab.power_law((1, 16))
    variances = []
    for dtype in (torch.float32, torch.bfloat16):
        sampler = ld.AncestralSampler(ld.Denoiser(InItsDtype(p, data, dtype), p))
        samples = sampler(200, generator=torch.Generator().manual_seed(0), progress=False)
        assert samples.dtype == torch.float32
        variances.append(ld.lab.estimate(samples)[0].gain.flatten()[:4] / data.gain.flatten()[:4])
    torch.testing.assert_close(variances[1], variances[0], rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_states_are_in_float32_or_better(name, dtype):
    p, seen = FAMILIES[name], []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.counts = torch.nn.Parameter(torch.ones(1, dtype=torch.long), requires_grad=False)
            self.weight = torch.nn.Parameter(torch.full((), 0.5, dtype=dtype))

        def forward(self, x, t_index, size=None, y=None):
            seen.append((x.dtype, y.dtype))
            return self.weight * torch.nn.functional.interpolate(x, size) if size else self.weight * x

    sampler = ld.DDIMSampler(ld.Denoiser(Network(), p), steps=4)
    wide = torch.promote_types(dtype, torch.float32)
    y = torch.zeros(2, dtype=torch.float64)
    for _, x, clean in sampler.trajectory(2, seeds=[0, 1], progress=False, y=y):
        assert x.dtype == clean.dtype == wide
    t = sampler.times[0]
    for given in (torch.bfloat16, torch.float32, torch.float64):
        x_t = draw(p.shape(t), 2).to(given)
        assert sampler.step(x_t, t, t - 1, y=y).dtype == torch.promote_types(given, torch.float32)
        assert sampler.denoiser(x_t, t, y=y).dtype == given
    assert set(seen) == {(dtype, torch.float64)}


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("make", [ld.AncestralSampler, ld.DDIMSampler])
def test_a_seed_is_the_same_sample_in_every_dtype(name, make):
    p, samples = FAMILIES[name], []
    for dtype in (torch.float32, torch.float64):
        network = torch.nn.Conv2d(2, 2, 1, bias=False).to(dtype)
        torch.nn.init.constant_(network.weight, 0.25)

        class Network(torch.nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x, t_index, size=None):
                return self.inner(torch.nn.functional.interpolate(x, size) if size else x)

        sampler = make(ld.Denoiser(Network(network), p), steps=10)
        seeded = sampler(2, seeds=[3, 4], progress=False)
        drawn = sampler(2, generator=torch.Generator().manual_seed(5), progress=False)
        assert seeded.dtype == dtype
        samples.append(torch.cat([seeded, drawn]).double())
    # Undoing a blur amplifies rounding about ten times.
    bound = (1e-5 if name == "blurring" else 1e-6) * samples[1].abs().max()
    assert (samples[0] - samples[1]).abs().max() <= bound


@pytest.mark.parametrize("name", list(FAMILIES))
def test_autocast_is_for_networks_alone(name):
    p = FAMILIES[name]
    sampler = ld.AncestralSampler(shrinking(p), steps=10)
    x0, times = draw(p.shape(0), 3).float(), torch.tensor([1, 5, 9])

    def results():
        generator = torch.Generator().manual_seed(0)
        noisy = p.diffuse(x0, STEPS, generator=generator), p.diffuse(x0, times, generator=generator)
        return *noisy, p.clean(x0, STEPS), sampler(2, seeds=[0, 1], progress=False)

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        for result, exact in zip(results(), expected, strict=True):
            assert torch.equal(result, exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_generator_is_the_same_noise_in_every_dtype(name, dtype):
    process = FAMILIES[name]

    def draws(dtype):
        x0 = torch.zeros(2, *process.shape(0), dtype=dtype)
        seed = lambda: torch.Generator().manual_seed(7)  # noqa: E731
        yield process.prior(2, seed(), dtype=dtype)
        yield process.diffuse(x0, STEPS, generator=seed())
        yield process.diffuse(x0, torch.tensor([1, 9]), generator=seed())
        yield process.marginal(STEPS).sample(x0, generator=seed())
        zeros = torch.zeros(2, *process.shape(STEPS), dtype=dtype)
        yield ld.Gaussian(zeros, process.noise_covariance(STEPS)).sample(generator=seed())

    tolerance = 4 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    for own, single in zip(draws(dtype), draws(torch.float32), strict=True):
        assert own.dtype == dtype
        torch.testing.assert_close(own.double(), single.double(), rtol=tolerance, atol=tolerance)


def test_prior_with_noise_that_is_given():
    p = FAMILIES["scale space"]
    noise = draw(p.shape(STEPS), 3)
    assert torch.equal(p.prior(3, noise=noise, dtype=torch.float64), p.sigma(STEPS) * noise)
    with pytest.raises(ValueError, match="noise: expected shape"):
        p.prior(2, noise=noise)
