"""Draw images from a trained model.

    python examples/sample.py --model runs/train --count 64
    python examples/sample.py --model runs/train --count 50000 --steps 50 --sampler ancestral --output npz
    accelerate launch --num_processes 8 examples/sample.py --model runs/train --count 50000

Image i depends on the settings and on i alone: it is the same file however many images are drawn, in whatever order and
on however many processes. A command that was stopped goes on with the images that are missing. Beside the images there
are grid.png, strips.png (how the first few came about), and samples.json (the settings).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

# So that `python examples/sample.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lineardiffusion as ld
from examples.experiment.config import run_program
from examples.experiment.pictures import from_bytes, grid, read_png, strip, to_bytes, write_png
from examples.experiment.runs import Guided, find_checkpoint, load_denoiser, run_folder
from lineardiffusion.training import keyed_generator, read_checkpoint, whole_file

Sampler = ld.AncestralSampler | ld.DDIMSampler


@dataclass
class SampleConfig:
    """Which images to draw, and how.

    Args:
        model: folder of a run, or a checkpoint in it.
        count: how many images.
        folder: where they go; samples/<step>-<settings> in the run's folder by default.
        output: "png" for a file each, "npz" for one array images (N, H, W, C).
        sampler: ancestral, or DDIM with `eta`.
        eta: η of DDIM, from 0 (no noise but what new detail needs) to 1 (ancestral).
        steps: sampling steps, to which both times of each change of resolution are added; all T by default.
        seed: of the images.
        block: images at a time, on each process. The last bits of a matrix product depend on its size, so blocks are
            always of this size, filled up where fewer images are missing; another size may change pixels by a grey
            level.
        label: class of all the images, by name or number; by turns all of them by default.
        guidance: scale of classifier-free guidance; 1 for none.
        weights: averaged over the training, or the last.
        residual: spectra that calibrate.py has measured of these weights, for covariance-corrected sampling.
        strips: how many images to show from noise to image.
        progress: show a bar.
    """

    model: Path
    count: int = 64
    folder: Path | None = None
    output: Literal["png", "npz"] = "png"
    sampler: Literal["ancestral", "ddim"] = "ddim"
    eta: float = 0.0
    steps: int | None = None
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


def sample(config: SampleConfig) -> Path:
    """Draw the images that are not there yet; returns the folder.

    Raises:
        ValueError: settings that do not fit the model, or a folder with images of other settings.
    """
    accelerator = Accelerator()
    checkpoint = find_checkpoint(config.model)
    denoiser, _ = load_denoiser(checkpoint, averaged=config.weights == "ema")
    labels = choose_labels(config, checkpoint.metadata["class_names"])
    if labels is not None:
        denoiser = ld.Denoiser(Guided(denoiser.network, config.guidance), denoiser.process, denoiser.prediction)
    elif config.guidance != 1:
        raise ValueError(f"guidance: expected 1 for a model without labels, got {config.guidance}")
    residual = load_residual(config, checkpoint.metadata["step"])
    sampler = make_sampler(config, denoiser.to(accelerator.device), residual)

    settings = describe(config, checkpoint.metadata["step"])
    name = f"{checkpoint.metadata['step']:08d}-{config.sampler}-{config.steps or denoiser.process.num_steps}"
    name += "-corrected" if residual else ""
    folder = config.folder or run_folder(config.model) / "samples" / name
    with accelerator.main_process_first():
        claim(folder, settings)
    packed = (folder / "samples.npz").exists()
    pending = [index for index in range(config.count) if not (packed or file_of(folder, index).exists())]
    mine = pending[accelerator.process_index :: accelerator.num_processes]
    for indices in tqdm(
        list(chunks(mine, config.block)),
        desc="sampling",
        unit="block",
        disable=not (config.progress and accelerator.is_main_process),
    ):
        images = draw(config, sampler, indices, labels)
        for index, pixels in zip(indices, to_bytes(images), strict=True):
            write_png(pixels, file_of(folder, index))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish(config, folder, sampler, labels)
    accelerator.wait_for_everyone()
    return folder


def make_sampler(config: SampleConfig, denoiser: ld.Denoiser, residual: ld.Residual | None) -> Sampler:
    if config.sampler == "ancestral":
        return ld.AncestralSampler(denoiser, config.steps, residual=residual)
    return ld.DDIMSampler(denoiser, config.steps, config.eta, residual=residual)


def load_residual(config: SampleConfig, step: int) -> ld.Residual | None:
    """The spectra of the configuration.

    Raises:
        ValueError: they were measured of other weights.
    """
    if config.residual is None:
        return None
    found = read_checkpoint(config.residual)
    there, here = (found.metadata.get("step"), found.metadata.get("weights")), (step, config.weights)
    if there != here:
        raise ValueError(f"residual: expected spectra of step and weights {here}, got {there} in {config.residual}")
    return ld.Residual.from_state_dict(found.tensors)


def choose_labels(config: SampleConfig, names: list[str] | None) -> list[int] | None:
    """The class of each image; None for a model without classes.

    Raises:
        ValueError: a class the model does not know.
    """
    if names is None:
        if config.label is not None:
            raise ValueError(f"label: expected none for a model without labels, got {config.label}")
        return None
    if config.label is None:
        return [index % len(names) for index in range(config.count)]
    if config.label in names:
        return [names.index(config.label)] * config.count
    if config.label.isdecimal() and int(config.label) < len(names):
        return [int(config.label)] * config.count
    raise ValueError(f"label: expected one of {names} or the number of one, got {config.label!r}")


def draw(config: SampleConfig, sampler: Sampler, indices: list[int], labels: list[int] | None) -> Tensor:
    """The images of up to a block of indices, computed as a whole block: the last one is repeated to fill it."""
    filled = indices + [indices[-1]] * (config.block - len(indices))
    known = conditioning(sampler, filled, labels)
    return sampler(len(filled), seeds_of(filled, config.seed), progress=False, **known)[: len(indices)]


def conditioning(sampler: Sampler, indices: list[int], labels: list[int] | None) -> dict[str, Tensor]:
    device = next(sampler.denoiser.parameters()).device
    return {} if labels is None else {"y": torch.tensor([labels[index] for index in indices], device=device)}


def seeds_of(indices: list[int], seed: int) -> list[int]:
    """Seeds that differ for every image and every seed."""
    return [keyed_generator(seed, "sample", index).initial_seed() for index in indices]


def describe(config: SampleConfig, step: int) -> dict[str, Any]:
    """What decides the images: commands that agree in it may share a folder. An array also has a fixed number."""
    names = ["sampler", "eta", "steps", "seed", "label", "guidance", "weights", "block", "output"]
    names += ["count"] if config.output == "npz" else []
    settings = {name: getattr(config, name) for name in names}
    return {"step": step, **settings, "residual": None if config.residual is None else str(config.residual)}


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings into the folder, or check that it has them.

    Raises:
        ValueError: naming the settings that differ.
    """
    path = folder / "samples.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        differing = [f"{key}: {there.get(key)!r} there, {value!r} here" for key, value in settings.items()
                     if there.get(key) != value]  # fmt: skip
        if differing:
            raise ValueError(f"folder: {folder} has images of other settings ({'; '.join(differing)})")
        return
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def file_of(folder: Path, index: int) -> Path:
    return folder / "images" / f"{index:08d}.png"


