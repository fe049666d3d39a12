"""What all families of the literature promise."""

from __future__ import annotations

import inspect
import json
import pickle

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import Card, Family

SHAPE = (3, 32, 32)
FAMILIES = [kind for kind in vars(ld.families).values() if inspect.isclass(kind) and issubclass(kind, Family)]
FAMILIES.remove(Family)
# Events that the structure of a family has no place for.
LATENTS, VIDEO, SOUND = (4, 8, 16), (3, 4, 8, 16), (2, 64)
REFUSED = {
    "ColdDiffusion": [LATENTS, VIDEO],  # kernels of 27 pixels
    "PixelFlow": [VIDEO],  # three halvings of frames
    "UDPM": [VIDEO],
    "WaveletDiffusion": [VIDEO, SOUND],
    "WSGM": [VIDEO, SOUND],
}


# Fewer steps than published, where noise levels that are not white take seconds to make for all of them.
SHORT = {name: {"num_steps": 50} for name in ("Matryoshka", "PyramidNoise", "OffsetNoise", "EqualSNR")}
SHORT["CascadedDiffusion"] = {"num_steps": 25, "augmentation": 5}
SHORT |= {name: {"num_steps": 8} for name in ("InverseHeatDissipation", "SoftDiffusion")}


@pytest.fixture(params=FAMILIES, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def short(kind, shape):
    return kind(shape, **SHORT.get(kind.__name__, {}))


def test_card(kind):
    """Every family has a whole card, a paper and a docstring that names it."""
    assert isinstance(kind.card, Card)
    assert all(value.strip() for value in kind.card)
    assert kind.card.url.startswith("https://")
    assert kind.card.url in kind.__doc__
    assert ">>>" in kind.__doc__


def test_configuration(kind):
    """Two of the same arguments are the same, and so is what a configuration makes."""
    shape = SHAPE if kind is ld.families.ColdDiffusion else (3, 8, 8)
    process = short(kind, shape)
    assert process == short(kind, shape)
    again = ld.from_config(json.loads(json.dumps(process.to_config())))
    assert type(again) is kind
    assert again == process


def test_published_defaults(kind):
    """With a shape alone it is what its paper has, and x_t is its marginal's."""
    process = kind(SHAPE)
    x0 = torch.rand(2, *process.shape(0), dtype=torch.float64) * 2 - 1
    for t in (round(process.end * k / 4) if process.num_steps else process.end * k / 4 for k in range(1, 5)):
        noise = torch.randn(2, *process.shape(t), dtype=torch.float64)
        x_t = process.diffuse(x0, t, noise=noise)
        torch.testing.assert_close(x_t, process.marginal(t).sample(x0, noise=noise), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [LATENTS, VIDEO, SOUND], ids=["latents", "video", "sound"])
def test_any_events(kind, shape):
    """Latents, videos and sound are events like images; what a family's structure has no place for it refuses."""
    if shape in REFUSED.get(kind.__name__, ()):
        with pytest.raises(ValueError, match=r"^(shape|levels|kernel):"):
            short(kind, shape)
        return
    process = short(kind, shape)
    t = round(process.end / 2) if process.num_steps else process.end / 2
    x0 = process.data(torch.ones(2, *shape))
    assert process.diffuse(x0, t).shape == (2, *process.shape(t))
    assert process.clean(x0, t).isfinite().all()
    if kind is not ld.families.WSGM:  # of details alone
        assert torch.equal(process.images(x0), torch.ones(2, *shape))


class Network(torch.nn.Module):
    """Some function of the state, as large as each family asks for."""

    def __init__(self, kind, dtype=torch.float32):
        super().__init__()
        self.kind = kind.__name__
        self.factor = torch.nn.Parameter(torch.tensor([[0.3]], dtype=dtype))

    def forward(self, x, time, size=None):
        # As strict about dtypes as a layer is.
        output = torch.nn.functional.linear(x[..., None].sin(), self.factor)[..., 0]
        if self.kind == "CriticallyDamped":
            return output.chunk(2, 1)[0]
        if size is not None and tuple(size) != tuple(x.shape[2:]):
            return torch.nn.functional.interpolate(output, tuple(size))
        return torch.cat([output, output], 1) if self.kind == "BlueNoise" else output


def small(kind):
    if kind is ld.families.ColdDiffusion:
        return kind((1, 8, 8), ld.families.LowResolution(2))
    return short(kind, (1, 8, 8))


def test_denoiser_is_made_again(kind):
    """From its configuration and the network that its user gave; and nothing that was computed stands in the way."""
    process, network = small(kind), Network(kind)
    denoiser, t = process.denoiser(network), round(process.end / 2) or 1
    t = t if process.num_steps else process.end / 2
    x_t = process.diffuse(process.data(torch.rand(2, 1, 8, 8)), t)
    again = ld.from_config(json.loads(json.dumps(denoiser.to_config())), network=network)
    assert again == denoiser
    assert torch.equal(again(x_t, t), denoiser(x_t, t))
    assert pickle.loads(pickle.dumps(process)) == process


def test_loss_in_any_dtype(kind):
    """Of data and networks, each of its own: arithmetic is in float32 or better."""
    process = small(kind)
    x0 = process.data(torch.rand(2, 1, 8, 8))
    whole = process.loss(process.denoiser(Network(kind)), x0, torch.Generator().manual_seed(0))
    assert whole.shape == (2,)
    for network, data in ((torch.float64, torch.float32), (torch.bfloat16, torch.float64)):
        denoiser = process.denoiser(Network(kind, network))
        loss = process.loss(denoiser, x0.to(data), torch.Generator().manual_seed(0))
        assert loss.dtype == data
        torch.testing.assert_close(loss, whole.to(loss), rtol=0.1, atol=0.05)
    denoiser = process.denoiser(Network(kind))
    assert process.loss(denoiser, x0.bfloat16(), torch.Generator().manual_seed(0)).dtype == torch.float32


def test_loss_refuses_others(kind):
    """A network as it is, and a denoiser of another process."""
    process = small(kind)
    x0 = process.data(torch.rand(2, 1, 8, 8))
    with pytest.raises(TypeError, match=rf"denoiser: expected one of {kind.__name__}\.denoiser"):
        process.loss(Network(kind), x0)
    other = ld.DDPM(process.shape(0), num_steps=50)
    with pytest.raises(ValueError, match="denoiser: expected one of this process"):
        process.loss(other.denoiser(Network(kind)), x0)


@pytest.mark.parametrize("name", ["DDIM", "EqualSNR", "Matryoshka"])
def test_few_steps(name):
    """A process of fewer steps than its paper's sampler takes is sampled in all of them."""
    process = getattr(ld.families, name)((1, 8, 8), num_steps=7)
    assert process.sampler(process.denoiser(torch.zeros_like)).times == [7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("name", ["InverseHeatDissipation", "SoftDiffusion"])
def test_directions_that_are_gone_leave_heun_finite(name):
    """Frequencies that a blur has taken to 1e-30 come back by Euler's method alone."""
    process = getattr(ld.families, name)((1, 16, 16))
    denoiser = ld.Denoiser(lambda x, index: torch.tanh(x), process, "data")
    drawn = ld.HeunSampler(denoiser, 10)(2, seeds=[0, 1], prior=torch.rand(2, 1, 16, 16), progress=False)
    assert float(drawn.abs().max()) <= 1


def test_jumps_are_at_changes_of_shape():
    process = ld.families.PyramidFlow((1, 16, 16))
    with pytest.raises(ValueError, match="t: expected one of"):
        process.jump(torch.zeros(1, 1, 8, 8), 0.5, torch.zeros(1, 1, 8, 8))
    subspace = ld.families.SubspaceDiffusion((1, 8, 8))
    sampler = ld.families.SubspaceSampler(subspace.denoiser(lambda x, t: x), 4)
    assert sampler.detail == subspace.detail
    with pytest.raises(ValueError, match="t: expected one of"):
        sampler.jump(torch.zeros(1, 1, 4, 4), 0.7, torch.zeros(1, 1, 4, 4))
