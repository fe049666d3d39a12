"""Convolution of every channel with one kernel, in the best structure that padding and kernel allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lineardiffusion._checks import Shape, as_choice, as_constant, as_shape, check_event
from lineardiffusion.krylov import SpectralFunction
from lineardiffusion.lanczos import SpectrumBounds
from lineardiffusion.operators.base import GramMap, LinearOperator, StepMap, StepRule
from lineardiffusion.operators.factorisation import truncated_svd
from lineardiffusion.operators.rules import rule
from lineardiffusion.operators.separable import Separable
from lineardiffusion.operators.spectral import SpectralFilter

Padding = Literal["circular", "reflect", "zeros"]
_TORCH_PADDING = {"circular": "circular", "reflect": "reflect", "zeros": "constant"}


class Convolution(LinearOperator):
    r"""(M x)[i] = Σ_j kernel[j] x[i − j + c] over the last axes, c the kernel's centre; the output keeps the size.

    Circular padding makes M diagonal in the Fourier basis; a kernel that is an outer product (box, Gaussian, any in
    1-D) makes it separable under every padding: both have exact functions of MᵀM. What remains is applied as a plain
    convolution, its functions through Lanczos.

    Arguments:
        kernel: real constant weights with an odd size for each of the last axes of an event, the spatial ones.
        shape: event shape, channels first.
        padding: "circular", "reflect" (without repeating the border, as in torch) or "zeros".

    Raises:
        ValueError: an unknown padding, or a kernel that is even-sized, too large for the shape, not finite, complex or
            being learned.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> blur = ld.Convolution(torch.tensor([0.25, 0.5, 0.25]), (1, 4))
        >>> blur(torch.tensor([[4.0, 0.0, 0.0, 0.0]]))
        tensor([[2., 1., 0., 1.]])
    """

    def __init__(self, kernel: Tensor, shape: Sequence[int], padding: Padding = "circular") -> None:
        event = as_shape(shape)
        super().__init__(in_shape=event, out_shape=event)
        as_choice(padding, _TORCH_PADDING, "padding")
        self.kernel = as_constant(kernel, "kernel")
        sizes = event[-kernel.ndim :]
        if not 1 <= kernel.ndim <= len(event) or any(
            k % 2 == 0 or k > n or (padding == "reflect" and k // 2 >= n)
            for k, n in zip(kernel.shape, sizes, strict=True)
        ):
            raise ValueError(
                f"kernel: expected odd sizes, at most those of the last axes of {event}, got {tuple(kernel.shape)}"
            )
        self.padding = padding
        self.structure = _structure(self.kernel, event, padding)

    def apply(self, x: Tensor) -> Tensor:
        return self.structure.apply(x)

    def transpose(self, y: Tensor) -> Tensor:
        return self.structure.transpose(y)

    def gram_function(self, f: SpectralFunction, x: Tensor) -> Tensor:
        return self.structure.gram_function(f, x)

    def gram_map(self, f: SpectralFunction) -> GramMap:
        return self.structure.gram_map(f)

    def cogram_function(self, f: SpectralFunction, y: Tensor) -> Tensor:
        return self.structure.cogram_function(f, y)

    def _step_map(self, rule: StepRule) -> StepMap:
        return self.structure._step_map(rule)

    @property
    def has_exact_functions(self) -> bool:
        return self.structure.has_exact_functions

    @property
    def has_frame(self) -> bool:
        return self.structure.has_frame

    def norm(self) -> float:
        return self.structure.norm()

    def norm_at_most(self, bound: float) -> bool:
        return self.structure.norm_at_most(bound)

    def spectrum_bounds(self) -> SpectrumBounds:
        return self.structure.spectrum_bounds()

    def singular_values(self) -> Tensor:
        return self.structure.singular_values()


@rule("transpose", Convolution)
def _transpose(operator: Convolution) -> LinearOperator:
    return operator.structure.T


@rule("scale", Convolution)
def _scale(operator: Convolution, scale: float) -> LinearOperator:
    return scale * operator.structure


@rule("product", Convolution, LinearOperator)
def _convolution_left(left: Convolution, right: LinearOperator) -> LinearOperator:
    return left.structure @ right


@rule("product", LinearOperator, Convolution)
def _convolution_right(left: LinearOperator, right: Convolution) -> LinearOperator:
    return left @ right.structure


@rule("function", Convolution)
def _function(operator: Convolution, f: SpectralFunction) -> LinearOperator:
    return operator.structure.function(f)


def _structure(kernel: Tensor, shape: Shape, padding: Padding) -> LinearOperator:
    sizes = shape[len(shape) - kernel.ndim :]
    if padding == "circular":
        wrapped = torch.zeros(sizes, dtype=torch.float64)
        wrapped[tuple(slice(0, k) for k in kernel.shape)] = kernel
        centred = wrapped.roll([-(k // 2) for k in kernel.shape], list(range(kernel.ndim)))
        return SpectralFilter(shape, torch.fft.fftn(centred), basis="fft")
    profiles = _rank_one_profiles(kernel)
    if profiles is not None:
        return Separable([_banded(p, n, padding) for p, n in zip(profiles, sizes, strict=True)], shape)
    return _PaddedConvolution(kernel, shape, padding)


def _rank_one_profiles(kernel: Tensor) -> list[Tensor] | None:
    """Vectors whose outer product is the kernel (within rounding), or None where there are none."""
    profiles: list[Tensor] = []
    rest = kernel
    while rest.ndim > 1:
        u, s, vt = truncated_svd(rest.reshape(rest.shape[0], -1))
        if int((s > 0).sum()) > 1:
            return None
        profiles.append(s[0] * u[:, 0])
        rest = vt[0].reshape(rest.shape[1:])
    return [*profiles, rest]


def _banded(profile: Tensor, n: int, padding: Padding) -> Tensor:
    """The (n, n) matrix of the convolution of one axis."""
    rows = F.pad(torch.eye(n, dtype=torch.float64)[:, None], [len(profile) // 2] * 2, mode=_TORCH_PADDING[padding])
    return F.conv1d(rows, profile.flip(0)[None, None])[:, 0].T.contiguous()


class _PaddedConvolution(LinearOperator):
    """A convolution of no exploitable structure, computed as such; one to three spatial axes."""

    def __init__(self, kernel: Tensor, shape: Shape, padding: Padding) -> None:
        super().__init__(in_shape=shape, out_shape=shape)
        self.kernel, self.padding = kernel, padding

    def apply(self, x: Tensor) -> Tensor:
        check_event(x, self.in_shape, "x")
        ndim = self.kernel.ndim
        images = x.reshape(-1, 1, *x.shape[x.ndim - ndim :])
        margins = [k // 2 for k in reversed(self.kernel.shape) for _ in range(2)]
        padded = F.pad(images, margins, mode=_TORCH_PADDING[self.padding])
        convolve = {2: F.conv2d, 3: F.conv3d}[ndim]
        return convolve(padded, self.kernel.flip(list(range(ndim))).to(x)[None, None]).reshape(x.shape)