def chunks(indices: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def finish(config: SampleConfig, folder: Path, sampler: Sampler, labels: list[int] | None) -> None:
    """The pictures of all images, and the array if that is asked for in place of files."""
    packed = folder / "samples.npz"
    if config.output == "npz" and not packed.exists():
        pack([file_of(folder, index) for index in range(config.count)], packed)
        shutil.rmtree(folder / "images")
    shown = range(min(config.count, 64))
    if config.output == "npz":
        first = np.load(packed)["images"][: len(shown)]
    else:
        first = np.stack([read_png(file_of(folder, index)) for index in shown])
    write_png(grid(from_bytes(first)), folder / "grid.png")
    strips = []
    for index in range(min(config.strips, config.count)):
        known = conditioning(sampler, [index], labels)
        strips.append(strip(list(sampler.trajectory(1, seeds_of([index], config.seed), progress=False, **known))))
    if strips:
        write_png(np.concatenate(strips), folder / "strips.png")


def pack(paths: list[Path], target: Path) -> None:
    """One array images (N, H, W, C) of all files, written whole or not at all."""
    images = np.stack([read_png(path) for path in paths])
    with whole_file(target) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, images=images)


def main(arguments: list[str] | None = None) -> None:
    run_program(SampleConfig, __doc__, sample, arguments)


if __name__ == "__main__":
    main()
