"""One image, of any file and mode that is read here, as 8 bits of grey or colour, and as a tensor in [−1, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from torch import Tensor

Image.init()

# Raster formats that Pillow decodes itself. It knows others, which are left out: EPS and WMF start other programs, PDF
# is only written, HDF5, MPEG and their like are recognised and then refused.
_WANTED = "AVIF BLP BMP DDS DIB GIF ICO JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP"
FORMATS = tuple(name for name in _WANTED.split() if name in Image.OPEN)
EXTENSIONS = frozenset(
    extension for extension, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(file: Path | BinaryIO) -> Image.Image:
    """The first image of a file, as `upright` returns it.

    Raises:
        Exception: of any class, as decoders of damaged files do: none of FORMATS, more pixels than
            PIL.Image.MAX_IMAGE_PIXELS (89 million; a JPEG that has more is decoded at half its size), or damaged.
    """
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:  # whose message has the address of the object, other each time
        raise ValueError(f"not an image of a format that is read ({', '.join(FORMATS)})") from None
    with image:
        if _too_large(image):
            image.draft(None, (image.width // 2, image.height // 2))
        if _too_large(image):
            raise ValueError(
                f"{image.width} × {image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS = "
                f"{Image.MAX_IMAGE_PIXELS}"
            )
        _match_transparent_colour(image)
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """An image of any mode in mode L or RGB: turned as its camera says, and put on white where it is transparent.

    Grey of 16 bits goes from 0 to 65535 (TIFF of 12 bits to 4095), floating-point grey from 0 to 1.

    Raises:
        ValueError: 32-bit integers, whose white is not known; values out of range, or not finite.
    """
    image.load()
    turn = _turn(image)
    image = _opaque(_in_eight_bits(image))
    image = image if turn is None else image.transpose(turn)
    image.info = {}  # what has been done is not to be done again
    return image


def to_tensor(image: Image.Image, size: tuple[int, int], channels: int) -> Tensor:
    """An image of any mode as (channels, H, W) in [−1, 1]: `upright`, cropped at the centre to the proportions of
    `size`, and resized with antialiasing.

    Raises:
        ValueError: as `upright`.
    """
    image = upright(image).convert("RGB" if channels == 3 else "L")
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).reshape(*size, channels)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def _too_large(image: Image.Image) -> bool:
    limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and image.width * image.height > limit


def _match_transparent_colour(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG, which Pillow gives in the bits of the file, to those of the pixels. Grey
    of 16 bits keeps them; colours of 16 bits are told apart by their upper halves, all that Pillow reads of them."""
    colour, tiles = image.info.get("transparency"), getattr(image, "tile", [])
    mode = tiles[0][3] if image.format == "PNG" and tiles else None
    if colour is not None and mode in ("L;2", "L;4"):
        image.info["transparency"] = colour * {"L;2": 85, "L;4": 17}[mode]
    elif colour is not None and mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _turn(image: Image.Image) -> Image.Transpose | None:
    # ImageOps.exif_transpose also writes all metadata anew, and fails where any of them are damaged.
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged metadata, on which Pillow raises what it likes, do not lose a picture
        return None


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Deeper grey as L, or LA where it has a transparent colour: Pillow would clip it to 0…255."""
    tiff = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if image.mode == "F":
        white = 1.0
    elif image.mode.startswith("I;16"):
        white = 2.0 ** tiff.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
    elif image.mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits, too
        white = 65535.0
    elif image.mode == "I":
        raise ValueError("32-bit or signed integers, of which it is not known which is white: write 8 or 16 bits")
    else:
        return image
    stored = np.asarray(image)
    values = stored.astype(np.float32) / np.float32(white)
    if tiff.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
        values = 1 - values
    low, high, slack = float(values.min()), float(values.max()), 0.5 / 255  # what is rounded away does no harm
    if not (-slack <= low and high <= 1 + slack):
        raise ValueError(f"expected values from 0 to {white:g}, got {low * white:g} to {high * white:g}")
    grey = Image.fromarray((values * 255).round().clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(stored == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _opaque(image: Image.Image) -> Image.Image:
    """A new image of mode L or RGB, on white."""
    if not image.has_transparency_data:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
