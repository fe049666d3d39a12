"""Images from folders, arrays and data sets, as tensors in [−1, 1]; and the order in which a run sees them."""

from __future__ import annotations

import atexit
import hashlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from examples.experiment.arrays import from_digits, from_file
from examples.experiment.config import DataConfig
from examples.experiment.faults import FaultLimit
from examples.experiment.folders import from_folder
from examples.experiment.hugging_face import from_hugging_face
from examples.experiment.pixels import to_tensor, upright
from examples.experiment.sources import Collection
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


class Images(Dataset[Item]):
    """Images that are read one by one and brought to one shape.

    Arguments:
        collection: where they come from, and their classes.
        config: their size and channels, whether they are mirrored, and how many may be unreadable.
        seed: of the mirroring.

    Raises:
        ValueError: no images, no size, or labels asked for where there are none.
    """

    def __init__(self, collection: Collection, config: DataConfig, seed: int = 0) -> None:
        if len(collection.source) == 0:
            raise ValueError(f"data.source: {config.source} has no images")
        if config.labels and collection.classes is None:
            raise ValueError(
                f"data.labels: expected labels in {config.source} (an array named labels, a column of type ClassLabel, "
                f"or a folder for each class), got none" + (collection.unlabelled and f": {collection.unlabelled}")
            )
        self._source, self._classes = collection.source, collection.classes
        self._size, self._channels = _size(config, collection.native), config.channels
        self._flip, self._seed, self._max_corrupt = config.flip, seed, config.max_corrupt
        self._fingerprint = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return (self._channels, *self._size)

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes, as the data call them; None without labels."""
        return None if self._classes is None else self._classes.names

    @property
    def num_classes(self) -> int | None:
        """How many classes there are; None without labels."""
        return None if self._classes is None else len(self._classes.names)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Item:
        return self.item(index, flipped=False)

    def at(self, position: int, index: int) -> Item:
        """The image of an index as it is seen at a position of the run: mirrored or not."""
        coin = torch.rand((), generator=keyed_generator(self._seed, "flip", position)) if self._flip else 0.0
        return self.item(index, flipped=bool(coin >= 0.5))

    def item(self, index: int, flipped: bool) -> Item:
        """The image of an index; where it cannot be read, the next that can, and what was wrong.

        Raises:
            ValueError: more than data.max_corrupt images in a row, or all of them, cannot be read.
        """
        fault, tried = None, min(len(self), self._max_corrupt + 1)
        for attempt in range(tried):
            here = (index + attempt) % len(self)
            try:
                image = to_tensor(self._source.read(here), self._size, self._channels)
            except Exception as error:  # decoders raise errors of any class where a file is damaged
                fault = fault or self._fault(here, error)
                continue
            return Item(image.flip(-1) if flipped else image, self.label(here), fault)
        which = f"none of the {tried} images" if tried == len(self) else f"none of {tried} images in a row"
        raise ValueError(f"data.source: {which} can be read; the first: {fault}")

    def label(self, index: int) -> int:
        """The number of an image's class; 0 without labels."""
        return 0 if self._classes is None else int(self._classes.numbers[index])

    def name(self, index: int) -> str:
        """What an image is called in messages."""
        return self._source.name(index)

    def readable(self, limit: int | None = None, seed: int = 0) -> Iterator[tuple[int, Image.Image]]:
        """Index and picture, upright and in its own size, of all images, or of `limit` drawn without replacement. Those
        that cannot be read are left out, with a warning for each.

        Raises:
            ValueError: more than data.max_corrupt of them, or all, cannot be read.
        """
        faults, found = FaultLimit(self._max_corrupt), False
        order = torch.randperm(len(self), generator=keyed_generator(seed, "subset"))[:limit].sort().values
        for index in order.tolist():
            try:
                picture = upright(self._source.read(index))
            except Exception as error:
                faults.check([self._fault(index, error)])
                continue
            found = True
            yield index, picture
        if not found:
            raise ValueError(f"data.source: none of the {len(order)} images can be read")

    def tensor(self, limit: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and labels (N,) of all that are `readable`, or of `limit` drawn without replacement."""
        count = len(self) if limit is None else min(limit, len(self))
        images, labels, count = torch.empty(count, *self.shape), torch.zeros(count, dtype=torch.long), 0
        for index, picture in self.readable(limit, seed):
            images[count] = to_tensor(picture, self._size, self._channels)
            labels[count] = self.label(index)
            count += 1
        return images[:count], labels[:count]

    def fingerprint(self) -> str:
        """SHA-256 of all images, as they are stored and in their order, and of the names of their classes: another
        image, class or order gives another, another place of the folder does not. Everything is read for it, once."""
        if not self._fingerprint:
            sha = hashlib.sha256()
            with ThreadPoolExecutor(8) as pool, tqdm(total=len(self), desc="fingerprint", delay=2) as bar:
                for start in range(0, len(self), 1024):
                    block = range(start, min(start + 1024, len(self)))
                    for index, digest in zip(block, pool.map(self._digest, block), strict=True):
                        name = "" if self._classes is None else self._classes.names[self.label(index)]
                        sha.update(digest + os.fsencode(name) + b"\0")
                        bar.update()
            self._fingerprint = sha.hexdigest()
        return self._fingerprint

    def _digest(self, index: int) -> bytes:
        try:
            return self._source.digest(index)
        except OSError:  # an image that cannot be read, which is for those who read it to say
            return bytes(32)

    def _fault(self, index: int, error: Exception) -> str:
        return f"{self.name(index)}: {type(error).__name__}: {error}"


def open_images(config: DataConfig, seed: int = 0) -> Images:
    """The images of a configuration.

    Raises:
        ValueError: a source that is not there, is empty, or needs something else to be said about it.
    """
    path = Path(os.path.expanduser(config.source))
    if config.source == "digits":
        return Images(from_digits(), config, seed)
    if config.source.startswith("hf:"):
        return Images(from_hugging_face(config), config, seed)
    if config.source and os.path.isdir(path):
        return Images(from_folder(path, config), config, seed)
    if path.suffix.lower() in (".npz", ".npy") and os.path.isfile(path):
        return Images(from_file(path), config, seed)
    raise ValueError(
        f"data.source: expected a folder, a .npz or .npy file, 'digits' or 'hf:<name>', got {config.source!r}"
        + ("" if os.path.exists(path) else ", which is not there")
    )


def loader(
    images: Images, batch_size: int, share: slice, first_step: int, seed: int, workers: int = 0
) -> Iterator[Batch]:
    """The share of this process in the batches of steps first_step, first_step + 1, …, without end. The processes that
    read are started at once.

    The k-th image of a run, k = batch_size · step + i, is the (k mod N)-th of a permutation drawn for each pass over
    the data: all of it a function of the seed, so that a run goes on exactly where it stopped, on any number of
    processes.

    Raises:
        ValueError: as `Images.item`, from the batch in which it happens.
    """
    start = None
    if workers:
        # Without a lock: a second signal would wait for what the first one holds.
        ending = RawValue("b", 0)
        # Before multiprocessing ends the workers that are left, and waits for them.
        atexit.register(setattr, ending, "value", 1)
        start = partial(_leave_signals, ending)
    batches = DataLoader(
        _Positions(images),
        batch_sampler=_Order(len(images), batch_size, share, first_step, seed),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=start,
        generator=keyed_generator(seed, "workers"),
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    return _checked(iter(batches))


def _checked(batches: Iterator[Batch | ValueError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


def _leave_signals(ending: Any, worker: int) -> None:
    """What schedulers and terminals send to all processes is for the training process, which needs its workers until it
    has finished a step: they end with it, by SIGTERM once it is `ending`."""

    def end(number: int, frame: FrameType | None) -> None:
        if ending.value:
            os._exit(0)

    ignore_signals()
    signal.signal(signal.SIGTERM, end)


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


class _Positions(Dataset[tuple[int, Item | ValueError]]):
    """Images asked for by (position, index)."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Item | ValueError]:
        try:
            return key[0], self._images.at(*key)
        except ValueError as error:  # passed on as it is: raised in a worker it would come with the worker's traceback
            return key[0], error


def _collate(items: list[tuple[int, Item | ValueError]]) -> Batch | ValueError:
    for _, item in items:
        if isinstance(item, ValueError):
            return item
    return Batch(
        torch.stack([item.image for _, item in items]),
        torch.tensor([item.label for _, item in items]),
        torch.tensor([position for position, _ in items]),
        [item.fault for _, item in items if item.fault],
    )


def _size(config: DataConfig, native: tuple[int, int] | None) -> tuple[int, int]:
    size = config.size or native
    if size is None:
        raise ValueError(f"data.size: expected a number of pixels for {config.source}, got none")
    return (size, size) if isinstance(size, int) else size
