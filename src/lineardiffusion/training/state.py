"""The tensors of models and optimizers, whole and on the CPU, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lineardiffusion._checks import check_kind, check_tensor
from lineardiffusion.descriptions import differences


def state_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `state_dict()`, or of an average, as whole tensors on the CPU; under FSDP gathered from all
    processes."""
    check_tensors(tensors, "tensors")
    return {name: _whole(tensor) for name, tensor in tensors.items()}


@torch.no_grad()
def restore_tensors(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor], what: str) -> None:
    """Copy what `state_tensors` returned back, in place.

    Arguments:
        tensors: the values.
        into: where they go, for example `model.state_dict()`.
        what: what it is, for the error.

    Raises:
        ValueError: names or shapes that differ, or the state of a denoiser of another process or prediction.
    """
    check_tensors(tensors, what)
    check_tensors(into, "into")
    missing, unknown = sorted(into.keys() - tensors.keys()), sorted(tensors.keys() - into.keys())
    if missing or unknown:
        raise ValueError(
            f"{what}: expected the names of the model, got others: missing {missing[:3]}, unknown {unknown[:3]}"
        )
    for name, target in into.items():
        if name.rpartition(".")[2] == "_extra_state":  # what a denoiser says of itself, which cannot be copied
            found = differences(target, tensors[name])
            if found:
                raise ValueError(f"{what}: weights of another denoiser: {'; '.join(found)}")
        elif tensors[name].shape != target.shape:
            raise ValueError(
                f"{what}: expected shape {tuple(target.shape)} for {name}, got {tuple(tensors[name].shape)}"
            )
    for name, target in into.items():
        target.copy_(_placed(tensors[name], target))


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state of an optimizer, as <parameter's name>/<key> → whole tensor on the CPU. Parameters that have not had a
    gradient yet have none.

    Raises:
        TypeError: a state that is not a tensor.
    """
    _check_optimizer(optimizer, model)
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise TypeError(f"optimizer: expected a state of tensors, got {key} = {value!r}")
            tensors[f"{name}/{key}"] = _whole(value)
    return tensors


def restore_optimizer(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Put back what `optimizer_tensors` returned. Learning rates and other settings are left as they are.

    Raises:
        ValueError: a parameter that the model does not have.
    """
    _check_optimizer(optimizer, model)
    check_tensors(tensors, "tensors")
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in parameters:
            raise ValueError(
                f"tensors: expected those of parameters of the model, got one of {name!r}, which it has not"
            )
        parameter = parameters[name]
        same = value.shape == parameter.shape and value.ndim > 0  # moments; a count of steps stays on the CPU
        optimizer.state[parameter][entry] = _placed(value, parameter) if same else value.clone()


def check_tensors(tensors: object, name: str) -> None:
    """Raise unless this is tensors by name."""
    check_kind(tensors, Mapping, name, "a mapping from names to tensors, such as model.state_dict()")
    for key, tensor in tensors.items():  # type: ignore[attr-defined]
        check_tensor(tensor, f"{name}[{key!r}]")


def _check_optimizer(optimizer: object, model: object) -> None:
    check_kind(optimizer, torch.optim.Optimizer, "optimizer", "a torch.optim.Optimizer")
    check_kind(model, nn.Module, "model", "a torch.nn.Module")


def _whole(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU; a tensor sharded over processes (a DTensor) is gathered."""
    tensor = tensor.detach()
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    return tensor.to("cpu", copy=True).contiguous()


def _placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor on the device, or the shards, of another."""
    if hasattr(like, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
