"""What the built-in TFDS builders share: raw files, and examples that come from arrays, without
TensorFlow."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from input_pipeline.datasets import raw


def encode_png(image: np.ndarray) -> bytes:
    """Returns the PNG of a uint8 image [h, w, 1 or 3]; `tfds.features.Image` needs TensorFlow to
    encode arrays."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(
        buffer, "PNG", compress_level=1
    )
    return buffer.getvalue()


# Not registered with TFDS: the stock builders of the same names stay usable in the same process.
class RawBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder that reads raw files.

    Args:
        raw_dir: directory with the raw files; None looks in the usual places and then downloads.
        **kwargs: of `tfds.core.GeneratorBasedBuilder`, such as `data_dir`.
    """

    # TFDS looks for checksums beside the code, and for that imports importlib_resources, which it
    # does not require on current Pythons. These builders check their files themselves.
    code_path = None
    url_infos: ClassVar[dict[str, Any]] = {}

    RAW_FILES: ClassVar[tuple[raw.RawFile, ...]] = ()
    SYSTEM_DIR: ClassVar[Path | None] = None
    ADVICE: ClassVar[str] = ""

    def __init__(self, *, raw_dir: str | os.PathLike | None = None, **kwargs: Any):
        self._raw_dir = None if raw_dir is None else Path(raw_dir).expanduser()
        super().__init__(**kwargs)

    def raw_paths(self) -> dict[str, Path]:
        """Returns the path of each raw file by its `unpacked` name; downloads if need be."""
        paths = raw.obtain(
            self.name,
            self.RAW_FILES,
            raw_dir=self._raw_dir,
            data_dir=Path(self.data_dir_root),
            system_dir=self.SYSTEM_DIR,
            advice=self.ADVICE,
        )
        return {file.unpacked: path for file, path in zip(self.RAW_FILES, paths, strict=True)}

    @classmethod
    def content_key(cls, raw_dir: Path | None) -> str:
        """Of what no version speaks: a key of the content, under which it is prepared; empty for
        published data."""
        return ""


class ArrayBuilder(RawBuilder, skip_registration=True):
    """A builder whose examples are rows of arrays: an image, and columns."""

    def _generate_examples(
        self, image: np.ndarray, **columns: Any
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (index, example) for images [n, h, w, c] and columns of n values each."""
        for i in range(len(image)):
            yield (
                i,
                {"image": encode_png(image[i])}
                | {key: values[i] for key, values in columns.items()},
            )
