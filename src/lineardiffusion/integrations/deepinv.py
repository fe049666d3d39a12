r"""deepinv: its physics as operators and ours as physics, its denoisers as ours and ours as its own.

deepinv's images u = (x + 1)/2 are in [0, 1], ours in [−1, 1]. Its denoisers are called as D(u, σ), u = u_0 + σ n, ours
with x_t = a_t x_0 + σ_t ε and t: the same noise is σ = σ_t/(2 a_t), and the same image u = (x_t/a_t + 1)/2.

References:
    | DeepInverse: A Python package for solving imaging inverse problems with deep learning (Tachella et al., 2025),
    | https://arxiv.org/abs/2505.20160
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from lineardiffusion._checks import as_shape, column, missing
from lineardiffusion.carrying import pseudoinverse
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.integrations.shared import check_additive, trained_time
from lineardiffusion.operators.base import LinearOperator
from lineardiffusion.predictions import levels
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.schedules import Schedule
from lineardiffusion.testing.operators import check_adjoint

try:
    import deepinv
    from deepinv.utils import TensorList
except ModuleNotFoundError as error:
    raise missing("deepinv", error) from error
except RuntimeError as error:
    raise ImportError(f"deepinv: expected a torchvision that fits torch, which it imports: {error}") from error


@overload
def to_deepinv(ours: LinearOperator) -> deepinv.physics.LinearPhysics: ...
@overload
def to_deepinv(ours: Denoiser) -> deepinv.models.Denoiser: ...
def to_deepinv(ours: LinearOperator | Denoiser) -> Any:
    """An operator as a `deepinv.physics.LinearPhysics`, or a denoiser as a `deepinv.models.Denoiser`.

    Of an operator, `A_dagger` and `prox_l2` are exact where it knows its structure; noise is that of
    `physics.set_noise_model(…)`.

    A denoiser is called as D(u, σ), images in [0, 1], σ one number or one for each image, at the time t of its process
    where σ_t/(2 a_t) = σ, which is rarely a whole number; what is less noisy than the first time of its schedule is
    taken to be of that one. Other arguments are conditioning.

    Arguments:
        ours: an operator M, or a denoiser of a process without a degradation.

    Raises:
        TypeError: something else.
        ValueError: a denoiser of a process that blurs, changes shape or has coloured noise; when it is called, noise
            beyond that of its process.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> from lineardiffusion.integrations.deepinv import to_deepinv
        >>> physics = to_deepinv(ld.AveragePool((3, 8, 8), 2))
        >>> physics.A_dagger(physics(torch.ones(2, 3, 8, 8))).shape
        torch.Size([2, 3, 8, 8])
        >>> denoiser = to_deepinv(ld.Denoiser(lambda x, time: 0 * x, ld.EDM((3, 8, 8)), "data"))
        >>> denoiser(torch.rand(1, 3, 8, 8), sigma=0.1).unique()
        tensor([0.5000])
    """
    if isinstance(ours, LinearOperator):
        return ours.physics if isinstance(ours, PhysicsOperator) else _Physics(ours)
    if isinstance(ours, Denoiser):
        return _Denoiser(ours)
    raise TypeError(f"ours: expected a LinearOperator or an ld.Denoiser, got {type(ours).__name__}")


@overload
def from_deepinv(theirs: deepinv.physics.LinearPhysics, in_shape: Sequence[int]) -> LinearOperator: ...
@overload
def from_deepinv(theirs: deepinv.models.Denoiser, *, process: LinearDiffusion) -> Denoiser: ...
def from_deepinv(theirs: Any, in_shape: Sequence[int] | None = None, process: LinearDiffusion | None = None) -> Any:
    """A `deepinv.physics.LinearPhysics` as an operator, or a `deepinv.models.Denoiser` as one of ours.

    A physics becomes a `PhysicsOperator`, without its noise. A denoiser is used at the noise levels of a process, on
    images in [−1, 1]; conditioning is passed on to it.

    Arguments:
        theirs: the physics, or the denoiser.
        in_shape: of a physics: event shape of the images, e.g. (3, 64, 64).
        process: of a denoiser: a process without a degradation that ends with some signal, such as `ld.DDPM(shape)` or
            `ld.EDM(shape)`.

    Raises:
        TypeError: something else, a physics that is not linear, or the argument of the other kind.
        ValueError: parameters of a physics for several images, or an `A_adjoint` that is not the adjoint of `A`; a
            process that does not fit.

    Examples:
        >>> import deepinv, torch, lineardiffusion as ld
        >>> from lineardiffusion.integrations.deepinv import from_deepinv
        >>> from_deepinv(deepinv.physics.Downsampling((3, 8, 8), "gaussian", factor=2), in_shape=(3, 8, 8))
        PhysicsOperator((3, 8, 8) → (3, 4, 4))
        >>> denoiser = from_deepinv(deepinv.models.TVDenoiser(), process=ld.EDM((3, 8, 8)))
        >>> ld.DDIMSampler(denoiser, steps=2)(1, seeds=[0], progress=False).shape
        torch.Size([1, 3, 8, 8])
    """
    if isinstance(theirs, deepinv.physics.Physics):
        if not isinstance(theirs, deepinv.physics.LinearPhysics):
            raise TypeError(f"theirs: expected a LinearPhysics, got {type(theirs).__name__}, which is not linear")
        if in_shape is None or process is not None:
            raise TypeError("in_shape: expected the event shape of the images, from_deepinv(physics, (3, 64, 64))")
        return theirs.operator if isinstance(theirs, _Physics) else PhysicsOperator(theirs, in_shape)
    if isinstance(theirs, deepinv.models.Denoiser):
        if process is None or in_shape is not None:
            raise TypeError("process: expected a diffusion process, from_deepinv(denoiser, process=ld.EDM(shape))")
        check_additive(process, "process")
        if process.signal_scale(process.end) == 0:
            raise ValueError(
                f"process: expected one that ends with some signal, a_T > 0, as deepinv's denoisers know it from noise "
                f"of a finite level, got {process}"
            )
        return Denoiser(_Network(theirs), process, prediction="data", time_input=_levels)
    raise TypeError(f"theirs: expected a deepinv.physics.LinearPhysics or a deepinv.models.Denoiser, got {theirs!r}")


# ----------------------------------------------------------------------------------------------------------- physics


class PhysicsOperator(LinearOperator):
    """The A of a linear physics, computed in its precision and on its device (`physics.double()` for more digits).

    Images are real. Complex measurements are real pairs with a last dimension of 2; those of stacked physics are one
    vector. What deepinv calls y and what the operator returns are made of each other by `pack` and `unpack`.

    Attributes:
        physics: the physics.

    Examples:
        >>> import deepinv, torch
        >>> from lineardiffusion.integrations.deepinv import from_deepinv
        >>> physics = deepinv.physics.stack(deepinv.physics.Denoising(), deepinv.physics.Decolorize())
        >>> operator = from_deepinv(physics, in_shape=(3, 4, 4))
        >>> operator.out_shape, operator.pack(physics(torch.rand(2, 3, 4, 4))).shape
        ((64,), torch.Size([2, 64]))
    """

    def __init__(self, physics: deepinv.physics.LinearPhysics, in_shape: Sequence[int]) -> None:
        self.physics = physics
        event = as_shape(in_shape, "in_shape")
        try:
            with torch.no_grad():
                y = physics.A(self._numbers().new_zeros(1, *event))
        except Exception as error:
            raise ValueError(
                f"in_shape: expected the shape of real images of this physics, got {event}, for which it raises "
                f"{type(error).__name__}: {error}"
            ) from error
        self._is_stacked = isinstance(y, TensorList)
        parts = list(y) if self._is_stacked else [y]
        self._shapes = [tuple(part.shape[1:]) for part in parts]
        self._are_complex = [part.is_complex() for part in parts]
        if any(len(part) != 1 for part in parts):
            raise ValueError(
                f"theirs: expected a physics whose parameters are the same for all images, got {len(parts[0])} "
                f"measurements of one"
            )
        super().__init__(event, tuple(self.pack(y).shape[1:]))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            x, z = (torch.randn(shape, generator=generator) for shape in (self.in_shape, self.out_shape))
            check_adjoint(self, x, z, "theirs: A_adjoint")

    def apply(self, x: Tensor) -> Tensor:
        images = x.reshape(-1, *self.in_shape).to(self._numbers())
        return self.pack(self.physics.A(images)).to(x).reshape(*self._batch(x, self.in_shape), *self.out_shape)

    def transpose(self, y: Tensor) -> Tensor:
        images: Tensor = self.physics.A_adjoint(self.unpack(y.reshape(-1, *self.out_shape).to(self._numbers())))
        return (
            (images.real if images.is_complex() else images)
            .to(y)
            .reshape(*self._batch(y, self.out_shape), *self.in_shape)
        )

    def pack(self, y: Any) -> Tensor:
        """Measurements of the physics, (B, …) or a TensorList of such, as real numbers (B, *out_shape)."""
        parts = [torch.view_as_real(part) if part.is_complex() else part for part in (y if self._is_stacked else [y])]
        return torch.cat([part.flatten(1) for part in parts], 1) if self._is_stacked else parts[0]

    def unpack(self, y: Tensor) -> Any:
        """The measurements of the physics that are packed as real numbers (B, *out_shape)."""
        reals = [(*shape, 2) if pair else shape for shape, pair in zip(self._shapes, self._are_complex, strict=True)]
        rows = torch.split(y.flatten(1), [math.prod(shape) for shape in reals], dim=1)
        parts = [row.reshape(-1, *shape) for row, shape in zip(rows, reals, strict=True)]
        parts = [
            torch.view_as_complex(part.contiguous()) if pair else part
            for part, pair in zip(parts, self._are_complex, strict=True)
        ]
        return TensorList(parts) if self._is_stacked else parts[0]

    def _numbers(self) -> Tensor:
        """Real numbers of the physics, which tell its precision and device."""
        first = getattr(self.physics, "physics_list", [self.physics])[0]  # of those that are stacked or composed
        numbers: Iterator[Tensor] = itertools.chain(first.parameters(), first.buffers())
        return next(x.real for x in numbers if x.is_floating_point() or x.is_complex())


class _Physics(deepinv.physics.LinearPhysics):  # type: ignore[misc]
    """An operator of the library."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(img_size=operator.in_shape)
        self.operator = operator

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        return self.operator(x)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        return self.operator.transpose(y)

    def A_dagger(self, y: Tensor, **options: Any) -> Tensor:
        return pseudoinverse(self.operator)(y)

    def prox_l2(self, z: Any, y: Tensor, gamma: Any, **options: Any) -> Tensor:
        """z + Mᵀ(MMᵀ + I/γ)⁻¹(y − M z)"""
        if isinstance(gamma, Tensor) and gamma.numel() > 1:  # one for each image
            result: Tensor = super().prox_l2(z, y, gamma, **options)
            return result
        if not isinstance(z, Tensor):
            z = y.new_full((len(y), *self.operator.in_shape), z or 0.0)
        inverse = 1 / float(gamma)
        return self.operator.correct(lambda values: 1 / (values + inverse), z, y)


