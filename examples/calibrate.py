"""Measure what a trained model cannot know where the resolution grows, on images it was not trained on.

    python examples/calibrate.py --model runs/train --data.source held_out.npz --data.channels 1 --steps 50
    python examples/sample.py --model runs/train --residual runs/train/residual.safetensors --steps 50

The first writes the covariances of the residuals beside the checkpoints, and prints how large they are; the second
draws with them (covariance-corrected sampling: docs/laboratory.md).
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

# So that `python examples/calibrate.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from examples.experiment.config import DataConfig
from examples.experiment.data import open_images
from examples.experiment.drawing import GridName, lay_out
from examples.experiment.outputs import check_writable
from examples.experiment.program import run_program
from examples.experiment.runs import find_checkpoint, load_denoiser, run_folder
from lineardiffusion.training import keyed_generator, state_tensors, write_checkpoint


@dataclass
class CalibrateConfig:
    """What to measure, and on what.

    Args:
        model: folder of a run, or a checkpoint in it.
        data: held-out images; labels are used if the model knows classes.
        steps, grid: of the sampling that is to be corrected, as sample.py has them.
        limit: greatest number of images.
        rank: principal components of the residual, beside the spectrum of the rest.
        weights: averaged over the training, or the last.
        seed: of the images that are drawn, and of the noise.
        output: the file; residual.safetensors in the run's folder by default.
    """

    model: Path
    data: DataConfig = field(default_factory=DataConfig)
    steps: int | None = None
    grid: GridName = "uniform"
    limit: int = 2000
    rank: int = 64
    weights: Literal["ema", "last"] = "ema"
    seed: int = 0
    output: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("rank", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


def calibrate(config: CalibrateConfig) -> Path:
    """Measure, write, print; returns the file.

    Raises:
        ValueError: images or labels that do not fit the model, or a model that does not change resolution.
        CheckpointError: a file that could not be written.
    """
    checkpoint = find_checkpoint(config.model)
    denoiser, _ = load_denoiser(checkpoint, averaged=config.weights == "ema")
    if not denoiser.process.shape_changes():
        raise ValueError(f"model: expected one that changes resolution, got {denoiser.process} in {checkpoint.path}")
    times = lay_out(denoiser.process, config.steps, config.grid)
    path = config.output or run_folder(config.model) / "residual.safetensors"
    check_writable(path)  # before there is much work to lose
    data = open_images(config.data)
    if data.shape != denoiser.process.shape(0):
        raise ValueError(f"data: expected images of shape {denoiser.process.shape(0)}, got {data.shape}")
    numbers = class_numbers(data.class_names, checkpoint.metadata["class_names"])
    images, labels = data.tensor(config.limit, config.seed)
    known = {} if numbers is None else {"y": numbers[labels]}
    generator = keyed_generator(config.seed, "calibrate")
    residual = ld.calibrate(denoiser, images, times, rank=config.rank, clip=(-1.0, 1.0), generator=generator, **known)
    about = {
        "model": checkpoint.digest, "step": checkpoint.metadata["step"], "weights": config.weights,
        "steps": config.steps, "grid": config.grid, "images": len(images),
    }  # fmt: skip
    write_checkpoint(path, state_tensors(residual.state_dict()), about)
    for t, s in residual.spectra:
        sizes = " → ".join("×".join(map(str, denoiser.process.shape(u)[1:])) for u in (t, s))
        total = residual.spectra[t, s].sum() + residual.components.get((t, s), torch.zeros(1)).square().sum()
        variance = denoiser.process.signal_scale(s) ** 2 * float(total) / math.prod(denoiser.process.shape(s))
        print(f"t = {t}: {sizes}, residual variance {variance:.4f} beside noise {denoiser.process.sigma(s) ** 2:.4f}")
    return path


def class_numbers(there: list[str] | None, here: list[str] | None) -> Tensor | None:
    """The model's number of each class of the data, by their names; None for a model without classes.

    Arguments:
        there: names of the classes of the data.
        here: of the model.

    Raises:
        ValueError: data without labels, or with classes that the model does not know.
    """
    if here is None:
        return None
    if there is None:
        raise ValueError(f"data: expected labels for a model that knows the classes {here}, got images without")
    unknown = [name for name in there if name not in here]
    if unknown:
        raise ValueError(f"data: expected the classes {here} of the model, got {unknown}")
    return torch.tensor([here.index(name) for name in there])


def main(arguments: list[str] | None = None) -> None:
    run_program(CalibrateConfig, __doc__, calibrate, arguments)


if __name__ == "__main__":
    main()
