"""The checkpoints of a run: a folder of safetensors files, each whole or absent, and trusted by its checksum alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lineardiffusion._checks import as_index, check_kind, got
from lineardiffusion.training.files import check_path, remove_partials, whole_file
from lineardiffusion.training.state import check_tensors

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or trusted; the message names the file."""


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


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file, whole or not at all.

    Arguments:
        path: the file.
        tensors: on the CPU.
        metadata: whatever JSON holds.

    Raises:
        CheckpointError: the file could not be written, for instance for want of space; `path` is as it was.
        TypeError: a type of tensors that a checkpoint cannot hold.
    """
    check_path(path)
    check_tensors(tensors, "tensors")
    try:
        text = json.dumps(metadata, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata: expected what JSON can hold, got {got(metadata)} ({error})") from None
    parts = _serialized(tensors, {"metadata": text, "sha256": _digest(tensors, text)})
    try:
        with whole_file(path) as partial, open(partial, "wb") as file:
            file.writelines(parts)
    except OSError as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({error}); nothing before it was touched"
        ) from error


def _serialized(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Iterable[bytes | memoryview]:
    """The format of safetensors (https://huggingface.co/docs/safetensors#format), part by part: the length of the
    header, the header, the bytes of the tensors. safetensors' own writer goes by way of a temporary file of a name and
    with permissions of its own, which stays for ever where the process is killed."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # aligned without gaps
    entries: dict[str, Any] = {"__metadata__": dict(header)}
    end = 0
    for name, tensor in ordered:
        if tensor.dtype not in _DTYPES or sys.byteorder == "big":
            raise TypeError(f"{name}: expected one of {sorted(_DTYPES.values())}, little-endian, got {tensor.dtype}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *(_bytes(tensor) for _, tensor in ordered)]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote.

    Raises:
        CheckpointError: a file that is not there, truncated, changed since it was written, or not a checkpoint.
        ModuleNotFoundError: safetensors is not installed.
    """
    _check_reader()
    from safetensors import SafetensorError, safe_open

    check_path(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError("expected a file, got a folder, a pipe or a device")  # a pipe would be waited for
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


def _check_reader() -> None:
    if find_spec("safetensors") is None:
        raise ModuleNotFoundError(
            "safetensors: expected it to be installed, as checkpoints are read with it; pip install safetensors",
            name="safetensors",
        )


class Checkpoints:
    """The checkpoints of a run: files step-00001000.safetensors in a folder, of which the last few are kept.

    Arguments:
        folder: made with the first checkpoint.
        keep: how many to keep.

    Raises:
        ModuleNotFoundError: safetensors is not installed, without which what a run writes could not be read.
        ValueError: fewer than one to be kept.

    Examples:
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
        check_kind(folder, (str, os.PathLike), "folder", "the path of a folder")
        self.folder = Path(folder)
        self.keep = as_index(keep, 1, 2**31, "keep")
        _check_reader()

    def paths(self) -> list[Path]:
        """The files there are, oldest step first."""
        return list(self._by_step().values())

    def _by_step(self) -> dict[int, Path]:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CheckpointError(f"{self.folder}: not a folder that can be read ({error})") from error
        matches = (re.fullmatch(r"step-([0-9]{8,})\.safetensors", name) for name in names)
        return dict(sorted((int(match[1]), self.folder / match[0]) for match in matches if match))

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step, and only then remove those before it that are too many.

        Raises:
            CheckpointError: as `write_checkpoint`; all earlier checkpoints are still there.
        """
        path = self.folder / f"step-{as_index(step, 0, 10**12, 'step'):08d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.folder}: not a folder that can be written to ({error})") from error
        remove_partials(self.folder)
        write_checkpoint(path, tensors, metadata)
        # A file of a later step is one that was refused when the run went on from before it: it does not count.
        earlier = [other for at, other in self._by_step().items() if at <= step]
        for old in earlier[: -self.keep]:
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                warnings.warn(f"an old checkpoint could not be removed: {error}", stacklevel=2)
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
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