# --------------------------------------------------------------------------------------------------------- denoisers


class _Denoiser(deepinv.models.Denoiser):  # type: ignore[misc]
    """A denoiser of the library."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        check_additive(denoiser.process, "ours")
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: float | Tensor, **conditioning: Any) -> Tensor:
        t = self._time(sigma, len(x))
        scale = column(self.denoiser.process.signal_scale(t), x)
        estimate: Tensor = self.denoiser(scale * (2 * x - 1), t, **conditioning)
        return (estimate + 1) / 2

    def _time(self, sigma: float | Tensor, count: int) -> float | Tensor:
        schedule = self.denoiser.process.schedule
        sigma = sigma if isinstance(sigma, Tensor) else torch.tensor(sigma, dtype=torch.float64)
        level = 2 * sigma.reshape(-1)
        if level.numel() not in (1, count):
            raise ValueError(f"sigma: expected one number, or one for each of {count} images, got {level.numel()}")
        _check_levels(level, schedule)
        if level.numel() > 1:
            return trained_time(schedule, schedule.time(-2 * level.log()))
        number = float(level)
        return trained_time(schedule, schedule.time(-2 * math.log(number) if number else math.inf))


class _Network(nn.Module):
    """x̂_0 of a denoiser for images in [0, 1], from x_t and (a_t, σ_t)."""

    def __init__(self, denoiser: deepinv.models.Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, levels: Tensor, **conditioning: Any) -> Tensor:
        signal, sigma = levels.unbind(-1)
        images = (x / column(signal, x) + 1) / 2
        result: Tensor = 2 * self.denoiser(images, sigma / (2 * signal), **conditioning) - 1
        return result


def _check_levels(level: Tensor, schedule: Schedule) -> None:
    """Raise ValueError for more noise, σ_t/a_t, than a schedule has; of many on an accelerator none is looked at."""
    if level.device.type != "cpu" and level.numel() > 1:
        return
    signal, sigma = schedule(schedule.end)
    most = sigma / signal if signal else math.inf
    if not bool(((level >= 0) & (level <= most * (1 + 1e-6))).all()):
        raise ValueError(
            f"sigma: expected 0 ≤ sigma ≤ σ_T/(2 a_T) = {most / 2:.6g}, the most noise in images in [0, 1] that the "
            f"process knows, got values in {float(level.min()) / 2:.6g}…{float(level.max()) / 2:.6g}; start from less, "
            f"or take a process that ends in more"
        )


def _levels(process: LinearDiffusion, t: Tensor) -> Tensor:
    """(a_t, σ_t), with shape (B, 2)."""
    return torch.stack(levels(process, t, t.device), -1)
