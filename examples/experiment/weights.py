"""Weights that a run may begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from examples.experiment.runs import load_reference_weights
from examples.experiment.sources import digest_of_file
from lineardiffusion.training import read_checkpoint


class Weights(NamedTuple):
    """Tensors by their names in the network, the SHA-256 of the file they come from, and what it says of the run that
    wrote it; nothing for a file of the original implementation."""

    tensors: dict[str, Tensor]
    digest: str
    about: dict[str, Any]


def load_weights(path: Path) -> Weights:
    """The averaged weights of a checkpoint of a run (.safetensors; the last ones where there is no average), or a state
    dict of the original implementation (.pt). Tensors alone are read.

    Raises:
        ValueError: a file that is not there or holds something else.
        CheckpointError: a checkpoint that is damaged.
    """
    digest = digest_of(path)
    if path.suffix != ".safetensors":
        return Weights(load_reference_weights(path), digest, {})
    checkpoint = read_checkpoint(path)
    tensors = checkpoint.section("ema") or checkpoint.section("model")
    if not tensors:
        raise ValueError(f"network.weights: expected a checkpoint of a run, got {path}, which has no weights in it")
    return Weights(tensors, digest, checkpoint.metadata)


def digest_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"network.weights: expected a .pt file or a .safetensors checkpoint, got {path}: no such file")
    return digest_of_file(path).hex()
