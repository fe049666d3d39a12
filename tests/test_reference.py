"""The original implementation's numbers: its process and its networks, from its own weights."""

from __future__ import annotations

import json

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.flexi_unet import FlexiUNet, FullUNet
from vectors import load, relative_error


def test_process(shared):
    """Resized images, x_t, posterior means and weights; float32 images, so a few of its roundings: 1e-6."""
    metadata, tensors = load(shared / "vectors" / "ssd_math_a.safetensors")
    assert metadata["schedule"] == "ConvexDecay_0.5"
    size = int(metadata["size"])
    p = ld.ScaleSpaceDiffusion((3, size, size), levels=int(metadata["levels"]))
    x0 = tensors["x0"]
    indices = sorted({int(name.split(".")[0]) for name in tensors if "." in name})
    assert len(indices) == 7
    for index in indices:
        expected = {name.split(".")[1]: value for name, value in tensors.items() if name.startswith(f"{index}.")}
        t = index + 1
        assert p.shape(t) == expected["x_t"].shape[1:]
        assert relative_error(p.clean(x0, t), expected["clean_t"]) <= 1e-6
        assert relative_error(p.clean(x0, t - 1), expected["clean_s"]) <= 1e-6
        assert relative_error(p.diffuse(x0, t, noise=expected["eps"]), expected["x_t"]) <= 1e-6
        mean_s = p.signal_scale(t - 1) * expected["clean_s"]
        assert relative_error(p.posterior(expected["x_t"], mean_s, t).mean, expected["posterior_mean"]) <= 1e-6
        weight = ld.MinSNR(5.0)(p.snr(torch.tensor([t, t])))
        torch.testing.assert_close(weight.float(), expected["weight"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "network", "cases"),
    [("flexi_unet_a", FlexiUNet, 5), ("flexi_unet_b", FlexiUNet, 7), ("full_unet", FullUNet, 3)],
)
@torch.no_grad()
def test_networks(shared, name, network, cases):
    metadata, tensors = load(shared / "vectors" / f"{name}.safetensors")
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    net = network.from_reference(json.loads(metadata["config"]), state)
    outputs = {key.removeprefix("out."): value for key, value in tensors.items() if key.startswith("out.")}
    assert len(outputs) == cases
    for case, expected in outputs.items():
        result = net(tensors[f"x.{case}"], tensors["t"], size=expected.shape[-2:], y=tensors.get("y"))
        assert relative_error(result, expected) <= 1e-5, case
