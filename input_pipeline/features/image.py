"""Images: uint8 pixels of one size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import PRNGKeyArray

from input_pipeline import decode, image
from input_pipeline.errors import DataError, shortened
from input_pipeline.features.feature import (
    Batch,
    Feature,
    Found,
    Given,
    Preparation,
    Shapes,
    readable,
)
from input_pipeline.image_file import opened

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
"""Suffixes of the files of a folder that are read."""


@dataclasses.dataclass(frozen=True)
class Image(Feature):
    """Images of one size.

    Attributes:
        image_shape: (height, width, channels) of the decoded uint8 images.
    """

    kind: ClassVar[str] = "image"
    arrays: ClassVar[tuple[str, ...]] = ("image",)
    unit: ClassVar[str] = "pixel"
    named: ClassVar[str] = "file"

    image_shape: tuple[int, int, int]

    @property
    def model_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.image_shape

    def shapes(self, size: int, length: int) -> Shapes:
        """See `Feature.shapes`."""
        return {"image": ((size, *self.image_shape), np.uint8)}

    def summary(self, label: str, *, alone: bool) -> str:
        """See `Feature.summary`."""
        return f"images {'x'.join(map(str, self.image_shape))} uint8"

    def train_batch(self, key: PRNGKeyArray, batch: Batch, how: Preparation) -> Batch:
        """Augments, normalises, and mixes images and labels (see `image.preprocess_train`)."""
        return image.preprocess_train(
            key,
            batch,
            mean=how.mean,
            std=how.std,
            num_classes=how.soft_labels,
            crop_padding=how.crop_padding,
            flip=how.flip,
            erasing=how.erasing,
            mixup=how.mixup,
            dtype=how.dtype,
        )

    def eval_batch(self, batch: Batch, how: Preparation) -> Batch:
        """Normalises the images."""
        return image.preprocess_eval(batch, mean=how.mean, std=how.std, dtype=how.dtype)

    def read(self, words: list[str], given: Given, source: str) -> Found:
        """Reads files, and the files of folders; each that cannot be read is a warning."""
        files = expand([Path(word) for word in words])
        if not files:
            raise DataError(
                f"no image files in {shortened(', '.join(str(Path(w)) for w in words), 200)}; "
                f"suffixes: {' '.join(sorted(SUFFIXES))}"
            )
        good, images, broken = readable(
            files, lambda path: self._pixels(path, given), given.warn, several=True
        )
        return [*map(str, good)], self.stacked(images, given, source) if images else {}, broken

    def part(self, word: str, given: Given) -> np.ndarray:
        """Pixels of a file; black of none."""
        return self._pixels(Path(word), given) if word else np.zeros(self.image_shape, np.uint8)

    def stacked(self, parts: list[np.ndarray], given: Given, source: str) -> dict[str, np.ndarray]:
        """See `Feature.stacked`."""
        return {"image": np.stack(parts)}

    def _pixels(self, path: Path, given: Given) -> np.ndarray:
        def notice(text: str) -> None:
            given.warn(f"{shortened(path, 200)} {text}")

        options = {"resize_size": given.resize_size, "invert": given.invert, "notice": notice}
        return load_image(path, self.image_shape, **options)


def load_image(
    path: Path,
    shape: tuple[int, ...],
    *,
    resize_size: int | None = None,
    invert: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> np.ndarray:
    """Reads an image file as training does: resizes the shorter side, crops the centre.

    Args:
        path: of the file.
        shape: (h, w, c).
        resize_size: see `Decoding`.
        invert: white becomes black.
        notice: see `image_file.opened`.

    Returns:
        uint8 [h, w, c].

    Raises:
        DataError: missing, unreadable or broken file, in one line.
    """
    height, width, channels = shape
    try:
        with opened(path, channels, notice) as picture:
            pixels = np.asarray(decode.fit(picture, (width, height), resize_size), np.uint8)
    except DataError as e:
        raise DataError(f"{shortened(path, 200)}: {e}") from e
    pixels = pixels.reshape(height, width, channels)
    return 255 - pixels if invert else pixels


def expand(paths: list[Path]) -> list[Path]:
    """Files as given; a folder becomes its files with an image suffix, by name."""
    found = []
    for path in paths:
        if _is_dir(path):
            found += sorted(
                p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not _is_dir(p)
            )
        else:
            found.append(path)
    return found


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long a name
        return False
