"""Flexi-UNet's shapes, routes and errors; its numbers are in test_reference.py."""

from __future__ import annotations

import pytest
import torch

from lineardiffusion.flexi_unet import FlexiUNet, FullUNet, ResizedFlexiUNet, blocks
from lineardiffusion.flexi_unet.model import resize

SMALL = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2, 2), "attention_resolutions": (4,)}


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (28, 28), (48, 20), (21, 30), (7, 5)])
def test_every_level_in_and_out_for_any_size(size):
    settings = {**SMALL, "model_channels": 16}
    flexi, full = FlexiUNet(size, **settings), FullUNet(size, **settings)
    for level, entry in enumerate(flexi.sizes):
        x, t = torch.randn(2, 3, *entry), torch.tensor([0, 999])
        for target in flexi.sizes[max(0, level - 1) : level + 1]:
            assert flexi(x, t, size=target).shape == (2, 3, *target)
            assert full(x, t, size=target).shape == (2, 3, *target)
        assert flexi(x, t).shape == full(x, t).shape == x.shape


def test_low_resolutions_skip_the_shallow_levels():
    net = FlexiUNet(32, **SMALL)
    called = set()
    for name, module in net.named_modules():
        if name.count(".") == 1 and name.split(".")[0] in ("input_blocks", "output_blocks"):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    net(torch.zeros(1, 3, 8, 8), torch.tensor([5]))
    assert called == {"input_blocks.0", "input_blocks.5", "output_blocks.0"}
    called.clear()
    net(torch.zeros(1, 3, 8, 8), torch.tensor([5]), size=(16, 16))
    assert called == {"input_blocks.0", "input_blocks.5", "output_blocks.0", "output_blocks.1", "output_blocks.2"}


def test_resized_inputs_enter_at_the_level_of_the_output():
    torch.manual_seed(0)
    flexi, resized = FlexiUNet(32, **SMALL).eval(), ResizedFlexiUNet(32, **SMALL).eval()
    torch.nn.init.normal_(flexi.out[2].weight)
    resized.load_state_dict(flexi.state_dict())
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([7, 600])
    assert torch.equal(resized(x, t, size=(16, 16)), flexi(resize(x, (16, 16)), t))
    assert not torch.allclose(resized(x, t, size=(16, 16)), flexi(x, t, size=(16, 16)))
    assert torch.equal(resized(x, t), flexi(x, t))


def test_class_labels_and_learning():
    net = FlexiUNet(8, num_classes=4, **SMALL)
    x, t, y = torch.randn(4, 3, 4, 4), torch.arange(4), torch.arange(4)
    net(x, t, size=(8, 8), y=y).square().mean().backward()
    assert net.out[2].bias.grad is not None
    with torch.no_grad():
        net.out[2].weight.normal_()
        for block in net.modules():
            if hasattr(block, "out_layers"):
                block.out_layers[3].weight.normal_()
    assert not torch.allclose(net(x, t, y=y), net(x, t, y=y.flip(0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net(torch.zeros(1, 3, 9, 9), torch.tensor([1])), r"x: expected one of the sizes"),
        (lambda net: net(torch.zeros(1, 3, 8, 8), torch.tensor([1]), size=(9, 9)), r"size: expected one of the sizes"),
        (lambda net: net(torch.zeros(1, 3, 8, 8), torch.tensor([1]), size=(32, 32)), r"or the next larger"),
        (lambda net: net(torch.zeros(1, 3, 16, 16), torch.tensor([1]), size=(8, 8)), r"or the next larger"),
        (lambda net: net(torch.zeros(1, 3, 8, 8), torch.tensor([1]), y=torch.tensor([1])), r"y: expected no labels"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(FlexiUNet(32, **SMALL))


def test_missing_labels():
    with pytest.raises(ValueError, match=r"y: expected labels in 0…3, got none"):
        FlexiUNet(32, num_classes=4, **SMALL)(torch.zeros(1, 3, 8, 8), torch.tensor([1]))


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="num_heads: expected a divisor of 64"):
        FlexiUNet(32, num_heads=5, **SMALL)


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize(("batch", "side"), [(1, 1), (2, 1), (2, 4)])
def test_attention_has_the_strides_of_fused_kernels(monkeypatch, new_order, batch, side):
    """Channels last and each pixel a multiple of a head's channels apart, a single pixel too: others are refused on
    GPUs ("not correctly aligned"), or left to a kernel that keeps all pairs of pixels."""
    strides, attention = [], torch.nn.functional.scaled_dot_product_attention

    def seen(*tensors):
        strides.extend(tensor.stride() for tensor in tensors)
        return attention(*tensors)

    monkeypatch.setattr(blocks.F, "scaled_dot_product_attention", seen)
    block = blocks.AttentionBlock(32, 4, -1, new_order)
    block(torch.zeros(batch, 32, side, side))
    assert len(strides) == 3
    assert all(stride[-1] == 1 and all(other % 8 == 0 for other in stride[:-1]) for stride in strides)
