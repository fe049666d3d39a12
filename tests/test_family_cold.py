"""Cold Diffusion, against the numbers of the authors' code, all of them in float64."""

from __future__ import annotations

import math

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import ColdDiffusion, GaussianBlur, GaussianMask, LowResolution
from vectors import load, relative_error

EXACT = 1e-10


def by_a_pixel(shape):
    """The authors' "Incremental" resolutions: the first step leaves all as it is, each later one takes a pixel more."""
    smaller = [ld.Resize(shape, shape[-1] - k, "bilinear", antialias=False) for k in range(3)]
    return [ld.Resize(small.out_shape, shape[-1], "nearest-exact") @ small for small in smaller]


DEGRADATIONS = {
    "blur_constant": GaussianBlur([1.5] * 4, 5, to_mean=False),
    "blur_incremental": GaussianBlur([0.4, 0.8, 1.2], 3, to_mean=False),
    "blur_exp_reflect": GaussianBlur([math.exp(0.2 * k) for k in range(3)], 5, "reflect", to_mean=False),
    "mask": GaussianMask([0.2 * (k + 3) for k in range(5)]),
    "resolution_factor_2": LowResolution(3),
    "resolution_bilinear_factor_2": LowResolution(3, "bilinear"),
    "resolution_area_factor_2": LowResolution(3, "area"),
    "resolution_step": by_a_pixel,
}


@pytest.fixture(scope="module")
def file(shared):
    folder = shared / "vectors" / "families"
    return load(folder / "cold_blur.safetensors")[1] | load(folder / "cold_resolution_mask.safetensors")[1]


def part(file, name):
    """Tensors of one degradation, and its process."""
    tensors = {key.removeprefix(f"{name}."): value for key, value in file.items() if key.startswith(f"{name}.")}
    x0 = file.get(f"{name}.x0", file[f"{name.split('_')[0]}.x0"] if name.split("_")[0] != "mask" else None)
    return tensors | {"x0": x0}, ColdDiffusion(x0.shape[1:], DEGRADATIONS[name])


def test_every_tensor_is_compared(file):
    groups = {name.split(".")[0] for name in file} - {"blur", "resolution"}
    assert groups == set(DEGRADATIONS)
    assert {name.split(".")[-1] for name in file} == {
        *("x0", "forward", "kernel", "kernels", "x", "restored", "next", "result")
    }


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_forward(file, name):
    tensors, process = part(file, name)
    assert process.sigma(process.end) == 0
    forward = [key for key in tensors if key.endswith("forward")]
    assert len(forward) >= 3 or name == "blur_constant"
    for key in forward:
        t = int(key.split(".")[0])
        for times in (t, torch.tensor([t, t])):
            assert relative_error(process.diffuse(tensors["x0"], times), tensors[key]) <= EXACT
    operators = [process.path.operators.step(t) for t in range(1, process.end + 1)]
    for t, operator in enumerate(operators, 1):
        if f"{t}.kernel" in tensors:
            assert relative_error(operator.kernel, tensors[f"{t}.kernel"]) <= EXACT
    if name == "mask":
        masks = torch.stack([operator.to_dense(torch.float64).diagonal()[:64] for operator in operators])
        assert relative_error(masks.reshape(-1, 8, 8), tensors["kernels"]) <= EXACT


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if "factor" not in name])
@pytest.mark.parametrize(("algorithm", "eta"), [("alg1", 1.0), ("alg2", 0.0)])
def test_algorithms(file, name, algorithm, eta):
    """Every state that was kept, from the one before it. The file has no more than three of a mask's."""
    tensors, process = part(file, name)
    run = {key.removeprefix(f"{algorithm}."): value for key, value in tensors.items() if key.startswith(algorithm)}
    sampler = ld.SharedNoiseSampler(process.denoiser(lambda x, index: run[f"{int(index[0]) + 1}.restored"]), eta=eta)
    assert sampler == process.sampler(sampler.denoiser) or eta == 1
    assert relative_error(process.diffuse(tensors["x0"], process.end), run[f"{process.end}.x"]) <= EXACT
    steps = sorted(int(key.split(".")[0]) for key in run if key.endswith(".x"))
    for t in steps:
        after = [run[key] for key in (f"{t - 1}.x", f"{t - 1}.next") if key in run] + [run["result"]] * (t == 1)
        assert after
        for expected in after:
            assert relative_error(sampler.step(run[f"{t}.x"], t, t - 1), expected) <= EXACT
    if len(steps) == process.end:
        result = sampler(2, prior=tensors["x0"], progress=False)
        assert relative_error(result.double(), run["result"]) <= 1e-6  # samples are in float32


def test_constant_colour_in_the_end():
    """The published generation by blur."""
    p = ColdDiffusion((3, 32, 32), GaussianBlur([1.0, 2.0, 3.0]))
    x0 = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    mean = x0.mean((2, 3), keepdim=True).expand_as(x0)
    torch.testing.assert_close(p.diffuse(x0, 3), mean, rtol=1e-10, atol=1e-10)
    assert float((p.diffuse(x0, 2) - mean).abs().max()) > 1e-2
    p = ColdDiffusion((3, 32, 32))
    assert p.end == 300
    d = p.denoiser(lambda x, index: x)
    for eta in (0.0, 1.0):
        sample = ld.SharedNoiseSampler(d, 20, eta)(2, seeds=[0, 1], prior=x0, progress=False)
        assert sample.shape == (2, 3, 32, 32)


def test_middle_is_masked_and_any_shape_has_one():
    for shape in ((1, 8, 6), (2, 5, 7), (1, 9)):
        mask = GaussianMask([1.0])(shape)[0].to_dense(torch.float64).diagonal().reshape(shape)
        assert (mask == 0).nonzero().tolist() == [[c, *((n - 1) // 2 for n in shape[1:])] for c in range(shape[0])]


def test_loss():
    """Mean absolute error of x_0, for 1 … T."""
    p = ColdDiffusion((1, 8, 8), LowResolution(3))
    x0 = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    losses = p.loss(p.denoiser(lambda x, index: x), x0, torch.Generator().manual_seed(1))
    t = ld.times.Uniform().sample(p, 5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(losses, (p.clean(x0, t) - x0).abs().mean((1, 2, 3)))


def test_equality_and_configuration():
    p = ColdDiffusion((1, 8, 8), GaussianMask([1.0, 2.0]))
    assert p == ColdDiffusion((1, 8, 8), GaussianMask([1.0, 2.0])) == ld.from_config(p.to_config())
    assert p != ColdDiffusion((1, 8, 8), GaussianMask([1.0, 2.1]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ColdDiffusion((1, 8, 8), [ld.Identity((1, 8, 8))]), TypeError, "degradation: expected one such as"),
        (lambda: ColdDiffusion((1, 8, 8), lambda s: [ld.Identity((1, 4, 4))]), ValueError, "expected operators on"),
        (lambda: ColdDiffusion((1, 8, 8)), ValueError, "kernel: expected odd sizes"),
        (lambda: ColdDiffusion((1, 8, 8), LowResolution(4)), ValueError, "size: expected"),
        (lambda: GaussianBlur([]), ValueError, "widths: expected at least one"),
        (lambda: GaussianMask([1.0, 0.0]), ValueError, "widths: expected"),
        (lambda: LowResolution(0), ValueError, "num_steps"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_class_is_refused():
    with pytest.raises(TypeError, match="degradation: expected one such as"):
        ld.families.ColdDiffusion((1, 8, 8), ld.families.GaussianBlur)
