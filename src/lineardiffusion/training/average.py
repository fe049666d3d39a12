"""The exponential moving average of a model's parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lineardiffusion._checks import as_number, check_kind


class ExponentialMovingAverage:
    r"""θ̄ ← β_n θ̄ + (1 − β_n) θ after step n, with β_n = min(β, (1 + n)/(10 + n)) so that the first weights, which are
    random, are soon forgotten.

    torch.optim.swa_utils.AveragedModel copies the module, which sharded and compiled modules do not allow; this keeps
    the parameters alone.

    Arguments:
        model: whose parameters are averaged; buffers are not.
        decay: β in [0, 1).

    Raises:
        ValueError: a decay out of range.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> model = torch.nn.Linear(2, 1)
        >>> average = ld.training.ExponentialMovingAverage(model, decay=0.99)
        >>> average.update(model)
        >>> with average.applied_to(model):  # the model has the averaged weights here, its own again afterwards
        ...     _ = model(torch.zeros(1, 2))
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        check_kind(model, nn.Module, "model", "a torch.nn.Module")
        self.decay = as_number(decay, "decay")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), got {decay}")
        self.num_updates = 0
        self.parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the parameters of the model after a step."""
        current = self._parameters_of(model)
        self.num_updates += 1
        weight = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self.parameters.values()), [current[name] for name in self.parameters], weight)

    @contextlib.contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged parameters, for as long as the context lasts."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters_of(model).items()}
        self._write(self.parameters, model)
        try:
            yield
        finally:
            self._write(own, model)

    def _parameters_of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        check_kind(model, nn.Module, "model", "a torch.nn.Module")
        parameters = dict(model.named_parameters())
        if parameters.keys() != self.parameters.keys():
            other = sorted(parameters.keys() ^ self.parameters.keys())[:3]
            raise ValueError(
                f"model: expected the parameters of the model that is averaged, got one that differs in {other}"
            )
        return parameters

    @staticmethod
    @torch.no_grad()
    def _write(values: Mapping[str, Tensor], model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
