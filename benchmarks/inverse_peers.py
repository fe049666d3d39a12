"""Inverse problems as deepinv 0.5.0 and azula 0.11.1 solve them, with a denoiser of ours.

Both are given the same network, at noise levels of their own choice, and the same measurement. deepinv imports
torchvision, which no method here uses: it is replaced by empty modules where it is not installed (deepinv, h5py,
natsort, requests and torchmetrics then have to be installed with --no-deps).

    azula     its schedule is that of our process, so that its uniform times are ours; events are flat, as its solvers
              take inner products over the last dimension; DPS one image at a time, as its norm is over a whole batch.
    deepinv   its continuous VP schedule; DDRM and DiffPIR work on images in [0, 1].
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
import sys
import types
from collections.abc import Callable
from typing import Any, ClassVar

import azula.denoise
import azula.guidance.diffpir
import azula.guidance.dps
import azula.guidance.mmps
import azula.guidance.pgdm
import azula.guidance.repaint
import azula.linalg.covariance
import azula.noise
import azula.sample
import numpy as np
import torch
from torch import Tensor

import lineardiffusion as ld


class _Empty(types.ModuleType):
    """A module in which every name is a class without contents."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


class _Finder:
    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("torchvision") else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.append(_Finder())  # type: ignore[arg-type]
deepinv = importlib.import_module("deepinv")


# ---------------------------------------------------------------------- azula


class _Schedule(azula.noise.Schedule):
    def __init__(self, process: ld.LinearDiffusion) -> None:
        self.process = process

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        time = float(t) * self.process.end
        return torch.tensor(self.process.signal_scale(time)), torch.tensor(self.process.sigma(time))


