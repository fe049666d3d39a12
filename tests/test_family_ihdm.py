"""Inverse Heat Dissipation, against the numbers of the authors' code."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import InverseHeatDissipation, InverseHeatSampler
from lineardiffusion.families.ihdm import LogSpacedBlur
from vectors import load, relative_error

EXACT, SINGLE = 1e-10, 1e-6  # of tensors in float64, and of those that the authors' code casts to float32


@pytest.fixture(scope="module")
def file(shared):
    return load(shared / "vectors" / "families" / "ihdm.safetensors")[1]


def replay(outputs):
    """A network that returns what theirs returned at each k."""
    return lambda x, k: outputs[int(k[0])].to(x)


def test_every_tensor_is_compared(file):
    kinds = {"x0", "x0_rgb", "blur_sigmas", "blurred", "blurred_rgb"}
    kinds |= {"train_noise", "train_input", "train_output", "train_losses"}
    kinds |= {"start", "x", "net", "noise", "next", "result", "delta"}
    assert {name.split(".")[-1] for name in file} == kinds


def test_blurred(file):
    blur = LogSpacedBlur(100, 0.5, 20.0)
    assert relative_error(blur(torch.arange(101, dtype=torch.float64)), file["blur_sigmas"]) <= EXACT
    compared = 0
    for end in ("", "_rgb"):
        x0 = file[f"x0{end}"]
        p = InverseHeatDissipation(x0.shape[1:], num_steps=100, blur_sigma_max=20.0)
        for name in [name for name in file if name.endswith(f".blurred{end}")]:
            k = int(name.split(".")[0])
            assert relative_error(p.clean(x0, k), file[name]) <= EXACT
            assert relative_error(p.clean(x0, torch.tensor([k, k])), file[name]) <= EXACT
            compared += 1
    assert compared == 9


@pytest.mark.parametrize("k", [1, 50, 99])
def test_training(file, k):
    """Theirs is a sum over pixels, ours a mean."""
    x0, noise, output = file["x0"], file[f"{k}.train_noise"], file[f"{k}.train_output"]
    p = InverseHeatDissipation(x0.shape[1:], num_steps=100, blur_sigma_max=20.0)
    assert relative_error(p.diffuse(x0, k, noise.double()), file[f"{k}.train_input"]) <= SINGLE
    losses = ld.denoising_loss(p.denoiser(replay({k: output})), x0, k, noise.double(), p.weighting)
    assert relative_error(losses * x0[0].numel(), file[f"{k}.train_losses"]) <= SINGLE


def test_sampler(file):
    """State by state, and all in one trajectory."""
    p = InverseHeatDissipation(file["x0"].shape[1:], num_steps=4, blur_sigma_max=20.0)
    start, delta = file["sampler.start"], float(file["sampler.delta"])
    assert relative_error(p.clean(file["x0"], 4), start) <= EXACT
    d = p.denoiser(replay({k: file[f"sampler.{k}.net"] for k in (1, 2, 3, 4)}))
    sampler = InverseHeatSampler(d, delta=delta)
    x = start
    for k in (4, 3, 2, 1):
        assert relative_error(x, file[f"sampler.{k}.x"]) <= SINGLE
        mean, noise = sampler.step(x, k, k - 1, noise=torch.zeros_like(x)), file[f"sampler.{k}.noise"]
        x = sampler.step(x, k, k - 1, noise=noise)
        # Their loop draws noise in the last step too, and then returns the mean without it.
        after = x if k > 1 else x + delta * noise
        assert relative_error(after, file[f"sampler.{k - 1}.next"]) <= SINGLE
    assert torch.equal(mean, x)
    assert relative_error(x, file["sampler.result"]) <= SINGLE


@pytest.fixture
def process():
    return InverseHeatDissipation((1, 6, 8), num_steps=8, blur_sigma_max=3.0, sigma=0.1)


def test_fits_together(process):
    with pytest.warns(UserWarning, match="prior"):
        ld.testing.check_process(process)


def test_noise_of_its_own_level_is_shared_noise(process):
    """δ = σ: the library's kernel of γ = 0, for every s."""
    d = process.denoiser(lambda x, k: 0.3 * x.flip(-1) - 0.01 * k[:, None, None, None])
    images = torch.rand(5, 1, 6, 8, dtype=torch.float64)
    ours, theirs = ld.SharedNoiseSampler(d, [8, 5, 2], eta=1.0), InverseHeatSampler(d, [8, 5, 2], delta=0.1)
    results = [sampler(3, seeds=[0, 1, 2], prior=images, progress=False) for sampler in (ours, theirs)]
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_times(process, generator):
    """Their loss draws 1 … K − 1."""
    t = process.drawn_times.sample(process, 500, generator)
    assert t.dtype == torch.int64
    assert set(t.tolist()) == set(range(1, 8))
    with pytest.raises(ValueError, match="two steps"):
        process.drawn_times.sample(ld.EDM((1, 8)), 3)


