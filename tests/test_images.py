"""One image of any file and mode: the right greys, or a fault that names it; never an end of the training."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import warnings
import zlib

import numpy as np
import pytest
from examples.experiment.config import DataConfig
from examples.experiment.data import loader, open_images, to_tensor
from examples.experiment.pixels import EXTENSIONS, read_image
from PIL import Image, PngImagePlugin


def greys(image, channels=1):
    """What a training sees of an image, as bytes (H, W) or (H, W, C)."""
    pixels = to_tensor(image, image.size[::-1], channels)
    return ((pixels + 1) * 127.5).permute(1, 2, 0).squeeze(-1).round().int().tolist()


def stored(tmp_path, name, save):
    """The image of a folder with a white image and another, which `save` writes to a path; and what was wrong."""
    Image.new("L", (4, 1), 255).save(tmp_path / "z.png")
    save(tmp_path / name)
    image, _, fault = open_images(DataConfig(str(tmp_path), size=(1, 4), channels=1))[0]
    return ((image[0, 0] + 1) * 127.5).round().int().tolist(), fault


def png(rows, depth, colour_type, transparent=None):
    """A PNG file of packed rows of samples; Pillow does not write all the kinds it reads."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    samples = {0: 1, 2: 3, 4: 2}[colour_type]
    width = len(rows[0]) * 8 // (depth * samples)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0))
        + (b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


# ---------------------------------------------------------------------- modes


COLOUR = (200, 100, 50)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (1, 1), COLOUR), COLOUR),
        (Image.new("RGBX", (1, 1), (*COLOUR, 0)), COLOUR),
        (Image.new("RGBA", (1, 1), (*COLOUR, 255)), COLOUR),
        (Image.new("RGBA", (1, 1), (*COLOUR, 0)), (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("RGBa", (1, 1), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (1, 1), (0, 51)), (204, 204, 204)),
        (Image.new("La", (1, 1), (0, 51)), (204, 204, 204)),
        (Image.new("L", (1, 1), 77), (77, 77, 77)),
        (Image.new("1", (1, 1), 1), (255, 255, 255)),
        (Image.new("P", (1, 1), COLOUR), COLOUR),
        (Image.new("PA", (1, 1), (0, 0)), (255, 255, 255)),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGB", (1, 1), COLOUR).convert("YCbCr"), COLOUR),
        (Image.new("RGB", (1, 1), COLOUR).convert("HSV"), COLOUR),
        (Image.new("LAB", (1, 1), (255, 128, 128)), (255, 255, 255)),
        (Image.new("I;16", (1, 1), 257 * 77), (77, 77, 77)),
        (Image.new("I;16L", (1, 1), 257 * 77), (77, 77, 77)),
        (Image.new("I;16B", (1, 1), 257 * 77), (77, 77, 77)),
        (Image.new("F", (1, 1), 77 / 255), (77, 77, 77)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_in_its_own_colours(image, expected):
    np.testing.assert_allclose(greys(image, 3)[0][0], expected, atol=1 if image.mode in ("LAB", "HSV", "YCbCr") else 0)
    grey = Image.new("RGB", (1, 1), tuple(greys(image, 3)[0][0])).convert("L").getpixel((0, 0))
    assert greys(image, 1) == [[grey]]


def test_a_palette_with_a_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.putdata([0, 1])
    assert greys(image) == [[0, 9]]
    image.info["transparency"] = 0
    assert greys(image) == [[255, 9]]


@pytest.mark.parametrize("value", [1, 255, 65535, 100_000, -1])
def test_integers_without_a_known_range_are_a_fault(value):
    with pytest.raises(ValueError, match="32-bit or signed integers, of which it is not known which is white"):
        to_tensor(Image.new("I", (2, 2), value), (2, 2), 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 255.0, -0.1, 1.01])
def test_floating_point_numbers_out_of_range_are_a_fault(value):
    pixels = np.array([[0.5, value]], dtype=np.float32)
    with pytest.raises(ValueError, match="expected values from 0 to 1, got"):
        to_tensor(Image.fromarray(pixels), (1, 2), 1)


def test_floating_point_numbers_that_rounding_moves_out_of_range_are_none():
    assert greys(Image.fromarray(np.array([[-1e-4, 1 + 1e-4]], dtype=np.float32))) == [[0, 255]]


# ---------------------------------------------------------------------- files

QUARTERS = np.array([[0, 85, 170, 255]])


@pytest.mark.parametrize(
    ("name", "pixels", "options"),
    [
        ("a.tiff", (QUARTERS / 255).astype(np.float32), {}),
        ("a.tiff", (QUARTERS / 255).astype(np.float32), {"compression": "tiff_lzw"}),
        ("a.tif", (QUARTERS * 257).astype(np.uint16), {}),
        ("a.tif", (QUARTERS * 257).astype(np.uint16), {"compression": "tiff_lzw"}),
        ("a.PNG", (QUARTERS * 257).astype(np.uint16), {}),
        ("a.pgm", (QUARTERS * 257).astype(np.uint16), {}),
        ("a.jp2", (QUARTERS * 257).astype(np.uint16), {"irreversible": False}),
        ("a.pfm", (QUARTERS / 255).astype(np.float32), {}),
        ("a.gif", QUARTERS.astype(np.uint8), {}),
        ("a.webp", np.repeat(QUARTERS[..., None], 3, 2).astype(np.uint8), {"lossless": True}),
        ("a.bmp", QUARTERS.astype(np.uint8), {}),
        ("a.tga", QUARTERS.astype(np.uint8), {}),
        ("a.qoi", np.repeat(QUARTERS[..., None], 3, 2).astype(np.uint8), {}),
        ("a.ppm", np.repeat(QUARTERS[..., None], 3, 2).astype(np.uint8), {}),
        ("a.pcx", QUARTERS.astype(np.uint8), {}),
        ("a.sgi", QUARTERS.astype(np.uint8), {}),
        ("a.dds", np.repeat(QUARTERS[..., None], 3, 2).astype(np.uint8), {}),
    ],
    ids=lambda value: value if isinstance(value, str) else str(getattr(value, "dtype", "")),
)
def test_files_in_their_own_greys(tmp_path, name, pixels, options):
    try:
        Image.fromarray(pixels).save(tmp_path / "probe", format=Image.registered_extensions()[name[1:].lower()])
    except (KeyError, OSError, AttributeError) as error:  # Pillow of another version, or without a library
        pytest.skip(str(error))
    (tmp_path / "probe").unlink()
    found = stored(tmp_path, name, lambda path: Image.fromarray(pixels).save(path, **options))
    assert found == ([0, 85, 170, 255], None)


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "transparent", "expected"),
    [
        (8, 0, bytes([0, 85, 170, 255]), (0,), [255, 85, 170, 255]),
        (4, 0, bytes([0x05, 0xAF]), (5,), [0, 255, 170, 255]),
        (2, 0, bytes([0b00011011]), (1,), [0, 255, 170, 255]),
        (16, 0, struct.pack(">4H", 0, 85 * 257, 170 * 257, 65535), (0,), [255, 85, 170, 255]),
        (16, 0, struct.pack(">4H", 0, 85 * 257, 170 * 257, 65535), (1,), [0, 85, 170, 255]),
        (16, 0, struct.pack(">4H", 0, 85 * 257, 170 * 257, 65535), None, [0, 85, 170, 255]),
        (8, 2, bytes([0] * 3 + [85] * 3 + [170] * 3 + [255] * 3), (85, 85, 85), [0, 255, 170, 255]),
        (16, 2, struct.pack(">12H", *np.repeat(QUARTERS * 257, 3)), (0, 0, 0), [255, 85, 170, 255]),
        (16, 2, struct.pack(">12H", *np.repeat(QUARTERS * 257, 3)), (85 * 257,) * 3, [0, 255, 170, 255]),
        (16, 2, struct.pack(">12H", *np.repeat(QUARTERS * 257, 3)), None, [0, 85, 170, 255]),
        (16, 4, struct.pack(">8H", 0, 0, 0, 65535, 170 * 257, 65535, 65535, 65535), None, [255, 0, 170, 255]),
    ],
    ids=str,
)
def test_transparent_colours_of_every_depth_are_white(tmp_path, depth, colour_type, row, transparent, expected):
    data = png([row], depth, colour_type, transparent)
    assert stored(tmp_path, "a.png", lambda path: path.write_bytes(data)) == (expected, None)


