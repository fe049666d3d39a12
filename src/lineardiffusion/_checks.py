"""Argument checks shared by the whole library: each names the argument, what was expected and what came."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from numbers import Real
from typing import SupportsIndex, overload

import torch
from torch import Tensor
from typing_extensions import TypeIs

Shape = tuple[int, ...]


def as_shape(shape: Sequence[int] | int, name: str = "shape") -> Shape:
    """Normalise an event shape to a tuple of positive ints."""
    if type(shape) is tuple and shape and all(type(size) is int and size > 0 for size in shape):
        return shape
    try:
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        result = tuple(operator.index(size) for size in sizes)
    except TypeError:
        raise TypeError(f"{name}: expected a sequence of ints, got {shape!r}") from None
    if not result or any(size < 1 for size in result):
        raise ValueError(f"{name}: expected at least one size and all of them ≥ 1, got {result}")
    return result


def check_event(x: Tensor, event: Shape, name: str) -> None:
    """Raise unless `x` has shape (*batch, *event) and holds real floating-point numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.shape[-len(event) :] != event:
        raise ValueError(f"{name}: expected shape (*batch, {', '.join(map(str, event))}), got {tuple(x.shape)}")
    check_real(x, name)


def check_real(x: Tensor, name: str) -> None:
    """Raise unless `x` holds real floating-point numbers."""
    if not x.is_floating_point():
        remedy = "; give real and imaginary parts as channels (torch.view_as_real)" if x.is_complex() else ""
        raise ValueError(f"{name}: expected a real floating-point tensor, got {x.dtype}{remedy}")


def check_finite(x: Tensor, name: str) -> None:
    """Raise if `x` has NaN or infinite entries; in a graph that is being compiled, values decide nothing."""
    if torch.compiler.is_compiling():
        return
    # A sum is finite only if all its terms are: one fast pass, and the slow one where it says no (or overflowed).
    if not bool(torch.isfinite(x.detach().sum())) and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name}: expected finite values, got {bad} NaN or infinite of {x.numel()}")


def as_constant(x: Tensor, name: str, *, allow_complex: bool = False) -> Tensor:
    """A copy in float64 (or complex128) on the CPU, for an operator to keep and to factorise.

    Raises:
        TypeError: not a tensor.
        ValueError: complex where only real numbers make sense, NaN or infinite, or a parameter that is being learned:
            what is factorised once cannot follow it.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.is_complex() and not allow_complex:
        raise ValueError(f"{name}: expected real numbers, got {x.dtype}")
    check_constant(
        x, name, ", or subclass LinearOperator with an `apply` that uses the parameter, and gradients follow"
    )
    check_finite(x, name)
    return x.detach().to(device="cpu", dtype=torch.complex128 if x.is_complex() else torch.float64, copy=True)


def as_numbers(values: object, name: str) -> Tensor:
    """`as_constant` of a tensor, a number, or nested sequences of numbers, as configurations have them."""
    if isinstance(values, Tensor):
        return as_constant(values, name)
    try:
        return as_constant(torch.tensor(values, dtype=torch.float64), name)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected a tensor of numbers, got {values!r}") from None


def check_constant(x: object, name: str, remedy: str = "") -> None:
    """Raise if `x` is being learned: where it becomes a number, its gradients would be lost without a word."""
    if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: expected a constant, got a tensor that requires gradients, which would be lost here: pass "
            f"{name}.detach(){remedy}"
        )


def as_index(value: SupportsIndex, low: int, high: int, name: str) -> int:
    """Normalise to an int in low…high (Python, NumPy and zero-dimensional torch integers)."""
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {value!r}") from None
    if not low <= result <= high:
        raise ValueError(f"{name}: expected {low} ≤ {name} ≤ {high}, got {result}")
    return result


def as_number(value: object, name: str) -> float:
    """Normalise to a float (Python, NumPy and zero-dimensional torch numbers), NaN and infinities included."""
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
        return float(value)
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    return float(value)


def as_range(clip: tuple[float, float] | None) -> tuple[float, float] | None:
    """Normalise the range that estimates are clipped to, (low, high), or None."""
    if clip is None:
        return None
    try:
        low, high = clip
        valid = bool(low < high)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"clip: expected (low, high) with low < high, such as (-1, 1), or None, got {clip!r}")
    return float(low), float(high)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype arithmetic is done in: what is narrower than float32 is widened to it, all others kept."""
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def in_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x.to(dtype), without the microsecond that this takes to do nothing."""
    return x if x.dtype == dtype else x.to(dtype)


_AS_IT_IS = nullcontext()
_has_autocast = cache(torch.amp.is_autocast_available)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Arithmetic in the dtype of x, in a caller's `torch.autocast` too, which is meant for networks."""
    device = x.device.type
    active = _has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if active else _AS_IT_IS


def draw_noise(like: Tensor, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise shaped like `like`: the one given (checked), or drawn from `generator`.

    It is drawn in float32 and cast, so that a seed is the same noise in every dtype. A generator may live on another
    device than `like`: the noise is drawn where the generator is, then moved.
    """
    if noise is not None:
        if noise.shape != like.shape:
            raise ValueError(f"noise: expected shape {tuple(like.shape)}, got {tuple(noise.shape)}")
        check_real(noise, "noise")
        return noise.to(like)
    device = like.device if generator is None else generator.device
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float32, device=device)
    return drawn if drawn.dtype == like.dtype and drawn.device == like.device else drawn.to(like)


def is_batch(t: float | Tensor) -> TypeIs[Tensor]:
    """Whether times are one for each sample, and not one for all."""
    return type(t) is not float and type(t) is not int and isinstance(t, Tensor) and t.ndim > 0


def to_device(t: Tensor, device: torch.device) -> Tensor:
    """Times on a device, in float32 where it has no more; it is not waited for."""
    return (t.float() if device.type == "mps" and t.is_floating_point() else t).to(device, non_blocking=True)


@overload
def column(level: Tensor, like: Tensor) -> Tensor: ...
@overload
def column(level: float | Tensor, like: Tensor) -> float | Tensor: ...
def column(level: float | Tensor, like: Tensor) -> float | Tensor:
    """A number for each sample, shaped to multiply a batch of events; one number for all stays as it is."""
    if not isinstance(level, Tensor):
        return level
    return level.to(like.dtype).to(like.device, non_blocking=True).reshape(-1, *[1] * (like.ndim - 1))
