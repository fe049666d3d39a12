"""Networks as users bring them: what they return, and whether they can be told a size."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lineardiffusion._checks import Shape, check_real


def as_tensor(output: Any) -> Tensor:
    """What a network returned: a tensor, or that in an object's `.sample`, as diffusers' networks return it.

    Raises:
        ValueError: neither.
    """
    tensor = output if isinstance(output, Tensor) else getattr(output, "sample", None)
    if not isinstance(tensor, Tensor):
        raise ValueError(f"network: expected a tensor, or an object with one as .sample, got {type(output).__name__}")
    return tensor


def of_shape(output: Tensor, expected: Shape) -> Tensor:
    """The output, or of twice the channels the first half, the mean beside which a variance was learned.

    Raises:
        ValueError: another shape than (B, *event), or no real floating-point numbers.
    """
    if tuple(output.shape) == (expected[0], 2 * expected[1], *expected[2:]):
        output = output[:, : expected[1]]
    if tuple(output.shape) != expected:
        raise ValueError(f"network: expected an output of shape {expected}, got {tuple(output.shape)}")
    check_real(output, "network")
    return output


def accepts_size(network: Callable[..., Any]) -> bool:
    """Whether a network takes size=…; one that does not tell what it takes is supposed to."""
    try:
        parameters = inspect.signature(network.forward if isinstance(network, nn.Module) else network).parameters
    except (TypeError, ValueError):
        return True
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return True
    return "size" in parameters and parameters["size"].kind is not inspect.Parameter.POSITIONAL_ONLY
