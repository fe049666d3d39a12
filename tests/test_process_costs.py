"""What processes cost once they are warm, what they keep, and what building one takes."""

from __future__ import annotations

import gc
import math

import pytest
import torch

import lineardiffusion as ld
from costs import Operations
from lineardiffusion import bases, paths, schedules
from lineardiffusion.caches import BoundedCache
from lineardiffusion.operators import chain as chain_module
from lineardiffusion.processes import base
from test_operators import draw

SHAPE = (2, 8, 6)
STAGES = ld.changes_at([0.4, 0.7])
PROCESSES = {
    "DDPM": lambda: ld.DDPM(SHAPE, 40),
    "blurring": lambda: ld.BlurringDiffusion(SHAPE, 40),
    "scale space": lambda: ld.ScaleSpaceDiffusion(SHAPE, 3, 40, resolution_schedule=ld.equal_levels()),
    "haar flow": lambda: ld.LinearDiffusion(paths.pyramid((2, 8, 4), 3, STAGES, "haar"), schedules.flow()),
    "flow": lambda: ld.FlowMatching(SHAPE, 2.0),
    "EDM": lambda: ld.EDM(SHAPE),
    "heat by a function": lambda: ld.LinearDiffusion(paths.heat(SHAPE, lambda t: 2 * t), schedules.vp()),
    "gains": lambda: ld.LinearDiffusion(
        paths.spectral(bases.Haar((2, 8, 4)), lambda t: torch.exp(-t * torch.arange(4.0))), schedules.flow()
    ),
    "masks": lambda: ld.LinearDiffusion(
        [ld.Diagonal(0.5 + draw(SHAPE, seed=k).abs().clamp(max=0.5)) for k in range(8)], torch.linspace(0, 1, 9)
    ),
}


# Where a time decides what is done, its value has to be known: it is on the CPU then, and else with the data.
BY_VALUE = ("scale space", "haar flow", "gains", "masks")


def batch_of_times(p, name):
    end = p.shape_changes()[0] if p.shape_changes() else p.end
    times = torch.tensor([1, 3, 2]) if p.num_steps else torch.tensor([0.1, 0.9, 0.5], dtype=torch.float64) * end
    return times if name in BY_VALUE else times.to("meta")


def visits(p, times):
    """Everything that training and sampling do, on the accelerator."""
    third = round(p.end / 3) if p.num_steps else p.end / 3
    pairs = [(p.end, 2 * third), (third, third / 2 if not p.path.integral else 1)]
    pairs += [(t, p.before(t)) for t in p.shape_changes()]
    x0 = torch.zeros(3, *p.shape(0), device="meta")
    for t, s in pairs:
        mean_s, mean_t = (torch.zeros(3, *p.shape(u), device="meta") for u in (s, t))
        x_t = p.diffuse(x0, t)
        assert x_t.is_meta
        assert p.clean(x0, t).shape == x_t.shape
        for eta in (0.0, 0.5, 1.0):
            assert p.step_kernel(t, s, eta).sample(x_t, mean_s, mean_s).is_meta
            assert p.step_kernel(t, s, eta, of="clean").sample(x_t, mean_s, mean_s).is_meta
        assert p.posterior(x_t, mean_s, t, s).sample().is_meta
        if p.shape(s) == p.shape(t):
            for share in (0.0, 0.5, 1.0):
                kernel = p.shared_step_kernel(t, s, share * p.sigma(s) / p.sigma(t))
                assert kernel.sample(x_t, mean_t, mean_s, mean_s).is_meta
    noisy = p.diffuse(x0, times)
    assert noisy.is_meta
    assert p.clean(x0, times).is_meta
    for levels in (p.signal_scale, p.sigma, p.snr):
        assert levels(times).device == times.device


@pytest.mark.parametrize("name", list(PROCESSES))
def test_nothing_is_made_on_the_cpu_nor_waited_for_after_the_first_visit(name):
    p = PROCESSES[name]()
    times = batch_of_times(p, name)
    visits(p, times)
    with Operations() as operations:
        visits(p, times)
    assert operations.names
    few = ((), (3,), (2, 3)) if name in BY_VALUE else ()  # shapes of what is made of three times on the CPU
    assert [made for made in operations.elsewhere if made[1] not in few] == []
    assert operations.waits == []


def test_a_kernel_of_ddpm_is_three_operations():
    """Four reads and a write each would be 12; a fused one 4: the rest is for a compiler."""
    p = ld.DDPM(SHAPE, 40)
    x = draw(SHAPE, 2)
    for kernel, most in ((p.step_kernel(20, 10, 0.5), 3), (p.step_kernel(20, 10, 0.0), 2)):
        kernel.sample(x, x, x)
        with Operations() as operations:
            kernel.sample(x, x, x)
        assert len(operations.names) <= most


