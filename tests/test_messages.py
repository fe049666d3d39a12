"""Every message names the argument, what was expected, what came, and what to do where there is a remedy."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch

import lineardiffusion as ld
from provocations import parts, sampling, tools
from test_families import FAMILIES

AREAS = {
    "processes": sampling.PROCESSES,
    "denoisers": sampling.DENOISERS,
    "losses": sampling.LOSSES,
    "samplers": sampling.SAMPLERS,
    "operators": parts.OPERATORS,
    "bases": parts.BASES,
    "distributions": parts.DISTRIBUTIONS,
    "schedules": parts.SCHEDULES,
    "paths": parts.PATHS,
    "grids and times": parts.GRIDS_AND_TIMES,
    "families": tools.FAMILIES,
    "configurations": tools.CONFIGURATIONS,
    "laboratory": tools.LABORATORY,
    "training": tools.TRAINING,
    "U-Nets": tools.UNETS,
}


@pytest.mark.parametrize(
    "provocation",
    [pytest.param(one, id=f"{area}-{one.argument}-{i}") for area, some in AREAS.items() for i, one in enumerate(some)],
)
def test_message(provocation):
    with pytest.raises(provocation.error) as caught:
        provocation.call()
    assert type(caught.value) is provocation.error
    provocation.check(str(caught.value))


OF_8_PIXELS = [kind for kind in FAMILIES if kind is not ld.families.ColdDiffusion]  # whose kernels are larger


@pytest.mark.parametrize("kind", OF_8_PIXELS, ids=lambda kind: kind.__name__)
def test_every_family_refuses_what_is_not_its_own(kind):
    """Denoisers of other processes, with which it would compute something else without a word; data and arguments."""
    steps = inspect.signature(kind).parameters.get("num_steps")
    family = kind((3, 8, 8), **({"num_steps": 200} if steps is not None and steps.default == 1000 else {}))
    x0, denoiser = torch.zeros(2, *family.shape(0)), family.denoiser(lambda x, time, size=None, **conditioning: x)
    other = ld.Denoiser(lambda x, time: x, ld.DDPM((3, 8, 8), 7), "noise")
    for call in (family.sampler, lambda denoiser: family.loss(denoiser, x0)):
        with pytest.raises(ValueError, match=r"denoiser: expected one of this process, .*, got one of DDPM"):
            call(other)
        with pytest.raises(TypeError, match=rf"denoiser: expected one of {kind.__name__}.denoiser\(network\)"):
            call(torch.nn.Identity())
    for bad, error in ((x0[0], ValueError), (x0[..., 1:], ValueError), (x0.numpy(), TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^x0: expected "):
            family.loss(denoiser, bad)
    with pytest.raises(TypeError, match=rf"{kind.__name__}: expected some of the arguments shape, .*'sahpe'"):
        kind((3, 8, 8), sahpe=3)
    with pytest.raises(TypeError, match=r"shape: expected the sizes of an event, channels first, such as"):
        kind(32)


PIXELS = 255 * torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ENTRANCES = {
    "diffuse": lambda d: d.process.diffuse(PIXELS, 5),
    "loss": lambda d: ld.denoising_loss(d, PIXELS, 5),
    "loss of a family": lambda d: d.process.loss(d, PIXELS),
    "prior": lambda d: ld.DDIMSampler(d, 3)(20, prior=PIXELS, progress=False),
    "start": lambda d: ld.DDIMSampler(d, 3)(20, start=(5, PIXELS), progress=False),
    "invert": lambda d: ld.DDIMSampler(d, 3).invert(PIXELS, progress=False),
    "calibrate": lambda d: ld.calibrate(d, PIXELS, 3, shape_changes_only=False),
    "estimate": lambda d: ld.lab.estimate(PIXELS),
}
NAMES = {"prior": "prior", "start": "start", "invert": "x_0", "calibrate": "images", "estimate": "images"}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_images_of_0_to_255_warn_at_every_entrance(entrance):
    """Once, with the name that the argument has there and with what to do."""
    denoiser = ld.Denoiser(lambda x, time: x, ld.DDPM((1, 8, 8), 10), "noise")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ENTRANCES[entrance](denoiser)
    told = [str(warning.message) for warning in caught]
    expected = rf"{NAMES.get(entrance, 'x0')}: expected values of about ±1, got"
    assert len(told) == 1, told
    assert told[0].startswith(expected), told
    assert "0…255: scale those by x / 127.5 - 1" in told[0]


def test_a_network_that_fails_by_itself_is_not_explained_away():
    """Errors from within a network, which are no misuse, come out as they are."""

    def network(x, time):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        ld.Denoiser(network, ld.DDPM((1, 8, 8), 10))(torch.zeros(2, 1, 8, 8), 5)
