"""A trained model from the folder of its run, and its classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

import lineardiffusion as ld
from examples.experiment.building import build_denoiser, build_network, build_process
from examples.experiment.config import Config
from lineardiffusion.training import Checkpoint, Checkpoints, read_checkpoint, restore_tensors


def class_number(label: str, names: list[str]) -> int:
    """The number of a class, 0 … C − 1, that is asked for by its name or that number; where classes have numbers for
    names, "name=2" and "number=2" say which of the two is meant.

    Raises:
        ValueError: a class that is not there, or a name that may be the number of another.
    """
    by_name = {f"name={name}": number for number, name in enumerate(names)}
    known = {**{f"number={number}": number for number in range(len(names))}, **by_name}
    if label in known:
        return known[label]
    readings = [key for key in (f"name={label}", f"number={label}") if key in known]
    if not readings:
        raise ValueError(f"label: expected one of {names} or the number of one, got {label!r}")
    # The labels 0, 2, 5 are the classes 0, 1, 2: then 2 may be meant as either, and 1 is hardly meant as the label 2.
    ambiguous = len({known[key] for key in readings}) > 1
    if ambiguous or (label not in names and any(name.isdecimal() for name in names)):
        choices = " or ".join(f"{key} (the class {names[known[key]]!r})" for key in readings)
        raise ValueError(f"label: {label!r} may be a name or a number where the classes are {names}; say {choices}")
    return known[readings[0]]


def choose_classes(label: str | None, names: list[str] | None) -> list[int] | None:
    """The numbers of the classes that the images have by turns; None for a model without classes.

    Raises:
        ValueError: a class the model does not know, or one that may be either of two.
    """
    if names is None:
        if label is not None:
            raise ValueError(f"label: expected none for a model without labels, got {label}")
        return None
    return list(range(len(names))) if label is None else [class_number(label, names)]


def find_checkpoint(path: Path) -> Checkpoint:
    """The newest whole checkpoint of a run's folder, or the given file.

    Raises:
        ValueError: there is none.
        CheckpointError: it is damaged.
    """
    if path.is_file():
        return read_checkpoint(path)
    checkpoint = Checkpoints(path / "checkpoints").latest() if path.is_dir() else None
    if checkpoint is None:
        raise ValueError(f"model: expected the folder of a run or a checkpoint, got {path}, where there is none")
    return checkpoint


def run_folder(path: Path) -> Path:
    """The folder of the run that `find_checkpoint` looks into; that of the file for a checkpoint somewhere else."""
    if path.is_dir():
        return path
    folder = path.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def load_denoiser(checkpoint: Checkpoint, averaged: bool = True) -> tuple[ld.Denoiser, Config]:
    """The denoiser of a checkpoint, with the averaged weights or the last ones, and the configuration of its run.

    Raises:
        ValueError: a file that train.py has not written, or one that does not fit its own configuration.
    """
    about = checkpoint.metadata
    try:
        config = Config.from_dict(about["config"])
        shape, num_classes = tuple(about["shape"]), about["num_classes"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"model: expected a checkpoint that train.py of this version has written, got {checkpoint.path} "
            f"({type(error).__name__}: {error})"
        ) from error
    network = build_network(config.network, shape, num_classes)
    weights = checkpoint.section("ema" if averaged else "model")
    restore_tensors(weights, network.state_dict(), f"{checkpoint.path}: weights")
    process = build_process(config.process, shape)
    return build_denoiser(config.process, network.eval(), process), config


def load_reference_weights(path: Path) -> dict[str, Tensor]:
    """Weights of the original implementation: a state dict in a .pt file, of which tensors alone are read.

    Raises:
        ValueError: a file that is not that, or a torch that does not keep to it: before 2.6 a file could run code with
            weights_only (CVE-2025-32434).
    """
    if TorchVersion(torch.__version__) < (2, 6):
        raise ValueError(
            f"weights: {path} may hold code, which torch {torch.__version__} can be made to run even where tensors "
            f"alone are read (CVE-2025-32434); install torch 2.6 or newer"
        )
    if not path.is_file():
        raise ValueError(f"weights: expected a file with a state dict, got {path}, where there is none")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights: {path} is not a state dict that can be read with weights_only ({error})") from error
    if not isinstance(weights, dict):
        raise ValueError(f"weights: expected a state dict in {path}, got {type(weights).__name__}")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"weights: expected a state dict of tensors by name in {path}, got {name!r}: {type(value).__name__}"
            )
    return weights
