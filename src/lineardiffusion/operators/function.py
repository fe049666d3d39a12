"""Operators given as a function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lineardiffusion._checks import Shape, as_shape, check_function
from lineardiffusion.operators.base import LinearOperator

# Of what is linear no more than rounding is left, 1e-6 or so where float32 numbers are inside.
_TOLERANCE = 1e-4
# What is linear near zero alone, such as a clamp, shows among large numbers.
_LARGE = 100.0


def from_function(f: Callable[[Tensor], Tensor], in_shape: Sequence[int]) -> LinearOperator:
    r"""The operator M x = f(x) of any linear function that torch can differentiate: Mᵀ is its vector–Jacobian product.

    f is called here, once with five random events and once with one, to find the shape of its results and to see that
    it is linear. Functions of MᵀM come by Lanczos' method.

    Arguments:
        f: from a batch of events (B, *in_shape) to (B, *out_shape), for every B, dtype and device of floating-point
            numbers: what it holds is to be taken to those of its argument, `kernel.to(x)`. Operators of any number of
            batch dimensions are made of it.
        in_shape: event shape of the input, e.g. (3, 64, 64).

    Raises:
        TypeError: f is no function, or fails on float64 numbers on the CPU (where its own parameters are, if it is a
            module), or returns no tensor.
        ValueError: f is not linear, f(0) ≠ 0, mixes the events of a batch, cannot be differentiated, or returns
            numbers that are complex or of another dtype.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> half = ld.from_function(lambda x: torch.nn.functional.avg_pool2d(x, 2), (3, 4, 6))
        >>> half(torch.ones(5, 3, 4, 6)).shape, half.transpose(torch.ones(3, 2, 3)).unique()
        (torch.Size([5, 3, 2, 3]), tensor([0.2500]))
        >>> ld.from_function(lambda x: x + 1, (3, 4, 6))
        Traceback (most recent call last):
        ValueError: f: expected a linear function, got f(0) with entries up to 1: leave the constant out
    """
    check_function(f, "f", "a function of a tensor (B, *in_shape)")
    event = as_shape(in_shape, "in_shape")
    operator = _Function(f, event, event)
    noise = torch.randn(2, *event, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, z = noise.to(operator._example(event))
    rows = torch.stack([torch.zeros_like(x), x, z, x + z, _LARGE * x])
    with torch.inference_mode(False), torch.enable_grad():
        rows.requires_grad_()
        image = _image(f, rows)
    zero, of_x, of_z, of_sum, of_large = image.detach()
    with torch.no_grad():
        alone = _image(f, x[None])[0]
    _compare("expected a function of each event alone, got f(x) that depends on the rest of its batch", alone, of_x)
    if float(zero.abs().max()) > 0:
        raise ValueError(
            f"f: expected a linear function, got f(0) with entries up to {float(zero.abs().max()):.3g}: leave the "
            f"constant out"
        )
    _compare("expected a linear function, got f(x + z) ≠ f(x) + f(z)", of_sum, of_x + of_z)
    _compare(f"expected a linear function, got f({_LARGE:g} x) ≠ {_LARGE:g} f(x)", of_large, _LARGE * of_x)
    _check_derivative(image, rows)
    return _Function(f, event, tuple(of_x.shape))


class _Function(LinearOperator):
    def __init__(self, f: Callable[[Tensor], Tensor], in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.f = f

    def apply(self, x: Tensor) -> Tensor:
        batch = self._batch(x, self.in_shape)
        image = self.f(x.reshape(-1, *self.in_shape))
        return image.reshape(*batch, *image.shape[1:])


def _image(f: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    given = f"{rows.dtype} numbers of shape {tuple(rows.shape)} on {rows.device.type}"
    try:
        image = f(rows)
    except Exception as error:
        raise TypeError(
            f"f: expected a function of {given}, got {type(error).__name__}: {error} (take what it holds to the dtype "
            f"and device of its argument, kernel.to(x))"
        ) from error
    if not isinstance(image, Tensor):
        raise TypeError(f"f: expected a function that returns a tensor, got {type(image).__name__}")
    if image.ndim < 2 or len(image) != len(rows):
        raise ValueError(
            f"f: expected an event for each of {len(rows)} in a batch, of at least one dimension, got a result of "
            f"shape {tuple(image.shape)} for {tuple(rows.shape)}"
        )
    if image.is_complex():
        raise ValueError(
            f"f: expected real numbers, got {image.dtype}: return real and imaginary parts, torch.view_as_real(…)"
        )
    if image.dtype != rows.dtype:
        raise ValueError(
            f"f: expected a result of the dtype of its argument, {rows.dtype}, got {image.dtype}: cast what it holds, "
            f"kernel.to(x)"
        )
    return image


def _check_derivative(image: Tensor, rows: Tensor) -> None:
    """Raise unless ⟨y, f(x)⟩ = ⟨∇⟨y, f⟩, x⟩ for a random y: a detached or rounded part shows."""
    remedy = "write it with torch's differentiable functions, or as a LinearOperator with a `transpose`"
    if not image.requires_grad:
        raise ValueError(f"f: expected a function that torch can differentiate, got one without a gradient; {remedy}")
    y = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(image)
    (back,) = torch.autograd.grad(image, rows, grad_outputs=y)
    terms = y * image.detach()
    left, right = float(terms.sum()), float((back * rows.detach()).sum())
    if not abs(left - right) <= _TOLERANCE * float(terms.abs().sum()):
        raise ValueError(
            f"f: expected a function with the gradient of a linear one, got ⟨y, f(x)⟩ = {left:.6g}, but by its "
            f"gradient {right:.6g}; {remedy}"
        )


def _compare(what: str, result: Tensor, expected: Tensor) -> None:
    size = float(expected.norm())
    error = float((result - expected).norm()) / (size or 1.0)
    if not error <= _TOLERANCE:
        raise ValueError(f"f: {what}, with a relative difference of {error:.3g}")