def test_loss(process):
    x0 = torch.rand(4, 1, 6, 8, dtype=torch.float64)
    d = process.denoiser(lambda x, k: torch.zeros_like(x))
    losses = process.loss(d, x0, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    k = torch.randint(1, 8, (4,), generator=generator)
    noise = torch.randn(4, 1, 6, 8, generator=generator).double()
    expected = (process.clean(x0, k) + 0.1 * noise - process.clean(x0, k - 1)).square().mean((1, 2, 3))
    torch.testing.assert_close(losses, expected)


def test_network_is_told_k_and_keeps_its_weights(process):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x, k, label=None):
            assert k.tolist() == [3, 3]
            assert label == "a"
            return self.factor * x

    d = process.denoiser(Network())
    x = torch.rand(2, 1, 6, 8)
    torch.testing.assert_close(d(x, 3, label="a"), 1.5 * x)
    assert "network.factor" in d.state_dict()


def test_configuration(process):
    again = ld.from_config(process.to_config())
    assert again == process
    d = process.denoiser(torch.nn.Identity())
    assert ld.from_config(process.sampler(d).to_config(), network=d.network) == process.sampler(d)


def test_sample_of_images():
    p = InverseHeatDissipation((3, 32, 32))
    d = p.denoiser(lambda x, k: torch.zeros_like(x))
    assert p.sampler(d).delta == 0.013
    images = torch.rand(4, 3, 32, 32)
    sample = p.sampler(d)(2, seeds=[0, 1], prior=images, progress=False)
    assert sample.shape == (2, 3, 32, 32)
    clipped = InverseHeatSampler(d, 10, clip=(0.0, 0.5))(2, seeds=[0, 1], prior=images, progress=False)
    assert float(clipped.max()) == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 1}, "num_steps"),
        ({"sigma": 0.0}, "sigma: expected a number > 0"),
        ({"blur_sigma_max": 0.1}, "blur_sigma_max"),
        ({"blur_sigma_min": 0.0}, "blur_sigma_min"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        InverseHeatDissipation((1, 8, 8), **arguments)


def test_delta_refused(process):
    with pytest.raises(ValueError, match="delta: expected a number ≥ 0, got -1"):
        InverseHeatSampler(process.denoiser(torch.nn.Identity()), delta=-1.0)


def test_difference_is_added_in_full_precision(process):
    """The state is not rounded to what a network computes in."""
    network = torch.nn.Conv2d(1, 1, 1).bfloat16()
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    d = process.denoiser(lambda x, k: network(x.bfloat16()))
    x = torch.rand(2, 1, 6, 8)
    assert torch.equal(d(x, 5), x)
    d = ld.from_config(process.denoiser(network).to_config(), network=NoTime(network))
    assert torch.equal(d(x, 5), x)
    with pytest.raises(ValueError, match="prediction: expected 'clean' or 'data'"):
        ld.Denoiser(network, ld.ScaleSpaceDiffusion((1, 8, 8), 2), process.prediction, lift="pseudoinverse")


class NoTime(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, k):
        return self.network(x)
