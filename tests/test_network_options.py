"""The options of ADM's U-Net and of Flexi-UNet: the original implementations' numbers, and what must not change.

The numbers were computed by guided-diffusion's UNetModel and by the FlexiUNet of Scale Space Diffusion's authors (with
their program's resizing around it), with the weights and inputs of `waves`.
"""

from __future__ import annotations

import json

import pytest
import torch

from lineardiffusion.flexi_unet import FlexiUNet, FullUNet, ResizedFlexiUNet, shared_levels
from lineardiffusion.flexi_unet.model import resize

SIZED = {"image_size": 16, "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2, 3)}
BASE = {**SIZED, "attention_resolutions": (2,), "num_heads": 2, "use_scale_shift_norm": False}
T = torch.tensor([7, 600])


def waves(shape, phase):
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) * 1.7 + phase).reshape(shape).float()


def weights(network):
    state = sorted(network.state_dict().items())
    return {name: waves(p.shape, phase) / max(1, p[0].numel()) ** 0.5 for phase, (name, p) in enumerate(state)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [-0.88227, 0.80896, 0.41982]),
        ({"num_head_channels": 8}, [-0.87666, 0.80971, 0.419]),
        ({"num_heads_upsample": 4}, [-0.88262, 0.80863, 0.41636]),
        ({"use_new_attention_order": True}, [-0.88417, 0.80859, 0.41726]),
        ({"conv_resample": False}, [0.77536, -0.87384, 0.54587]),
        ({"resblock_updown": True, "use_scale_shift_norm": True}, [0.64875, -1.00054, -0.5652]),
        ({"use_checkpoint": True}, [-0.88227, 0.80896, 0.41982]),
        ({"channel_mult": (0.5, 2, 2), "model_channels": 64}, [0.29599, 0.08455, -1.00637]),
    ],
    ids=lambda value: "-".join(value) or "none" if isinstance(value, dict) else "",
)
@torch.no_grad()
def test_options_of_adm(options, expected):
    config = {**BASE, **options}
    net = FullUNet.from_reference(config, weights(FullUNet(**config)))
    out = net(waves((2, 3, 16, 16), 0), T)
    found = [float(out[0, 0, 3, 5]), float(out[0, 2, 15, 15]), float(out[1, 1, 8, 0])]
    assert found == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("levels", "here", "there", "expected"),
    [
        ({16: 16, 12: 16, 8: 8, 6: 8, 4: 4}, 12, 12, [-1.03611, 0.98986, 0.38011]),
        ({16: 16, 12: 16, 8: 8, 6: 8, 4: 4}, 6, 6, [-0.48354, 0.64253, -0.01924]),
        ({16: 16, 12: 16, 8: 8, 6: 8, 4: 4}, 12, 16, [-1.08358, 0.97396, 0.33562]),
        ({16: 16, 12: 16, 8: 8, 6: 8, 4: 4}, 8, 12, [-1.10788, 1.05953, 0.38251]),
        ({16: 16, 12: 16, 8: 8, 6: 8, 4: 4}, 4, 6, [-0.9939, 1.41432, 0.12648]),
        ({16: 16, 4: 4}, 4, 4, [-1.15531, 1.1762, -0.17911]),
        ({16: 16, 4: 4}, 4, 16, [-1.10206, 1.00889, 0.34053]),
        ({16: 16, 15: 16, 4: 4}, 4, 15, [-1.02264, 1.05071, 0.54162]),
    ],
)
@torch.no_grad()
def test_resolutions_that_share_a_level_or_skip_one(levels, here, there, expected):
    config = {**BASE, "use_scale_shift_norm": True, "unet_res_layer_map": levels}
    net = FlexiUNet.from_reference(json.loads(json.dumps(config)), weights(FlexiUNet(**config)))
    out = net(waves((2, 3, here, here), 0), T, size=(there, there))
    found = [float(out[0, 0, 3, 2]), float(out[0, 2, -1, -1]), float(out[1, 1, 1, 0])]
    assert found == pytest.approx(expected, abs=2e-5)


def test_within_a_level_the_input_is_resized():
    torch.manual_seed(0)
    net = FlexiUNet(**SIZED, unet_res_layer_map={16: 16, 8: 8, 6: 8}).eval()
    net.load_state_dict(weights(net))
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(net(x, T, size=(8, 8)), net(resize(x, (8, 8)), T))


