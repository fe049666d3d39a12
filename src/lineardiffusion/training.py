r"""What a long training needs beside its loop: averaged weights, checkpoints that survive, and randomness that is a
function of its keys.

- `ExponentialMovingAverage` of a model's parameters.
- `Checkpoints`: a folder of safetensors files. Each is written whole or not at all, carries a SHA-256 of all that it
  holds, and is refused when it was changed; then the one before it is used.
- `whole_file(path)`: a file that is there whole or not at all, for all that is written beside them.
- `keyed_generator(seed, "noise", step, …)`: the same keys give the same random numbers in any process, in any order. A
  run whose randomness is keyed has no random state that could be lost.

All of it takes models on one device, under DistributedDataParallel (pass the module inside) and sharded by FSDP 2,
where `state_tensors` and `optimizer_tensors` gather and must be called by every process.

Needs safetensors for reading and writing files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lineardiffusion._checks import as_index


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or trusted; the message names the file."""


def keyed_generator(*keys: int | str) -> torch.Generator:
    """A CPU generator seeded by all the keys, in their order.

    Example:
        >>> import torch, lineardiffusion as ld
        >>> draws = [torch.rand((), generator=ld.training.keyed_generator(0, "flip", 7)) for _ in range(2)]
        >>> bool(draws[0] == draws[1])
        True
    """
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


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

    Example:
        >>> import torch, lineardiffusion as ld
        >>> model = torch.nn.Linear(2, 1)
        >>> average = ld.training.ExponentialMovingAverage(model, decay=0.99)
        >>> average.update(model)
        >>> with average.applied_to(model):  # the model has the averaged weights here, its own again afterwards
        ...     _ = model(torch.zeros(1, 2))
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), got {decay}")
        self.decay = decay
        self.num_updates = 0
        self.parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the parameters of the model after a step."""
        self.num_updates += 1
        weight = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.parameters.values()), [current[name] for name in self.parameters], weight)

    @contextlib.contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged parameters, for as long as the context lasts."""
        own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self._write(self.parameters, model)
        try:
            yield
        finally:
            self._write(own, model)

    @staticmethod
    @torch.no_grad()
    def _write(values: Mapping[str, Tensor], model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])


# ---------------------------------------------------------------------- tensors of models and optimizers


def state_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `state_dict()`, or of an average, as whole tensors on the CPU; under FSDP gathered from all
    processes."""
    return {name: _whole(tensor) for name, tensor in tensors.items()}


@torch.no_grad()
def restore_tensors(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor], what: str) -> None:
    """Copy what `state_tensors` returned back, in place.

    Arguments:
        tensors: the values.
        into: where they go, for example `model.state_dict()`.
        what: what it is, for the error.

    Raises:
        ValueError: names or shapes that differ.
    """
    missing, unknown = sorted(into.keys() - tensors.keys()), sorted(tensors.keys() - into.keys())
    if missing or unknown:
        raise ValueError(f"{what}: the names do not fit: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, target in into.items():
        if tensors[name].shape != target.shape:
            raise ValueError(f"{what}: {name} has shape {tuple(tensors[name].shape)}, not {tuple(target.shape)}")
    for name, target in into.items():
        target.copy_(_placed(tensors[name], target))


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state of an optimizer, as <parameter's name>/<key> → whole tensor on the CPU. Parameters that have not had a
    gradient yet have none.

    Raises:
        TypeError: a state that is not a tensor.
    """
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
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"optimizer: the model has no parameter {name!r}")
        parameter = parameters[name]
        same = value.shape == parameter.shape and value.ndim > 0  # moments; a count of steps stays on the CPU
        optimizer.state[parameter][entry] = _placed(value, parameter) if same else value.clone()


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


# ---------------------------------------------------------------------- files


