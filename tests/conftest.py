"""Fixtures and the zoo of operators that every structural test runs over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import lineardiffusion as ld
from lineardiffusion.testing import Opaque

settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("default")
# Two threads would wait for each other where the cores are busy, and gain little with small tensors; so too in the
# programs that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take long come first, so that at the end no process is left alone with one."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What is drawn without a generator is the same whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Numbers of the paper's own implementation, kept beside the repository."""
    folder = Path(os.environ.get("LINEARDIFFUSION_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "vectors").is_dir():
        pytest.skip(f"the reference vectors are not here: {folder / 'vectors'} (set LINEARDIFFUSION_SHARED)")
    return folder


class EverySecond(ld.OrthogonalRows):
    """A selection of pixels, written as a user would: by `apply` alone."""

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., ::2]


def _random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zoo() -> dict[str, ld.LinearOperator]:
    """At least one operator of every class and structure, small enough for dense algebra."""
    shape = (2, 6, 4)
    skewed = _random(3, 3, seed=5)
    rank_deficient = _random(5, 2, seed=2) @ _random(2, 8, seed=3)
    operators: dict[str, ld.LinearOperator] = {
        "identity": ld.Identity(shape),
        "scalar": -0.7 * ld.Identity(shape),
        "diagonal": ld.Diagonal(_random(*shape)),
        "mask": ld.Diagonal((_random(*shape) > 0).double()),
        "matrix wide": ld.Matrix(_random(5, 8), in_shape=(2, 4), out_shape=(5,)),
        "matrix tall": ld.Matrix(_random(8, 6), in_shape=(6,), out_shape=(2, 2, 2)),
        "matrix singular": ld.Matrix(rank_deficient, in_shape=(2, 4), out_shape=(5,)),
        "separable": ld.Separable([_random(3, 6), _random(5, 4)], in_shape=shape),
        "resize 1-D": ld.Resize((1, 12), 6),
        "resize 3-D": ld.Resize((1, 4, 6, 2), (2, 3, 1)),
        "resize one axis": ld.Resize(shape, (2,)),
        "resize up": ld.Resize(shape, (9, 7)),
        "dct": ld.SpectralFilter(shape, _random(6, 4).abs()),
        "dct per channel": ld.SpectralFilter(shape, _random(2, 6, 4)),
        "fft": ld.Convolution(skewed, shape).structure,
        "convolution circular": ld.Convolution(skewed, shape),
        "convolution separable": ld.Convolution(_random(3, 1) @ _random(1, 3, seed=4), shape, padding="zeros"),
        "convolution reflect": ld.Convolution(skewed, shape, padding="reflect"),
        "convolution zeros": ld.Convolution(skewed, shape, padding="zeros"),
        "scaled resize": 0.3 * ld.Resize(shape, (3, 2)),
        "average pool": ld.AveragePool(shape, (3, 2)),
        "average pool 3-D": -0.5 * ld.AveragePool((1, 4, 2, 6), (2, 1, 3)),
        "every second pixel": EverySecond(shape, (2, 6, 2), squared_norm=1.0),
        "orthogonal rows transposed": ld.AveragePool(shape, (2, 2)).T,
        "sum": ld.Resize(shape, (3, 2)) + ld.AveragePool(shape, (2, 2)),
        "sum of filters": ld.SpectralFilter(shape, _random(6, 4)) - 0.3 * ld.Identity(shape),
        "block diagonal": ld.BlockDiagonal([ld.Resize((6, 4), (3, 2), "bicubic"), 2.0 * ld.Resize((6, 4), (3, 2))]),
        "channel mix": ld.ChannelMix(_random(3, 2), ld.Resize((6, 4), (3, 2))),
        "channel mix to grey": ld.ChannelMix(_random(1, 3), ld.SpectralFilter((6, 4), _random(6, 4))),
        "separable channel mix": ld.Separable([_random(3, 2), _random(2, 6), _random(3, 4)], shape),
        "composed": ld.Diagonal(_random(2, 3, 2)) @ ld.Resize(shape, (3, 2)),
        "transposed": Opaque(ld.Resize(shape, (3, 2))).T,
        "opaque": Opaque(ld.Resize(shape, (3, 2))),
        "truncated filter": ld.TruncatedFilter(ld.bases.Cosine(shape), (2, 4, 3), _random(4, 3)),
        "truncated filter of wavelets": ld.TruncatedFilter(ld.bases.Haar(shape), (2, 3, 2), _random(2, 1, 2)),
        "truncated filter of components": ld.TruncatedFilter(
            ld.bases.Principal(_random(9, *shape), 6), (4,), _random(4)
        ),
    }
    for mode in ("bilinear", "bicubic", "nearest", "nearest-exact", "area"):
        operators[f"resize {mode}"] = ld.Resize(shape, (3, 2), mode)
    return operators


ZOO = zoo()


@pytest.fixture(params=list(ZOO))
def op(request: pytest.FixtureRequest) -> ld.LinearOperator:
    return ZOO[request.param]
