"""Precisions, devices and transformations: half precision with stated bounds, accelerators, compile, vmap, gradients.

There is no accelerator here; the "meta" device stands in for one (see tests/costs.py).
"""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import lineardiffusion as ld
from conftest import ZOO
from costs import Operations
from lineardiffusion.testing import Opaque
from test_operators import draw

SHAPE = (3, 16, 16)
FAMILIES = {
    "ddpm": (ld.DDPM, 500, 499),
    "blurring": (ld.BlurringDiffusion, 500, 480),
    "scale space": (partial(ld.ScaleSpaceDiffusion, levels=2), 600, 599),
    "change of shape": (partial(ld.ScaleSpaceDiffusion, levels=2), 751, 750),
    "change of shape, area": (partial(ld.ScaleSpaceDiffusion, levels=2, mode="area"), 751, 750),
}
PROCESSES = {name: (family(SHAPE), t, s) for name, (family, t, s) in FAMILIES.items()}
STRUCTURED = [name for name in ZOO if name not in ("opaque", "composed", "sum", "transposed") and "reflect" not in name
              and name != "convolution zeros"]  # fmt: skip


def resizing_network(x, t_index, size=None):
    return F.interpolate(x, size=size) if size else x


def sampler(name: str, eta: float) -> tuple[ld.DDIMSampler, int, int]:
    process, t, s = PROCESSES[name]
    return ld.DDIMSampler(ld.Denoiser(resizing_network, process), eta=eta), t, s


# ---------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", list(PROCESSES))
def test_a_kernel_errs_by_the_rounding_of_its_inputs_and_results(name, eta, dtype):
    """In a format of unit roundoff u = eps/2, with all arithmetic in at least float32 (whose error, 100 · 2⁻²⁴, is that
    of sums of at most 100 terms): the mean, the noise and their sum are rounded once each, so that

        |x_s − exact| ≤ u (2 |mean| + 2 |noise part|) (1 + 2u) + 100 · 2⁻²⁴ (|mean| + |noise part|)

    in the largest norm of the three parts, the inputs being exact in the format."""
    process, t, s = PROCESSES[name]
    x_t, mean_s = draw(process.shape(t), 2).to(dtype), draw(process.shape(s), 2, seed=1).to(dtype)
    noise = draw(process.shape(s), 2, seed=2).to(dtype)
    exact = process.kernel(x_t.double(), mean_s.double(), t, s, eta)
    mean, part = exact.mean, exact.covariance.sqrt(noise.double())
    result = process.kernel(x_t, mean_s, t, s, eta).sample(noise)
    assert result.dtype == dtype
    u = torch.finfo(dtype).eps / 2
    bound = (2 * u * (1 + 2 * u) + 100 * 2**-24) * (mean.abs().max() + part.abs().max())
    assert (result.double() - mean - part).abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(PROCESSES))
