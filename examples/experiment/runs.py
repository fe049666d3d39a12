"""A trained model from the folder of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lineardiffusion as ld
from examples.experiment.config import Config, build_network, build_process
from lineardiffusion.training import Checkpoint, Checkpoints, read_checkpoint, restore_tensors


class Guided(nn.Module):
    """Classifier-free guidance (Ho & Salimans, 2022, https://arxiv.org/abs/2207.12598): the prediction without a label,
    and w times what the label changes about it.

    Arguments:
        network: knows the labels 0 … C − 1, and C for none.
        scale: w; 1 is the plain conditional prediction, 0 the unconditional one.
    """

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x_t: Tensor, t_index: Tensor, *, y: Tensor, **kwargs: Any) -> Tensor:
        if self.scale == 1:
            return self.network(x_t, t_index, y=y, **kwargs)
        none = torch.full_like(y, self.network.num_classes - 1)
        both = self.network(torch.cat([x_t, x_t]), t_index.repeat(2), y=torch.cat([none, y]), **kwargs)
        unconditional, conditional = both.chunk(2)
        return unconditional + self.scale * (conditional - unconditional)


def find_checkpoint(path: Path) -> Checkpoint:
    """The newest whole checkpoint of a run's folder, or the given file.

    Raises:
        ValueError: there is none.
        CheckpointError: it is damaged.
    """
    if path.is_file():
        return read_checkpoint(path)
    checkpoint = Checkpoints(path / "checkpoints").latest()
    if checkpoint is None:
        raise ValueError(f"model: expected the folder of a run or a checkpoint, got {path}, where there is none")
    return checkpoint


def run_folder(path: Path) -> Path:
    """The folder of the run that `find_checkpoint` looks into."""
    return path if path.is_dir() else path.parent.parent


def load_denoiser(checkpoint: Checkpoint, averaged: bool = True) -> tuple[ld.Denoiser, Config]:
    """The denoiser of a checkpoint, with the averaged weights or the last ones, and the configuration of its run."""
    config = Config.from_dict(checkpoint.metadata["config"])
    shape = tuple(checkpoint.metadata["shape"])
    network = build_network(config.network, shape, checkpoint.metadata["num_classes"])
    weights = checkpoint.section("ema" if averaged else "model")
    restore_tensors(weights, network.state_dict(), f"{checkpoint.path}: weights")
    process = build_process(config.process, shape)
    return ld.Denoiser(network.eval(), process, config.process.prediction), config


def load_reference_weights(path: Path) -> dict[str, Tensor]:
    """Weights of the original implementation: a state dict in a .pt file, of which tensors alone are read.

    Raises:
        ValueError: a file that is not that.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights: {path} is not a state dict that can be read with weights_only ({error})") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"weights: expected a state dict in {path}, got {type(weights).__name__}")
    return weights