def tiff(pixels, bits, sample_format, photometric):
    """A TIFF file of one strip."""
    entries = [
        (256, 4, pixels.size), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8 + 2 + 120 + 4), (277, 3, 1), (278, 4, 1), (279, 4, pixels.nbytes), (339, 3, sample_format),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 10) + directory + struct.pack("<I", 0) + pixels.tobytes()


@pytest.mark.parametrize(
    ("pixels", "bits", "sample_format", "photometric", "expected"),
    [
        (QUARTERS.astype("<u1"), 8, 1, 0, [255, 170, 85, 0]),
        ((QUARTERS * 257).astype("<u2"), 16, 1, 1, [0, 85, 170, 255]),
        ((QUARTERS * 257).astype("<u2"), 16, 1, 0, [255, 170, 85, 0]),
        ((QUARTERS / 255).astype("<f4"), 32, 3, 0, [255, 170, 85, 0]),
        (np.array([0x00, 0x05, 0x55, 0xAA, 0xAF, 0xFF], dtype="u1"), 12, 1, 1, None),
    ],
    ids=["8 bits, white is 0", "16 bits", "16 bits, white is 0", "float, white is 0", "12 bits"],
)
def test_tiff_of_other_depths_and_with_white_zero(tmp_path, pixels, bits, sample_format, photometric, expected):
    data = bytearray(tiff(pixels, bits, sample_format, photometric))
    if bits == 12:  # four samples in six bytes
        data[8 + 2 + 8 : 8 + 2 + 12] = struct.pack("<I", 4)
        expected = [0, 0x555 * 255 // 4095, 0xAAA * 255 // 4095, 255]
    assert stored(tmp_path, "a.tif", lambda path: path.write_bytes(data)) == (expected, None)


@pytest.mark.parametrize(("dtype", "sample_format"), [("<i4", 2), ("<u4", 1), ("<i2", 2)])
def test_a_tiff_of_integers_without_a_known_range_is_a_fault(tmp_path, dtype, sample_format):
    pixels = QUARTERS.astype(dtype)
    seen, fault = stored(
        tmp_path, "a.tif", lambda path: path.write_bytes(tiff(pixels, 8 * pixels.itemsize, sample_format, 1))
    )
    assert seen == [255] * 4  # the next image
    assert "a.tif: ValueError: 32-bit or signed integers" in fault


def test_the_first_of_several_images(tmp_path):
    frames = [Image.new("RGB", (4, 1), value) for value in ("white", "black")]
    for name in ("a.gif", "b.png", "c.tiff", "d.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    images = open_images(DataConfig(str(tmp_path), size=(1, 4)))
    assert len(images) == 4
    assert all(images[index].image.eq(1).all() and images[index].fault is None for index in range(4))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tiff", "a.webp"])
def test_turned_once_whatever_the_format(tmp_path, name):
    """Pillow turns a TIFF by itself."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    picture = np.zeros((16, 32, 3), dtype=np.uint8)
    picture[:, 16:] = 255
    Image.fromarray(picture).save(tmp_path / name, exif=exif)
    turned = greys(read_image(tmp_path / name))
    assert np.shape(turned) == (32, 16)
    assert np.mean(turned[:15]) < 5
    assert np.mean(turned[17:]) > 250
    assert greys(read_image(tmp_path / name)) == turned


# ---------------------------------------------------------------------- damaged, hostile, too large


def exif(*entries):
    """Metadata of (tag, type, value in four bytes)."""
    tags = b"".join(struct.pack("<HHI4s", tag, kind, 1, value) for tag, kind, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + tags + bytes(4)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("extension", ["jpg", "webp", "png"])
@pytest.mark.parametrize(
    "damaged",
    [
        exif((0x0112, 3, b"\6\0\0\0"))[:-14],  # cut off in the orientation
        exif((0x0112, 2, b"abc\0")),
        exif((0x0112, 3, b"\xff\xff\0\0")),
        exif((0x0112, 5, b"\xff\xff\xff\xff")),
        exif((0x0112, 8, b"\xfa\xff\0\0")),
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0II*\0\x08",
        b"Exif\0\0nothing",
        b"Exif\0\0",
    ],
    ids=str,
)
def test_damaged_metadata_do_not_lose_an_image(tmp_path, extension, damaged):
    Image.new("RGB", (4, 1), (85, 85, 85)).save(tmp_path / f"a.{extension}", exif=damaged)
    image, _, fault = open_images(DataConfig(str(tmp_path), size=(1, 4)))[0]
    assert fault is None
    assert (image - (85 / 127.5 - 1)).abs().max() < 0.03


@pytest.mark.parametrize(
    "other",
    [(0x0100, 8, b"\xfa\xff\0\0"), (0x0111, 9, b"\xfa\xff\xff\xff"), (0x0103, 12, bytes(4)), (0x8825, 4, b"\xff" * 4)],
    ids=str,
)
def test_images_are_turned_also_where_other_metadata_are_damaged(tmp_path, other):
    Image.new("RGB", (4, 1)).save(tmp_path / "a.jpg", exif=exif((0x0112, 3, b"\6\0\0\0"), other))
    assert read_image(tmp_path / "a.jpg").size == (1, 4)


@pytest.mark.parametrize(
    "error",
    [
        struct.error("a"), SyntaxError("a"), KeyError("a"), IndexError(), TypeError("a"), AttributeError("a"),
        EOFError(), OverflowError("a"), MemoryError(), zlib.error("a"), NotImplementedError("a"), RuntimeError("a"),
        AssertionError(), RecursionError("a"), ZeroDivisionError("a"), UnicodeDecodeError("utf-8", b"", 0, 1, "a"),
        StopIteration(), Image.DecompressionBombError("a"), Exception("a"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_a_fault(tmp_path, monkeypatch, error):
    Image.new("L", (4, 1), 85).save(tmp_path / "a.png")
    Image.new("L", (4, 1), 255).save(tmp_path / "z.png")
    images = open_images(DataConfig(str(tmp_path), size=(1, 4), channels=1))
    read = Image.open

    def opened(file, **options):
        if "a.png" in str(file):
            raise error
        return read(file, **options)

    monkeypatch.setattr(Image, "open", opened)
    item = images[0]
    assert item.image.eq(1).all()
    assert f"a.png: {type(error).__name__}: " in item.fault
    batch = next(loader(images, 4, slice(None), 0, 0))
    assert len(batch.faults) == 2


def test_an_interruption_is_no_fault(tmp_path, monkeypatch):
    Image.new("L", (4, 1), 85).save(tmp_path / "a.png")
    images = open_images(DataConfig(str(tmp_path), size=(1, 4)))

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        images[0]


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_garbage_of_every_extension_is_a_fault(tmp_path, extension):
    """Every signature with garbage behind it."""
    heads = [
        b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"DDS ", b"BLP1", b"BLP2", b"II*\0", b"GIF89a", b"BM", b"qoif",
        b"RIFF\x10\0\0\0WEBPVP8 ", b"\0\0\0 ftypavif", b"\x0a\x05\x01\x08", b"\x01\xda\0\x01", b"P6\n4 1\n255\n",
        b"\0\0\1\0", b"\0\0\0\x0cjP  \r\n\x87\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 1\n",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for number, head in enumerate(heads):
        (tmp_path / f"{number:02}{extension}").write_bytes(head + rng.bytes(200))
    Image.new("L", (4, 1), 255).save(tmp_path / "zz.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = open_images(DataConfig(str(tmp_path), size=(1, 4), channels=1, max_corrupt=len(heads)))
        item = images[0]
    assert item.fault


def test_nothing_starts_ghostscript(tmp_path, monkeypatch):
    """Neither a file that says it is EPS nor one that says it is not."""
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 1\n%%EndComments\nshowpage\n%%EOF\n"
    for name in ("a.png", "b.eps", "c.ps", "d.wmf", "e.svg"):
        (tmp_path / name).write_bytes(page)
    Image.new("L", (4, 1), 255).save(tmp_path / "z.png")

    def started(*arguments, **options):
        raise AssertionError("a program was started")

    for name in ("Popen", "check_call", "run", "check_output"):
        monkeypatch.setattr(subprocess, name, started)
    with pytest.warns(UserWarning, match=r"pictures in formats that are not read: .*1 \.svg"):
        images = open_images(DataConfig(str(tmp_path), size=(1, 4)))
    assert len(images) == 2
    assert "not an image of a format that is read" in images[0].fault


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_an_image_of_too_many_pixels_is_a_fault(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        seen, fault = stored(tmp_path, name, lambda path: Image.new("L", (101, 1)).save(path))
        assert seen == [255] * 4
        assert "101 × 1 pixels are more than PIL.Image.MAX_IMAGE_PIXELS = 100" in fault
        seen, fault = stored(tmp_path, name, lambda path: Image.new("L", (999, 9)).save(path))  # Pillow's own limit
        assert "DecompressionBombError" in fault


def test_a_small_file_of_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    """169 million pixels in less than half a megabyte."""
    data = png([bytes(1625)] * 13_000, 1, 0)
    assert len(data) < 500_000
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", lambda image: pytest.fail("decoded"))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ValueError, match="13000 × 13000 pixels are more"):
        read_image(tmp_path / "a.png")


def test_a_jpeg_of_too_many_pixels_is_decoded_at_half_its_size(tmp_path, monkeypatch):
    picture = np.zeros((64, 64), dtype=np.uint8)
    picture[:, 32:] = 255
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.warns(Image.DecompressionBombWarning):
        image = read_image(tmp_path / "a.jpg")
    assert image.size == (32, 32)
    assert np.abs(np.array(greys(image)) - picture[::2, ::2]).max() < 10


def test_messages_are_the_same_each_time():
    """They are what unreadable images are counted by."""
    messages = set()
    for _ in range(3):
        with pytest.raises(ValueError, match="not an image") as caught:
            read_image(io.BytesIO(b"nothing"))
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_files_that_are_gone_or_none(tmp_path):
    """A file removed after the folder was listed, a link to nothing, a link to itself, a pipe."""
    for name in ("a.png", "z.png"):
        Image.new("L", (4, 1), 255).save(tmp_path / name)
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "c.png")
    os.mkfifo(tmp_path / "d.png")
    (tmp_path / "e.png").mkdir()
    (tmp_path / "f.png").write_bytes(b"")
    images = open_images(DataConfig(str(tmp_path), size=(1, 4)))
    assert [os.path.basename(images.name(index)) for index in range(len(images))] == [
        "a.png", "b.png", "c.png", "f.png", "z.png",
    ]  # fmt: skip
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    for index in range(4):
        assert os.path.basename(images.name(index)) in images[index].fault
        assert images[index].image.eq(1).all()


def test_too_many_in_a_row_stop_at_once_also_in_a_worker(tmp_path):
    """With the message alone, and without reading all of a folder that has moved away."""
    for index in range(20):
        (tmp_path / f"{index:02}.png").write_bytes(b"nothing")
    images = open_images(DataConfig(str(tmp_path), size=4, max_corrupt=2))
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"none of 3 images in a row can be read; the first: ") as caught:
            next(loader(images, 4, slice(None), 0, 0, workers))
        assert "Traceback" not in str(caught.value)