def test_diffusing_half_precision_images(name, dtype):
    """Two roundings, of M x_0 and of the sum."""
    process, t, _ = PROCESSES[name]
    x0 = draw(SHAPE, 4).to(dtype)
    u = torch.finfo(dtype).eps / 2
    for times in (t, torch.tensor([t, t, t, t])):
        noise = draw(process.shape(t), 4, seed=1).to(dtype)
        exact = process.diffuse(x0.double(), times, noise=noise.double())
        result = process.diffuse(x0, times, noise=noise)
        mean = process.operator(0, t)(x0.double()).abs().max()
        assert result.dtype == dtype
        assert (result.double() - exact).abs().max() <= (u + 1e-5) * (mean + exact.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", STRUCTURED)
def test_functions_of_half_precision_vectors_are_rounded_once(name, dtype):
    op = ZOO[name]
    x = draw(op.in_shape, 2).to(dtype)
    exact = op.gram_function(lambda values: 1 / (1 + values), x.double())
    result = op.gram_function(lambda values: 1 / (1 + values), x)
    assert result.dtype == dtype
    bound = torch.finfo(dtype).eps / 2 + 100 * 2**-24
    assert (result.double() - exact).norm() <= bound * (exact.norm() + x.double().norm() * 1e-2)


# ---------------------------------------------------------------------------------------------- accelerators


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_operators_neither_wait_for_an_accelerator_nor_need_its_doubles(name):
    op = ZOO[name]
    x, y = torch.zeros(2, *op.in_shape, device="meta"), torch.zeros(2, *op.out_shape, device="meta")
    f = lambda values: 1 / (1 + values)  # noqa: E731
    with Operations() as operations:
        results = [op.transpose(y), op.gram(x), op.gram_function(f, x), op.correct(0.3, x, y), op.correct(f, x, y)]
        assert all(result.is_meta and result.shape == x.shape for result in results)
        assert all(result.is_meta and result.shape == y.shape for result in (op(x), op.cogram_function(f, y)))
    assert not operations.doubles  # Apple's GPUs have none


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", list(PROCESSES))
def test_sampler_steps_and_training_pairs_do_neither(name, eta):
    step, t, s = sampler(name, eta)
    process = step.denoiser.process
    with Operations() as operations:
        x_s = step.step(torch.zeros(2, *process.shape(t), device="meta"), t, s)
        assert x_s.is_meta
        times = torch.tensor([t, t])
        x0 = torch.zeros(2, *SHAPE, device="meta")
        assert process.diffuse(x0, times).is_meta
        assert process.diffuse(x0, t).is_meta
        assert ld.denoising_loss(step.denoiser, x0, times).is_meta
    # A schedule's table and the levels of a batch of times are in double precision, where a device has it.
    assert [made for made in operations.doubles if made[1] not in ((2, 1001), (2, 2), (2,))] == []


# ---------------------------------------------------------------------------------------------- transformations


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", list(PROCESSES))
def test_a_structured_step_compiles_into_one_graph(name, eta):
    step, t, s = sampler(name, eta)
    process = step.denoiser.process
    x, noise = draw(process.shape(t), 2).float(), draw(process.shape(s), 2, seed=1).float()
    expected = step.step(x, t, s, noise=noise)  # the products of operators are made, and kept, here
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        compiled = torch.compile(lambda x, noise: step.step(x, t, s, noise=noise), fullgraph=True, backend="aot_eager")
        result = compiled(x, noise)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "transposed"])
def test_vmap_over_apply(name):
    """Not over a transpose by VJP: torch.func does not nest torch.autograd.grad."""
    op = ZOO[name]
    x, y = draw(op.in_shape, 3), draw(op.out_shape, 3, seed=1)
    torch.testing.assert_close(torch.func.vmap(op)(x), op(x))
    if name not in ("opaque", "every second pixel") and "reflect" not in name and "zeros" not in name:
        torch.testing.assert_close(torch.func.vmap(op.transpose)(y), op.transpose(y))
    if name in STRUCTURED and name != "every second pixel":
        f = lambda values: 1 / (1 + values)  # noqa: E731
        torch.testing.assert_close(torch.func.vmap(lambda v: op.gram_function(f, v))(x), op.gram_function(f, x))


@pytest.mark.parametrize("name", STRUCTURED)
def test_gradients_of_structured_functions(name):
    op = ZOO[name]
    x, y = draw(op.in_shape).requires_grad_(), draw(op.out_shape, seed=1).requires_grad_()
    f = lambda values: (30.0 - values).clamp(min=0).sqrt()  # noqa: E731
    assert torch.autograd.gradcheck(lambda v: op.gram_function(f, v), x)
    assert torch.autograd.gradcheck(lambda v: op.cogram_function(f, v), y)
    assert torch.autograd.gradcheck(lambda a, b: op.correct(lambda values: 1 / (1 + values), a, b), (x, y))


