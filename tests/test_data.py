"""Images from every source, in every format, and the order in which a run sees them."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.experiment.config import DataConfig
from examples.experiment.data import FaultLimit, loader, open_images, to_tensor
from examples.experiment.pictures import from_bytes, read_png, strip
from PIL import Image

from lineardiffusion.pictures import grid, to_bytes, write_png


@pytest.fixture
def folder(tmp_path):
    """Two classes, five images of many kinds, in folders in folders."""
    colour = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    for name in ("cats/indoors", "dogs"):
        (tmp_path / name).mkdir(parents=True)
    Image.fromarray(colour).save(tmp_path / "cats" / "indoors" / "a.png")
    Image.fromarray(colour).convert("L").save(tmp_path / "cats" / "b.JPEG")
    Image.fromarray(colour).convert("P").save(tmp_path / "dogs" / "c.gif")
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "dogs" / "d.tiff")
    Image.fromarray(np.dstack([colour, colour[..., :1]])).save(tmp_path / "dogs" / "e.webp", lossless=True)
    (tmp_path / "dogs" / "notes.txt").write_text("not an image")
    return tmp_path


# ---------------------------------------------------------------------- sources


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_many_formats(folder, channels):
    images = open_images(DataConfig(str(folder), size=(8, 12), channels=channels))
    assert (len(images), images.class_names, images.num_classes) == (5, ["cats", "dogs"], 2)
    pictures, labels = images.tensor()
    assert pictures.shape == (5, channels, 8, 12)
    assert pictures.abs().max() <= 1
    assert labels.tolist() == [0, 0, 1, 1, 1]
    assert all(images[index].fault is None for index in range(5))


def test_images_beside_folders_have_no_classes(folder):
    (folder / "dogs" / "c.gif").rename(folder / "c.gif")
    images = open_images(DataConfig(str(folder), size=8))
    assert len(images) == 5
    assert images.num_classes is None
    with pytest.raises(ValueError, match=r"data.labels: expected labels in .* got none"):
        open_images(DataConfig(str(folder), size=8, labels=True))


@pytest.mark.parametrize("shape", [(6, 9, 8), (6, 9, 8, 1), (6, 9, 8, 3), (6, 9, 8, 4)])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays(tmp_path, shape, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"images.{suffix}"
    np.save(path, pixels) if suffix == "npy" else np.savez(path, images=pixels, labels=np.array([7, 3, 3, 7, 9, 3]))
    images = open_images(DataConfig(str(path), channels=3 if shape[3:] == (3,) else 1))
    tensors, labels = images.tensor()
    if shape[3:] != (4,):
        expected = pixels.reshape(*shape[:3], -1).transpose(0, 3, 1, 2) / 127.5 - 1
        np.testing.assert_allclose(tensors.numpy(), expected, atol=1e-6)
    if suffix == "npz":
        assert images.class_names == ["3", "7", "9"]
        assert labels.tolist() == [1, 0, 0, 1, 2, 0]


def test_hugging_face_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [Image.fromarray(np.full((10, 12, 3), value, dtype=np.uint8)) for value in (0, 100, 200)]
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.Dataset.from_dict({"picture": rows, "kind": [0, 1, 1]}, features=features).to_parquet(
        str(tmp_path / "train.parquet")
    )
    images = open_images(DataConfig(f"hf:{tmp_path}", size=8, labels=True))
    assert images.tensor()[0].mean((1, 2, 3)).tolist() == pytest.approx(
        [-1, 100 / 127.5 - 1, 200 / 127.5 - 1], abs=1e-6
    )
    assert images.class_names == ["cat", "dog"]
    assert [images[index].label for index in range(3)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.mkdir(), "has no image files, nor do the folders in it"),
        (lambda path: None, "expected a folder, a .npz or .npy file, 'digits' or 'hf:<name>'"),
    ],
    ids=["empty", "missing"],
)
def test_nothing_there(tmp_path, prepare, message):
    prepare(tmp_path / "data")
    with pytest.raises(ValueError, match=f"data.source: .*{message}"):
        open_images(DataConfig(str(tmp_path / "data"), size=8))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((3, 8, 8), dtype=np.float32)}, "expected uint8 images"),
        ({"images": np.zeros((3, 3, 8, 8), dtype=np.uint8)}, "expected uint8 images of shape"),
        ({"images": np.zeros((0, 8, 8), dtype=np.uint8)}, "has no images"),
        (
            {"images": np.zeros((3, 8, 8), dtype=np.uint8), "labels": np.zeros(2, dtype=int)},
            "expected 3 integer labels",
        ),
        ({"a": np.zeros((3, 8, 8), dtype=np.uint8), "b": np.zeros(2)}, "expected an array named images"),
        ({"images": np.array([{}], dtype=object)}, "data.source: .*"),
    ],
    ids=["float", "channels first", "none", "labels", "names", "pickle"],
)
def test_bad_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_images(DataConfig(str(tmp_path / "images.npz")))


def test_a_truncated_array_is_named(tmp_path):
    np.savez(tmp_path / "images.npz", images=np.zeros((9, 8, 8), dtype=np.uint8))
    (tmp_path / "images.npz").write_bytes((tmp_path / "images.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"images\.npz cannot be read"):
        open_images(DataConfig(str(tmp_path / "images.npz")))


def test_a_folder_needs_a_size(folder):
    with pytest.raises(ValueError, match=r"data\.size: expected a number of pixels for"):
        open_images(DataConfig(str(folder)))


# ---------------------------------------------------------------------- pixels


def test_crop_at_the_centre_and_antialiasing():
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 255  # the middle third is what is kept
    assert to_tensor(Image.fromarray(wide), (8, 8), 1).eq(1).all()
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    small = to_tensor(Image.fromarray(stripes), (8, 8), 1)
    assert small[:, 1:-1, 1:-1].abs().max() < 0.05  # grey, not one of the two


def test_grey_in_16_bits_transparency_and_turned_cameras(tmp_path):
    deep = np.array([[0, 32896], [65535, 257]], dtype=np.uint16)
    np.testing.assert_allclose(
        to_tensor(Image.fromarray(deep), (2, 2), 1)[0], [[-1, 128 / 127.5 - 1], [1, 1 / 127.5 - 1]], atol=1e-6
    )
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_tensor(clear, (4, 4), 3).eq(1).all()  # white shows through
    turned = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90°
    turned.save(tmp_path / "turned.png", exif=exif)
    assert to_tensor(Image.open(tmp_path / "turned.png"), (2, 1), 1).flatten().tolist() == [-1, 1]


# ---------------------------------------------------------------------- faults


def test_a_corrupt_file_is_named_and_replaced(folder):
    (folder / "cats" / "b.JPEG").write_bytes(b"not an image")
    images = open_images(DataConfig(str(folder), size=8))
    item = images[0]  # cats/b.JPEG comes first
    assert "b.JPEG" in item.fault
    assert torch.equal(item.image, images[1].image)
    limit = FaultLimit(1)
    with pytest.warns(UserWarning, match=r"skipped an image that cannot be read: .*b\.JPEG"):
        limit.check([item.fault, item.fault])
    limit.check([item.fault])
    with (
        pytest.warns(UserWarning, match="another"),
        pytest.raises(ValueError, match=r"(?s)2 images cannot be read, .*max_corrupt is 1:.*b"),
    ):
        limit.check(["another: gone"])


def test_a_truncated_image_is_a_fault(folder):
    path = folder / "cats" / "indoors" / "a.png"
    path.write_bytes(path.read_bytes()[:-200])
    images = open_images(DataConfig(str(folder), size=8))
    assert any("a.png" in (images[index].fault or "") for index in range(5))


def test_none_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 images can be read; the first: .*a\.png"):
        open_images(DataConfig(str(tmp_path), size=8))[0]


# ---------------------------------------------------------------------- order


def positions(images, batch_size, share, first, count, workers=0):
    batches = itertools.islice(loader(images, batch_size, share, first, 0, workers), count)
    return [(batch.positions.tolist(), batch.images) for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_is_a_function_of_the_step(workers):
    """However it is cut into processes, workers and restarts; every pass sees each image once."""
    images = open_images(DataConfig("digits", channels=1, flip=True))
    whole = positions(images, 12, slice(None), 0, 6)
    resumed = positions(images, 12, slice(None), 3, 3, workers)
    halves = [positions(images, 12, share, 0, 6, workers) for share in (slice(0, 6), slice(6, 12))]
    for (place, pixels), (left, left_pixels), (right, right_pixels) in zip(whole, *halves, strict=True):
        assert place == left + right
        assert torch.equal(pixels, torch.cat([left_pixels, right_pixels]))
    for (place, pixels), (other, other_pixels) in zip(whole[3:], resumed, strict=True):
        assert place == other
        assert torch.equal(pixels, other_pixels)


def test_every_pass_sees_each_image_once_in_another_order(tmp_path):
    np.save(tmp_path / "images.npy", np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), dtype=np.uint8))
    images = open_images(DataConfig(str(tmp_path / "images.npy"), channels=1))
    seen = torch.cat([pixels[:, 0, 0, 0] for _, pixels in positions(images, 4, slice(None), 0, 5)])
    passes = [seen[:10].tolist(), seen[10:].tolist()]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(set(passes[0]))
    assert passes[0] != passes[1]


READING = """
import multiprocessing, os, signal, sys
from examples.experiment.config import DataConfig
from examples.experiment.data import loader, open_images
batches = loader(open_images(DataConfig(sys.argv[1], channels=1)), 4, slice(None), 0, 0, workers=2)
next(batches), next(batches)  # one of each
for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *[signal.SIGTERM] * 200):
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, name)
for _ in range(6):
    assert next(batches).images.shape == (4, 1, 8, 8)
