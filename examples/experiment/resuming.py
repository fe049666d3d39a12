"""Where a run begins: at a checkpoint of its own, with the weights of another, or anew."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from examples.experiment.config import Config
from examples.experiment.data import Images
from examples.experiment.weights import Weights, digest_of, load_weights
from lineardiffusion.training import Checkpoint, CheckpointError, Checkpoints


class Start(NamedTuple):
    """
    Arguments:
        checkpoint: to go on from; None for a run that is new.
        weights: to begin with, for a run that is new; None for random ones.
        weights_digest: of the file with which the run began, or begins; None for random ones.
        changes: settings that the run takes up from here on, by name, with what they were and are.
    """

    checkpoint: Checkpoint | None
    weights: Weights | None
    weights_digest: str | None
    changes: dict[str, tuple[Any, Any]]


def find_start(config: Config) -> Start:
    """Where a run with a configuration begins: what can be known before its images are opened.

    Raises:
        ValueError: there is a checkpoint of a run with another configuration, or that began with other weights; or the
            weights to begin with cannot be read.
        CheckpointError: there are checkpoints, and none is whole.
    """
    checkpoint = Checkpoints(config.run.folder / "checkpoints").latest()
    path = config.network.weights
    if checkpoint is None:
        weights = None if path is None else load_weights(path)
        return Start(None, weights, weights and weights.digest, {})
    if not {"config", "step", "shape", "images", "weights"} <= checkpoint.metadata.keys():
        raise CheckpointError(f"{checkpoint.path}: not a checkpoint of a training; move it away")
    changes = config.check_resumable(checkpoint.metadata["config"], checkpoint.path)
    began_with = checkpoint.metadata["weights"]
    # Weights that are gone are not needed any more, and those of the run itself are not what it began with.
    if path is not None and path.is_file() and not _is_inside(path, config.run.folder):
        digest = digest_of(path)
        if digest != began_with:
            raise ValueError(
                f"network.weights: the run in {config.run.folder} began with "
                + ("random weights" if began_with is None else f"other weights (SHA-256 {began_with[:12]}…)")
                + f", not with {path} ({digest[:12]}…); leave them out to go on with it, or choose another run.folder"
            )
    return Start(checkpoint, None, began_with, changes)


def check_images(images: Images, fingerprint: str, checkpoint: Checkpoint) -> None:
    """That a run has the images it had when a checkpoint was written, wherever they lie now.

    Raises:
        ValueError: they have changed.
    """
    there = checkpoint.metadata
    if tuple(there["shape"]) != images.shape:
        raise ValueError(
            f"data.size, data.channels: {checkpoint.path} is of images of shape {tuple(there['shape'])}, these are of "
            f"shape {images.shape}"
        )
    if there["num_images"] != len(images):
        raise ValueError(
            f"data.source: it had {there['num_images']} images when {checkpoint.path} was written and has "
            f"{len(images)} now; their order would not be the same"
        )
    if there["images"] != fingerprint:
        raise ValueError(
            f"data.source: the images, their order or their classes are not those that {checkpoint.path} was trained "
            f"on; give the run those, or choose another run.folder"
        )


def warn_of_other_use(weights: Weights, prediction: str, class_names: list[str] | None) -> None:
    """Warn where weights fit the network, but stood for something else in the run that wrote them."""
    about = weights.about
    trained = about["config"]["process"]["prediction"] if "config" in about else prediction
    if trained != prediction:
        warnings.warn(
            f"network.weights: they were trained with process.prediction = {trained}, which is {prediction} here",
            stacklevel=2,
        )
    names = about.get("class_names")
    if names and class_names and names != class_names:
        warnings.warn(
            f"network.weights: they were trained with the classes {names}, which are {class_names} here", stacklevel=2
        )


def _is_inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents
