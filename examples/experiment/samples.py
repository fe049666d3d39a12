"""A folder of samples: the settings they were drawn with, a file for each image, or one array in their place."""

from __future__ import annotations

import io
import itertools
import json
import math
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from examples.experiment.pictures import read_png
from lineardiffusion.pictures import write_png
from lineardiffusion.training import remove_partials, whole_file

_END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"


class SampleFolder:
    """samples.json and images/00000000.png …, or in the end samples.npz with one array images (N, H, W, C).

    Arguments:
        path: of the folder.
        shape: (C, H, W) of the images.
        packed: whether they end as one array.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], packed: bool) -> None:
        self.path, self.shape, self.packed = path, (*shape[1:], shape[0]), packed
        self.images, self.array = path / "images", path / "samples.npz"

    def claim(self, settings: dict[str, Any]) -> None:
        """Write the settings into the folder, or check that it has them, and clear away what was left half written.

        Raises:
            ValueError: the folder has images of other settings, naming those that differ, or of nobody knows which.
        """
        record = self.path / "samples.json"
        if record.exists():
            self._check(record, settings)
        elif self.array.exists() or any(self.images.glob("*.png")):
            raise ValueError(
                f"folder: {self.path} has images, but no samples.json that says what they are; choose another with "
                f"--folder"
            )
        else:
            with whole_file(record) as partial:
                partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        for folder in (self.path, self.images):
            remove_partials(folder)

    def _check(self, record: Path, settings: dict[str, Any]) -> None:
        try:
            if not record.is_file():  # a pipe would be waited for
                raise ValueError("it is no file")
            there = dict(json.loads(record.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"folder: {record} is not the settings of samples ({error}); choose another folder with --folder"
            ) from error
        differing = [
            f"{key}: {there.get(key)!r} there, {value!r} here"
            for key, value in settings.items()
            if there.get(key) != value
        ]
        if differing:
            raise ValueError(
                f"folder: {self.path} has images of other settings ({'; '.join(differing)}); choose another with "
                f"--folder"
            )

    def file(self, index: int) -> Path:
        """Where an image goes."""
        return self.images / f"{index:08d}.png"

    def write(self, index: int, pixels: np.ndarray) -> None:
        """Write an image (H, W, C), whole or not at all."""
        write_png(pixels, self.file(index))

    def missing(self, count: int) -> list[int]:
        """Which of the images 0 … count − 1 have to be drawn. A file that is damaged is named in a warning, and is one
        of them."""
        if self.packed and self._is_packed(count):
            self._remove_files()
            return []
        self.images.mkdir(exist_ok=True)
        return [index for index in range(count) if not self._is_drawn(index)]

    def _is_drawn(self, index: int) -> bool:
        path, (height, width, channels) = self.file(index), self.shape
        if not path.is_file():
            return False
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                found = (image.format, image.size, image.mode)
                image.verify()
            expected = ("PNG", (width, height), "L" if channels == 1 else "RGB")
            if found != expected or not content.endswith(_END_OF_PNG):
                raise ValueError(f"expected a whole {expected}, got {found} in {len(content)} bytes")
        except Exception as error:  # of any class where a file is damaged
            warnings.warn(f"{path}: not the image that was drawn, it is drawn again ({error})", stacklevel=3)
            return False
        return True

    def _is_packed(self, count: int) -> bool:
        if not self.array.is_file():
            return False
        try:
            found = sum(image.shape == self.shape for image in self._unpacked())
            if found != count:
                raise ValueError(f"expected {count} images of shape {self.shape}, got {found}")
        except Exception as error:
            warnings.warn(f"{self.array}: not the images that were drawn, they are drawn again ({error})", stacklevel=3)
            return False
        return True

    def finish(self, count: int) -> None:
        """Check that all images are there and, where they are packed, put them into one array, written whole or not at
        all, before their files are removed.

        Raises:
            ValueError: images are missing.
        """
        if self.packed and not self.images.exists():  # it was done before
            return
        lost = [index for index in range(count) if not self.file(index).exists()]
        if lost:
            raise ValueError(
                f"folder: {len(lost)} of {count} images have gone from {self.images} since they were drawn, the first "
                f"is {self.file(lost[0]).name}; the same command draws them again"
            )
        if not self.packed:
            return
        with (
            whole_file(self.array) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("images.npy", "w", force_zip64=True) as file,
        ):
            npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)})
            for index in range(count):  # one by one: all of them may not fit into memory
                file.write(read_png(self.file(index)).tobytes())
        self._remove_files()

    def _remove_files(self) -> None:
        if self.images.exists():
            shutil.rmtree(self.images)

    def _unpacked(self) -> Iterator[np.ndarray]:
        """The images (H, W, C) of the array, one by one; the checksum is compared at the end."""
        with zipfile.ZipFile(self.array) as archive, archive.open("images.npy") as file:
            npy.read_magic(file)
            (count, *shape), _, dtype = npy.read_array_header_1_0(file)
            for _ in range(count):
                yield np.frombuffer(file.read(math.prod(shape)), dtype).reshape(shape)
            file.read()

    def first(self, count: int) -> np.ndarray:
        """The images 0 … count − 1, as (count, H, W, C)."""
        if self.packed:
            return np.stack(list(itertools.islice(self._unpacked(), count)))
        return np.stack([read_png(self.file(index)) for index in range(count)])
