"""What weights are said to belong to: a configuration, as far as there is one, as a tensor to be saved with them."""

from __future__ import annotations

import contextlib
import hashlib
import json

import torch
from torch import Tensor

from lineardiffusion._checks import got
from lineardiffusion.config import Configured
from lineardiffusion.processes.base import LinearDiffusion


def description(value: object) -> Tensor:
    """`described` as the bytes of JSON: safetensors hold tensors alone."""
    return torch.frombuffer(bytearray(json.dumps(described(value)).encode()), dtype=torch.uint8)


def differences(expected: Tensor, found: Tensor) -> list[str]:
    """Where a `description` is not another, as "name: expected …, got …".

    Raises:
        ValueError: what was found is none.
    """
    try:
        here, there = (dict(json.loads(bytes(tensor.tolist()))) for tensor in (expected, found))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"state: expected the description of a denoiser, got {got(found)}, which is none") from None
    return [
        f"{name}: expected {_short(here.get(name))}, got {_short(there.get(name))}"
        for name in {**here, **there}
        if here.get(name) != there.get(name)
    ]


def described(value: object) -> object:
    """The configuration of an object. In the place of what JSON does not know there are names; of a process, such as a
    chain of operators, its shapes and its levels, but not what becomes of the image."""
    if isinstance(value, LinearDiffusion):  # a family is the process of its path and schedule
        parts: dict[str, object] = {"path": value.path, "schedule": value.schedule, "coupling": value.coupling}
        try:
            configs = {name: part.to_config() for name, part in parts.items() if isinstance(part, Configured)}
        except TypeError:
            return {"type": "LinearDiffusion", **_process(value)}
        return {"type": "LinearDiffusion", **parts, **configs}
    if isinstance(value, Configured):
        parts = value.arguments()
        if not any(isinstance(part, LinearDiffusion) for part in parts.values()):
            with contextlib.suppress(TypeError):
                return value.to_config()
        return {"type": type(value).__name__, **{name: described(part) for name, part in parts.items()}}
    if isinstance(value, (list, tuple)):
        return [described(part) for part in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def _process(process: LinearDiffusion) -> dict[str, object]:
    """Shapes, and a digest of a_t and σ_t to six digits, at the steps of a process or at 64 times."""
    count = process.num_steps or 64
    times = [process.end * k / count for k in range(1, count + 1)]
    numbers = " ".join(f"{process.signal_scale(t):.6g} {process.sigma(t):.6g}" for t in times)
    return {
        "changes": process.shape_changes(),
        "shapes": [process.shape(t) for t in (0, *process.shape_changes())],
        "levels": hashlib.sha256(numbers.encode()).hexdigest(),
    }


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:200]} … {text[-80:]}"