class _FlatDenoiser(azula.denoise.Denoiser):
    def __init__(self, denoiser: ld.Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, _Schedule(denoiser.process)

    def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
        process = self.denoiser.process
        clean = self.denoiser(x_t.reshape(-1, *process.shape(0)), float(t) * process.end, 0)
        return azula.denoise.DiracPosterior(mean=clean.flatten(1))


def azula_methods(
    denoiser: ld.Denoiser, A: ld.LinearOperator, y: Tensor, sigma_y: float, calls: int, mask: Tensor | None
) -> dict[str, Callable[[], Tensor]]:
    """A function for each method that draws one image for each row of y."""
    flat, shape, count = _FlatDenoiser(denoiser), A.in_shape, len(y)
    inverse = A.norm() ** -2

    def apply(x: Tensor) -> Tensor:
        return A(x.reshape(-1, *shape)).flatten(1)

    def pseudoinverse(v: Tensor) -> Tensor:
        v = v.reshape(-1, *A.out_shape)
        if mask is not None or isinstance(A, ld.AveragePool):
            return inverse * A.transpose(v).flatten(1)
        zeros = v.new_zeros(len(v), *shape)
        return A.correct(lambda values: torch.where(values > 1e-8, 1 / values, 0), zeros, v).flatten(1)

    def run(sampler: Any, rows: int = count) -> Tensor:
        return sampler(sampler.init((rows, math.prod(shape)))).reshape(-1, *shape)

    options: dict[str, Any] = {"steps": calls, "silent": True}
    target = y.flatten(1)
    covariance = azula.linalg.covariance.IsotropicCovariance(torch.tensor(sigma_y**2))
    guided = {
        "MMPS": azula.guidance.mmps.MMPSDenoiser(flat, target, apply, covariance),
        "DiffPIR": azula.guidance.diffpir.DiffPIRDenoiser(flat, target, apply, torch.tensor(sigma_y**2)),
    }
    methods: dict[str, Callable[[], Tensor]] = {
        "DPS": lambda: torch.cat(
            [run(azula.guidance.dps.DPSSampler(flat, target[i : i + 1], apply, **options), 1) for i in range(count)]
        ),
        "ΠGDM": lambda: run(azula.guidance.pgdm.PGDMSampler(flat, target, apply, pseudoinverse, **options)),
        **{name: lambda d=d: run(azula.sample.DDIMSampler(d, eta=1.0, **options)) for name, d in guided.items()},
    }
    if mask is not None:
        known, iterations = mask.flatten() > 0, 4
        sampler = azula.guidance.repaint.RePaintSampler
        each = {**options, "steps": calls // iterations}
        methods["RePaint"] = lambda: run(sampler(flat, target, known, iterations=iterations, **each))
    return methods


# ---------------------------------------------------------------------- deepinv


class _LevelDenoiser(deepinv.models.Denoiser):
    """x̂_0 of x_0 + L ε: our denoiser at the time of that level. At L = 0 the image itself."""

    def __init__(self, denoiser: ld.Denoiser, unit: bool) -> None:
        super().__init__()
        self.denoiser, self.unit = denoiser, unit

    def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
        process = self.denoiser.process
        level = float(torch.as_tensor(sigma).flatten()[0]) * (2 if self.unit else 1)
        if level == 0:
            return x
        t = min(float(process.schedule.time(-2 * math.log(level))), process.end)
        scale = process.signal_scale(t)
        x = 2 * x - 1 if self.unit else x
        clean = self.denoiser((scale * x).float(), t, 0)
        return (clean + 1) / 2 if self.unit else clean


class _Pool(deepinv.physics.DecomposablePhysics):
    """Means of 4 × 4 blocks, by the cosines of blocks: s = 1/4 for the constant, else 0."""

    def __init__(self, shape: tuple[int, ...], noise: Any) -> None:
        basis = ld.bases.BlockCosine(shape, 4)
        constant = basis.analyse(torch.ones(1, *shape)).abs() > 1
        pooled = (shape[0], shape[1] // 4, shape[2] // 4)

        def embed(v: Tensor) -> Tensor:
            z = v.new_zeros(len(v), *constant.shape[1:])
            z[constant.expand_as(z)] = v.flatten()
            return z

        def pick(z: Tensor) -> Tensor:
            return z[constant.expand_as(z)].reshape(-1, *pooled)

        mask = 0.25 * constant
        super().__init__(
            U=pick, U_adjoint=embed, V=basis.synthesise, V_adjoint=basis.analyse, mask=mask, noise_model=noise
        )


def _physics(A: ld.LinearOperator, mask: Tensor | None, kernel: Tensor | None, sigma: float) -> Any:
    noise = deepinv.physics.GaussianNoise(sigma)
    if mask is not None:
        return deepinv.physics.Inpainting(A.in_shape, mask=mask, noise_model=noise)
    if kernel is not None:
        return deepinv.physics.BlurFFT(A.in_shape, kernel[None, None], noise_model=noise)
    return _Pool(A.in_shape, noise)


def deepinv_methods(
    denoiser: ld.Denoiser,
    A: ld.LinearOperator,
    y: Tensor,
    sigma_y: float,
    calls: int,
    mask: Tensor | None,
    kernel: Tensor | None,
) -> dict[str, Callable[[], Tensor]]:
    """As `azula_methods`."""
    physics, halved = (_physics(A, mask, kernel, sigma) for sigma in (sigma_y, sigma_y / 2))
    x = torch.randn(2, *A.in_shape)
    assert torch.allclose(physics.A(x), A(x), atol=1e-5)  # the same operator
    shifted = (y + A(torch.ones(1, *A.in_shape))) / 2  # of images in [0, 1]
    own, unit = _LevelDenoiser(denoiser, False), _LevelDenoiser(denoiser, True)
    sampling = deepinv.sampling

    def posterior(fidelity: Any) -> Tensor:
        solver = sampling.AncestralSolver(timesteps=torch.linspace(1, 0, calls + 1, dtype=torch.float64), eta=1.0)
        model = sampling.PosteriorDiffusion(
            fidelity, own, sampling.VariancePreservingDiffusion(), solver, minus_one_one=False
        )
        return model(y, physics, x_init=(len(y), *A.in_shape)).float()

    def diffpir() -> Tensor:
        model = sampling.DiffPIR(unit, deepinv.optim.data_fidelity.L2(), sigma=sigma_y / 2, max_iter=calls)
        start = None if A.in_shape == A.out_shape else halved.A_dagger(shifted)
        return 2 * model(shifted, halved, x_init=start) - 1

    def ddrm() -> Tensor:
        return 2 * sampling.DDRM(unit, sigmas=np.linspace(1, 0, calls + 1))(shifted, halved) - 1

    def dps() -> Tensor:
        model = sampling.DPS(own, num_steps=calls + 1, minus_one_one=False)
        return model(y, physics, x_init=(len(y), *A.in_shape)).float()

    return {
        "DDRM": ddrm,
        "DPS": dps,
        "ΠGDM": lambda: posterior(sampling.PiGDMDataFidelity()),
        "MMPS": lambda: posterior(sampling.MomentMatchingDataFidelity()),
        "DiffPIR": diffpir,
    }
