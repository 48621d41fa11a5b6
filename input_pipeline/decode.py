"""From an encoded image to pixels, on the host: resizing, random resized crops, RandAugment.

These need the photograph at its own size, or Pillow's operations; what can be done to a batch of
equal images is done on the device, in ``image.py``. Parity reference: ``torchvision.transforms`` on
Pillow images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from input_pipeline.errors import DataError
from input_pipeline.image_file import opened, require_few_pixels

_BILINEAR, _NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
_ASPECT = (3 / 4, 4 / 3)  # width / height of a random crop


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How encoded images become pixels.

    Attributes:
        image_size: side of the square result in pixels; None keeps the images as they are.
        resize_size: the shorter side is resized to this before the centre is cropped; None: to
          image_size.
        crop_area: smallest and largest share of the image's area that a random crop has, in
          training; (): no such crop.
        randaugment_layers: operations of RandAugment on each image, in training.
        randaugment_magnitude: of each operation, 0..1.

    Raises:
        DataError: a value out of range, or one that needs an image_size without it.
    """

    image_size: int | None = None
    resize_size: int | None = None
    crop_area: tuple[float, ...] = ()
    randaugment_layers: int = 0
    randaugment_magnitude: float = 0.3

    def __post_init__(self):
        if self.image_size is not None and self.image_size < 1:
            raise DataError(f"image_size {self.image_size} must be at least 1")
        if self.resize_size is not None and self.resize_size < (self.image_size or math.inf):
            raise DataError(
                f"resize_size {self.resize_size} is for an image_size of at most that, not "
                f"{self.image_size}"
            )
        if self.crop_area and (
            len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1
        ):
            raise DataError(
                f"crop_area {self.crop_area} must be two shares, 0 < smallest <= largest <= 1, or "
                "()"
            )
        if self.crop_area and self.image_size is None:
            raise DataError(
                f"crop_area {self.crop_area} needs an image_size to resize the crops to"
            )
        if self.randaugment_layers < 0 or not 0 <= self.randaugment_magnitude <= 1:
            raise DataError(
                f"randaugment_layers {self.randaugment_layers} must be at least 0 and "
                f"randaugment_magnitude {self.randaugment_magnitude} in 0..1"
            )

    @property
    def random(self) -> bool:
        """Whether training decodes an image differently each time."""
        return bool(self.crop_area or self.randaugment_layers)


def decode_image(
    source: bytes | Path,
    channels: int,
    decoding: Decoding,
    rng: np.random.Generator | None = None,
    *,
    notice: Callable[[str], None] = lambda text: None,
) -> np.ndarray:
    """Decodes an image file to uint8 [h, w, channels], as in evaluation or, with `rng`, as in
    training.

    Args:
        source: the file's bytes, or its path.
        channels: see `opened`, as for `notice`.
        decoding: size, crop and augmentation.
        rng: of crop and augmentation.

    Raises:
        DataError: the file cannot be read, see `opened`.
    """
    with opened(source, channels, notice) as image:
        size = decoding.image_size
        if rng is not None and decoding.crop_area:
            # cropped first: resize's own box lets the filter see pixels outside of it
            image = image.crop(crop_box(rng, image.width, image.height, decoding.crop_area))
            image = image.resize((size, size), _BILINEAR)
        elif size is not None:
            image = fit(image, (size, size), decoding.resize_size)
        if rng is not None and decoding.randaugment_layers:
            image = rand_augment(
                rng, image, decoding.randaugment_layers, decoding.randaugment_magnitude
            )
        pixels = np.asarray(image, np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)


def fit(image: Image.Image, size: tuple[int, int], resize_size: int | None = None) -> Image.Image:
    """Resizes (bilinear) so that the image just covers `size` = (width, height), and crops its
    centre.

    With `resize_size` it is resized to cover that many pixels for each `min(size)` of them, and
    more is cropped away.

    Raises:
        DataError: one side is so much longer than the other that too many pixels would be made.
    """
    if image.size == size and resize_size in (None, min(size)):
        return image
    many, of = resize_size or min(size), min(size)
    # in whole numbers, rounded down, so that the side that decides is exact
    if image.width * size[1] <= image.height * size[0]:
        width, height = size[0] * many // of, image.height * size[0] * many // (image.width * of)
    else:
        width, height = image.width * size[1] * many // (image.height * of), size[1] * many // of
    require_few_pixels(width, height, "it would be resized to")
    left, top = round((width - size[0]) / 2), round((height - size[1]) / 2)
    return image.resize((width, height), _BILINEAR).crop((left, top, left + size[0], top + size[1]))


def crop_box(
    rng: np.random.Generator, width: int, height: int, area: tuple[float, ...]
) -> tuple[int, int, int, int]:  # left, top, right, bottom
    """A random part of an image of that size (Szegedy et al. 2015, section 6), as
    ``RandomResizedCrop`` draws it.

    Its share of the area is uniform in `area`, its width / height log-uniform in 3/4..4/3; after
    ten draws that do not fit, the largest centred part of an allowed shape is taken.
    """
    low, high = np.log(_ASPECT)
    for _ in range(10):
        pixels, aspect = width * height * rng.uniform(*area), math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * _ASPECT[1])), min(height, round(width / _ASPECT[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def rand_augment(
    rng: np.random.Generator, image: Image.Image, layers: int, magnitude: float
) -> Image.Image:
    """RandAugment (Cubuk et al. 2019, arXiv:1909.13719) with the operations and ranges of
    torchvision.

    Args:
        layers: operations in a row, each drawn from `OPERATIONS`; those that have a direction take
          it at random.
        magnitude: 0..1; torchvision's 9 of 0..30 is 0.3, big_vision's 10 of 0..10 is 1.
    """
    for _ in range(layers):
        name = list(OPERATIONS)[rng.integers(len(OPERATIONS))]
        sign = 1 if name not in SIGNED or rng.integers(2) else -1
        image = OPERATIONS[name](image, sign * magnitude)
    return image


def _affine(image: Image.Image, *matrix: float | int) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, _NEAREST)


def _enhance(
    kind: Callable[[Image.Image], ImageEnhance._Enhance],
) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, m: kind(image).enhance(1 + 0.9 * m)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, m: image,
    "ShearX": lambda image, m: _affine(image, 1, 0.3 * m, 0, 0, 1, 0),
    "ShearY": lambda image, m: _affine(image, 1, 0, 0, 0.3 * m, 1, 0),
    "TranslateX": lambda image, m: _affine(image, 1, 0, -int(m * 150 / 331 * image.width), 0, 1, 0),
    "TranslateY": lambda image, m: _affine(
        image, 1, 0, 0, 0, 1, -int(m * 150 / 331 * image.height)
    ),
    "Rotate": lambda image, m: image.rotate(30 * m, _NEAREST),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "Posterize": lambda image, m: ImageOps.posterize(image, 8 - round(4 * m)),
    # whole thresholds stay whole
    "Solarize": lambda image, m: ImageOps.solarize(image, round(255 * (1 - m), 3)),
    "AutoContrast": lambda image, m: ImageOps.autocontrast(image),
    "Equalize": lambda image, m: ImageOps.equalize(image),
}
"""(image, magnitude) -> image."""

SIGNED = (
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
)
"""Those whose magnitude may be negative."""