@pytest.mark.parametrize(
    ("factor", "levels", "expected"),
    [
        (2, 3, {64: 64, 32: 32, 16: 16}),
        (1.5, 4, {64: 64, 40: 64, 28: 32, 20: 32}),
        (2**0.5, 4, {64: 64, 48: 64, 32: 32, 24: 32}),
        (4, 2, {64: 64, 16: 16}),
        (3, 3, {64: 64, 20: 32, 7: 8}),
    ],
)
def test_resolutions_a_factor_apart(factor, levels, expected):
    """As the original implementation lists them."""
    found = shared_levels(64, 4, levels, factor)
    assert found == {(n, n): (of, of) for n, of in expected.items()}
    assert list(found) == sorted(found, reverse=True)


@pytest.mark.parametrize("size", [(21, 30), (48, 20), (32, 32), (5, 64)])
@pytest.mark.parametrize("factor", [1.3, 2**0.5, 2, 3])
def test_every_size_and_factor_runs(size, factor):
    levels = shared_levels(size, 3, 3, factor)
    options = {"model_channels": 16, "num_res_blocks": 1, "channel_mult": (1, 2, 2), "resblock_updown": factor < 2}
    flexi = FlexiUNet(size, unet_res_layer_map=levels, **options)
    resized = ResizedFlexiUNet(size, unet_res_layer_map=levels, conv_resample=False, **options)
    sizes = list(levels)
    for place, here in enumerate(sizes):
        for there in sizes[max(0, place - 1) : place + 1]:
            x = torch.randn(2, 3, *here)
            assert flexi(x, T, size=there).shape == resized(x, T, size=there).shape == (2, 3, *there)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_head_channels": 5}, "num_head_channels: expected a divisor of 64 channels, got 5"),
        ({"num_heads_upsample": 5}, "num_heads: expected a divisor of 96 channels, got 5"),
        ({"num_heads": 0}, "num_heads: expected a divisor of 96 channels, got 0"),
        ({"dropout": 1.0}, r"dropout: expected a probability in \[0, 1\), got 1.0"),
        ({"unet_res_layer_map": {16: 16, 12: 12}}, r"unet_res_layer_map: .* got \(12, 12\) for \(12, 12\)"),
        ({"unet_res_layer_map": {12: 8}}, r"unet_res_layer_map: .* that is not smaller, got \(8, 8\) for \(12, 12\)"),
        ({"unet_res_layer_map": {16: 16, 3: 8, 4: 4}}, "unet_res_layer_map: expected deeper levels for smaller sizes"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FlexiUNet(**{**BASE, "attention_resolutions": (2, 4) if "num_heads" not in options else (), **options})


@pytest.mark.parametrize(
    ("levels", "factor", "message"),
    [
        (4, 1.0, "ds_factor: expected a number larger than 1, got 1.0"),
        (9, 2, "num_levels: expected at most 4 for 8 and a factor 2, got 9"),
        (5, 1.01, "num_levels: expected at most 1 for 8 and a factor 1.01, got 5"),
    ],
)
def test_resolutions_that_are_none(levels, factor, message):
    with pytest.raises(ValueError, match=message):
        shared_levels(8, 3, levels, factor)


@pytest.mark.parametrize(
    ("seeds", "backend"), [(None, None), (torch.tensor([3, 8]), None), (torch.tensor([3, 8]), "aot_eager")]
)
@pytest.mark.long
def test_checkpointing_changes_no_gradient(seeds, backend):
    """Nor what is dropped, when it is computed again outside of the forward pass."""
    attention = () if backend else (2,)  # beside that of the middle block; compilers take long enough
    config = {**SIZED, "image_size": 8, "channel_mult": (1, 2), "attention_resolutions": attention, "dropout": 0.4}
    gradients = []
    for use_checkpoint in (False, True):
        net = FlexiUNet(**config, resblock_updown=True, use_checkpoint=use_checkpoint)
        net.load_state_dict(weights(net))
        if backend and use_checkpoint:
            net.compile(backend=backend)
        torch.manual_seed(0)
        loss = net(waves((2, 3, 4, 4), 0), T, size=(8, 8), dropout_seeds=seeds).square().mean()
        torch.rand(7)
        loss.backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys()
    scale = max(gradient.norm() for gradient in plain.values())
    for name, gradient in plain.items():
        assert (again[name] - gradient).norm() <= 1e-5 * scale, name


def test_checkpointing_keeps_fewer_activations():
    def kept(use_checkpoint):
        stored = []
        net = FullUNet(**BASE, use_checkpoint=use_checkpoint)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x.numel()) or x, lambda x: x):
            net(torch.randn(4, 3, 16, 16), torch.arange(4))
        return sum(stored)

    assert kept(True) < kept(False) / 3


@pytest.mark.parametrize("options", [{"model_channels": 0}, {"channel_mult": ()}, {"num_res_blocks": 0}])
def test_networks_without_levels_blocks_or_channels_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*: expected at least"), torch.device("meta"):
        FlexiUNet(8, **options)