class Checkpoint(NamedTuple):
    """What a file holds: the tensors by name, what JSON can say about them, and the SHA-256 of both, which tells a
    model from any other, wherever its file lies."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    digest: str

    def section(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name starts with `prefix` and a colon, without these: "model" for "model:conv.weight"."""
        start = prefix + ":"
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write a file to, which becomes `path` when it is written: synced to the disk, then renamed. After an
    error, which is passed on, `path` is as it was and nothing is beside it.

    Example:
        >>> import tempfile, lineardiffusion as ld
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "figures.json"
        >>> with ld.training.whole_file(path) as partial:
        ...     _ = partial.write_text("[1, 2]")
        >>> [file.name for file in path.parent.iterdir()]
        ['figures.json']
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file, whole or not at all.

    Arguments:
        path: the file.
        tensors: contiguous tensors on the CPU that share no memory.
        metadata: whatever JSON holds.

    Raises:
        CheckpointError: the file could not be written, for instance for want of space; `path` is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    text = json.dumps(metadata, sort_keys=True)
    try:
        with whole_file(path) as partial:
            save_file(dict(tensors), partial, metadata={"metadata": text, "sha256": _digest(tensors, text)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({error}); nothing before it was touched"
        ) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote.

    Raises:
        CheckpointError: a file that is not there, truncated, changed since it was written, or not a checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            # Copies: what safetensors returns is the file itself, mapped, and would change with it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        text, digest = header["metadata"], header["sha256"]
        metadata = json.loads(text)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({error})") from error
    except KeyError as error:
        raise CheckpointError(f"{path}: not a checkpoint of this library ({error} is missing)") from error
    if _digest(tensors, text) != digest:
        raise CheckpointError(f"{path}: the contents do not have the checksum they were written with")
    return Checkpoint(path, tensors, metadata, digest)


class Checkpoints:
    """The checkpoints of a run: files step-00001000.safetensors in a folder, of which the last few are kept.

    Arguments:
        folder: made with the first checkpoint.
        keep: how many to keep.

    Raises:
        ValueError: fewer than one to be kept.

    Example:
        >>> import tempfile, torch, lineardiffusion as ld
        >>> checkpoints = ld.training.Checkpoints(tempfile.mkdtemp(), keep=2)
        >>> for step in (10, 20, 30):
        ...     _ = checkpoints.save(step, {"model:weight": torch.full((2,), float(step))}, {"step": step})
        >>> for path in checkpoints.paths():
        ...     print(path.name)
        step-00000020.safetensors
        step-00000030.safetensors
        >>> checkpoints.latest().section("model")
        {'weight': tensor([30., 30.])}
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 3) -> None:
        self.folder = Path(folder)
        self.keep = as_index(keep, 1, 2**31, "keep")

    def paths(self) -> list[Path]:
        """The files there are, oldest step first."""
        return list(self._by_step().values())

    def _by_step(self) -> dict[int, Path]:
        matches = ((path, re.fullmatch(r"step-(\d{8,})", path.stem)) for path in self.folder.glob("*.safetensors"))
        return dict(sorted((int(match[1]), path) for path, match in matches if match))

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step, and only then remove those before it that are too many.

        Raises:
            CheckpointError: as `write_checkpoint`; all earlier checkpoints are still there.
        """
        path = self.folder / f"step-{as_index(step, 0, 10**12, 'step'):08d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("*.partial"):  # of a process that was killed
                left.unlink()
        except OSError as error:
            raise CheckpointError(f"{self.folder}: not a folder that can be written to ({error})") from error
        write_checkpoint(path, tensors, metadata)
        # A file of a later step is one that was refused when the run went on from before it: it does not count.
        earlier = [other for at, other in self._by_step().items() if at <= step]
        for old in earlier[: -self.keep]:
            old.unlink()
        return path

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, with a warning for every newer one that is not; None if there are no
        files at all.

        Raises:
            CheckpointError: there are files, and none of them is whole.
        """
        refused = []
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path)
            except CheckpointError as error:
                warnings.warn(f"checkpoint refused: {error}", stacklevel=2)
                refused.append(str(error))
        if refused:
            raise CheckpointError("no checkpoint is whole:\n" + "\n".join(refused))
        return None


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the metadata and of every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _sync(path: Path) -> None:
    """Have the operating system write a file, or the names in a folder, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
