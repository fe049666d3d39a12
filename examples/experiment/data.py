"""Images from folders, arrays and datasets, as tensors in [−1, 1]; and the order in which a run sees them."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from examples.experiment.config import DataConfig
from examples.experiment.stopping import ignore_signals
from lineardiffusion.training import keyed_generator


class Item(NamedTuple):
    """One image (C, H, W) in [−1, 1], its label (0 where there are none), and what was wrong with its file if it had to
    be replaced by another."""

    image: Tensor
    label: int
    fault: str | None


class Batch(NamedTuple):
    """Images (B, C, H, W), labels (B,), the positions of the images in the run (B,), and the faults among them."""

    images: Tensor
    labels: Tensor
    positions: Tensor
    faults: list[str]


class Source(Protocol):
    """Pillow images by index."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """The image; raises OSError or ValueError for one that cannot be read."""

    def name(self, index: int) -> str:
        """What it is called in messages."""

    def content(self, index: int) -> bytes:
        """What it is, byte for byte."""


class Images(Dataset[Item]):
    """Images that are read one by one and brought to one shape.

    Arguments:
        source: where they come from.
        config: their size and channels, and whether they are mirrored.
        native: their size where the configuration says none.
        labels: class of each image, or None.
        class_names: of the classes.
        seed: of the mirroring.

    Raises:
        ValueError: no images, no size, or labels asked for where there are none.
    """

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        native: tuple[int, int] | None = None,
        labels: np.ndarray | None = None,
        class_names: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        if len(source) == 0:
            raise ValueError(f"data.source: {config.source} has no images")
        if config.labels and labels is None:
            raise ValueError(
                f"data.labels: expected labels in {config.source} (an array named labels, a column of them, or a "
                f"folder for each class), got none"
            )
        self._source, self._labels, self.class_names = source, labels, class_names
        self._size, self._channels = _size(config, native), config.channels
        self._flip, self._seed = config.flip, seed

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return (self._channels, *self._size)

    @property
    def num_classes(self) -> int | None:
        """How many classes there are; None without labels."""
        return None if self.class_names is None else len(self.class_names)

    def __len__(self) -> int:
        return len(self._source)

    def fingerprint(self) -> str:
        """SHA-256 of the images, in their order, of their labels and of the names of the classes."""
        sha = hashlib.sha256(repr((self.class_names, len(self))).encode())
        if self._labels is not None:
            sha.update(np.asarray(self._labels, dtype=np.int64).tobytes())
        for index in range(len(self)):
            content = self._source.content(index)
            sha.update(len(content).to_bytes(8, "little") + content)
        return sha.hexdigest()

    def __getitem__(self, index: int) -> Item:
        return self.item(index, flipped=False)

    def at(self, position: int, index: int) -> Item:
        """The image of an index as it is seen at a position of the run: mirrored or not."""
        coin = torch.rand((), generator=keyed_generator(self._seed, "flip", position)) if self._flip else 0.0
        return self.item(index, flipped=bool(coin >= 0.5))

    def item(self, index: int, flipped: bool) -> Item:
        """The image of an index; where it cannot be read, the next that can, and what was wrong."""
        fault = None
        for attempt in range(len(self)):
            here = (index + attempt) % len(self)
            try:
                image = to_tensor(self._source.read(here), self._size, self._channels)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                fault = fault or f"{self._source.name(here)}: {error}"
                continue
            label = 0 if self._labels is None else int(self._labels[here])
            return Item(image.flip(-1) if flipped else image, label, fault)
        raise ValueError(f"data.source: none of the {len(self)} images can be read; the first: {fault}")

    def tensor(self, limit: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and labels (N,): all of them, or `limit` drawn without replacement."""
        order = torch.randperm(len(self), generator=keyed_generator(seed, "subset"))[:limit].sort().values
        items = [self[int(index)] for index in order]
        return torch.stack([item.image for item in items]), torch.tensor([item.label for item in items])


def open_images(config: DataConfig, seed: int = 0) -> Images:
    """The images of a configuration.

    Raises:
        ValueError: a source that is not there, is empty, or needs something else to be said about it.
    """
    if config.source == "digits":
        from sklearn.datasets import load_digits

        data = load_digits()
        return _from_array(np.rint(data.images * (255 / 16)).astype(np.uint8), data.target, config, seed)
    if config.source.startswith("hf:"):
        return _from_hugging_face(config, seed)
    path = Path(config.source).expanduser()
    if path.is_dir():
        return _from_folder(path, config, seed)
    if path.suffix in (".npz", ".npy") and path.is_file():
        return _from_file(path, config, seed)
    raise ValueError(f"data.source: expected a folder, a .npz or .npy file, 'digits' or 'hf:<name>', got {path}")


