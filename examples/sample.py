"""Draw images from a trained model.

    python examples/sample.py --model runs/train --count 64
    python examples/sample.py --model runs/train --count 50000 --steps 50 --sampler ancestral --output npz
    python examples/sample.py --model runs/train --steps 25 --order 2 --grid log_snr
    accelerate launch --num_processes 8 examples/sample.py --model runs/train --count 50000

Image i depends on the model, the settings and i alone: it is the same file however many images are drawn, in whatever
order and on however many processes. A command that was stopped goes on with the images that are missing. Beside the
images there are grid.png, strips.png (how the first few came about), and samples.json (the model and the settings).
"""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

# So that `python examples/sample.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from examples.experiment.config import Config
from examples.experiment.devices import from_main, make_processes
from examples.experiment.drawing import Drawing, GridName, lay_out
from examples.experiment.pictures import from_bytes, strip
from examples.experiment.program import run_program
from examples.experiment.runs import choose_classes, find_checkpoint, load_denoiser, run_folder
from examples.experiment.samples import SampleFolder
from lineardiffusion.pictures import grid, to_bytes, write_png
from lineardiffusion.samplers import Sampler
from lineardiffusion.training import Checkpoint, locked_folder, read_checkpoint


@dataclass
class SampleConfig:
    """Which images to draw, and how.

    Args:
        model: folder of a run, or a checkpoint in it.
        count: how many images.
        folder: where they go; samples/<step>-<sampler>-<steps> in the run's folder by default.
        output: "png" for a file each, "npz" for one array images (N, H, W, C).
        sampler: ancestral; DDIM or shared noise, with `eta`; or Heun's method.
        eta: η of DDIM and shared noise, from 0 (no noise but what new detail needs; the default) to 1 (ancestral).
        order: 1, 2 or 3: of how many estimates a step is made.
        steps: sampling steps, each a call of the network, or two with Heun's method; all T by default.
        grid: where the steps are, in t or in the noise level; "trailing" and "leading" are spacings of diffusers.
        seed: of the images.
        block: images at a time, on each process. The last bits of a matrix product depend on its size, so blocks are
            always of this size, filled up where fewer images are missing; another size may change pixels by a grey
            level.
        label: class of all the images, by name or by number, counted from 0; by turns all of them by default. Where
            classes have numbers for names, name=2 is the class of that name and number=2 the third one.
        guidance: scale of classifier-free guidance; 1 for none.
        weights: averaged over the training, or the last.
        residual: spectra that calibrate.py has measured of this model, for covariance-corrected sampling.
        strips: how many images to show from noise to image.
        progress: show a bar.
    """

    model: Path
    count: int = 64
    folder: Path | None = None
    output: Literal["png", "npz"] = "png"
    sampler: Literal["ancestral", "ddim", "shared_noise", "heun"] = "ddim"
    eta: float | None = None
    order: Literal[1, 2, 3] = 1
    steps: int | None = None
    grid: GridName = "uniform"
    seed: int = 0
    block: int = 32
    label: str | None = None
    guidance: float = 1.0
    weights: Literal["ema", "last"] = "ema"
    residual: Path | None = None
    strips: int = 4
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("block", 1), ("strips", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance: expected a finite number, got {self.guidance}")
        if self.sampler in ("ancestral", "heun") and self.eta is not None:
            raise ValueError(
                f"eta: expected none with sampler={self.sampler}, got {self.eta}; it is an option of sampler=ddim, "
                f"which is ancestral sampling where eta is 1, and of sampler=shared_noise"
            )
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}")
        if self.sampler == "heun" and self.order != 1:
            raise ValueError(f"order: expected 1 with sampler=heun, which is of second order, got {self.order}")
        if self.sampler in ("shared_noise", "heun") and self.residual is not None:
            raise ValueError(
                f"residual: expected none with sampler={self.sampler}, got {self.residual}; sampler=ddim and "
                f"sampler=ancestral draw with it"
            )


