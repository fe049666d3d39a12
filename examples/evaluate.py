"""How close samples are to real images.

    python examples/evaluate.py --samples runs/train/samples/00100000-ddim-50 --data.source images.npz --data.channels 1
    python examples/evaluate.py --samples … --data.source /path/to/images --data.size 64 --metrics '[fid, kid, prc]'

"frechet" is the Fréchet distance in the features of a small classifier that is trained on the labelled real images at
hand and kept for the next time; nothing is downloaded. "fid", "kid" and "prc" (precision and recall) are those of
torch-fidelity, all in the features of the Inception network, whose weights must be on this machine: at --inception, or
where torch-fidelity keeps them. Prints one JSON object.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

# So that `python examples/evaluate.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.experiment.config import DataConfig
from examples.experiment.data import Images, open_images
from examples.experiment.features import frechet_distance, train_judge
from examples.experiment.outputs import check_writable
from examples.experiment.program import run_program
from examples.experiment.runs import load_reference_weights
from lineardiffusion.training import whole_file

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


@dataclass
class EvaluateConfig:
    """What to compare.

    Args:
        samples: a folder of images, as sample.py writes, or a .npz file; in the size of the real ones.
        data: the real images. Its max_corrupt holds for the samples, too.
        metrics: which to compute; "frechet" needs labels of the real images, the others torch-fidelity.
        limit: greatest number of images of either kind; the real ones are drawn at random.
        cache: a folder for the trained classifier.
        inception: weights of torch-fidelity's Inception network.
        seed: of the classifier and of what is drawn.
        output: a file for the result, beside its being printed.
    """

    samples: Path
    data: DataConfig = field(default_factory=DataConfig)
    metrics: list[Literal["frechet", "fid", "kid", "prc"]] = field(default_factory=lambda: ["frechet"])
    limit: int = 50_000
    cache: Path = Path("runs/features")
    inception: Path | None = None
    seed: int = 0
    output: Path | None = None

    def __post_init__(self) -> None:
        if self.limit < 2:
            raise ValueError(f"limit: expected at least 2 images, got {self.limit}")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed: expected a number of 64 bits, got {self.seed}")
        if not self.metrics:
            raise ValueError("metrics: expected at least one, got none")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The metrics by name, and how they came about.

    Raises:
        ValueError: images or weights that are not there, or that do not fit.
    """
    inception = [name for name in config.metrics if name != "frechet"]
    weights = inception_weights(config) if inception else None
    labelled = config.data.labels or "frechet" in config.metrics
    real = Chosen(open_images(dataclasses.replace(config.data, labels=labelled)), config, "real")
    samples = Chosen(open_samples(config, real.images.shape), config, "samples", resize=False)
    if min(len(samples), len(real)) < 2:
        raise ValueError(f"samples: expected two or more, and real images too, got {len(samples)} and {len(real)}")
    result: dict[str, Any] = {"samples": len(samples), "real": len(real)}
    result |= {"unreadable_samples": samples.unreadable, "unreadable_real": real.unreadable}
    if "frechet" in config.metrics:
        result |= classifier_metrics(config, samples, real)
    if weights is not None:
        result |= inception_metrics(config, samples, real, inception, weights)
    return result


def open_samples(config: EvaluateConfig, shape: tuple[int, int, int]) -> Images:
    """What sample.py wrote into the folder, or else the images in it.

    Raises:
        ValueError: there are none.
    """
    folder = config.samples / "images" if os.path.isdir(config.samples / "images") else config.samples
    folder = config.samples / "samples.npz" if os.path.isfile(config.samples / "samples.npz") else folder
    data = DataConfig(str(folder), shape[1:], shape[0], max_corrupt=config.data.max_corrupt)
    try:
        return open_images(data)
    except ValueError as error:
        raise ValueError(f"samples: {str(error).removeprefix('data.source: ')}") from error


