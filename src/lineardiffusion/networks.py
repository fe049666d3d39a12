"""Networks as users bring them: what they return, and whether they can be told a size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lineardiffusion._checks import Shape, check_real, got


def as_tensor(output: Any) -> Tensor:
    """What a network returned: a tensor, or that in an object's `.sample`, as diffusers' networks return it.

    Raises:
        ValueError: neither.
    """
    tensor = output if isinstance(output, Tensor) else getattr(output, "sample", None)
    if not isinstance(tensor, Tensor):
        is_tuple = isinstance(output, tuple)
        remedy = "; diffusers' networks return such an object unless return_dict=False" if is_tuple else ""
        kind = type(output).__name__
        raise ValueError(f"network: expected a tensor, or an object with one as .sample, got {kind}{remedy}")
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
    """Whether a network takes size=…"""
    return not unknown_names(network, ["size"])


def unknown_names(network: Callable[..., Any], names: Iterable[str]) -> list[str]:
    """Those of some keywords that a network does not take; one that does not tell what it takes is supposed to."""
    parameters = _parameters(network)
    if parameters is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    named = [name for name, parameter in parameters.items() if parameter.kind in _NAMED]
    return [name for name in names if name not in named]


def keywords(network: Callable[..., Any]) -> list[str]:
    """What a network is told beside x and the time."""
    parameters = list((_parameters(network) or {}).values())[2:]
    return [parameter.name for parameter in parameters if parameter.kind in _NAMED]


def refusal(
    network: Callable[..., Any], x: Tensor, weight: Tensor | None, given: Mapping[str, Any]
) -> Exception | None:
    """Why a network could not be called with x, the time and some keywords, where that is seen from outside; looked for
    only once it has failed.

    Arguments:
        network: it.
        x: what it was given.
        weight: one of its parameters.
        given: the keywords.
    """
    parameters = list((_parameters(network) or {}).values())
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if parameters and len(positional) < 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return TypeError(f"network: expected a function of (x, time), got one of ({', '.join(positional)})")
    if unknown := unknown_names(network, given):
        takes = keywords(network)
        known = f"one that the network takes ({', '.join(takes)})" if takes else "none, as the network takes none"
        return TypeError(f"{unknown[0]}: expected {known}, got {unknown[0]}={got(given[unknown[0]])}")
    missing = [p.name for p in parameters[2:] if p.kind in _NAMED and p.default is p.empty and p.name not in given]
    if missing:
        name = missing[0]
        return TypeError(f"{name}: expected among the conditioning, as the network needs it; pass {name}=…, got none")
    if weight is not None and weight.device != x.device:
        return ValueError(
            f"x_t: expected a tensor on {weight.device}, where the network is, got one on {x.device}; move the data "
            f"there by .to({str(weight.device)!r}), or the network by network.to({str(x.device)!r})"
        )
    rows = {name: len(v) for name, v in given.items() if isinstance(v, Tensor) and v.ndim == 1 and len(v) != len(x)}
    if rows:
        name, count = next(iter(rows.items()))
        return ValueError(f"{name}: expected one for each of {len(x)} samples, got {count}")
    others = {name: v.device for name, v in given.items() if isinstance(v, Tensor) and v.device != x.device}
    if others:
        name, device = next(iter(others.items()))
        return ValueError(f"{name}: expected a tensor on {x.device}, where x_t is, got one on {device}")
    return None


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(network: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """What a network says that it takes."""
    try:
        return inspect.signature(network.forward if isinstance(network, nn.Module) else network).parameters
    except (TypeError, ValueError):
        return None
