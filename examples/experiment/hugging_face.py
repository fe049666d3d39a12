"""Images and labels of a data set of Hugging Face, by name."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from examples.experiment.config import DataConfig
from examples.experiment.pixels import read_image
from examples.experiment.sources import Classes, Collection, check_regular, digest_of_file, missing_labels


@dataclass
class HuggingFaceSource:
    """A column of images that are not decoded: bytes, or the path of a file."""

    data: Any
    column: str

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> Image.Image:
        stored = self._stored(index)
        return read_image(stored if isinstance(stored, Path) else io.BytesIO(stored))

    def digest(self, index: int) -> bytes:
        stored = self._stored(index)
        return digest_of_file(stored) if isinstance(stored, Path) else hashlib.sha256(stored).digest()

    def name(self, index: int) -> str:
        return f"row {index}"

    def _stored(self, index: int) -> bytes | Path:
        value = self.data[index][self.column]
        if value is None or (value["bytes"] is None and value["path"] is None):
            raise OSError("has no image")
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        path = Path(value["path"])
        check_regular(path)
        return path


def from_hugging_face(config: DataConfig) -> Collection:
    """The first column of images, and the first of class labels.

    Raises:
        ValueError: datasets is not there or too old, a data set that cannot be loaded, or no column of images.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"data.source: {config.source} needs the package datasets, which is not installed") from error
    if int(datasets.__version__.split(".")[0]) < 4:
        raise ValueError(
            f"data.source: {config.source} needs datasets 4 or newer, got {datasets.__version__}, which may run "
            f"programs that come with a data set"
        )
    try:
        data: Any = datasets.load_dataset(config.source.removeprefix("hf:"), split=config.split)
    except Exception as error:  # of many classes: no such name, split or network, damaged files, full disks
        raise ValueError(
            f"data.source: {config.source}, split {config.split!r}, cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    pictures = [key for key, feature in data.features.items() if isinstance(feature, datasets.Image)]
    classes = [key for key, feature in data.features.items() if isinstance(feature, datasets.ClassLabel)]
    if not pictures:
        raise ValueError(f"data.source: {config.source}: expected a column of images, got {data.features}")
    for columns in (pictures, classes):
        if len(columns) > 1:
            warnings.warn(f"data.source: of the columns {', '.join(columns)} the first is used", stacklevel=2)
    # Decoded by `read_image`, which knows what is safe.
    source = HuggingFaceSource(
        data.select_columns(pictures[0]).cast_column(pictures[0], datasets.Image(decode=False)), pictures[0]
    )
    if not classes:
        return Collection(source)
    names = list(data.features[classes[0]].names)
    labels = data[classes[0]][:]
    missing = missing_labels(labels, f"the column {classes[0]}", len(names))
    if missing:
        return Collection(source, unlabelled=missing)
    return Collection(source, classes=Classes(np.array(labels), names))
