"""What counts as an image and as a class, what is missing, and what a run can be recognised by."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import types
import warnings
import weakref
import zipfile

import numpy as np
import psutil
import pytest
from examples.experiment import data
from examples.experiment.config import DataConfig
from examples.experiment.data import open_images, to_tensor
from PIL import Image

FILES = ["cats/a.png", "cats/b.png", "dogs/a.png", "dogs/c.png"]


def write(root, files=FILES):
    """Images of different greys."""
    for grey, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * grey).save(root / name, format="png")
    return root


def names(images, root):
    return [os.path.relpath(images.name(index), root) for index in range(len(images))]


def opened(root, **options):
    return open_images(DataConfig(str(root), size=8, channels=1, **options))


# ---------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "other",
    [
        "cats/.ipynb_checkpoints/a-checkpoint.png", ".ipynb_checkpoints/a.png", "__MACOSX/cats/._a.png",
        "__MACOSX/a.png", "._a.png", ".hidden.png", "cats/._a.png", "@eaDir/a.png", "cats/@eaDir/a.png/THUMB.png",
        "#recycle/a.png", "$RECYCLE.BIN/a.png", ".git/a.png", "notes.txt", "paper.pdf", "data.h5", "film.mpg",
        "page.eps", "labels.csv", "cats/Thumbs.db", "cats/readme", "docs/index.html", "cats/a.png.partial",
        "cats/a.npy", "stub.grib", "old.wmf",
    ],
)  # fmt: skip
def test_what_is_no_image_changes_nothing(tmp_path, other):
    write(tmp_path, [*FILES, other])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wmf, and of the folder docs
        images = opened(tmp_path, labels=True)
    assert (names(images, tmp_path), images.class_names) == (FILES, ["cats", "dogs"])
    assert [images[index].label for index in range(4)] == [0, 0, 1, 1]


def test_links_to_folders_and_files_count(tmp_path):
    write(tmp_path / "elsewhere", ["x/a.png", "x/deep/b.png", "c.png"])
    root = write(tmp_path / "data", FILES[:2])
    (root / "dogs").symlink_to(tmp_path / "elsewhere" / "x")
    (root / "cats" / "c.png").symlink_to(tmp_path / "elsewhere" / "c.png")
    (tmp_path / "link").symlink_to(root)
    for start in (root, tmp_path / "link"):
        images = opened(start, labels=True)
        assert names(images, start) == ["cats/a.png", "cats/b.png", "cats/c.png", "dogs/a.png", "dogs/deep/b.png"]
        assert images.class_names == ["cats", "dogs"]


def test_links_in_a_circle_end(tmp_path):
    write(tmp_path)
    (tmp_path / "cats" / "up").symlink_to(tmp_path)
    (tmp_path / "cats" / "self").symlink_to(tmp_path / "cats")
    (tmp_path / "dogs" / "other").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "back").symlink_to(tmp_path / "dogs")
    images = opened(tmp_path)
    assert sorted(set(names(images, tmp_path))) == sorted(names(images, tmp_path))
    assert set(FILES) < set(names(images, tmp_path))
    assert len(images) == 8  # each class by itself and by the link in the other


def test_the_order_is_that_of_the_paths(tmp_path, monkeypatch):
    files = ["b/10.png", "b/2.png", "a/z.png", "a-b/c.png", "a/Z.PNG", "a.b/c.png"]
    write(tmp_path, files)
    walk = os.walk

    def backwards(*arguments, **options):
        for folder, folders, inside in walk(*arguments, **options):
            folders.sort(reverse=True)
            yield folder, folders, sorted(inside, reverse=True)

    expected = ["a/Z.PNG", "a/z.png", "a-b/c.png", "a.b/c.png", "b/10.png", "b/2.png"]
    assert names(opened(tmp_path), tmp_path) == expected
    monkeypatch.setattr(os, "walk", backwards)
    assert names(opened(tmp_path), tmp_path) == expected


def test_images_beside_the_classes_are_named(tmp_path):
    """Without labels all images count; with them it is not known what those beside the folders are."""
    write(tmp_path, [*FILES, "stray.png"])
    images = opened(tmp_path)
    assert (len(images), images.class_names) == (5, None)
    with pytest.raises(
        ValueError, match=r"data.labels: expected labels in .* got none: 1 images, such as stray\.png, lie"
    ):
        opened(tmp_path, labels=True)


def test_folders_without_images_are_no_classes_and_named(tmp_path):
    write(tmp_path)
    (tmp_path / "birds").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a")
    with pytest.warns(UserWarning, match="folders without images are no classes: birds, docs"):
        assert opened(tmp_path, labels=True).class_names == ["cats", "dogs"]


def test_pictures_that_are_not_read_are_counted(tmp_path):
    write(tmp_path, [*FILES, "cats/x.svg", "dogs/y.SVG"])
    with pytest.warns(UserWarning, match=r"pictures in formats that are not read: 2 \.svg"):
        assert len(opened(tmp_path)) == 4


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write(tmp_path)
    listed = os.scandir

    def refused(path="."):
        if str(path).endswith("dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(ValueError, match=r"data\.source: .*/dogs cannot be listed \(Permission denied\)"):
        opened(tmp_path)


def test_paths_that_are_no_source(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for source in ("", "pipe.npy", "a.png", "gone", "~nobody-of-this-name/x", "a\0b", "x" * 5000):
        with pytest.raises(ValueError, match=r"data\.source: expected a folder, a \.npz or \.npy file"):
            open_images(DataConfig(source, size=8))


# ---------------------------------------------------------------------- arrays

PIXELS = np.arange(6 * 64, dtype=np.uint16).astype(np.uint8).reshape(6, 8, 8)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, ">i4"])
def test_numbers_of_classes_are_kept_as_names(tmp_path, dtype):
    path = saved(tmp_path / "a.npz", images=PIXELS, labels=np.array([5, 0, 2, 0, 5, 2], dtype=dtype))
    images = opened(path, labels=True)
    assert images.class_names == ["0", "2", "5"]
    assert [images.class_names[images[index].label] for index in range(6)] == ["5", "0", "2", "0", "5", "2"]


@pytest.mark.parametrize("kind", [np.uint16, np.int64, np.float32, np.float64, bool, np.int8, np.complex64])
def test_arrays_of_other_numbers_are_refused_with_what_to_do(tmp_path, kind):
    np.save(tmp_path / "a.npy", PIXELS.astype(kind))
    with pytest.raises(ValueError, match=r"a\.npy: expected uint8 images .* \(images \* 255\)\.round\(\)"):
        opened(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS, "labels": np.array([0, 1, 0, 1, 0, np.nan])}, "expected 6 integer labels, got float64"),
        ({"images": PIXELS, "labels": np.array(list("abcabc"))}, "expected 6 integer labels, got <U1"),
        (
            {"images": PIXELS, "labels": np.zeros((6, 1), dtype=int)},
            r"expected 6 integer labels, got int64 of shape \(6, 1\)",
        ),
        ({"images": PIXELS, "labels": np.zeros((6, 2), dtype=bool)}, "expected 6 integer labels"),
        ({"images": PIXELS[:, :0]}, r"expected uint8 images .* got uint8 of shape \(6, 0, 8\)"),
        ({"images": PIXELS[:, :, :, None].repeat(2, 3)}, r"got uint8 of shape \(6, 8, 8, 2\)"),
        ({"images": np.uint8(1)}, r"got uint8 of shape \(\)"),
        ({"labels": np.zeros(3, dtype=int)}, r"got int64 of shape \(3,\)"),
        ({}, r"expected an array named images, got \[\]"),
    ],
    ids=["nan", "text", "column", "one-hot", "no pixels", "two channels", "a number", "labels alone", "nothing"],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=rf"data\.source: .*a\.npz.*{message}"):
        opened(saved(tmp_path / "a.npz", **arrays), labels=True)


def test_negative_labels_are_missing_ones(tmp_path):
    path = saved(tmp_path / "a.npz", images=PIXELS, labels=np.array([0, 1, -1, 0, -1, 1]))
    assert opened(path).class_names is None
    with pytest.raises(
        ValueError, match=r"data\.labels: .* the array labels has no class for 2 of 6 images, .* 2 \(-1\)"
    ):
        opened(path, labels=True)


def test_damaged_files_are_named_whatever_is_raised(tmp_path):
    """Every byte of the headers, and files that are not what their name says."""
    good = saved(tmp_path / "good.npz", images=PIXELS, labels=np.arange(6)).read_bytes()
    np.save(tmp_path / "good.npy", PIXELS)
    array = (tmp_path / "good.npy").read_bytes()
    rng = np.random.default_rng(0)
    cases = [(b"", "npy"), (b"", "npz"), (b"PK\x03\x04", "npz"), (good[:200], "npz"), (array[:100], "npy")]
    for place in rng.choice(len(good), 100, replace=False):
        cases.append((good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :], "npz"))
    for place in range(0, 128, 2):
        cases.append((array[:place] + bytes([array[place] ^ 255]) + array[place + 1 :], "npy"))
    refused = 0
    for number, (content, suffix) in enumerate(cases):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(content)
        try:
            opened(path)
        except ValueError as error:
            refused += 1
            assert path.name in str(error)  # noqa: PT017
    assert refused > 60
    (tmp_path / "array.npz").write_bytes(array)  # numpy tells them apart by what they hold
    (tmp_path / "arrays.NPY").write_bytes(good)
    assert len(opened(tmp_path / "array.npz")) == len(opened(tmp_path / "arrays.NPY")) == 6
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as file:
        file.writestr("images", b"nothing of numpy")
    with pytest.raises(ValueError, match=r"raw\.npz: expected uint8 images .* got bytes"):
        opened(tmp_path / "raw.npz")


def test_a_small_file_that_holds_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((10, 1000, 1000), dtype=np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=9_000_000))
    with pytest.raises(ValueError, match=r"a\.npz cannot be read \(MemoryError: its arrays take 0\.0 GiB"):
        opened(tmp_path / "a.npz")


def test_arrays_in_any_layout(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(PIXELS))
    tensors, _ = opened(tmp_path / "a.npy").tensor()
    np.testing.assert_allclose(tensors[:, 0], PIXELS / 127.5 - 1, atol=1e-6)


# ---------------------------------------------------------------------- Hugging Face

datasets = pytest.importorskip("datasets")


def table(path, images, labels=None, **more):
    """A data set in a parquet file."""
    features = {"image": datasets.Image()}
    columns = {"image": images}
    if labels is not None:
        columns["label"], features["label"] = labels, datasets.ClassLabel(names=["cat", "dog", "7"])
    for name, (values, feature) in more.items():
        columns[name], features[name] = values, feature
    (path / "rows").mkdir(exist_ok=True)
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    rows.to_parquet(str(path / "rows" / "train.parquet"))
    return f"hf:{path / 'rows'}"


@pytest.fixture(autouse=True)
def _kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")


def grey(value):
    return Image.new("L", (8, 8), value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1, 2, -1], r"the column label has no class for 2 of 4 images, the first of them 1 \(-1\)"),
        ([-1, -1, -1, -1], r"the column label has no class for 4 of 4 images, the first of them 0 \(-1\)"),
        ([0, 1, None, 1], r"the column label has no class for 1 of 4 images, the first of them 2 \(None\)"),
    ],
)
def test_missing_labels_are_said_before_a_training(tmp_path, labels, message):
    source = table(tmp_path, [grey(value) for value in (0, 50, 100, 150)], labels)
    images = open_images(DataConfig(source, size=8))  # which needs none
    assert (len(images), images.class_names) == (4, None)
    with pytest.raises(ValueError, match=rf"data\.labels: expected labels in .*, got none: {message}"):
        open_images(DataConfig(source, size=8, labels=True))


def test_names_are_those_of_the_column(tmp_path):
    source = table(tmp_path, [grey(value) for value in (0, 50, 100)], [2, 0, 2])
    images = open_images(DataConfig(source, size=8, labels=True))
    assert images.class_names == ["cat", "dog", "7"]
    assert images.tensor()[1].tolist() == [2, 0, 2]


def test_missing_and_damaged_rows_are_faults(tmp_path):
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 1\n"
    os.mkfifo(tmp_path / "pipe.png")
    rows = [
        None, {"bytes": b"nothing", "path": None}, {"bytes": page, "path": "a.eps"},
        {"bytes": None, "path": str(tmp_path / "pipe.png")}, {"bytes": None, "path": str(tmp_path / "gone.png")},
    ]  # fmt: skip
    found = datasets.Dataset.from_dict(
        {"image": [*rows, grey(255)]}, features=datasets.Features({"image": datasets.Image(decode=False)})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda name, split: found.cast_column("image", datasets.Image()))
        images = open_images(DataConfig("hf:any", size=8))
    for index in range(len(rows)):
        image, _, fault = images[index]
        assert image.eq(1).all()
        assert fault.startswith(f"row {index}: ")
        assert fault == images[index].fault
    assert images[5].fault is None


def test_of_several_columns_the_first_is_used_and_named(tmp_path):
    source = table(
        tmp_path, [grey(0), grey(9)], [0, 1], coarse=([1, 1], datasets.ClassLabel(names=["a", "b"]))
    )  # fmt: skip
    with pytest.warns(UserWarning, match="of the columns label, coarse the first is used"):
        assert open_images(DataConfig(source, size=8, labels=True)).class_names == ["cat", "dog", "7"]


def test_data_sets_that_cannot_be_loaded_are_named(tmp_path, monkeypatch):
    source = table(tmp_path, [grey(0)])
    with pytest.raises(ValueError, match=r"data\.source: hf:.*, split 'test', cannot be loaded \(ValueError: "):
        open_images(DataConfig(source, size=8, split="test"))
    script = tmp_path / "script"
    script.mkdir()
    (script / "script.py").write_text(f"open({str(script / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match=r"script, split 'train', cannot be loaded"):
        open_images(DataConfig(f"hf:{script}", size=8))
    assert not (script / "ran").exists()
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ValueError, match=r"needs datasets 4 or newer, got 3\.6\.0, which may run"):
        open_images(DataConfig(source, size=8))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="needs the package datasets, which is not installed"):
        open_images(DataConfig(source, size=8))


# ---------------------------------------------------------------------- fingerprints


def test_a_fingerprint_is_of_images_and_classes_and_not_of_their_place(tmp_path, monkeypatch):
    root = write(tmp_path / "data")
    first = opened(root).fingerprint()
    assert len(first) == 64
    assert opened(root, labels=True, flip=True).fingerprint() == first
    monkeypatch.chdir(tmp_path)
    assert opened("data/../data").fingerprint() == first
    (tmp_path / "link").symlink_to(root)
    assert opened(tmp_path / "link").fingerprint() == first
    shutil.move(root, tmp_path / "moved")
    root = tmp_path / "moved"
    assert opened(root).fingerprint() == first
    os.utime(root / FILES[0], (0, 0))
    (root / "notes.txt").write_text("other")
    assert opened(root).fingerprint() == first

    found = {first}
    content = (root / FILES[3]).read_bytes()
    for change in ("byte", "renamed file", "renamed class", "other class", "gone", "new"):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        other = shutil.copytree(root, tmp_path / "other")
        if change == "byte":
            (other / FILES[3]).write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        elif change == "renamed file":  # the last of them: another order
            (other / FILES[3]).rename(other / "cats" / "0.png")
        elif change == "renamed class":
            (other / "dogs").rename(other / "eels")
        elif change == "other class":  # the order is the same
            (other / FILES[1]).rename(other / "dogs" / "0.png")
        elif change == "gone":
            (other / FILES[1]).unlink()
        else:
            shutil.copy(root / FILES[1], other / "cats" / "c.png")
        found.add(opened(other).fingerprint())
    assert len(found) == 7


def test_a_fingerprint_of_arrays_is_of_rows_and_classes(tmp_path):
    labels = np.array([0, 2, 5, 0, 2, 5])
    first = opened(saved(tmp_path / "a.npz", images=PIXELS, labels=labels)).fingerprint()
    assert opened(saved(tmp_path / "b.npz", other=0, images=PIXELS, labels=labels)).fingerprint() == first
    changed = PIXELS.copy()
    changed[4, 7, 7] ^= 1
    others = [
        opened(saved(tmp_path / f"{number}.npz", images=images, labels=names)).fingerprint()
        for number, (images, names) in enumerate(
            [(changed, labels), (PIXELS[::-1], labels), (PIXELS, labels[::-1]), (PIXELS, labels + 1),
             (PIXELS.reshape(6, 4, 16), labels)]
        )
    ]  # fmt: skip
    assert len({first, *others}) == 6
    np.save(tmp_path / "a.npy", PIXELS)
    plain = opened(tmp_path / "a.npy").fingerprint()
    assert plain == opened(saved(tmp_path / "c.npz", images=PIXELS)).fingerprint()
    assert plain != first


def test_a_fingerprint_of_rows_and_of_images_that_cannot_be_read(tmp_path):
    pictures = [grey(value) for value in (0, 50, 100)]
    made = itertools.count()

    def fingerprint(pictures, labels):
        folder = tmp_path / str(next(made))
        folder.mkdir()
        return open_images(DataConfig(table(folder, pictures, labels), size=8)).fingerprint()

    first = fingerprint(pictures, [0, 1, 2])
    assert fingerprint(pictures, [0, 1, 2]) == first
    assert len({first, fingerprint(pictures[::-1], [0, 1, 2]), fingerprint(pictures, [0, 1, 1])}) == 3
    root = write(tmp_path / "data")
    whole = opened(root).fingerprint()
    (root / FILES[1]).unlink()
    (root / FILES[1]).symlink_to("nothing")
    assert opened(root).fingerprint() not in (whole, first)


def test_a_fingerprint_is_computed_once(tmp_path, monkeypatch):
    images = opened(write(tmp_path / "data"))
    first = images.fingerprint()
    shutil.rmtree(tmp_path / "data")
    assert images.fingerprint() == first


# ---------------------------------------------------------------------- all of them


def test_unreadable_images_are_left_out_of_what_is_computed_and_counted(tmp_path):
    write(tmp_path)
    (tmp_path / FILES[1]).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"skipped an image that cannot be read: .*b\.png"):
        tensors, labels = opened(tmp_path, labels=True).tensor()
    assert ((tensors[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [0, 80, 120]
    assert labels.tolist() == [0, 1, 1]
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(ValueError, match=r"1 images cannot be read, data\.max_corrupt is 0"),
    ):
        opened(tmp_path, max_corrupt=0).tensor()
    for name in FILES:
        (tmp_path / name).write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(ValueError, match="none of the 4 images can be read"),
    ):
        opened(tmp_path).tensor()


def test_a_tensor_takes_its_own_memory_and_no_more(tmp_path, monkeypatch):
    """No image is kept beside it."""
    np.save(tmp_path / "a.npy", np.zeros((50, 8, 8), dtype=np.uint8))
    alive, most = weakref.WeakSet(), 0

    def counted(*arguments):
        nonlocal most
        tensor = to_tensor(*arguments)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    monkeypatch.setattr(data, "to_tensor", counted)
    assert len(opened(tmp_path / "a.npy").tensor()[0]) == 50
    assert most == 1