def sample(config: SampleConfig) -> Path:
    """Draw the images that are not there yet; returns the folder.

    Raises:
        ValueError: settings that do not fit the model, or a folder with images of others.
        OSError: a folder that cannot be written to, or that another command is drawing into.
        FloatingPointError: an image that is not finite.
    """
    processes = make_processes()
    main = processes.is_main_process
    # A run that is still being trained may have a newer checkpoint for a process that looks later.
    found = find_checkpoint(config.model) if main else None
    where = from_main(processes, None if found is None else found.path)
    checkpoint = read_checkpoint(where) if found is None else found
    denoiser, trained = load_denoiser(checkpoint, averaged=config.weights == "ema")
    names = checkpoint.metadata["class_names"]
    check_guidance(config, trained, names)
    classes = choose_classes(config.label, names)
    if config.guidance != 1:
        denoiser = ld.guided(denoiser, config.guidance, null={"y": len(names)})
    residual = None if config.residual is None else read_residual(config, checkpoint)
    sampler = make_sampler(config, denoiser.to(processes.device), residual)
    drawing = Drawing(sampler, classes, config.seed, config.block)

    labels = None if classes is None else [names[number] for number in classes]
    settings = describe(config, checkpoint, sampler, residual, labels)
    path = config.folder or run_folder(config.model) / "samples" / name_of(settings)
    folder = SampleFolder(path, denoiser.process.shape(0), packed=config.output == "npz")
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained(path))
        pending: list[int] = []
        if main:
            stack.enter_context(locked_folder(path))
            folder.claim(settings)
            pending = folder.missing(config.count)
        # What there is to do is what the main process has seen: one that looks later sees what others have drawn.
        agreed, pending = from_main(processes, (settings, pending))
        if settings != agreed:
            raise ValueError(f"model: process {processes.process_index} has {settings}, the main process {agreed}")
        draw_all(config, processes, drawing, folder, pending)
        processes.wait_for_everyone()
        if main:
            folder.finish(config.count)
            draw_pictures(config, drawing, folder)
        processes.wait_for_everyone()
    return path


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Errors of the file system, with what to do about them."""
    try:
        yield
    except BlockingIOError:  # another command is drawing into the folder, which says all
        raise
    except OSError as error:
        raise OSError(
            f"folder: {error}. What has been drawn is kept: once {folder} can be written to, the same command goes on; "
            f"--folder chooses another"
        ) from error


# ---------------------------------------------------------------------- settings


def make_sampler(config: SampleConfig, denoiser: ld.Denoiser, residual: Checkpoint | None) -> Sampler:
    """The sampler of the configuration, for images in [−1, 1].

    Raises:
        ValueError: steps that do not fit the model.
    """
    times = lay_out(denoiser.process, config.steps, config.grid)
    clip, eta = (-1.0, 1.0), config.eta or 0.0
    if config.sampler == "heun":
        return ld.HeunSampler(denoiser, times, clip=clip)
    if config.sampler == "shared_noise":
        return ld.SharedNoiseSampler(denoiser, times, eta, config.order, clip=clip)
    spectra = None if residual is None else ld.Residual.from_state_dict(residual.tensors)
    if config.sampler == "ancestral":
        return ld.AncestralSampler(denoiser, times, config.order, clip=clip, residual=spectra)
    return ld.DDIMSampler(denoiser, times, eta, config.order, clip=clip, residual=spectra)


def read_residual(config: SampleConfig, checkpoint: Checkpoint) -> Checkpoint:
    """What calibrate.py has measured.

    Raises:
        ValueError: it was measured of another model, of its other weights, or for other steps.
    """
    found = read_checkpoint(config.residual)
    keys = ("step", "weights", "model")
    here = (checkpoint.metadata["step"], config.weights, checkpoint.digest)
    there = tuple(found.metadata.get(key) for key in keys)
    if there != here:
        raise ValueError(
            f"residual: expected spectra of step and weights {here[:2]} of the model with SHA-256 {here[2]}, got "
            f"{there[:2]} of {there[2]} in {config.residual}; measure this model with calibrate.py"
        )
    steps, grid = found.metadata["steps"], found.metadata["grid"]
    if (steps, grid) != (config.steps, config.grid):
        raise ValueError(
            f"residual: expected spectra of steps = {config.steps} and grid = {config.grid}, got those of steps = "
            f"{steps} and grid = {grid}; measure these with calibrate.py"
        )
    if config.guidance != 1:
        warnings.warn("residual: the spectra were measured without guidance, and are not those of guided estimates",
                      stacklevel=2)  # fmt: skip
    return found


def check_guidance(config: SampleConfig, trained: Config, names: list[str] | None) -> None:
    """
    Raises:
        ValueError: guidance of a model without labels.
    """
    if config.guidance == 1:
        return
    if names is None:
        raise ValueError(f"guidance: expected 1 for a model without labels, got {config.guidance}")
    if trained.optimization.label_dropout == 0:
        warnings.warn("guidance: the model was trained with optimization.label_dropout = 0 and has never seen an image "
                      "without its label; what it is guided away from is arbitrary", stacklevel=2)  # fmt: skip


def describe(
    config: SampleConfig,
    checkpoint: Checkpoint,
    sampler: Sampler,
    residual: Checkpoint | None,
    labels: list[str] | None,
) -> dict[str, Any]:
    """What decides the images: commands that agree in it may share a folder. An array also has a fixed number.

    Arguments:
        sampler: whose times count.
        residual: what is drawn with, by its file.
        labels: names of the classes that the images have by turns.
    """
    settings = {
        "model": checkpoint.digest,
        "step": checkpoint.metadata["step"],
        "residual": None if residual is None else residual.digest,
        "labels": labels,  # image i has the i-th of them, again from the first after the last
        "sampler": config.sampler,
        "eta": (config.eta or 0.0) if config.sampler in ("ddim", "shared_noise") else None,
        "steps": len(sampler.times) - 1,
    }
    names = ["order", "grid", "weights", "seed", "guidance", "block", "output"]
    names += ["count"] if config.output == "npz" else []
    return settings | {name: getattr(config, name) for name in names}


def name_of(settings: dict[str, Any]) -> str:
    """Of a folder of samples; what is not in it is refused there where it differs."""
    parts = [f"{settings['step']:08d}", settings["sampler"], str(settings["steps"])]
    parts += [f"order-{settings['order']}"] if settings["order"] != 1 else []
    parts += [settings["grid"]] if settings["grid"] != "uniform" else []
    parts += ["corrected"] if settings["residual"] else []
    return "-".join(parts)


# ---------------------------------------------------------------------- images


def draw_all(
    config: SampleConfig, processes: PartialState, drawing: Drawing, folder: SampleFolder, pending: list[int]
) -> None:
    """Draw the share of this process in the images that are pending, which are the same list on every process."""
    mine = pending[processes.process_index :: processes.num_processes]
    before = config.count - len(pending)
    with tqdm(
        total=config.count, initial=before, desc="sampling", unit="image",
        disable=not (config.progress and processes.is_main_process),
    ) as bar:  # fmt: skip
        for start in range(0, len(mine), config.block):
            indices = mine[start : start + config.block]
            for index, pixels in zip(indices, to_bytes(drawing.images(indices)), strict=True):
                folder.write(index, pixels)
            done = (start + len(indices)) / len(mine)  # the other processes are as far with their shares
            bar.update(before + round(done * len(pending)) - bar.n)


def draw_pictures(config: SampleConfig, drawing: Drawing, folder: SampleFolder) -> None:
    """A grid of the first images, and strips of the first few from noise to image."""
    write_png(grid(from_bytes(folder.first(min(config.count, 64)))), folder.path / "grid.png")
    strips = [strip(drawing.states(index)) for index in range(min(config.strips, config.count))]
    if strips:
        write_png(np.concatenate(strips), folder.path / "strips.png")


def main(arguments: list[str] | None = None) -> None:
    run_program(SampleConfig, __doc__, sample, arguments)


if __name__ == "__main__":
    main()