@pytest.mark.parametrize("name", ["DDPM", "haar flow"])
def test_a_kernel_compiles_into_one_graph_for_each_resolution(name):
    p = PROCESSES[name]()
    t, s = (30, 21) if p.num_steps else (0.6, 0.5)
    pairs = [(t, s)] + [(t, p.before(t)) for t in p.shape_changes()[:1]]
    torch._dynamo.reset()
    for t, s in pairs:
        kernel = p.step_kernel(t, s, 0.5)
        inputs = [draw(p.shape(u), 2, seed=seed).float() for seed, u in enumerate((t, s, s))]
        expected = kernel.sample(*inputs)  # what depends on the times alone is made here
        compiled = torch.compile(kernel.sample, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*inputs), expected)


# ---------------------------------------------------------------------------------------------- what is kept


def test_a_cache_keeps_what_was_used_last():
    cache, made = BoundedCache(limit=100_000, size=lambda value: value), []

    def get(key, size=20_000):
        return cache.get(key, lambda: made.append(key) or size)

    for key in ("a", "b", "c"):
        get(key)
    get("a")
    get("d")  # 4 × 20 000 and what their objects are charged are too much
    assert (cache.find("b"), cache.find("a"), len(cache)) == (None, 20_000, 3)
    get("huge", 10**9)
    assert (len(cache), cache.find("huge")) == (1, 10**9)
    assert made == ["a", "b", "c", "d", "huge"]
    for key in range(1000):
        get(key, 0)
    assert len(cache) <= 100_000 / 2**13


def live_bytes() -> int:
    gc.collect()
    tensors = (part for part in gc.get_objects() if type(part) is torch.Tensor)
    return sum({part.data_ptr(): part.untyped_storage().nbytes() for part in tensors}.values())


@pytest.mark.parametrize("make", [ld.BlurringDiffusion, ld.DDPM])
def test_kernels_are_kept_within_a_bound(make, monkeypatch):
    """What is charged is what they hold, or more, and stays below the bound."""
    monkeypatch.setattr(base, "_KERNEL_BYTES", 2**21)
    monkeypatch.setattr(base, "_OPERATOR_BYTES", 2**20)
    p = make((1, 64, 64))
    x = torch.zeros(1, 1, 64, 64)
    p.step_kernel(2, 1, 0.5).sample(x, x, x)  # and the transform of this size
    before = live_bytes()
    for t in range(2, 300):
        p.step_kernel(t, t - 1, 0.5).sample(x, x, x)
        p.clean(x, t)
    assert 5 < len(p._kernels) < 290
    assert live_bytes() - before <= 2**21 + 2**20 + 2**18


def test_kernels_of_large_images_are_kept_within_their_bound():
    """Of 256² a hundred, however many pairs of times are visited."""
    p = ld.BlurringDiffusion((3, 256, 256))
    for t in range(2, 202):
        p.step_kernel(t, t - 1, 0.5)
    assert 100 <= len(p._kernels) == 2**29 // (64 * 256**2 + 2**13)
    assert len(p._operators) <= 2**28 // (16 * 256**2)


# ---------------------------------------------------------------------------------------------- building


@pytest.mark.parametrize(
    "make",
    [
        lambda: ld.BlurringDiffusion((3, 1024, 1024)),
        lambda: ld.ScaleSpaceDiffusion((1, 4000), 3),
        lambda: ld.ScaleSpaceDiffusion((1, 4000), 3, mode="bicubic"),
        lambda: ld.ScaleSpaceDiffusion((3, 1024, 1024), 6, mode="haar"),
        lambda: ld.LinearDiffusion(paths.heat((3, 1024, 1024)), schedules.flow()),
    ],
    ids=["blurring", "scale space", "bicubic", "haar", "heat flow"],
)
def test_building_factorises_nothing_and_makes_no_spectrum(make, monkeypatch):
    for name in ("svd", "svdvals", "eigh", "eigvalsh", "qr"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    with Operations() as operations:
        make()
    # Of 4000 pixels in a row the matrices that resample them are made, and of images no more than tables of times.
    row = max(max(shape, default=0) for _, shape in operations.elsewhere) == 4000
    assert max(math.prod(shape) for _, shape in operations.elsewhere) <= (4000**2 if row else 10_000)


def refuse(*_, **__):
    raise AssertionError("factorised")


def test_building_a_chain_multiplies_nothing(monkeypatch):
    monkeypatch.setattr(chain_module, "_KEPT_BYTES", 0)
    steps = [ld.testing.Opaque(ld.Diagonal(torch.full((3, 16, 16), 0.9))) for _ in range(50)]
    applied = []
    monkeypatch.setattr(ld.testing.Opaque, "apply", lambda self, x: applied.append(1) or 0.9 * x)
    ld.LinearDiffusion(steps, torch.linspace(0, 1, 51))
    assert len(applied) <= 50 * 20
