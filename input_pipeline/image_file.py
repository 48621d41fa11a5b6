"""From an image file to a Pillow image of a model's channels: the one reader of training,
prediction and explanation.

Orientation by EXIF is applied. Transparency is laid on white. Grey of 16 bits and floating point in
0..1 are scaled to 8 bits. Of several frames the first is read. The size is looked at before
anything is decoded.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from input_pipeline.errors import DataError, shortened
from input_pipeline.files import require_file

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels -> Pillow mode."""

MAX_PIXELS = 2**26
"""Larger images are refused: 8,192 x 8,192."""

FORMATS = (
    *(
        "PNG",
        "JPEG",
        "MPO",
        "GIF",
        "BMP",
        "DIB",
        "WEBP",
        "TIFF",
        "PPM",
        "AVIF",
        "TGA",
        "PCX",
        "SGI",
    ),
)
"""Pillow's names of the formats that are read. They store pixels, say their size at the beginning,
and a truncated file is noticed; of JPEG 2000 it gives black."""

_SCALES = {"L;2": 85, "L;4": 17}
"""Rawmode of a grey PNG of few bits -> factor from its numbers to 0..255."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> how the image is turned upright."""


@contextlib.contextmanager
def opened(
    source: bytes | Path, channels: int, notice: Callable[[str], None] = lambda text: None
) -> Iterator[Image.Image]:
    """An image as a Pillow image in `MODES[channels]`, upright, opaque unless it has 4 channels.

    Args:
        source: the file's bytes, or its path.
        channels: 1, 3 or 4.
        notice: told what the file holds besides, as a sentence without a subject.

    Raises:
        DataError: the file is missing or broken, is no image, is too large, or has numbers of an
          unknown range.
    """
    try:
        if isinstance(source, Path):
            require_file(source)
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()
        ) as file:
            require_few_pixels(*file.size)
            if _has_frames(file):
                notice("has several frames, of which the first is read")
            transparent = _transparent_value(file)
            file.load()
            image = _upright(file)
            if transparent is not None:
                image.info["transparency"] = transparent
            yield _in_mode(image, channels, _grey(file))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # it asks before we do
        raise DataError(
            f"it has more than {MAX_PIXELS:,} pixels; make the image smaller"
        ) from error
    except Exception as error:  # Pillow's plugins raise whatever comes up in a broken file
        raise DataError(f"not a readable image ({_reason(error)})") from error


def require_few_pixels(width: int, height: int, what: str = "it has") -> None:
    """Raises `DataError` above `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{what} {width:,} x {height:,} pixels, and at most {MAX_PIXELS:,} are read; make the "
            "image smaller"
        )


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"of none of the formats {', '.join(_formats())}"
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return shortened(text) if text else type(error).__name__


def _has_frames(file: Image.Image) -> bool:
    if file.format == "MPO":  # a photograph, and pictures that a camera adds to it
        return False
    try:
        return bool(getattr(file, "is_animated", False))
    except Exception:  # the second frame is broken, and nobody needs it
        return False


def _transparent_value(file: Image.Image) -> int | None:
    """The transparent grey of a PNG of 2 or 4 bits in 0..255, which Pillow gives as it is stored;
    else None.

    Raises:
        DataError: a transparent colour of 16 bits a channel, of which Pillow keeps 8.
    """
    if file.format != "PNG" or "transparency" not in file.info or not file.tile:
        return None
    rawmode = file.tile[0][3]
    if rawmode == "RGB;16B":
        raise DataError(
            "has one transparent colour among colours of 16 bits; save it with an alpha channel"
        )
    return file.info["transparency"] * _SCALES[rawmode] if rawmode in _SCALES else None


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        method = _TRANSPOSE.get(orientation)
    except Exception:  # broken metadata say nothing of the pixels
        return image
    return image if method is None else image.transpose(method)


class _Grey(NamedTuple):
    """The range of numbers of more than 8 bits, 0..highest (None: the file does not say), and which
    end is white."""

    highest: int | None
    inverted: bool


def _grey(file: Image.Image) -> _Grey:
    tags = getattr(file, "tag_v2", {})  # of a TIFF; Pillow sees to both where there are 8 bits
    if file.format == "TIFF":
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (0,))[0]
        highest = 2**bits - 1 if file.mode.startswith("I;16") else None
        return _Grey(highest, tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0)
    return _Grey(65535, False)  # PNG and PPM, whose numbers Pillow scales


def _in_mode(image: Image.Image, channels: int, grey: _Grey) -> Image.Image:
    mode = MODES[channels]
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image, grey)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "LAB":
        image = image.convert("RGB")
    if channels < 4 and image.has_transparency_data:
        opaque = Image.new("RGB", image.size, "white")
        image = image.convert("RGBA")
        opaque.paste(image, mask=image)
        image = opaque
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image, meant: _Grey) -> Image.Image:
    """Grey of mode "F", "I" or "I;16" as "L", or as "LA" where one value is transparent.

    Raises:
        DataError: numbers of a range that cannot be known.
    """
    numbers, transparent = np.asarray(image), image.info.get("transparency")
    if image.mode == "F":
        low, high = _range(numbers)
        if not (low >= 0 and high <= 1):  # NaN is not
            raise DataError(
                f"has floating-point pixels from {low:g} to {high:g}, and those from 0 to 1 are "
                "read; save it with 8 or 16 bits"
            )
        pixels = np.rint(numbers * np.float32(255)).astype(np.uint8)
    else:
        highest = meant.highest or 65535
        low, high = _range(numbers) if meant.highest is None else (0, highest)
        if low < 0 or high > highest or 0 < high <= 255:
            raise DataError(
                f"has pixels of 32 bits from {low:.0f} to {high:.0f}, and those of 16 bits, to "
                "65535, are read; save it with 8 or 16 bits"
            )
        pixels = ((numbers.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)
    grey = Image.fromarray(255 - pixels if meant.inverted else pixels)
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(numbers == transparent, 0, 255).astype(np.uint8)))
    return grey


def _range(numbers: np.ndarray) -> tuple[float, float]:
    if not numbers.size:
        return 0, 0
    return float(numbers.min()), float(numbers.max())