class Chosen:
    """The images that can be read, or `limit` of them, read again whenever they are asked for: tensors (B, C, H, W) by
    indices (B,), so that there is never more than a batch in memory.

    Arguments:
        images: of which to choose.
        config: limit and seed.
        what: they are, for messages.
        resize: images of other sizes than theirs.

    Raises:
        ValueError: too many cannot be read, or one has another size and may not be resized.
    """

    def __init__(self, images: Images, config: EvaluateConfig, what: str, resize: bool = True) -> None:
        count, height, width = min(config.limit, len(images)), *images.shape[1:]
        self.images, indices = images, []
        for index, picture in tqdm(images.readable(config.limit, config.seed), desc=what, total=count, delay=2):
            if not resize and picture.size != (width, height):
                raise ValueError(
                    f"{what}: expected images of {height} × {width} pixels, as the real ones are, got "
                    f"{picture.height} × {picture.width} in {images.name(index)}; data.size resizes the real ones"
                )
            indices.append(index)
        self.indices, self.unreadable = indices, count - len(indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)"""
        return (len(self), *self.images.shape)

    @property
    def labels(self) -> Tensor:
        """(N,)"""
        return torch.tensor([self.images.label(index) for index in self.indices])

    @property
    def num_classes(self) -> int | None:
        return self.images.num_classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([self.image(place) for place in indices.tolist()])

    def image(self, place: int) -> Tensor:
        """One image (C, H, W).

        Raises:
            ValueError: it can no more be read.
        """
        item = self.images[self.indices[place]]
        if item.fault:
            raise ValueError(f"{item.fault}; it could be read when this program started")
        return item.image


def classifier_metrics(config: EvaluateConfig, samples: Chosen, real: Chosen) -> dict[str, Any]:
    """The Fréchet distance to the images the classifier has learnt from, and that of those held out, beside which it is
    to be read."""
    judge = train_judge(real, real.labels, real.num_classes or 0, config.cache, config.seed)
    reference = judge.learnt(real)
    return {
        "frechet": frechet_distance(judge.features(samples), reference),
        "frechet_of_held_out": frechet_distance(judge.features(real, judge.held_out), reference),
        "held_out": len(judge.held_out),
        "classifier_accuracy": judge.accuracy,
    }


class Bytes(Dataset[Tensor]):
    """Images as torch-fidelity reads them: uint8 (3, H, W)."""

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Tensor:
        if index >= len(self):
            raise IndexError(index)
        return ((self._chosen.image(index) + 1) * 127.5).round().byte().expand(3, -1, -1)


def inception_weights(config: EvaluateConfig) -> Path:
    """Those of torch-fidelity, which is not asked before they are known to be there: it would download them.

    Raises:
        ValueError: they are not, or not what they should be, or torch-fidelity is not.
    """
    weights = config.inception or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not os.path.isfile(weights):
        raise ValueError(
            f"inception: expected the weights {INCEPTION} of torch-fidelity at {weights}, where there is no such file; "
            f"they are not downloaded from here"
        )
    load_reference_weights(weights)  # torch-fidelity would unpickle anything: only tensors pass here
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ValueError("metrics: fid, kid and prc need the package torch-fidelity, which is not installed")
    return weights


def inception_metrics(
    config: EvaluateConfig, samples: Chosen, real: Chosen, names: list[str], weights: Path
) -> dict[str, Any]:
    """Those of torch-fidelity."""
    from torch_fidelity import calculate_metrics

    values = calculate_metrics(
        input1=Bytes(samples),
        input2=Bytes(real),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        cuda=torch.cuda.is_available(),
        fid="fid" in names,
        kid="kid" in names,
        prc="prc" in names,
        kid_subset_size=min(1000, len(samples), len(real)),
        rng_seed=config.seed,
        verbose=False,
    )
    return {name: float(np.real(value)) for name, value in values.items()}


def report(config: EvaluateConfig) -> str:
    """The metrics as JSON, also in a file if one is asked for.

    Raises:
        ValueError: as `evaluate`, or the file cannot be written, which is known before anything is computed; should it
            come up later, the metrics are printed before.
    """
    if config.output:
        check_writable(config.output)
    text = json.dumps(evaluate(config), indent=2)
    if config.output:
        try:
            with whole_file(config.output) as partial:
                partial.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            print(text)
            raise ValueError(f"output: {config.output} cannot be written ({error}); the metrics are printed") from error
    return text


def main(arguments: list[str] | None = None) -> None:
    run_program(EvaluateConfig, __doc__, report, arguments)


if __name__ == "__main__":
    main()
