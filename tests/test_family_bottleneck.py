"""Bottleneck Sampling, against its formulas; there are no numbers of its code."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.families import BottleneckSampling


@pytest.mark.parametrize("base", [ld.FlowMatching, ld.DDPM], ids=["flow", "ddpm"])
def test_stages(base, generator):
    """Sizes and times of the calls; each stage ends in its last estimate, which is resized and noised anew."""
    calls = []

    def network(x, t):
        calls.append((x, float(t[0])))
        return 0.1 * x

    base = base((2, 6, 8))
    p = BottleneckSampling((2, 6, 8), base)
    sampler = p.sampler(p.denoiser(network))
    states = list(sampler.trajectory(2, seeds=[0, 1], progress=False))
    assert [x.shape[-1] for x, _ in calls] == [8] * 4 + [4] * 13 + [8] * 8
    flow = ld.schedules.flow()
    shifted = [
        h * u * (1 - k / n) / (1 + (h - 1) * u * (1 - k / n))
        for n, u, h in zip((4, 13, 8), (1.0, 0.8, 0.6), (9, 6, 9), strict=True)
        for k in range(n)
    ]
    index = 1 if base.num_steps else 0
    expected = [base.schedule.time(flow.log_snr(u)) - index for u in shifted]
    assert [t for _, t in calls] == pytest.approx(expected, abs=1e-6 * base.end)
    changes = p.shape_changes()
    for i, (t, x, _) in enumerate(states):
        if t not in changes:
            continue
        assert (p.signal_scale(t), p.sigma(t)) == (1.0, 0.0)
        clean = base.denoiser(lambda x, t: 0.1 * x)  # of what came before, by the base alone
        before = states[i - 1]
        if before[1].shape == (2, 2, 6, 8):
            time = float(p.schedule.base_time(torch.tensor(before[0], dtype=torch.float64)))
            torch.testing.assert_close(x, clean(before[1], time, 0), rtol=1e-4, atol=1e-5)
        s = p.before(t)
        noise = torch.randn(2, *p.shape(s), dtype=torch.float64, generator=generator)
        size = p.shape(s)[1:]
        resized = ld.Resize(p.shape(t), size, "bicubic")(x.double())
        result = p.jump(x.double(), t, noise)
        torch.testing.assert_close(result, p.signal_scale(s) * resized + p.sigma(s) * noise, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:x_T is not noise")
def test_path():
    """Marginals with shared coupling; no operator leads from a small image to a large one."""
    p = BottleneckSampling((1, 4, 6))
    assert p.coupling == "shared"
    low, high = p.shape_changes()
    middle = (low + high) / 2
    assert [p.shape(t) for t in (0, middle, p.end)] == [(1, 4, 6), (1, 2, 3), (1, 4, 6)]
    x = torch.randn(2, 1, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(p.clean(x, p.end), x)
    torch.testing.assert_close(p.clean(x, middle), ld.Resize((1, 4, 6), (2, 3), "bicubic")(x))
    torch.testing.assert_close(p.degradation(low / 2, middle)(x), p.clean(x, middle))
    with pytest.raises(ValueError, match="no way from small to large"):
        p.operator(middle, p.end)


def test_samples_copies_and_errors():
    p = BottleneckSampling((3, 32, 32))
    d = p.denoiser(lambda x, t: torch.zeros_like(x))
    assert p.sampler(d)(2, seeds=[0, 1], progress=False).shape == (2, 3, 32, 32)
    assert p.sampler(d, 9)(2, seeds=[0, 1], progress=False).isfinite().all()
    for copied in (copy.deepcopy(p), pickle.loads(pickle.dumps(p)), ld.from_config(p.to_config())):
        assert copied == p
    assert p != BottleneckSampling((3, 32, 32), scale=0.25)
    for arguments, message in (
        ({"scale": 1.0}, "scale"),
        ({"steps": (4, 13)}, "three of each"),
        ({"strengths": (0.9, 0.8, 0.6)}, "strengths"),
        ({"strengths": (1.0, 0.8, 0.0)}, "strengths"),
        ({"shifts": (9, 0, 9)}, "shifts"),
        ({"mode": "cubic"}, "mode"),
    ):
        with pytest.raises(ValueError, match=message):
            BottleneckSampling((3, 8, 8), **arguments)


def test_nothing_smaller_is_refused():
    with pytest.raises(ValueError, match="scale: expected one at which"):
        ld.families.BottleneckSampling((1, 8, 8), scale=0.95)


def test_base_whose_network_sees_other_states_is_refused():
    p = ld.families.BottleneckSampling((1, 8, 8), base=ld.families.WaveletDiffusion((1, 8, 8)))
    with pytest.raises(ValueError, match="base: expected one whose network is called with states as they are"):
        p.denoiser(torch.nn.Identity())
