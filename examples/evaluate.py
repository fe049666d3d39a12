"""How close samples are to real images.

    python examples/evaluate.py --samples runs/train/samples/00100000-ddim-50 --data.source images.npz --data.channels 1
    python examples/evaluate.py --samples … --data.source /path/to/images --data.size 64 --metrics '[fid, kid, prc]'

"frechet" is the Fréchet distance in the features of a small classifier that is trained on the labelled real images at
hand and kept for the next time; nothing is downloaded. "fid", "kid" and "prc" (precision and recall) are those of
torch-fidelity, all in the features of the Inception network, whose weights must be on this machine: at --inception, or
where torch-fidelity keeps them. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

# So that `python examples/evaluate.py` finds the other examples, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.experiment.config import DataConfig, run_program
from examples.experiment.data import Images, open_images
from examples.experiment.features import frechet_distance, train_judge
from examples.experiment.runs import load_reference_weights

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


@dataclass
class EvaluateConfig:
    """What to compare.

    Args:
        samples: a folder of images, as sample.py writes, or a .npz file.
        data: the real images.
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


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The metrics by name, and how they came about.

    Raises:
        ValueError: images or weights that are not there, or that do not fit.
    """
    real = open_images(config.data)
    folder = config.samples / "images" if (config.samples / "images").is_dir() else config.samples
    folder = config.samples / "samples.npz" if (config.samples / "samples.npz").is_file() else folder
    samples = open_images(DataConfig(str(folder), real.shape[1:], real.shape[0]))
    result: dict[str, Any] = {"samples": min(len(samples), config.limit), "real": min(len(real), config.limit)}
    if "frechet" in config.metrics:
        result |= classifier_metrics(config, samples, real)
    inception = [name for name in config.metrics if name != "frechet"]
    if inception:
        result |= inception_metrics(config, samples, real, inception)
    return result


def classifier_metrics(config: EvaluateConfig, samples: Images, real: Images) -> dict[str, Any]:
    """The Fréchet distance to the images the classifier has learnt from, and that of those held out, beside which it is
    to be read."""
    if real.num_classes is None:
        raise ValueError(f"metrics: frechet needs labels of the real images, {config.data.source} has none")
    images, labels = real.tensor(config.limit, config.seed)
    judge = train_judge(images, labels, real.num_classes, config.cache, config.seed)
    reference = judge.learnt(images)
    drawn = samples.tensor(config.limit, config.seed)[0]
    return {
        "frechet": frechet_distance(judge.features(drawn), reference),
        "frechet_of_held_out": frechet_distance(judge.features(images[judge.held_out]), reference),
        "held_out": len(judge.held_out),
        "classifier_accuracy": judge.accuracy,
    }


class Bytes(Dataset[Tensor]):
    """Images as torch-fidelity reads them: uint8 (3, H, W)."""

    def __init__(self, images: Images, limit: int) -> None:
        self._images, self._count = images, min(limit, len(images))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        if index >= self._count:
            raise IndexError(index)
        return ((self._images[index].image + 1) * 127.5).round().byte().expand(3, -1, -1)


def inception_metrics(config: EvaluateConfig, samples: Images, real: Images, names: list[str]) -> dict[str, Any]:
    """Those of torch-fidelity, which is not asked before its weights are known to be there: it would download them."""
    weights = config.inception or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not weights.is_file():
        raise ValueError(
            f"inception: expected the weights {INCEPTION} of torch-fidelity at {weights}, where there is no such file; "
            f"they are not downloaded from here"
        )
    load_reference_weights(weights)  # torch-fidelity would unpickle anything: only tensors pass here
    try:
        from torch_fidelity import calculate_metrics
    except ImportError as error:
        raise ValueError("metrics: fid, kid and prc need the package torch-fidelity, which is not installed") from error
    values = calculate_metrics(
        input1=Bytes(samples, config.limit),
        input2=Bytes(real, config.limit),
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
    """The metrics as JSON, also in a file if one is asked for."""
    text = json.dumps(evaluate(config), indent=2)
    if config.output:
        config.output.write_text(text + "\n", encoding="utf-8")
    return text


def main(arguments: list[str] | None = None) -> None:
    run_program(EvaluateConfig, __doc__, report, arguments)


if __name__ == "__main__":
    main()
