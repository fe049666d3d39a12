"""Argument checks shared by the whole library: each names the argument, what was expected and what came."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from numbers import Real
from typing import Any, SupportsIndex, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypeIs

Shape = tuple[int, ...]
Choice = TypeVar("Choice", bound=str)
Key = TypeVar("Key", bound=Hashable)

_MAX_CHARACTERS = 200


# ------------------------------------------------------------------------------------------------- kinds of arguments


def shown(value: object) -> str:
    """A value in a message or a repr: numbers as they are, of what is large its kind and size."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return f"<{' × '.join(map(str, value.shape))} numbers>"
    if isinstance(value, (list, tuple)) and len(value) > 8:
        return f"[{shown(value[0])}, {shown(value[1])}, …, {shown(value[-1])}]"
    if isinstance(value, torch.nn.Module) and not hasattr(value, "to_config"):
        return type(value).__name__
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return value.__name__ if inspect.isroutine(value) else repr(value)


def got(value: object) -> str:
    """What came in the place of something else, in few words."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    text = shown(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def check_kind(value: object, kind: type | tuple[type, ...], name: str, expected: str) -> None:
    """Raise unless `value` is an instance of `kind`, which is `expected` in words, with an example."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {expected}, got {got(value)}")


def check_process(process: object) -> None:
    """Raise unless this is a process, by what it can: its class is made of what asks here."""
    if isinstance(process, type) or not hasattr(process, "shape_changes"):
        raise TypeError(f"process: expected a LinearDiffusion, such as ld.DDPM(shape), got {got(process)}")


def check_function(f: object, name: str, expected: str) -> None:
    """Raise unless `f` can be called and is no class, which would make an object of what it is given."""
    if not callable(f) or isinstance(f, type):
        raise TypeError(f"{name}: expected {expected}, got {got(f)}")


def images_under(f: object, values: Tensor, name: str = "f") -> Tensor:
    """f of some eigenvalues."""
    check_function(f, name, "a function of eigenvalues λ")
    images = f(values)  # type: ignore[operator]
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a function that returns a tensor of the shape of λ, got {got(images)}")
    return images


def as_choice(value: Choice, choices: Collection[str], name: str, other: str = "") -> Choice:
    """One of some names; `other` says what else the argument may be, for the message."""
    if not isinstance(value, str) or value not in choices:
        error = ValueError if isinstance(value, str) else TypeError
        known = f"{'one of ' if len(choices) > 1 else ''}{', '.join(map(repr, choices))}"
        raise error(f"{name}: expected {known}{other}, got {got(value)}")
    return value


def as_flag(value: object, name: str) -> bool:
    """True or False: what else Python takes for true, as "no", is a mistake."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {got(value)}")
    return bool(value)


def as_list(values: object, name: str, expected: str) -> list[Any]:
    """A list of what a sequence, an array or a tensor in a row holds; `expected` is that in words, with an example."""
    if isinstance(values, (Tensor, np.ndarray)):
        if values.ndim != 1 or (isinstance(values, Tensor) and values.is_meta):
            raise TypeError(f"{name}: expected {expected}, got {got(values)}")
        return list(values.tolist())
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, dict, type)):
        raise TypeError(f"{name}: expected {expected}, got {got(values)}")
    return list(values)


def as_shape(shape: Sequence[int] | int, name: str = "shape") -> Shape:
    """Normalise an event shape to a tuple of positive ints."""
    if type(shape) is tuple and shape and all(type(size) is int and size > 0 for size in shape):
        return shape
    try:
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        if any(isinstance(size, (bool, np.bool_)) for size in sizes):
            raise TypeError
        result = tuple(operator.index(size) for size in sizes)
    except TypeError:
        raise TypeError(f"{name}: expected a sequence of ints, such as (3, 64, 64), got {got(shape)}") from None
    if not result or any(size < 1 for size in result):
        raise ValueError(f"{name}: expected at least one size and all of them ≥ 1, got {result}")
    return result


# ------------------------------------------------------------------------------------------------------------ tensors


def check_tensor(x: object, name: str) -> None:
    """Raise unless `x` is a tensor."""
    if not isinstance(x, Tensor):
        remedy = "; torch.as_tensor makes one" if isinstance(x, (np.ndarray, np.generic, list, tuple)) else ""
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}{remedy}")


def check_event(x: Tensor, event: Shape, name: str) -> None:
    """Raise unless `x` has shape (*batch, *event) and holds real floating-point numbers."""
    if not isinstance(x, Tensor):
        check_tensor(x, name)
    if x.shape[-len(event) :] != event:
        raise ValueError(f"{name}: expected shape (*batch, {', '.join(map(str, event))}), got {tuple(x.shape)}")
    check_real(x, name)


def check_batch(x: Tensor, event: Shape, name: str) -> None:
    """`check_event`, and that there is one batch dimension, as networks need it."""
    check_event(x, event, name)
    if x.ndim != len(event) + 1:
        remedy = f"; {name}[None] is a batch of one" if x.ndim == len(event) else ""
        raise ValueError(
            f"{name}: expected a batch of shape (B, {', '.join(map(str, event))}), got {tuple(x.shape)}{remedy}"
        )


def check_real(x: Tensor, name: str) -> None:
    """Raise unless `x` holds real floating-point numbers."""
    if not x.is_floating_point():
        remedy = f"; {name}.float() is one"
        if x.is_complex():
            remedy = "; give real and imaginary parts as channels (torch.view_as_real)"
        elif x.dtype == torch.uint8:
            remedy = f"; images of 0…255 are meant to be {name} / 127.5 - 1"
        raise ValueError(f"{name}: expected a real floating-point tensor, got {x.dtype}{remedy}")


def check_same_batch(x: Tensor, event: Shape, name: str, like: Tensor, like_event: Shape, like_name: str) -> None:
    """Raise unless `x` is on the device of `like` and their batch dimensions broadcast."""
    if x.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, as {like_name}, got one on {x.device}")
    batch, other = x.shape[: x.ndim - len(event)], like.shape[: like.ndim - len(like_event)]
    try:
        torch.broadcast_shapes(batch, other)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(f"{name}: expected a batch of {tuple(other)}, as {like_name}, got {tuple(batch)}") from None


def check_finite(x: Tensor, name: str) -> None:
    """Raise if `x` has NaN or infinite entries; in a graph that is being compiled, values decide nothing."""
    if torch.compiler.is_compiling() or x.is_meta:
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
    check_tensor(x, name)
    if x.is_meta:
        raise ValueError(f"{name}: expected a tensor with values, got one on the device meta")
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
        numbers = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected a tensor of numbers, got {got(values)}") from None
    return as_constant(numbers, name)


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
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        result = operator.index(value)
    except (TypeError, RuntimeError):  # a meta tensor has no value
        raise TypeError(f"{name}: expected an int, got {got(value)}") from None
    if not low <= result <= high:
        raise ValueError(f"{name}: expected {low} ≤ {name} ≤ {high}, got {result}")
    return result


def as_number(value: object, name: str) -> float:
    """Normalise to a float (Python, NumPy and zero-dimensional torch numbers), NaN and infinities included."""
    if type(value) is float:
        return value
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex() and value.dtype != torch.bool:
        if value.is_meta:
            raise ValueError(f"{name}: expected a number, got a tensor without a value, on the device meta")
        return float(value)
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {got(value)}")
    return float(value)


def as_positive(value: object, name: str) -> float:
    """`as_number`, finite and above 0."""
    number = as_number(value, name)
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {number}")
    return number


def as_numbers_in_a_row(values: object, name: str, example: str) -> list[float]:
    """Numbers of a sequence, an array or a tensor, with an example of what is expected for the message."""
    return [as_number(value, name) for value in as_list(values, name, f"numbers in a row, such as {example}")]


def as_range(clip: tuple[float, float] | None) -> tuple[float, float] | None:
    """Normalise the range that estimates are clipped to, (low, high), or None."""
    if clip is None:
        return None
    try:
        low, high = clip
        valid = as_number(low, "clip") < as_number(high, "clip")
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"clip: expected (low, high) with low < high, such as (-1, 1), or None, got {got(clip)}")
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


@overload
def device_of(generator: torch.Generator) -> torch.device: ...
@overload
def device_of(generator: torch.Generator | None) -> torch.device | None: ...
def device_of(generator: torch.Generator | None) -> torch.device | None:
    """Where a generator draws; None, for torch's default, where there is none."""
    if generator is None:
        return None
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator, such as torch.Generator().manual_seed(0), or None, got "
            f"{got(generator)}"
        )
    return generator.device


