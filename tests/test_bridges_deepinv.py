"""deepinv's physics and denoisers as ours and ours as deepinv's, against its own tests and numbers."""

from __future__ import annotations

import pytest
import torch

import lineardiffusion as ld
from vectors import relative_error

try:
    from lineardiffusion.integrations.deepinv import from_deepinv, to_deepinv
except ImportError as error:
    pytest.skip(f"no deepinv: {error}", allow_module_level=True)
import deepinv

SHAPE = (3, 16, 8)  # that of deepinv's own tests


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ---------------------------------------------------------------------------------------------- physics → operators

KERNEL = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.4, 0.1], [0.2, 0.0, 0.0]])[None, None]
MASK = (torch.rand(16, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def spectrum():
    """Complex measurements."""
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: torch.fft.fft2(x, norm="ortho"), A_adjoint=lambda y, **_: torch.fft.ifft2(y, norm="ortho")
    )


def coils():
    maps = torch.view_as_complex(random(4, 16, 8, 2, dtype=torch.float32))
    return deepinv.physics.MultiCoilMRI(mask=MASK, coil_maps=maps[None], img_size=(2, 16, 8))


def blur(padding="circular"):
    return deepinv.physics.Blur(KERNEL, padding=padding)


PHYSICS = {
    "denoising": (deepinv.physics.Denoising, SHAPE),
    "inpainting": (lambda: deepinv.physics.Inpainting(SHAPE, mask=MASK.expand(SHAPE)), SHAPE),
    "valid blur": (lambda: blur("valid"), SHAPE),
    "reflecting blur": (lambda: blur("reflect"), SHAPE),
    "blur by FFT": (lambda: deepinv.physics.BlurFFT(SHAPE, filter=KERNEL), SHAPE),
    "super-resolution": (lambda: deepinv.physics.Downsampling(SHAPE, "bicubic", 2, padding="circular"), SHAPE),
    "gray": (deepinv.physics.Decolorize, SHAPE),
    "compressed": (lambda: deepinv.physics.CompressedSensing(m=20, img_size=SHAPE), SHAPE),
    "MRI": (lambda: deepinv.physics.MRI(mask=MASK), (2, 16, 8)),
    "coils": (coils, (2, 16, 8)),
    "complex": (spectrum, SHAPE),
    "composed": (lambda: deepinv.physics.forward.compose(blur(), deepinv.physics.Decolorize()), SHAPE),
    "stacked": (lambda: deepinv.physics.stack(blur(), deepinv.physics.Decolorize()), SHAPE),
    "stacked, one complex": (lambda: deepinv.physics.stack(spectrum(), blur("valid")), SHAPE),
}


@pytest.fixture(params=list(PHYSICS))
def case(request):
    make, shape = PHYSICS[request.param]
    torch.manual_seed(0)
    physics = make()
    return physics, from_deepinv(physics, shape)


def test_physics_are_operators(case):
    physics, op = case
    x = random(2, *op.in_shape, dtype=torch.float32)
    y = physics.A(x)
    assert torch.equal(op(x), op.pack(y))
    assert torch.equal(op.unpack(op.pack(y))[0], y[0])
    back = physics.A_adjoint(y)
    assert torch.equal(op.transpose(op.pack(y)), back.real if back.is_complex() else back)
    if not isinstance(y, deepinv.utils.TensorList):
        assert op.out_shape == (*y.shape[1:], 2) if y.is_complex() else tuple(y.shape[1:])
    assert op(x[0]).shape == op.out_shape
    assert op(x[:, None].double()).shape == (2, 1, *op.out_shape)
    y = op(x.double())
    assert y.dtype == torch.float64
    assert relative_error(torch.autograd.functional.vjp(op, x, y.float())[1], op.transpose(y.float())) < 1e-6


@pytest.mark.parametrize("name", ["inpainting", "reflecting blur", "MRI", "complex", "stacked, one complex"])
def test_they_are_operators_in_all_respects(name):
    make, shape = PHYSICS[name]
    ld.testing.check_operator(from_deepinv(make().double(), shape))


def test_all_linear_physics_of_their_own_tests():
    suite, count = pytest.importorskip("deepinv.tests.test_physics"), 0
    for name in suite.OPERATORS:
        try:
            physics, shape, _, dtype = suite.find_operator(name, "cpu")
        except pytest.skip.Exception:  # it needs another package
            continue
        if dtype.is_complex:
            continue
        op, x = from_deepinv(physics, shape), random(1, *shape, dtype=dtype)
        assert torch.equal(op(x), op.pack(physics.A(x)))
        count += 1
    assert count >= 40


def test_posteriors_are_those_of_the_matrix():
    op = from_deepinv(blur(), (1, 6, 8))
    dense = ld.Matrix(op.to_dense(), op.in_shape, op.out_shape)
    x, noise = random(2, 3, 1, 6, 8)
    sigmas = [0.0, 0.5, 1.0]
    draws = [ld.LinearDiffusion([m] * 2, sigmas).posterior(x, x / 2, t=2).sample(noise) for m in (op, dense)]
    assert relative_error(*draws) < 1e-5


def test_physics_that_are_no_operators_are_refused():
    with pytest.raises(TypeError, match="expected a LinearPhysics, got PhaseRetrieval, which is not linear"):
        from_deepinv(deepinv.physics.PhaseRetrieval(B=deepinv.physics.Denoising()), SHAPE)
    with pytest.raises(ValueError, match="parameters are the same for all images, got 4 measurements of one"):
        from_deepinv(deepinv.physics.Inpainting(SHAPE, mask=torch.ones(4, *SHAPE)), SHAPE)
    wrong = deepinv.physics.LinearPhysics(A=lambda x, **_: x.roll(1, -1), A_adjoint=lambda y, **_: y)
    with pytest.raises(ValueError, match="theirs: A_adjoint is not the adjoint"):
        from_deepinv(wrong, SHAPE)
    complex_images = deepinv.physics.CompressedSensing(m=20, img_size=SHAPE, dtype=torch.complex64)
    for physics, shape in ((complex_images, SHAPE), (deepinv.physics.MRI(mask=MASK), SHAPE)):
        with pytest.raises(ValueError, match="in_shape: expected the shape of real images of this physics, got"):
            from_deepinv(physics, shape)
    with pytest.raises(TypeError, match="in_shape: expected the event shape of the images"):
        from_deepinv(deepinv.physics.Denoising())
    with pytest.raises(TypeError, match=r"a deepinv.physics.LinearPhysics or a deepinv.models.Denoiser, got 3"):
        from_deepinv(3)


# ---------------------------------------------------------------------------------------------- operators → physics

OPERATORS = {
    "average": ld.AveragePool(SHAPE, 2),
    "resize": ld.Resize(SHAPE, (8, 6), "bicubic"),
    "filter": ld.SpectralFilter(SHAPE, torch.tensor([1.0, 0.9, 0.8, 0.5, 0.3, 0.2, 0.1, 0.05]), "dct"),
    "mask": ld.Diagonal(MASK.expand(SHAPE)),
    "unknown": ld.from_function(lambda x: x[..., 1:] + 0.2 * x[..., :-1], SHAPE),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_pass_their_tests(name, monkeypatch):
    """deepinv's own, as they come with it."""
    suite = pytest.importorskip("deepinv.tests.test_physics")
    op = OPERATORS[name]
    physics, squared = to_deepinv(op), torch.linalg.matrix_norm(op.to_dense(), 2).item() ** 2

    def find_operator(name, device, imsize=None, get_physics_param=False):
        found = (physics, SHAPE, squared, torch.float)
        return (*found, []) if get_physics_param else found

    monkeypatch.setattr(suite, "find_operator", find_operator)
    device, rng = torch.device("cpu"), torch.Generator().manual_seed(0)
    suite.test_operators_adjointness(name, device, rng)
    suite.test_operators_norm(name, False, device, rng)
    suite.test_pseudo_inverse(name, device, rng, True)
    suite.test_operators_differentiability(name, device)
    suite.test_adjoint_autograd(name, device)
    suite.test_physics_state_dict(name, device)


@pytest.mark.parametrize("name", OPERATORS)
def test_inverses_are_exact(name):
    op = OPERATORS[name]
    physics, dense = to_deepinv(op), op.to_dense()
    x, y = random(2, *SHAPE), random(2, *op.out_shape, seed=1)
    tolerance = 1e-10 if op.has_exact_functions else 1e-5
    inverse = (y.flatten(1) @ torch.linalg.pinv(dense, rtol=1e-3).T).reshape(x.shape)
    assert relative_error(physics.A_dagger(y), inverse) < tolerance
    for gamma in (0.3, torch.tensor(20.0)):
        normal = dense.T @ dense + torch.eye(len(dense.T), dtype=torch.float64) / float(gamma)
        right = y.flatten(1) @ dense + x.flatten(1) / float(gamma)
        expected = torch.linalg.solve(normal, right.T).T.reshape(x.shape)
        assert relative_error(physics.prox_l2(x, y, gamma), expected) < tolerance
        theirs = deepinv.physics.LinearPhysics.prox_l2(physics, x, y, gamma, max_iter=200, tol=1e-9)
        assert relative_error(theirs, expected) < 1e-4  # iterations that stop early
    each = torch.tensor([0.3, 20.0], dtype=torch.float64)
    single = torch.cat([physics.prox_l2(x[i : i + 1], y[i : i + 1], float(each[i])) for i in range(2)])
    assert relative_error(physics.prox_l2(x, y, each.reshape(2, 1, 1, 1), max_iter=200, tol=1e-9), single) < 1e-4
    assert relative_error(physics.prox_l2(0, y, 0.3), physics.prox_l2(torch.zeros_like(x), y, 0.3)) < 1e-12


def test_what_came_from_the_other_side_goes_back_as_it_was():
    op, physics = OPERATORS["average"], blur()
    assert from_deepinv(to_deepinv(op), SHAPE) is op
    assert to_deepinv(from_deepinv(physics, SHAPE)) is physics
    noisy = to_deepinv(op)
    noisy.set_noise_model(deepinv.physics.GaussianNoise(0.1))
    x = random(500, *SHAPE, dtype=torch.float32)
    assert float((noisy(x) - noisy.A(x)).std()) == pytest.approx(0.1, rel=0.02)
    assert torch.equal(noisy.A(x, sigma=0.2), op(x))
    with pytest.raises(TypeError, match=r"ours: expected a LinearOperator or an ld.Denoiser, got Tensor"):
        to_deepinv(x)


# -------------------------------------------------------------------------------------------------------- denoisers

EVENT = (1, 4, 4)
PROCESSES = {
    "DDPM": ld.DDPM(EVENT),
    "cosine": ld.DDPM(EVENT, 100, "cosine"),
    "flow": ld.FlowMatching(EVENT, shift=3.0),
    "EDM": ld.EDM(EVENT),
    "VP": ld.LinearDiffusion(ld.paths.identity(EVENT), ld.schedules.vp()),
}
POOL = ld.AveragePool(EVENT, 2)
ATOMS = torch.rand(6, *EVENT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # images in [0, 1]


def posterior_mean(x_t, a, s):
    """E[x_0 | x_t] of images that are one of the atoms, in [−1, 1]."""
    atoms = (2 * ATOMS - 1).flatten(1)
    distances = (x_t.flatten(1)[:, None] - a.reshape(-1, 1, 1) * atoms).square().sum(-1)
    return (torch.softmax(-distances / (2 * s.reshape(-1, 1) ** 2), 1) @ atoms).reshape(x_t.shape)


def levels_of(process, t):
    return torch.stack([process.signal_scale(t), process.sigma(t)], -1)


def ours(process, prediction="data"):
    def network(x, levels):
        a, s = levels.unbind(-1)
        clean = posterior_mean(x, a, s)
        a, s = (level.reshape(-1, 1, 1, 1) for level in (a, s))
        return {"data": clean, "noise": (x - a * clean) / s, "velocity": (a * x - clean) / s}[prediction]

    return ld.Denoiser(network, process, prediction, levels_of)


def theirs():
    return deepinv.models.MMSE(ATOMS, device=torch.device("cpu"), dtype=torch.float64)


@pytest.mark.parametrize("name", PROCESSES)
def test_ours_denoises_as_theirs_does(name):
    """Both know the exact answer for six images."""
    denoiser, expected = to_deepinv(ours(PROCESSES[name])), theirs()
    x = ATOMS[:3] + 0.2 * random(3, *EVENT)
    for sigma in (0.013, 0.2, 1.7, torch.tensor(0.4), torch.tensor([0.05, 0.3, 2.5], dtype=torch.float64)):
        # A time next to a state is that state: 1e-4 of 1000 steps are 1e-5 of the noise level at most.
        assert relative_error(denoiser(x, sigma), expected(x, sigma)) < 1e-4
    assert denoiser(x.float(), 0.2).dtype == torch.float32
    column = denoiser(x, torch.full((3, 1, 1, 1), 0.2, dtype=torch.float64))
    assert torch.allclose(column, denoiser(x, 0.2), rtol=0, atol=1e-12)
    for none in (0.0, torch.zeros(3)):
        assert relative_error(denoiser(ATOMS[:3], none), ATOMS[:3]) < 1e-6


def test_states_are_integers_to_the_network():
    process, told = ld.DDPM(EVENT), []
    denoiser = to_deepinv(ld.Denoiser(lambda x, index: told.append(index) or x, process, "data"))
    for t in (1, 10, 500, 999, 1000):
        denoiser(ATOMS[:2], process.sigma(t) / process.signal_scale(t) / 2)
        denoiser(ATOMS[:2], torch.tensor(process.sigma(t) / process.signal_scale(t) / 2))  # of float32
    assert [int(index[0]) for index in told] == [i for t in (1, 10, 500, 999, 1000) for i in [t - 1] * 2]
    assert all(index.dtype == torch.long for index in told)


def test_a_network_of_noise_in_their_wrapper():
    process = PROCESSES["VP"]

    def network(x, time, shift=0.0):
        return torch.tanh(x + time.reshape(-1, 1, 1, 1)) + shift

    wrapper = deepinv.models.ScoreModelWrapper(
        network,
        clip_output=False,
        scale_t=process.signal_scale,
        sigma_t=lambda t: process.sigma(t) / process.signal_scale(t),
        variance_preserving=True,
    )
    denoiser = to_deepinv(ld.Denoiser(network, process, "noise"))
    x = ATOMS[:3] + 0.3 * random(3, *EVENT)
    for sigma in (0.3, torch.tensor([0.1, 0.4, 5.0], dtype=torch.float64)):
        levels = torch.as_tensor(sigma, dtype=torch.float64).expand(3)
        # Their bisection of t is 2^−33 off.
        assert relative_error(denoiser(x, sigma, shift=0.5), wrapper(x, levels, shift=0.5)) < 1e-8


@pytest.mark.parametrize("name", ["DDPM", "EDM", "VP"])
def test_theirs_is_ours_in_a_sampler(name):
    process = PROCESSES[name]
    theirs_as_ours, own = from_deepinv(theirs(), process=process), ours(process)
    for t in (process.end, process.end / 2, process.end / 4):
        x = random(3, *EVENT, seed=int(t))
        assert relative_error(theirs_as_ours(x, t), own(x, t)) < 1e-9
    t = torch.tensor([0.3, 0.6, 0.9]) * process.end
    t = t.round().long() if process.num_steps else t
    assert relative_error(theirs_as_ours(x, t), own(x, t)) < 1e-9
    samples = [
        ld.DDIMSampler(denoiser, steps=12, order=2)(4, seeds=range(4), progress=False, start=(process.end, start))
        for start in [process.prior(4, torch.Generator().manual_seed(0)).double()]
        for denoiser in (theirs_as_ours, own)
    ]
    assert relative_error(*samples) < 1e-8
    assert float((samples[0][:, None] - (2 * ATOMS - 1)).abs().amax((2, 3, 4)).amin(1).max()) < 0.05  # atoms


def test_real_networks_and_their_round_trip():
    torch.manual_seed(0)
    network = deepinv.models.DRUNet(1, 1, pretrained=None, nc=[4, 4, 4, 4], nb=1).eval()
    process = ld.EDM((1, 16, 16))
    denoiser = from_deepinv(network, process=process)
    x, t = random(2, 1, 16, 16), 0.5
    with torch.no_grad():
        expected = 2 * network((x.float() + 1) / 2, process.sigma(t) / 2) - 1
        assert relative_error(denoiser(x.float(), t), expected) < 1e-6
        assert relative_error(to_deepinv(denoiser)(x.float(), 0.25), network(x.float(), 0.25)) < 1e-5
    assert {id(p) for p in denoiser.parameters()} == {id(p) for p in network.parameters()}


def test_their_algorithm_with_our_parts():
    """DiffPIR of deepinv with our operator and denoiser, and with its own."""
    pool = deepinv.physics.LinearPhysics(
        A=lambda x, **_: torch.nn.functional.avg_pool2d(x, 2),
        A_adjoint=lambda y, **_: y.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4,
    )
    images = []
    for denoiser, physics in ((theirs(), pool), (to_deepinv(ours(PROCESSES["DDPM"])), to_deepinv(POOL))):
        physics.set_noise_model(deepinv.physics.GaussianNoise(0.01))
        model = deepinv.sampling.DiffPIR(denoiser, deepinv.optim.L2(), sigma=0.01, max_iter=20)
        torch.manual_seed(0)
        images.append(model(POOL(ATOMS[:1]), physics))
    assert relative_error(*images) < 1e-3  # they step on rounded times, and ours inverts the operator exactly
    assert relative_error(POOL(images[0]), POOL(ATOMS[:1])) < 0.5


def test_what_does_not_map_is_refused():
    network = lambda x, time: x  # noqa: E731
    with pytest.raises(ValueError, match="ours: expected a process x_t = a_t x_0 \\+ σ_t ε"):
        to_deepinv(ld.Denoiser(network, ld.BlurringDiffusion(EVENT)))
    with pytest.raises(ValueError, match="process: expected a process x_t = a_t x_0 \\+ σ_t ε"):
        from_deepinv(theirs(), process=ld.ScaleSpaceDiffusion((1, 8, 8), 2))
    with pytest.raises(ValueError, match="process: expected one that ends with some signal"):
        from_deepinv(theirs(), process=ld.FlowMatching(EVENT))
    with pytest.raises(TypeError, match="process: expected a diffusion process, from_deepinv"):
        from_deepinv(theirs(), EVENT)
    with pytest.raises(TypeError, match="process: expected a LinearDiffusion"):
        from_deepinv(theirs(), process=EVENT)
    denoiser = to_deepinv(ours(PROCESSES["EDM"]))
    with pytest.raises(ValueError, match=r"sigma: expected 0 ≤ sigma ≤ σ_T/\(2 a_T\) = 40, .* in 50…50"):
        denoiser(ATOMS[:2], 50.0)
    with pytest.raises(ValueError, match=r"got values in -0.1…0.5"):
        denoiser(ATOMS[:2], torch.tensor([0.5, -0.1]))
    with pytest.raises(ValueError, match="one for each of 2 images, got 3"):
        denoiser(ATOMS[:2], torch.ones(3))
