"""Rules by which the algebra of operators keeps structure, found by the classes of the operands.

A rule belongs to an operation ("product", "transpose" or "scale") and to the class of each operand. It is written next
to the structure it keeps; the most general ones, for any LinearOperator, are in composed.py and scalar.py. Nothing here
knows an operator, so that the base class can use the rules without knowing its subclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

Rule = Callable[..., Any]
_RULES: dict[tuple[str, tuple[type, ...]], Rule] = {}


def rule(operation: str, *classes: type) -> Callable[[Rule], Rule]:
    """Register a function of operands of the given classes; it may return None to leave them to more general rules."""

    def register(function: Rule) -> Rule:
        _RULES[operation, classes] = function
        return function

    return register


def dispatch(operation: str, *operands: Any, **arguments: Any) -> Any:
    """The result of the most special rule for the operands; of two, that which is more special in the first operand.

    Raises:
        TypeError: there is none, not even a general one.
    """
    for classes in product(*(type(operand).__mro__ for operand in operands)):
        function = _RULES.get((operation, classes))
        result = None if function is None else function(*operands, **arguments)
        if result is not None:
            return result
    raise TypeError(f"{operation}: no rule for {', '.join(type(operand).__name__ for operand in operands)}")