@pytest.mark.parametrize("name", list(PROCESSES))
def test_gradients_flow_through_marginal_posterior_and_steps(name):
    family, t, s = FAMILIES[name]
    process = family((1, 4, 4))
    x0, x_t = draw((1, 4, 4), 1).requires_grad_(), draw(process.shape(t), 1).requires_grad_()
    mean_s, noise = (
        draw(process.shape(s), 1, seed=1).requires_grad_(),
        draw(process.shape(s), 1, seed=2).requires_grad_(),
    )
    epsilon = draw(process.shape(t), 1, seed=3)
    assert torch.autograd.gradcheck(lambda x: process.marginal(t).sample(x, noise=epsilon), x0)
    assert torch.autograd.gradcheck(lambda x: process.marginal(t).log_prob(epsilon, x), x0)
    for eta in (0.0, 0.5, 1.0):
        assert torch.autograd.gradcheck(
            lambda a, b, c, eta=eta: process.kernel(a, b, t, s, eta).sample(c), (x_t, mean_s, noise)
        )
    step = ld.AncestralSampler(ld.Denoiser(resizing_network, process), clip=None)
    assert torch.autograd.gradcheck(lambda x: step.step(x, t, s, noise=noise.detach()), x_t)


def test_gradients_flow_through_the_functions_of_opaque_operators():
    op = Opaque(ld.Resize((1, 8), 4))
    x = draw((1, 8)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: op.gram_function(lambda values: (2 - values).sqrt(), v), x, atol=1e-4)


def test_what_inference_mode_computed_serves_gradients_later():
    for op in (
        ld.Resize((1, 8, 6), (5, 3)),
        ld.SpectralFilter((1, 7, 5), draw((7, 5))),
        ld.Matrix(draw((3, 4)), (4,), (3,)),
    ):
        f = lambda values: 1 / (1 + values)  # noqa: E731
        with torch.inference_mode():
            op.gram_function(f, draw(op.in_shape).float())
            op(draw(op.in_shape).float())
        x = draw(op.in_shape).float().requires_grad_()
        op.gram_function(f, op.transpose(op(x))).sum().backward()
        assert x.grad.isfinite().all()
        covariance = ld.GramCovariance(op, f)
        with torch.inference_mode():
            covariance.sqrt(draw(op.in_shape).float())
        covariance.sqrt(draw(op.in_shape).float().requires_grad_()).sum().backward()


@pytest.mark.parametrize("first", ["one by one", "a batch"])
@pytest.mark.parametrize("name", ["blurring", "change of shape", "change of shape, area", "masks", "gains"])
def test_what_processes_keep_in_inference_mode_serves_gradients_later(name, first):
    if name == "masks":
        masks = [ld.Diagonal(draw(SHAPE, seed=k).abs().clamp(0.5, 1)) for k in range(4)]
        process, t, s, times = ld.LinearDiffusion(masks, torch.linspace(0, 1, 5)), 4, 2, torch.tensor([2, 3])
    elif name == "gains":
        path = ld.paths.spectral(ld.bases.Cosine(SHAPE), lambda t: torch.exp(-t * torch.arange(16.0)))
        process, t, s = ld.LinearDiffusion(path, ld.schedules.flow()), 1.0, 0.5
        times = torch.tensor([0.2, 0.7])
    else:
        (family, t, s), times = FAMILIES[name], torch.tensor([5, 7])
        process = family(SHAPE)

    def results(x0):
        if first == "a batch":
            yield process.diffuse(x0, times)
        yield process.diffuse(x0, t)
        clean, x_t = process.clean(x0, s), process.clean(x0, t)
        for eta in (0.0, 0.5, 1.0):
            yield process.step_kernel(t, s, eta, of="clean").sample(x_t, clean, clean)

    x0 = draw(SHAPE, 2)
    with torch.inference_mode():
        list(results(x0))
    x0.requires_grad_()
    sum(result.square().sum() for result in results(x0)).backward()
    assert x0.grad.isfinite().all()