assert len(multiprocessing.active_children()) == 2
print("read", flush=True)
raise ValueError  # whose traceback keeps the workers to the end
"""


def test_workers_leave_signals_to_the_training_and_end_with_it(tmp_path):
    """A scheduler sends SIGTERM to all processes; those that read images go on until the one that trains ends."""
    np.save(tmp_path / "images.npy", np.zeros((10, 8, 8), dtype=np.uint8))
    command = [sys.executable, "-c", READING, str(tmp_path / "images.npy")]
    ran = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.returncode) == ("read\n", 1)


def test_half_of_the_images_are_mirrored(tmp_path):
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8), (1, 8, 8))
    np.save(tmp_path / "images.npy", ramp)
    images = open_images(DataConfig(str(tmp_path / "images.npy"), channels=1, flip=True))
    mirrored = sum(
        bool(images.at(position, 0).image[0, 0, 0] > images.at(position, 0).image[0, 0, -1]) for position in range(400)
    )
    assert abs(mirrored - 200) < 5 * 10  # five standard deviations


def test_images_go_to_workers_that_start_afresh(folder):
    """Where processes are spawned, what they work on is pickled."""
    images = pickle.loads(pickle.dumps(open_images(DataConfig(str(folder), size=8))))
    assert images[0].image.shape == (3, 8, 8)


# ---------------------------------------------------------------------- pictures


def test_bytes_there_and_back(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(to_bytes(from_bytes(pixels)), pixels)
    write_png(pixels[0], tmp_path / "a.png")
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), pixels[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_grid_shows_every_image_and_a_strip_every_resolution():
    images = torch.stack([torch.full((3, 8, 16), value) for value in (-0.5, 0.0, 0.5)])
    picture = grid(images, columns=2)
    assert picture.shape == (2 * 10 * 4, 2 * 18 * 4, 3)
    assert {int(value) for value in np.unique(picture)} == {0, 64, 128, 191}
    states = [
        (t, torch.ones(1, 1, n, n), torch.ones(1, 1, n, n))
        for t, n in zip(range(40, 0, -1), [2] * 30 + [4] * 9 + [8], strict=True)
    ]
    assert strip(states, columns=5).shape[0] == 2 * 10 * 8
    assert strip(states, columns=5).shape[1] == 6 * 10 * 8  # five, and the one where 4 × 4 begins; 8 × 8 is the last
