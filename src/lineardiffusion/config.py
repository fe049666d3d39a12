r"""Objects that are what they were made with: equal, printed, written to JSON and made again by their arguments.

Examples:
    >>> from lineardiffusion.config import Configured, configured, from_config
    >>> @configured("Blur")
    ... class Blur(Configured):
    ...     def __init__(self, sigma, floor=0.0):
    ...         self.sigma, self.floor = sigma, floor
    >>> Blur(2.0)
    Blur(2.0)
    >>> Blur(2.0, floor=0.1).to_config()
    {'type': 'Blur', 'sigma': 2.0, 'floor': 0.1}
    >>> from_config({"type": "Blur", "sigma": 2.0}) == Blur(2.0)
    True
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from lineardiffusion._checks import shown

C = TypeVar("C", bound="Configured")

_REGISTRY: dict[str, type[Configured]] = {}


class Configured:
    """What keeps every argument of its `__init__` as an attribute of that name, or overrides `arguments`.

    Two are equal if they are of one class and have equal arguments: numbers in tensors, arrays and sequences by value,
    all else by ==. Arguments must not be changed afterwards.
    """

    _config_name: ClassVar[str] = ""
    _left_out: ClassVar[tuple[str, ...]] = ()

    def arguments(self) -> dict[str, object]:
        """What `__init__` was called with, by name."""
        return {name: getattr(self, name) for name in _parameters(type(self))}

    def to_config(self) -> dict[str, object]:
        """{"type": public name, **arguments} of what JSON knows: tensors become lists, objects like this their config.

        Raises:
            TypeError: an argument that is a function, a module or an operator, or a class without a public name.
        """
        name = self._config_name
        kind = _REGISTRY.get(name)
        # A subclass may do other things than the class of that name, and needs its own: but where equality says that it
        # is the same, as families of processes are the process of their path and schedule.
        if kind is None or (kind is not type(self) and kind.__eq__ is Configured.__eq__):
            raise TypeError(
                f"{type(self).__name__}: expected a class with a public name, which the decorator "
                f"lineardiffusion.config.configured gives it"
            )
        kept = {key: value for key, value in self.arguments().items() if key not in self._left_out}
        return {"type": name, **{key: _plain(value, f"{name}: {key}") for key, value in kept.items()}}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Configured):
            return NotImplemented
        return self is other or _same(self.arguments(), other.arguments())

    def __hash__(self) -> int:
        return hash((type(self), _hash(self.arguments())))

    def __repr__(self) -> str:
        parts, parameters = [], _parameters(type(self))
        for name, value in self.arguments().items():
            default = parameters[name].default
            if default is inspect.Parameter.empty and parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY:
                parts.append(shown(value))
            elif not _same(value, default):
                parts.append(f"{name}={shown(value)}")
        return f"{self._config_name.rpartition('.')[2] or type(self).__name__}({', '.join(parts)})"


def configured(name: str, without: Sequence[str] = ()) -> Callable[[type[C]], type[C]]:
    """Give a class of Configured objects the public name by which `from_config` finds it, e.g. "schedules.linear".

    Arguments:
        name: as users call the class.
        without: arguments that are no part of a configuration, such as a network; `from_config` is given them.

    Raises:
        ValueError: a name that another class has.
    """

    def register(kind: type[C]) -> type[C]:
        other = _REGISTRY.get(name)
        # The same class may be defined again, as notebooks do.
        if other is not None and (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ValueError(f"name: expected one that no class has, got {name!r}, which {other.__qualname__} has")
        kind._config_name, kind._left_out = name, tuple(without)
        _REGISTRY[name] = kind
        return kind

    return register


def from_config(config: Mapping[str, Any], **extras: object) -> Any:
    """The object of a configuration, equal to the one whose `to_config` it is.

    Arguments:
        config: {"type": public name, **arguments}; arguments may hold configurations.
        extras: what configurations leave out, such as network=…: given to each object in `config` that has an argument
            of that name and no value for it.

    Raises:
        TypeError: not a mapping.
        ValueError: a type or an argument that is unknown, or one that is missing; extras that nothing takes.

    Examples:
        >>> import lineardiffusion as ld
        >>> from lineardiffusion.config import from_config
        >>> from_config({"type": "schedules.flow", "shift": 3.0})
        flow(shift=3.0)
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"config: expected a mapping, as to_config returns, got {type(config).__name__}")
    taken: set[str] = set()
    result = _build(config, extras, taken)
    if unused := extras.keys() - taken:
        raise ValueError(f"{', '.join(sorted(unused))}: expected arguments that the configuration leaves out")
    return result


def _build(config: Mapping[str, Any], extras: Mapping[str, object], taken: set[str]) -> Any:
    name = config.get("type")
    kind = _REGISTRY.get(name) if isinstance(name, str) else None
    if kind is None:
        near = [known for known in _REGISTRY if str(name).lower() == known.rpartition(".")[2].lower()]
        near = near or difflib.get_close_matches(str(name), _REGISTRY, 1)
        remedy = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"type: expected one of {', '.join(sorted(_REGISTRY))}, got {name!r}{remedy}")
    parameters, arguments = _parameters(kind), {key: value for key, value in config.items() if key != "type"}
    for key in arguments:
        if key not in parameters:
            raise ValueError(f"{name}: expected some of the arguments {', '.join(parameters)}, got {key!r}")
    given = {key: value for key, value in extras.items() if key in parameters and key not in arguments}
    taken.update(given)
    values = {key: _unplain(value, extras, taken) for key, value in arguments.items()} | given
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in values:
            remedy = f", to be passed as from_config(config, {key}=…)" if key in kind._left_out else ""
            raise ValueError(f"{name}: expected the argument {key!r}{remedy}")
    return kind(**values)


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in inspect.signature(kind).parameters.items() if p.kind in named}


def _plain(value: object, name: str) -> object:
    """Of what JSON knows."""
    if isinstance(value, Configured):
        return value.to_config()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and not isinstance(value, np.complexfloating):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, name) for item in value]
    raise TypeError(
        f"{name}: expected numbers, strings, sequences of them, or an object with a configuration, got "
        f"{shown(value)}; derive its class from lineardiffusion.config.Configured, or keep the code that makes it"
    )


def _unplain(value: object, extras: Mapping[str, object], taken: set[str]) -> object:
    if isinstance(value, Mapping):
        if "type" in value:
            return _build(value, extras, taken)
        return {key: _unplain(item, extras, taken) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unplain(item, extras, taken) for item in value]
    return value


def _same(a: object, b: object) -> bool:
    if a is b:
        return True
    if isinstance(a, (Tensor, np.ndarray)) or isinstance(b, (Tensor, np.ndarray)):
        try:
            x, y = _numbers(a), _numbers(b)
        except (TypeError, ValueError, RuntimeError):
            return False
        return x.shape == y.shape and bool((x == y).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _numbers(value: object) -> Tensor:
    if isinstance(value, (Tensor, np.ndarray)):
        return torch.as_tensor(value).detach().cpu()
    return torch.as_tensor(value, dtype=torch.float64)  # not the default dtype, which has fewer digits


def _hash(value: object) -> int:
    """Equal for what is `_same`: of sequences and tensors, which may be large, the length alone."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        return hash(value.item())
    if isinstance(value, (Tensor, np.ndarray, list, tuple)):
        return hash(len(value))
    if isinstance(value, Mapping):
        return hash(tuple(sorted((str(key), _hash(item)) for key, item in value.items())))
    try:
        return hash(value)
    except TypeError:
        return 0
