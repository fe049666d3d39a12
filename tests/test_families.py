"""What all families of the literature promise."""

from __future__ import annotations

import inspect
import json

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


@pytest.fixture(params=FAMILIES, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


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
    process = kind(shape)
    assert process == kind(shape)
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
            kind(shape)
        return
    process = kind(shape)
    t = round(process.end / 2) if process.num_steps else process.end / 2
    x0 = process.data(torch.ones(2, *shape))
    assert process.diffuse(x0, t).shape == (2, *process.shape(t))
    assert process.clean(x0, t).isfinite().all()
    if kind is not ld.families.WSGM:  # of details alone
        assert torch.equal(process.images(x0), torch.ones(2, *shape))