def to_tensor(image: Image.Image, size: tuple[int, int], channels: int) -> Tensor:
    """A Pillow image of any mode as (channels, H, W) in [−1, 1]: turned as its camera says, put on white where it is
    transparent, cropped at the centre to the proportions of `size` and resized with antialiasing."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to 255
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).reshape(*size, channels)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def loader(
    images: Images, batch_size: int, share: slice, first_step: int, seed: int, workers: int = 0
) -> Iterator[Batch]:
    """The share of this process in the batches of steps first_step, first_step + 1, …, without end.

    The k-th image of a run, k = batch_size · step + i, is the (k mod N)-th of a permutation drawn for each pass over
    the data: all of it a function of the seed, so that a run goes on exactly where it stopped, on any number of
    processes.
    """
    order = _Order(len(images), batch_size, share, first_step, seed)
    return iter(
        DataLoader(
            _Positions(images),
            batch_sampler=order,
            num_workers=workers,
            worker_init_fn=ignore_signals,
            collate_fn=_collate,
            generator=keyed_generator(seed, "workers"),
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
    )


class FaultLimit:
    """Warns of each unreadable file once, and stops when there are too many."""

    def __init__(self, limit: int) -> None:
        self._limit, self._seen = limit, set[str]()

    def check(self, faults: list[str]) -> None:
        """
        Raises:
            ValueError: more unreadable files than the limit.
        """
        for fault in faults:
            if fault not in self._seen:
                self._seen.add(fault)
                warnings.warn(f"skipped an image that cannot be read: {fault}", stacklevel=3)
        if len(self._seen) > self._limit:
            listed = "\n".join(f"    {fault}" for fault in sorted(self._seen))
            raise ValueError(f"{len(self._seen)} images cannot be read, data.max_corrupt is {self._limit}:\n{listed}")


class _Order:
    """Batches of (position in the run, index of the image), for one process."""

    def __init__(self, count: int, batch_size: int, share: slice, first_step: int, seed: int) -> None:
        self._count, self._batch_size, self._share = count, batch_size, share
        self._step, self._seed = first_step, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self._step
        while True:
            positions = range(step * self._batch_size, (step + 1) * self._batch_size)[self._share]
            yield [(position, self._index(position)) for position in positions]
            step += 1

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, self._count)
        if epoch != self._epoch:
            generator = keyed_generator(self._seed, "order", epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self._count, generator=generator)
        return int(self._permutation[place])


class _Positions(Dataset[tuple[int, Item]]):
    """Images asked for by (position, index)."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Item]:
        return key[0], self._images.at(*key)


def _collate(items: list[tuple[int, Item]]) -> Batch:
    return Batch(
        torch.stack([item.image for _, item in items]),
        torch.tensor([item.label for _, item in items]),
        torch.tensor([position for position, _ in items]),
        [item.fault for _, item in items if item.fault],
    )


# ---------------------------------------------------------------------- sources


@dataclass
class _Folder:
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Image.Image:
        with Image.open(self.files[index]) as image:
            image.load()
            return image

    def name(self, index: int) -> str:
        return str(self.files[index])

    def content(self, index: int) -> bytes:
        return self.files[index].read_bytes()


@dataclass
class _Array:
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        image = self.images[index]
        return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2:] == (1,) else image))

    def name(self, index: int) -> str:
        return f"image {index}"

    def content(self, index: int) -> bytes:
        return self.images[index].tobytes()


@dataclass
class _HuggingFace:
    data: Any
    column: str

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> Image.Image:
        image: Image.Image = self.data[index][self.column]
        return image

    def name(self, index: int) -> str:
        return f"row {index}"

    def content(self, index: int) -> bytes:
        return self.read(index).tobytes()


def _size(config: DataConfig, native: tuple[int, int] | None) -> tuple[int, int]:
    size = config.size or native
    if size is None:
        raise ValueError(f"data.size: expected a number of pixels for {config.source}, got none")
    size = (size, size) if isinstance(size, int) else size
    if min(size) < 1:
        raise ValueError(f"data.size: expected positive numbers, got {size}")
    return size


def _from_folder(root: Path, config: DataConfig, seed: int) -> Images:
    extensions = set(Image.registered_extensions())
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in extensions and path.is_file())
    if not files:
        raise ValueError(f"data.source: {root} has no image files, nor do the folders in it")
    inside = [path.relative_to(root).parts for path in files]
    if any(len(parts) == 1 for parts in inside):  # images beside the folders: these are no classes
        return Images(_Folder(files), config, seed=seed)
    names = sorted({parts[0] for parts in inside})
    number = {name: index for index, name in enumerate(names)}
    labels = np.array([number[parts[0]] for parts in inside])
    return Images(_Folder(files), config, None, labels, names, seed)


def _from_file(path: Path, config: DataConfig, seed: int) -> Images:
    labels = None
    try:
        content: Any = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if path.suffix == ".npz":
            with content as arrays:
                names = arrays.files
                images = arrays[names[0] if len(names) == 1 else "images"]
                labels = arrays["labels"] if "labels" in names else None
        else:
            images = content
    except KeyError as error:
        raise ValueError(f"data.source: {path}: expected an array named images, got {names}") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"data.source: {path} cannot be read ({error})") from error
    return _from_array(images, labels, config, seed)


def _from_array(images: np.ndarray, labels: np.ndarray | None, config: DataConfig, seed: int) -> Images:
    """Images of shape (N, H, W) or (N, H, W, C), uint8."""
    channels = images.shape[3:]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or channels not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"data.source: {config.source}: expected uint8 images of shape (N, H, W) or (N, H, W, 1, 3 or 4), got "
            f"{images.dtype} of shape {images.shape}"
        )
    native = (images.shape[1], images.shape[2])
    if labels is None:
        return Images(_Array(images), config, native, seed=seed)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"data.source: {config.source}: expected {len(images)} integer labels, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    values, numbers = np.unique(labels, return_inverse=True)
    return Images(_Array(images), config, native, numbers, [str(value) for value in values], seed)


def _from_hugging_face(config: DataConfig, seed: int) -> Images:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"data.source: {config.source} needs the package datasets, which is not installed") from error
    data: Any = datasets.load_dataset(config.source.removeprefix("hf:"), split=config.split)
    pictures = [key for key, feature in data.features.items() if isinstance(feature, datasets.Image)]
    classes = [key for key, feature in data.features.items() if isinstance(feature, datasets.ClassLabel)]
    if not pictures:
        raise ValueError(f"data.source: {config.source}: expected a column of images, got {data.features}")
    source = _HuggingFace(data, pictures[0])
    if not classes:
        return Images(source, config, seed=seed)
    return Images(source, config, None, np.array(data[classes[0]]), list(data.features[classes[0]].names), seed)
