"""Weights that a run may begin with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from examples.experiment.runs import load_reference_weights
from lineardiffusion.training import read_checkpoint


class Weights(NamedTuple):
    """Tensors by their names in the network, and the SHA-256 of the file they come from."""

    tensors: dict[str, Tensor]
    digest: str


def load_weights(path: Path) -> Weights:
    """The averaged weights of a checkpoint of a run (.safetensors; the last ones where there is no average), or a state
    dict of the original implementation (.pt). Tensors alone are read.

    Raises:
        ValueError: a file that is not there or holds something else.
        CheckpointError: a checkpoint that is damaged.
    """
    digest = digest_of(path)
    if path.suffix != ".safetensors":
        return Weights(load_reference_weights(path), digest)
    checkpoint = read_checkpoint(path)
    tensors = checkpoint.section("ema") or checkpoint.section("model")
    if not tensors:
        raise ValueError(f"network.weights: expected a checkpoint of a run, got {path}, which has no weights in it")
    return Weights(tensors, digest)


def digest_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"network.weights: expected a .pt file or a .safetensors checkpoint, got {path}: no such file")
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            sha.update(part)
    return sha.hexdigest()
