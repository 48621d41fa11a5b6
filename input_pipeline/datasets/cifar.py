"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from their binary version; the pickled one can run
code: never read it.

Names, versions and features are those of the stock TFDS builders, so that `tfds.data_source` reads
what this writes.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets import raw
from input_pipeline.datasets.builder import ArrayBuilder
from input_pipeline.errors import DataError

_PIXELS = 3 * 32 * 32  # bytes of one image, stored channel by channel


def parse_records(
    content: bytes, source: Path | str, num_records: int, label_sizes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Parses one CIFAR binary file: per record one byte for each kind of label, then the image.

    Args:
        content: the whole file.
        source: its path, for messages.
        num_records: how many records it must hold.
        label_sizes: number of classes of each kind of label, in file order.

    Returns:
        Images uint8 [num_records, 32, 32, 3] and labels uint8 [num_records, len(label_sizes)].

    Raises:
        DataError: wrong byte count or a label out of range.
    """
    width = len(label_sizes) + _PIXELS
    if len(content) != num_records * width:
        problem = "truncated" if len(content) < num_records * width else "too long"
        raise DataError(
            f"{source} is {problem}: {len(content)} bytes, expected {num_records * width}"
        )
    records = np.frombuffer(content, np.uint8).reshape(num_records, width)
    labels, pixels = np.split(records, [len(label_sizes)], axis=1)
    if (labels >= np.array(label_sizes)).any():
        raise DataError(
            f"{source} has labels up to {labels.max(axis=0).tolist()}, allowed are less than "
            f"{label_sizes}"
        )
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def read_members(path: Path, raw_file: raw.RawFile, names: list[str]) -> dict[str, bytes]:
    """Reads the named files from the published archive, or from the directory it unpacks to.

    Raises:
        DataError: the archive is not the published one, or a file is missing.
    """
    if path.is_dir():
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)}: unpack {raw_file.name} again")
        return {name: (path / name).read_bytes() for name in names}
    raw.verify(path, raw_file)
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix(f"{raw_file.unpacked}/")
                if name in names and (file := archive.extractfile(member)) is not None:
                    contents[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is not a sound archive ({error}): delete it and fetch it again"
        ) from error
    missing = [name for name in names if name not in contents]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(f'{raw_file.unpacked}/{name}' for name in missing)}"
        )
    return contents


class Cifar10(ArrayBuilder, skip_registration=True):
    """Small colour photographs; image uint8 [32, 32, 3], label 0..9; 50,000 train and 10,000 test
    examples."""

    VERSION = tfds.core.Version("3.0.2")
    RAW_FILES = (
        raw.RawFile(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "cifar-10-batches-bin",
        ),
    )
    DESCRIPTION = "CIFAR-10: 32 x 32 colour photographs in 10 classes."
    # key -> classes, file of names
    LABELS: ClassVar[dict[str, tuple[int, str]]] = {"label": (10, "batches.meta.txt")}
    FILES: ClassVar[dict[str, dict[str, int]]] = {  # split -> file -> records
        "train": {f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
        "test": {"test_batch.bin": 10_000},
    }

    def _info(self) -> tfds.core.DatasetInfo:
        labels = {
            key: tfds.features.ClassLabel(num_classes=size)
            for key, (size, _) in self.LABELS.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    **labels,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def _split_generators(self, dl_manager):
        (raw_file,) = self.RAW_FILES
        path = self.raw_paths()[raw_file.unpacked]
        name_files = [file for _, file in self.LABELS.values()]
        record_files = [file for files in self.FILES.values() for file in files]
        contents = read_members(path, raw_file, name_files + record_files)
        for key, (size, file) in self.LABELS.items():
            names = contents[file].decode().split()
            if len(names) != size:
                raise DataError(f"{path}: {file} has {len(names)} label names, expected {size}")
            self.info.features[key].names = names
        sizes = tuple(size for size, _ in self.LABELS.values())
        splits = {}
        for split, files in self.FILES.items():
            parts = [
                parse_records(contents[file], path / file, count, sizes)
                for file, count in files.items()
            ]
            images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            splits[split] = self._generate_examples(
                images,
                id=[f"{split}_{i:05d}" for i in range(len(images))],
                **{key: labels[:, i] for i, key in enumerate(self.LABELS)},
            )
        return splits


class Cifar100(Cifar10, skip_registration=True):
    """CIFAR-10's format with 100 classes (`label`) in 20 groups (`coarse_label`)."""

    VERSION = tfds.core.Version("3.0.2")
    RAW_FILES = (
        raw.RawFile(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            "cifar-100-binary",
        ),
    )
    DESCRIPTION = "CIFAR-100: 32 x 32 colour photographs in 100 classes of 20 groups."
    LABELS: ClassVar[dict[str, tuple[int, str]]] = {
        "coarse_label": (20, "coarse_label_names.txt"),
        "label": (100, "fine_label_names.txt"),
    }
    FILES: ClassVar[dict[str, dict[str, int]]] = {
        "train": {"train.bin": 50_000},
        "test": {"test.bin": 10_000},
    }
