"""Dropout by seeds: masks are fair and independent, and a sample's are its own (the trainer's: test_train.py)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lineardiffusion.flexi_unet import FlexiUNet, FullUNet, ResizedFlexiUNet
from lineardiffusion.flexi_unet.layers import Dropout

NET = {
    "model_channels": 16,
    "num_res_blocks": 1,
    "channel_mult": (1, 2, 2),
    "attention_resolutions": (4,),
    "dropout": 0.3,
}


def layers(probability, count=3):
    found = [Dropout(probability) for _ in range(count)]
    for number, layer in enumerate(found):
        layer.layer = number
    return found


@pytest.mark.parametrize("probability", [0.03, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seeds", [torch.arange(40), torch.randint(2**63 - 1, (40,), generator=torch.Generator())])
def test_masks_are_independent_and_keep_as_many_as_they_should(probability, seeds):
    """Between layers, samples and neighbours n independent bits have correlations of deviation 1/√n."""
    x = torch.ones(40, 4, 25, 30)
    masks = torch.stack([layer(x, seeds) for layer in layers(probability)]).flatten(2).double()
    assert set(masks.unique().tolist()) == {0.0, masks.max().item()}
    assert masks.max().item() == pytest.approx(1 / (1 - probability))
    kept, deviation = masks > 0, math.sqrt(probability * (1 - probability))
    assert abs(kept.double().mean() - (1 - probability)) < 5 * deviation / math.sqrt(kept.numel())
    bits = (kept.double() - (1 - probability)) / deviation  # (3 layers, 40 samples, 3000 places)
    rows = bits.flatten(0, 1)
    for shift in (0, 1, 2, 30, 750):
        correlations = rows @ rows.roll(shift, dims=1).T / 3000
        if shift == 0:
            correlations.fill_diagonal_(0)
        assert correlations.std() * math.sqrt(3000) == pytest.approx(1, abs=0.06), shift
        assert correlations.abs().max() * math.sqrt(3000) < 9, shift  # rare bits have long tails
    assert abs(rows.mean(1).std() * math.sqrt(3000) - 1) < 0.35
    assert abs(rows.mean(0).std() * math.sqrt(120) - 1) < 0.1


def test_a_sample_keeps_its_mask_wherever_it_is():
    layer = layers(0.4)[1]
    x, seeds = torch.randn(5, 6, 4, 7), torch.tensor([9, 2**62, 0, 7, 9])
    whole = layer(x, seeds)
    order = torch.tensor([3, 0, 2])
    assert torch.equal(layer(x[order], seeds[order]), whole[order])
    assert torch.equal(whole[0] != 0, whole[4] != 0)
    assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last), seeds), whole)
    assert torch.equal(layer(x.bfloat16(), seeds) != 0, whole != 0)
    assert layer(x.bfloat16(), seeds).dtype == torch.bfloat16


def test_without_seeds_and_without_dropout():
    x, seeds = torch.ones(4, 100), torch.arange(4)
    layer = Dropout(0.5)
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    assert layer.eval()(x, seeds) is x
    assert Dropout(0.0)(x, seeds) is x
    with pytest.raises(ValueError, match=r"dropout: expected a probability in \[0, 1\), got -0.1"):
        Dropout(-0.1)


@pytest.mark.parametrize("kind", [FlexiUNet, ResizedFlexiUNet, FullUNet])
def test_networks_give_each_sample_what_it_gets_alone(kind):
    torch.manual_seed(0)
    net = kind(16, **NET)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    x, t, seeds = torch.randn(3, 3, 8, 8), torch.tensor([3, 50, 999]), torch.tensor([5, 6, 5])
    whole = net(x, t, size=(16, 16), dropout_seeds=seeds)
    torch.rand(3)
    alone = [net(x[i : i + 1], t[i : i + 1], size=(16, 16), dropout_seeds=seeds[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(x, t, size=(16, 16), dropout_seeds=seeds + 1), whole, atol=1e-2)


def test_layers_of_a_network_have_numbers_of_their_own():
    numbers = [module.layer for module in FlexiUNet(16, **NET).modules() if isinstance(module, Dropout)]
    assert len(numbers) > 8
    assert all(a != b for a, b in itertools.combinations(numbers, 2))
