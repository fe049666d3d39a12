"""Paths under every schedule, at whole and at broken times: operators, distributions and kernels against dense
algebra."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from functools import partial

import pytest
import scipy.fft
import torch
from torch.nn import functional as F

import lineardiffusion as ld
from lineardiffusion import bases, paths, schedules
from test_operators import draw

SCHEDULES = {
    "linear": schedules.linear(40),
    "zero SNR": schedules.zero_terminal_snr(schedules.linear(40)),
    "continuous cosine": schedules.cosine_log_snr(None),
    "flow": schedules.flow(3.0),
    "vp": schedules.vp(),
    "edm": schedules.edm(),
    "ve": schedules.ve(),
    "stages": schedules.piecewise([0, 0.4, 0.4, 1], [1, 0.7, 0.5, 0], [0, 0.5, 0.6, 1]),
}


def fading(coordinates):
    """Gains of their own for each coordinate, some of which are 0 from half the time on; the same for ±k."""

    def make(end):
        count = math.prod(coordinates)
        rates = torch.linspace(0, 3, count, dtype=torch.float64).reshape(coordinates)
        rates = (rates + rates.flip(-1).roll(1, -1)) / 2
        gone = rates > 1.8
        return lambda t: torch.where(gone & (t > end / 2), 0.0, torch.exp(-rates * t / end))

    return make


def at(*fractions):
    """Levels that change at these shares of the time."""
    return lambda s: ld.changes_at([round(f * s.end) if s.num_steps else f * s.end for f in fractions])


CUT = {
    "Haar": (bases.Haar((1, 4, 8), 2), [(1, 2, 4), (1, 1, 2)]),
    "cosines": (bases.Cosine((2, 6)), [(2, 5), (2, 3)]),
    "components": (bases.Principal(draw((1, 6), 20, seed=7), 6), [(5,), (2,)]),
    "few components": (bases.Principal(draw((1, 6), 20, seed=7), 4), [(3,), (1,)]),
}
TRUNCATED = {
    f"{name} truncated{', fading' if fades else ''}{'' if orthonormal else ', as bright'}": (name, fades, orthonormal)
    for name, fades, orthonormal in itertools.product(CUT, (False, True), (True, False))
}


def truncated(name, s):
    name, fades, orthonormal = TRUNCATED[name]
    basis, shapes = CUT[name]
    gains = fading(basis.coordinates)(s.end) if fades else None
    return paths.truncated(basis, shapes, at(0.4, 0.7)(s), gains, orthonormal)


PATHS = {
    "identity": lambda s: paths.identity((2, 5)),
    "heat": lambda s: paths.heat((2, 3, 4), 2.0, 0.01),
    "heat by a function": lambda s: paths.heat((7,), lambda t: 3 * t / s.end, floor=0.0),
    "cosines": lambda s: paths.spectral(bases.Cosine((1, 3, 4)), fading((3, 4))(s.end)),
    "Fourier": lambda s: paths.spectral(bases.Fourier((2, 6)), fading((6,))(s.end)),
    "wavelets": lambda s: paths.spectral(bases.Haar((1, 4, 4), 2), fading((4, 4))(s.end)),
    "one gain": lambda s: paths.spectral(bases.Cosine((5,)), lambda t: torch.tensor(1 - 0.4 * t / s.end)),
    "bilinear": lambda s: paths.pyramid((2, 5, 6), 3, at(0.4, 0.7)(s)),
    "bicubic by 1.5": lambda s: paths.pyramid((1, 9, 4), 3, at(0.3, 0.31)(s), "bicubic", 1.5),
    "area by 3": lambda s: paths.pyramid((1, 9, 7), 2, at(0.5)(s), "area", 3),
    "nearest in sizes": lambda s: paths.pyramid((2, 11), 3, at(0.5, 0.5)(s), "nearest", [7, 2]),
    "nearest-exact": lambda s: paths.pyramid((1, 6, 5), 2, at(1.0)(s), "nearest-exact", [(3, 5)]),
    "haar": lambda s: paths.pyramid((1, 4, 8), 3, at(0.4, 0.7)(s), "haar"),
    **{name: partial(truncated, name) for name in TRUNCATED},
}  # fmt: skip
KEEPING = [name for name in PATHS if name not in ("bilinear", "bicubic by 1.5", "area by 3", "nearest in sizes",
                                                  "nearest-exact", "haar", *TRUNCATED)]  # fmt: skip


def process(path, schedule):
    schedule = SCHEDULES[schedule]
    return ld.LinearDiffusion(PATHS[path](schedule), schedule)


def pairs(p):
    """s < t: neighbours, far apart, between whole times, before, at and across changes of shape, and from the ends."""
    end, first = p.end, 1 if p.num_steps else 0.01
    result = [(0, first), (0, end), (first, end), (0.3 * end, 0.3 * end + 0.5 * first), (0.21 * end, 0.79 * end)]
    for t in p.shape_changes():
        result += [(p.before(t), t), (0.45 * t, t)] + ([(t - 0.25 * first, t + 0.4 * first)] if t < end else [])
    return sorted({(p.time(s), p.time(t)) for s, t in result})


def dense(operator):
    return operator.to_dense()


def exact_kernel(p, s, t, eta, framed):
    """K and C from a dense decomposition of M, or where no signal is left at t, of R."""
    degradation, sigma_s, sigma_t = dense(p.degradation(s, t)), p.sigma(s), p.sigma(t)
    rho = (sigma_s / sigma_t * p.signal_scale(t) / p.signal_scale(s)) ** 2
    if framed:  # in the frame of the path, whose directions keep their noise also where they are gone
        values, vectors = torch.linalg.eigh(degradation)
        values = torch.where(values.abs() < 1e-12, 0, values)
        seen, left, right = torch.ones_like(values), vectors * torch.where(values < 0, -1, 1), vectors
    else:
        left, values, right = torch.linalg.svd(degradation)
        right, rank = right.T, len(values)
        values = torch.cat([torch.where(values < 1e-12, 0, values), values.new_zeros(len(right) - rank)])
        seen = (values > 0).double()
        left = torch.cat([left, left.new_zeros(len(left), max(len(right) - len(left), 0))], 1)[:, : len(right)]
    told = rho * values.square()
    kept = seen * (1 - eta**2 + eta**2 * told)
    gain = right @ torch.diag(sigma_s / sigma_t * kept.sqrt()) @ left.T
    return gain, right @ torch.diag(sigma_s**2 * (1 - kept)) @ right.T


def check_pair(p, s, t, framed=None):
    """All that a process says of two times, against dense algebra."""
    x0, close = draw(p.shape(0), 2), {"rtol": 1e-10, "atol": 1e-10}
    a_s, a_t, sigma_s, sigma_t = p.signal_scale(s), p.signal_scale(t), p.sigma(s), p.sigma(t)
    to_s, to_t, between = (dense(p.degradation(*pair)) for pair in ((0, s), (0, t), (s, t)))
    torch.testing.assert_close(between @ to_s, to_t, **close)
    torch.testing.assert_close(dense(p.operator(s, t)), a_t / a_s * between, **close)
    torch.testing.assert_close(p.clean(x0, t).flatten(1), x0.flatten(1) @ to_t.T, **close)
    noise = draw(p.shape(t), 2, seed=1)
    x_t = p.diffuse(x0, t, noise=noise)
    torch.testing.assert_close(x_t.flatten(1), a_t * x0.flatten(1) @ to_t.T + sigma_t * noise.flatten(1), **close)
    torch.testing.assert_close(p.marginal(t).sample(x0, noise), x_t, **close)
    total = (sigma_s * a_t / a_s) ** 2 * between @ between.T + dense(p.transition(t, s))
    torch.testing.assert_close(total, sigma_t**2 * torch.eye(len(total)).double(), **close)
    if sigma_s == 0:
        return
    mean_s, mean_t, noise_s = a_s * p.clean(x0, s), a_t * p.clean(x0, t), draw(p.shape(s), 2, seed=2)
    bound = {"rtol": 1e-9, "atol": 1e-9 * sigma_s}
    for eta in (0.0, 0.5, 1.0):
        gain, covariance = exact_kernel(p, s, t, eta, p.shape(s) == p.shape(t) if framed is None else framed)
        kernel = p.kernel(x_t, mean_s, t, s, eta)
        expected = mean_s.flatten(1) + (x_t - mean_t).flatten(1) @ gain.T
        torch.testing.assert_close(kernel.mean.flatten(1), expected, **bound)
        torch.testing.assert_close(dense(kernel.covariance), covariance, rtol=1e-9, atol=1e-9 * sigma_s**2)
        total = sigma_t**2 * gain @ gain.T + covariance  # of the expected ones, hence of those found
        torch.testing.assert_close(total, sigma_s**2 * torch.eye(len(total)).double(), rtol=1e-9, atol=1e-9)
        drawn = kernel.sample(noise_s)
        torch.testing.assert_close(p.step_kernel(t, s, eta).sample(x_t, mean_s, noise_s), drawn)
        of_clean = p.step_kernel(t, s, eta, of="clean").sample(x_t, p.clean(x0, s), noise_s)
        torch.testing.assert_close(of_clean, drawn, **bound)
    if p.shape(s) == p.shape(t):
        for gamma in (0.0, 0.5 * sigma_s / sigma_t, sigma_s / sigma_t):
            shared = p.shared_noise_kernel(x_t, mean_t, mean_s, t, s, gamma)
            rest = math.sqrt(max(sigma_s**2 - (gamma * sigma_t) ** 2, 0.0))
            expected = mean_s + gamma * sigma_t * noise + rest * noise_s
            torch.testing.assert_close(shared.sample(noise_s), expected, rtol=1e-9, atol=1e-7 * sigma_s)


FEW = ["linear", "zero SNR", "flow", "stages"]  # signal at the end or none, steps or none, a jump
EVERY_PATH = [
    (path, name)
    for path, name in itertools.product(PATHS, FEW)
    if path not in TRUNCATED or path.startswith("Haar") or name == "linear"
]
EVERY_SCHEDULE = [(path, name) for path in ("heat", "haar") for name in SCHEDULES if name not in FEW]


@pytest.mark.parametrize(("path", "schedule"), EVERY_PATH + EVERY_SCHEDULE)
def test_operators_marginals_transitions_and_kernels(path, schedule):
    p = process(path, schedule)
    for s, t in pairs(p):
        check_pair(p, s, t)


# ---------------------------------------------------------------------------------------------- what each path is


def test_heat_is_the_heat_equation():
    p = ld.LinearDiffusion(paths.heat((2, 8, 6), 3.0, 0.01), schedules.linear(50))
    x0, t = draw((2, 8, 6), 1), 12.5
    frequency = [math.pi * torch.arange(n, dtype=torch.float64) / n for n in (8, 6)]
    dissipation = (3.0 * math.sin(math.pi * t / 50 / 2) ** 2) ** 2 / 2
    decay = torch.exp(-(frequency[0][:, None] ** 2 + frequency[1] ** 2) * dissipation) * 0.99 + 0.01
    spectrum = torch.from_numpy(scipy.fft.dctn(x0.numpy(), axes=(-2, -1), norm="ortho")) * decay
    expected = torch.from_numpy(scipy.fft.idctn(spectrum.numpy(), axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(p.clean(x0, t), expected, rtol=1e-12, atol=1e-12)
    own = ld.LinearDiffusion(paths.heat((2, 8, 6), lambda t: t**2 / 100, 0.01), schedules.flow())
    torch.testing.assert_close(own.clean(x0, 0.5), ld.Resize((2, 8, 6), (8, 6))(x0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bilinear", "bicubic by 1.5", "area by 3", "nearest in sizes", "nearest-exact"])
def test_pyramids_resize_level_by_level(name):
    schedule = SCHEDULES["flow"]
    p = ld.LinearDiffusion(PATHS[name](schedule), schedule)
    x0 = draw(p.shape(0), 2)
    image, mode = x0, p.path.mode
    mode = "linear" if mode == "bilinear" and len(p.shape(0)) == 2 else mode
    for size in p.path.sizes[1:]:
        options = {"antialias": True} if mode in ("bilinear", "bicubic") else {}
        image = F.interpolate(image, size[1:], mode=mode, **options)
    torch.testing.assert_close(p.clean(x0, p.end), image, rtol=1e-12, atol=1e-12)


def test_haar_levels_are_means_that_keep_white_noise_white():
    p = ld.LinearDiffusion(paths.pyramid((1, 8, 8), 3, ld.changes_at([0.2, 0.6]), "haar"), schedules.flow())
    x0 = draw((1, 8, 8), 1)
    torch.testing.assert_close(p.clean(x0, 0.7), F.avg_pool2d(x0, 4))
    assert [p.signal_scale(t) / p.schedule.signal(t) for t in (0.1, 0.2, 0.7)] == [1, 2, 4]
    for s, t in ((0.1, 0.3), (0.1, 0.7), (0.5, 0.7)):
        operator = p.operator(s, t)
        assert operator.has_exact_functions
        rows = dense(operator)
        ratio = p.schedule.signal(t) / p.schedule.signal(s)
        torch.testing.assert_close(rows @ rows.T, ratio**2 * torch.eye(len(rows)).double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(TRUNCATED))
def test_truncated_paths_are_gains_of_the_first_coordinates(name):
    """R_t = (n_l/n_0)^{1/2} V_l diag(r_t) P_l Vᵀ, and the same for gains and filters of each level."""
    p = process(name, "flow")
    (basis, shapes), (_, fades, orthonormal) = CUT[TRUNCATED[name][0]], TRUNCATED[name]
    n = math.prod(basis.shape)
    rows = basis.analyse(torch.eye(n, dtype=torch.float64).reshape(n, *basis.shape)).reshape(n, *basis.coordinates)
    for t, shape in ((0.3, basis.shape), (0.45, shapes[0]), (0.6, shapes[0]), (0.9, shapes[1])):
        assert p.shape(t) == shape
        small = basis if shape == basis.shape else basis.smaller(shape)
        gains = (p.path.arguments()["gains"](t) if fades else torch.ones(basis.coordinates)).double()
        kept = (slice(None), *(slice(m) for m in small.coordinates))
        brightness = math.sqrt(math.prod(shape) / n)
        expected = small.synthesise((gains * rows)[kept]).reshape(n, -1).T * brightness
        if not fades and shape == basis.shape:
            expected = torch.eye(n, dtype=torch.float64)
        torch.testing.assert_close(dense(p.degradation(0, t)), expected, rtol=1e-12, atol=1e-12)
        assert p.signal_scale(t) == pytest.approx(p.schedule.signal(t) / (brightness if orthonormal else 1))
        frame = p.path.gains(t)
        squares = small.synthesise(frame.square().broadcast_to(small.coordinates) * small.analyse(draw(shape)))
        torch.testing.assert_close(p.path.filter(t, frame.square())(draw(shape)), squares if fades else draw(shape))
    if not fades and orthonormal:  # white noise stays white
        rows = dense(p.operator(0.1, 0.9))
        ratio = p.schedule.signal(0.9) / p.schedule.signal(0.1)
        torch.testing.assert_close(rows @ rows.T, ratio**2 * torch.eye(len(rows)).double(), rtol=1e-12, atol=1e-12)


def test_a_truncated_path_that_is_bound_again_forgets_its_filters():
    basis = bases.Haar((1, 8))
    path = paths.truncated(basis, [(1, 4)], [2], lambda t: torch.tensor(1 / (1 + t)))
    first = ld.LinearDiffusion(path, schedules.linear(4))
    x0, t = draw((1, 8), 2), torch.tensor([3, 3])
    assert first.clean(x0, t).shape == (2, 1, 4)
    second = ld.LinearDiffusion(first.path, schedules.linear(3))
    torch.testing.assert_close(second.clean(x0, t), second.clean(x0, 3))


@pytest.mark.parametrize("schedule", ["linear", "flow"])
def test_shapes_change_at_their_times(schedule):
    s = SCHEDULES[schedule]
    p = ld.LinearDiffusion(paths.pyramid((3, 48, 64), 3, at(0.4, 0.7)(s), factor=1.5), s)
    fine, middle, coarse = (3, 48, 64), (3, 32, 43), (3, 22, 29)
    first, second = p.shape_changes()
    assert (first, second) == ((16, 28) if s.num_steps else (0.4, 0.7))
    below = [math.nextafter(t, 0) for t in (first, second)]
    assert [p.shape(t) for t in (0, below[0], first, below[1], second, p.end)] == [
        fine, fine, middle, middle, coarse, coarse]  # fmt: skip
    if s.num_steps:
        assert [p.shape(t) for t in (15, 15.99, 16, 27.5, 28)] == [fine, fine, middle, middle, coarse]
        assert [p.before(t) for t in (16, 16.5, 0.5, 1)] == [15, 15.5, 0, 0]
    else:
        assert [p.before(t) for t in (first, 1.0)] == [below[0], math.nextafter(1, 0)]
    assert p.shape(p.before(first)) == fine


@pytest.mark.parametrize("factor", [1.5, 2, 3, [7, 2], [(6, 9), (3, 2)]])
def test_sizes_of_levels(factor):
    path = paths.pyramid((2, 11, 14), factor=factor, levels=3)
    expected = {
        1.5: [(8, 10), (5, 7)], 2: [(6, 7), (3, 4)], 3: [(4, 5), (2, 2)],
        "[7, 2]": [(7, 7), (2, 2)], "[(6, 9), (3, 2)]": [(6, 9), (3, 2)],
    }  # fmt: skip
    assert path.sizes[1:] == [(2, *size) for size in expected[str(factor) if isinstance(factor, list) else factor]]


def test_levels_that_are_passed_over_or_never_reached():
    skipped = ld.LinearDiffusion(paths.pyramid((1, 8), 3, [0, 0, 2, 2]), schedules.linear(4))
    assert [skipped.shape(t) for t in (2, 2.9, 3, 4)] == [(1, 8)] * 2 + [(1, 2)] * 2
    assert skipped.shape_changes() == [3]
    never = ld.LinearDiffusion(paths.pyramid((1, 8), 3, ld.changes_at([0.5, 2.0])), schedules.flow())
    assert never.shape_changes() == [0.5]
    assert never.shape(1.0) == (1, 4)


@pytest.mark.parametrize("name", KEEPING)
def test_filters_have_the_frame_of_the_path(name):
    """R_t = V diag(r_t) Vᵀ, and so is every function of it."""
    p = process(name, "flow")
    gains = p.path.gains(0.7)
    torch.testing.assert_close(dense(p.path.filter(0.7, gains)), dense(p.degradation(0, 0.7)), rtol=1e-12, atol=1e-12)
    squared = dense(p.path.filter(0.7, gains.square() - 0.3))
    expected = dense(p.degradation(0, 0.7)) @ dense(p.degradation(0, 0.7)) - 0.3 * torch.eye(len(squared)).double()
    torch.testing.assert_close(squared, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "flow"])
@pytest.mark.parametrize("name", list(PATHS))
def test_a_batch_of_times_is_each_of_them(name, schedule):
    p = process(name, schedule)
    times = [t for t in (0, 0.013, 0.11, 1 / 3, 0.5, 0.77, 1) if p.shape(t * p.end) == p.shape(0)] * 2
    t = p.end * torch.tensor(times, dtype=torch.float64)
    if p.num_steps:
        t[: len(times) // 2] = t[: len(times) // 2].round()
    x0, noise = (draw(p.shape(0), len(t), seed=seed) for seed in (0, 1))
    together = p.diffuse(x0, t, noise=noise), p.clean(x0, t), p.signal_scale(t), p.sigma(t), p.snr(t)
    for i, u in enumerate(t.tolist()):
        alone = p.diffuse(x0[i], u, noise=noise[i]), p.clean(x0[i], u), p.signal_scale(u), p.sigma(u), p.snr(u)
        for row, single in zip(together, alone, strict=True):
            expected = torch.as_tensor(single, dtype=torch.float64)
            torch.testing.assert_close(row[i], expected, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------------------- objects


EQUAL = {
    "identity": lambda: paths.identity((1, 8)),
    "heat": lambda: paths.heat([1, 8], 3.0, floor=0.1),
    "pyramid": lambda: paths.pyramid((1, 8), 3, ld.equal_levels(), "area", 1.5),
    "pyramid in sizes": lambda: paths.pyramid((1, 8, 9), None, ld.changes_at([3, 5]), factor=[(4, 9), (2, 3)]),
    "pyramid in levels": lambda: paths.pyramid((1, 8), 2, [0, 0, 1, 1]),
    "truncated": lambda: paths.truncated(bases.Haar((1, 8), 2), [(1, 4), (1, 2)], ld.convex_decay(0.5)),
    "truncated at times": lambda: paths.truncated(bases.Cosine((1, 8)), [(1, 5)], [2], orthonormal=False),
    "truncated components": lambda: paths.truncated(
        bases.Principal(torch.arange(24.0).reshape(3, 1, 8), 2), [(1,)], [2]
    ),
}


@pytest.mark.parametrize("name", list(EQUAL))
def test_paths_are_their_arguments(name):
    path, twin = EQUAL[name](), EQUAL[name]()
    assert path == twin
    assert hash(path) == hash(twin)
    assert repr(path).startswith(name.split()[0] + "(")
    for again in (
        copy.deepcopy(path),
        pickle.loads(pickle.dumps(path)),
        ld.from_config(json.loads(json.dumps(path.to_config()))),
    ):
        assert again == path
        bound = ld.LinearDiffusion(again, schedules.linear(4)), ld.LinearDiffusion(path, schedules.linear(4))
        assert bound[0] == bound[1]
        assert bound[0].path == path  # a path is the same on every time axis
    assert len({path, *(EQUAL[other]() for other in EQUAL)}) == len(EQUAL)


def test_paths_of_functions_and_operators_have_no_configuration_but_are_equal():
    def sigma(t):
        return 2 * t

    steps = [0.5 * ld.Identity((4,)), ld.Identity((4,))]
    cosines = bases.Cosine((4,))
    for make in (lambda: paths.heat((4,), sigma), lambda: paths.spectral(cosines, lambda t: torch.ones(4)),
                 lambda: paths.chain(steps)):  # fmt: skip
        with pytest.raises(TypeError, match=r"paths\.\w+: (blur_sigma|gains|operators): expected numbers"):
            make().to_config()
    assert paths.heat((4,), sigma) == paths.heat((4,), sigma) != paths.heat((4,), lambda t: 2 * t)
    assert paths.chain(steps) == paths.chain(ld.OperatorChain(steps)) != paths.chain(steps[::-1])
    assert hash(paths.chain(steps)) == hash(paths.chain(list(steps)))
    assert "sigma" in repr(paths.heat((4,), sigma))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: paths.identity(8), TypeError, r"shape: expected the sizes of an event, .*\(3, 8, 8\), or \(8,\)"),
        (lambda: ld.DDPM(8), TypeError, "shape: expected the sizes of an event"),
        (lambda: paths.identity((3, 0)), ValueError, "shape: expected"),
        (lambda: paths.heat((4,), -1.0), ValueError, "blur_sigma: expected a number ≥ 0, in pixels"),
        (lambda: paths.heat((4,), "2"), TypeError, "blur_sigma: expected a number, got '2'"),
        (lambda: paths.heat((4,), floor=1.1), ValueError, r"floor: expected a number in \[0, 1\]"),
        (lambda: paths.heat((4,), lambda t: 1 + t), ValueError, "blur_sigma: expected 0 at t = 0"),
        (lambda: paths.heat((4,)).between(0, 1), ValueError, "make the process first"),
        (lambda: paths.pyramid((1, 8), 2).shape(1), ValueError, "make the process first"),
        (
            lambda: ld.LinearDiffusion(paths.heat((4,), lambda t: t / (1 - t)), schedules.vp()),
            ValueError,
            "blur_sigma: expected a finite number at t = 1",
        ),
        (lambda: paths.spectral("dct", lambda t: 1), TypeError, "basis: expected one of ld.bases"),
        (
            lambda: paths.spectral(bases.Cosine((4,)), lambda t: torch.ones(3)),
            ValueError,
            r"gains: expected a shape that broadcasts to the coordinates \(4,\) .*, got \(3,\) at t = 0",
        ),
        (
            lambda: paths.spectral(bases.Cosine((4,)), lambda t: torch.zeros(4)),
            ValueError,
            "gains: expected 1 at t = 0",
        ),
        (
            lambda: paths.spectral(bases.Cosine((4,)), lambda t: torch.ones(4) + 0j),
            ValueError,
            "gains: expected finite real numbers at t = 0",
        ),
        (
            lambda: paths.spectral(bases.Cosine((1,)), lambda t: torch.tensor([1 - t * (1 - t)])).gains(math.nan),
            ValueError,
            "gains: expected finite real numbers at t = nan",
        ),
        (
            lambda: ld.LinearDiffusion(
                paths.spectral(bases.Cosine((1,)), lambda t: torch.tensor([abs(1 - 2 * t)])), schedules.flow()
            ),
            ValueError,
            "gains: expected ones that stay 0",
        ),
        (lambda: paths.truncated("haar", [], []), TypeError, "basis: expected one of ld.bases"),
        (lambda: paths.truncated(bases.Haar((1, 8)), [(1, 4)], [1], 0.5), TypeError, "gains: expected a function of t"),
        (lambda: paths.truncated(bases.Haar((1, 8)), [(1, 8)], [1]), ValueError, "shapes: expected each smaller"),
        (
            lambda: paths.truncated(bases.Haar((1, 8)), [(1, 3)], [1]),
            ValueError,
            "shape: expected one of the 1 halvings",
        ),
        (lambda: paths.truncated(bases.Fourier((1, 8)), [(1, 4)], [1]), ValueError, "basis: expected Standard, Cosine"),
        (
            lambda: paths.truncated(bases.Haar((1, 8)), [(1, 4)], [1], lambda t: torch.zeros(8)),
            ValueError,
            "gains: expected 1 at t = 0",
        ),
        (
            lambda: paths.truncated(bases.Haar((1, 8)), [(1, 4)], [1], lambda t: torch.ones(4)),
            ValueError,
            "gains: expected a shape that broadcasts to the coordinates",
        ),
        (lambda: paths.truncated(bases.Haar((1, 8)), [(1, 4)], [1]).shape(1), ValueError, "make the process first"),
        (
            lambda: ld.LinearDiffusion(paths.truncated(bases.Haar((1, 8)), [(1, 4)], [1, 2]), schedules.linear(4)),
            ValueError,
            "times: expected 1 for 2 levels",
        ),
        (lambda: paths.pyramid((1, 4), 4), ValueError, r"levels: expected each level smaller .*: at most 3 for"),
        (lambda: paths.pyramid((1, 8, 8), 0), ValueError, "levels: expected 1 ≤ levels"),
        (lambda: paths.pyramid((1, 6, 8), 3, mode="haar"), ValueError, "mode: expected even sizes"),
        (lambda: paths.pyramid((1, 8), 2, mode="haar", factor=3), ValueError, "mode: expected even sizes"),
        (lambda: paths.pyramid((1, 8), 2, mode="cubic"), ValueError, "mode: expected one of"),
        (lambda: paths.pyramid((1, 8), factor=1.0), ValueError, "factor: expected a ratio > 1"),
        (lambda: paths.pyramid((1, 8), 2, factor=[4, 2]), ValueError, "factor: expected 1 sizes for 2 levels"),
        (lambda: paths.pyramid((1, 8), factor=[9]), ValueError, "expected each level smaller than the one before"),
        (
            lambda: ld.LinearDiffusion(paths.pyramid((1, 8), 2, [0, 1]), schedules.flow()),
            ValueError,
            "resolution_schedule: expected a schedule such as ld.convex_decay",
        ),
        (lambda: paths.chain([]), ValueError, "steps: expected at least one operator"),
        (lambda: paths.chain([ld.Resize((1, 4), 2)] * 2), ValueError, "steps: expected in_shape"),
        (
            lambda: ld.LinearDiffusion(paths.chain([ld.Identity((4,))] * 2), schedules.flow()),
            ValueError,
            "schedule: expected one of 2 steps for as many operators, got flow",
        ),
    ],
)
def test_bad_paths(call, error, message):
    with pytest.raises(error, match=message):
        call()