def draw_noise(like: Tensor, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise shaped like `like`: the one given (checked), or drawn from `generator`.

    It is drawn in float32 and cast, so that a seed is the same noise in every dtype. A generator may live on another
    device than `like`: the noise is drawn where the generator is, then moved.
    """
    source = device_of(generator)
    if noise is not None:
        if not isinstance(noise, Tensor):
            check_tensor(noise, "noise")
        if noise.shape != like.shape:
            raise ValueError(f"noise: expected shape {tuple(like.shape)}, got {tuple(noise.shape)}")
        check_real(noise, "noise")
        return noise.to(like)
    device = like.device if source is None else source
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float32, device=device)
    return drawn if drawn.dtype == like.dtype and drawn.device == like.device else drawn.to(like)


def is_batch(t: float | Tensor) -> TypeIs[Tensor]:
    """Whether times are one for each sample, and not one for all."""
    return type(t) is not float and type(t) is not int and isinstance(t, Tensor) and t.ndim > 0


def to_device(t: Tensor, device: torch.device) -> Tensor:
    """Times on a device, in float32 where it has no more; it is not waited for."""
    return (t.float() if device.type == "mps" and t.is_floating_point() else t).to(device, non_blocking=True)


def rows_of(x: Tensor, rows: Sequence[int] | Tensor) -> Tensor:
    """x[rows] of row numbers on the CPU, where they would be waited for as they are."""
    return x[to_device(torch.as_tensor(rows), x.device)]


def map_groups(x: Tensor, groups: Mapping[Key, Sequence[int]], function: Callable[[Key, Tensor], Tensor]) -> Tensor:
    """What a function makes of the rows of each group, in the order of x; groups are row numbers by key."""
    order = torch.tensor([row for rows in groups.values() for row in rows])
    parts = torch.split(rows_of(x, order), [len(rows) for rows in groups.values()])
    images = [function(key, part) for key, part in zip(groups, parts, strict=True)]
    return rows_of(torch.cat(images), order.argsort())


@overload
def column(level: Tensor, like: Tensor) -> Tensor: ...
@overload
def column(level: float | Tensor, like: Tensor) -> float | Tensor: ...
def column(level: float | Tensor, like: Tensor) -> float | Tensor:
    """A number for each sample, shaped to multiply a batch of events; one number for all stays as it is."""
    if not isinstance(level, Tensor):
        return level
    return level.to(like.dtype).to(like.device, non_blocking=True).reshape(-1, *[1] * (like.ndim - 1))


def missing(library: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """What is raised where a library that an extra names, or what that needs, is not installed."""
    remedy = f'pip install "lineardiffusion[{library}]"'
    return ModuleNotFoundError(f"{library}: expected it to be installed, got {error}; {remedy}", name=error.name)
