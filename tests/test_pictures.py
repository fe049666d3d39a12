"""Pictures that need no other package, read by one that does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import lineardiffusion as ld
from lineardiffusion.pictures import write_png


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 3)])
def test_what_is_written_is_read(channels, mode, size, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    write_png(pixels, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
        np.testing.assert_array_equal(np.array(image).reshape(pixels.shape), pixels)


def test_smooth_pictures_are_small(tmp_path):
    y, x = np.mgrid[:128, :128]
    pixels = np.stack([x + y, 2 * y, 255 - x], axis=-1).astype(np.uint8)
    write_png(pixels, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < pixels.nbytes / 50


def test_images_side_by_side(tmp_path):
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(5, 1, 1, 1).expand(5, 1, 8, 16)
    ld.save_images(images.requires_grad_(), tmp_path / "a.png", columns=2)
    picture = np.array(Image.open(tmp_path / "a.png"))
    assert picture.shape == (3 * 10 * 4, 2 * 18 * 4)  # a pixel of margin around each, and all four times as large
    centres = picture[20::40, 36::72]
    np.testing.assert_array_equal(centres, [[0, 0], [128, 255], [255, 0]])
    ld.save_images(torch.zeros(3, 3, 100, 100, dtype=torch.bfloat16), str(tmp_path / "b.png"))
    assert np.array(Image.open(tmp_path / "b.png")).shape == (204, 204, 3)


@pytest.mark.parametrize(
    ("images", "columns", "message"),
    [
        (torch.zeros(3, 8, 8), None, r"images: expected shape \(N, 1, H, W\) or \(N, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(2, 4, 8, 8), None, "decode latents first"),
        (torch.zeros(0, 1, 8, 8), None, "images: expected"),
        (torch.zeros(2, 1, 8, 8), 0, "columns: expected at least 1, got 0"),
    ],
)
def test_what_is_no_picture(images, columns, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ld.save_images(images, tmp_path / "a.png", columns)
    assert list(tmp_path.iterdir()) == []
