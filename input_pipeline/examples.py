"""Random access to the decoded examples of one split, in memory (with a cache on disk) or record by
record."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from input_pipeline.cache import array_of, checked, written
from input_pipeline.decode import Decoding, decode_image
from input_pipeline.errors import DataError
from input_pipeline.features.labels import ClassLabel, Number
from input_pipeline.ids import check_labels
from input_pipeline.image_file import MODES
from input_pipeline.prepare import locked

_CHUNK = 1024  # records read at once
_CACHE_FORMAT = 3  # change with anything that changes decoded values
_CACHE_FILES = ("image.npy", "label.npy")

Draw = tuple[int, ...]
"""Of what the random numbers of one example are a function."""


def label_of(builder: tfds.core.DatasetBuilder) -> ClassLabel | Number | None:
    """What the feature 'label' is: a class, a number or several; None if it is nothing of these."""
    found = dict(builder.info.features.items()).get("label")
    if isinstance(found, tfds.features.ClassLabel):
        return ClassLabel(found.num_classes, tuple(found.names))
    is_tensor = isinstance(found, tfds.features.Tensor)
    if is_tensor and len(found.shape) < 2 and np.issubdtype(found.np_dtype, np.floating):
        return Number(*found.shape)
    return None


def checked_numbers(labels: np.ndarray, source: str) -> np.ndarray:
    """Returns numbers as float32.

    Raises:
        DataError: one is missing, or float32 does not hold it.
    """
    with np.errstate(over="ignore"):  # a number too large for float32 is found below
        found = labels.astype(np.float32)
    holes = np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(1))
    if holes.size:
        raise DataError(
            f"{source} has {holes.size} label(s) with a number that is missing or not finite, "
            f"first example {holes[0]}; prepare it without"
        )
    return found


def image_and_label(
    builder: tfds.core.DatasetBuilder,
) -> tuple[str, tfds.features.Image, ClassLabel | Number]:
    """Returns (key of the image, its feature, what the label is).

    Raises:
        DataError: there is no one uint8 image, or no label that is a class or a number.
    """
    features = dict(builder.info.features.items())
    images = {
        key: value for key, value in features.items() if isinstance(value, tfds.features.Image)
    }
    key = "image" if "image" in images or len(images) != 1 else next(iter(images))
    label = label_of(builder)
    if key not in images or images[key].np_dtype != np.uint8 or images[key].shape[-1] not in MODES:
        raise DataError(
            f"{builder.info.full_name} needs a uint8 feature 'image', or exactly one; it has "
            f"{features}"
        )
    if label is None:
        raise no_class(builder)
    return key, images[key], label


def no_class(builder: tfds.core.DatasetBuilder, hint: str = "") -> DataError:
    """The error of a data set whose label is no class."""
    return DataError(
        f"{builder.info.full_name} needs a feature 'label' that is a ClassLabel{hint}; it has "
        f"{dict(builder.info.features.items())}"
    )


def task_sizes(builder: tfds.core.DatasetBuilder, keys: Sequence[str]) -> dict[str, int]:
    """Returns the number of classes of each feature; raises `DataError` unless all are class
    labels."""
    features = builder.info.features.items()
    labels = {
        name: f.num_classes for name, f in features if isinstance(f, tfds.features.ClassLabel)
    }
    for key in keys:
        if key not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise DataError(
                f"{builder.info.full_name} has no label {key!r}; its class labels: {known}"
            )
    return {key: labels[key] for key in keys}


def read_labels(builder: tfds.core.DatasetBuilder, split: str, key: str) -> np.ndarray:
    """Returns the labels int32 [n] of a split by a feature, -1 where one is missing; decodes no
    images.

    Raises:
        DataError: a label that is no class.
    """
    features = builder.info.features.items()
    images = {
        name: tfds.decode.SkipDecoding()
        for name, f in features
        if isinstance(f, tfds.features.Image)
    }
    source: Any = builder.as_data_source(split=split, decoders=images or None)
    found = [
        record[key]
        for start in range(0, len(source), _CHUNK)
        for record in source.__getitems__(list(range(start, min(start + _CHUNK, len(source)))))
    ]
    check_labels(
        np.array(found), builder.info.features[key].num_classes, f"{builder.info.full_name}/{split}"
    )
    return np.array(found, np.int32)


def image_shape(builder: tfds.core.DatasetBuilder, image_size: int | None) -> tuple[int, int, int]:
    """Returns (height, width, channels) of the decoded images; raises `DataError` if they vary."""
    height, width, channels = image_and_label(builder)[1].shape
    if image_size is not None:
        return image_size, image_size, channels
    if height is None or width is None:
        raise DataError(
            f"the images of {builder.info.full_name} vary in size: set a common one with "
            "--config.data.image_size=SIZE"
        )
    return height, width, channels


def _weighted(image: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": image, "label": label, "weight": np.ones(len(label), np.float32)}


@dataclasses.dataclass(frozen=True)
class ArrayExamples:
    """Examples held in memory: image uint8 [n, h, w, c], label int32 [n]."""

    image: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def labels(self) -> np.ndarray:
        """Returns all labels, int32 [n]."""
        return self.label

    def gather(
        self, indices: np.ndarray, draws: Sequence[Draw] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns images uint8 [k, h, w, c] and labels int32 [k] of k indices."""
        return self.image.take(indices, axis=0), self.label.take(indices, axis=0)

    def batch(
        self, indices: np.ndarray, draws: Sequence[Draw] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns dict(image, label, weight=ones) of k indices, see `gather`."""
        return _weighted(*self.gather(indices, draws))


class RecordExamples:
    """Examples read and decoded when asked for; the same interface as `ArrayExamples`.

    Args:
        builder: of the data set; split: of it.
        decoding: how images become pixels.
        complete: whether every example must have a label.
    """

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder,
        split: str,
        decoding: Decoding,
        *,
        complete: bool = False,
    ):
        self._key, _, self._label = image_and_label(builder)
        self._complete, self._noticed = complete, False
        self._name, self._decoding = f"{builder.info.full_name}/{split}", decoding
        self._shape = image_shape(builder, decoding.image_size)
        self._source: Any = builder.as_data_source(
            split=split, decoders={self._key: tfds.decode.SkipDecoding()}
        )
        expected = sum(stop - start for _, start, stop in split_parts(builder, split))
        if len(self._source) != expected:
            raise DataError(
                f"{builder.data_dir} holds {len(self._source)} examples of {split!r}, expected "
                f"{expected}"
            )

    def __len__(self) -> int:
        return len(self._source)

    def labels(self) -> np.ndarray:
        """Returns all labels, int32 [n], without decoding images."""
        chunks = self._chunks()
        return np.array(
            [record["label"] for chunk in chunks for record in self._source.__getitems__(chunk)],
            np.int32,
        )

    def gather(
        self, indices: np.ndarray, draws: Sequence[Draw] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns images uint8 [k, h, w, c] and labels int32 [k] of k indices, decoded at random
        where there are draws.

        Args:
            indices: int [k].
            draws: for each index what its random numbers are a function of; None decodes as in
              evaluation.
        """
        image = np.empty((len(indices), *self._shape), np.uint8)
        (_, *rest), dtype = self._label.shapes(1, 0)["label"]
        label = np.empty((len(indices), *rest), np.int64 if dtype is np.int32 else np.float64)
        for i, record in enumerate(self._source.__getitems__([int(index) for index in indices])):
            rng = (
                None
                if draws is None or not self._decoding.random
                else np.random.default_rng(draws[i])
            )
            try:
                notice = partial(self._notice, int(indices[i]))
                pixels = decode_image(
                    record[self._key], self._shape[2], self._decoding, rng, notice=notice
                )
            except DataError as error:
                raise DataError(f"example {indices[i]} of {self._name}: {error}") from error
            if pixels.shape != self._shape:
                raise DataError(
                    f"example {indices[i]} has shape {pixels.shape}, the data set declares "
                    f"{self._shape}: set a common size with --config.data.image_size=SIZE"
                )
            image[i], label[i] = pixels, record["label"]
        if dtype is np.float32:
            return image, checked_numbers(label, self._name)
        classes = self._label.num_classes
        check_labels(label, classes, self._name, complete=self._complete, indices=indices)
        return image, label.astype(np.int32)

    def _notice(self, index: int, text: str) -> None:
        """Says once what a file holds besides its image."""
        if not self._noticed:
            self._noticed = True
            print(
                f"example {index} of {self._name} {text}; others like it are not named",
                file=sys.stderr,
            )

    def batch(
        self, indices: np.ndarray, draws: Sequence[Draw] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns dict(image, label, weight=ones) of k indices, see `gather`."""
        return _weighted(*self.gather(indices, draws))

    def load(self, description: str) -> ArrayExamples:
        """Decodes everything into memory."""
        image = np.empty((len(self), *self._shape), np.uint8)
        label = np.empty(*self._label.shapes(len(self), 0)["label"])
        with tqdm.tqdm(total=len(self), desc=description, unit=" images", disable=None) as progress:
            for chunk in self._chunks():
                rows = slice(chunk[0], chunk[-1] + 1)
                image[rows], label[rows] = self.gather(np.array(chunk))
                progress.update(len(chunk))
        return ArrayExamples(image, label)

    def _chunks(self) -> Iterator[list[int]]:
        for start in range(0, len(self), _CHUNK):
            yield list(range(start, min(start + _CHUNK, len(self))))


class MoreLabels:
    """Examples with further labels.

    Args:
        examples: what has a length and `batch(indices, draws)`.
        labels: int32 [n] of each; they are found as `label_NAME`.
    """

    def __init__(self, examples: Any, labels: dict[str, np.ndarray]):
        self._examples, self._labels = examples, labels

    def __len__(self) -> int:
        return len(self._examples)

    def batch(
        self, indices: np.ndarray, draws: Sequence[Draw] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns what the examples give, and the labels int32 [k]."""
        more = {f"label_{key}": values[indices] for key, values in self._labels.items()}
        return {**self._examples.batch(indices, draws), **more}


def open_examples(
    builder: tfds.core.DatasetBuilder,
    split: str,
    decoding: Decoding,
    *,
    in_memory_bytes: int,
    complete: bool = False,
) -> ArrayExamples | RecordExamples:
    """Opens a split such as "train" or "train[:90%]+test".

    Args:
        builder: of a prepared data set.
        split: TFDS split string.
        decoding: how images become pixels.
        in_memory_bytes: splits whose decoded images take at most this are decoded once, cached on
            disk, held in memory; negative: none.
        complete: whether every example must have a label.

    Returns:
        The examples, at least one, in the order in which TFDS stores them.

    Raises:
        DataError: unknown or empty split, unusable features, images that vary in size without
            `image_size`, or, of examples in memory, a label that is missing or no class.
    """
    shape = image_shape(builder, decoding.image_size)
    parts = split_parts(builder, split)
    names = {name for name, _, _ in parts}
    num_bytes = sum(builder.info.splits[name].num_examples for name in names) * math.prod(shape)
    if num_bytes > in_memory_bytes:
        return RecordExamples(builder, split, decoding, complete=complete)
    whole = {name: _load_cached(builder, name, decoding) for name in names}
    slices = [(whole[name], slice(start, stop)) for name, start, stop in parts]
    if len(slices) == 1:  # views: a part of a split costs no copy
        ((examples, rows),) = slices
        found = ArrayExamples(examples.image[rows], examples.label[rows])
    else:
        found = ArrayExamples(
            np.concatenate([examples.image[rows] for examples, rows in slices]),
            np.concatenate([examples.label[rows] for examples, rows in slices]),
        )
    label = image_and_label(builder)[2]
    if label.kind == "class_label":
        source = f"{builder.info.full_name}/{split}"
        check_labels(found.label, label.num_classes, source, complete=complete)
    return found


def split_parts(builder: tfds.core.DatasetBuilder, split: str) -> list[tuple[str, int, int]]:
    """Returns the absolute slices (whole split's name, start, stop) that `split` stands for."""
    return slices_of(split, builder.info.splits, builder.info.full_name)


def slices_of(split: str, splits: tfds.core.SplitDict, name: str) -> list[tuple[str, int, int]]:
    """Returns the same by the splits of data set `name`."""
    try:
        instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except (ValueError, KeyError, AssertionError, NotImplementedError) as error:
        raise DataError(
            f"{name} has no split {split!r} ({str(error).strip()}). "
            f"Splits: {', '.join(splits)}, and slices such as 'train[:90%]'."
        ) from error
    parts = [
        (
            part.splitname,
            part.from_ or 0,
            splits[part.splitname].num_examples if part.to is None else part.to,
        )
        for part in instructions
    ]
    if not any(stop > start for _, start, stop in parts):
        raise DataError(f"split {split!r} of {name} has no examples")
    return parts


def _load_cached(
    builder: tfds.core.DatasetBuilder, split: str, decoding: Decoding
) -> ArrayExamples:
    """Returns a whole split, from the decoded cache if it is sound, else decoded and, if possible,
    cached."""
    records = RecordExamples(builder, split, decoding)
    shape = image_shape(builder, decoding.image_size)
    name = builder.info.full_name.replace("/", "-")
    stats = [(path.name, path.stat()) for path in map(Path, builder.info.splits[split].filepaths)]
    sizes = (decoding.image_size, decoding.resize_size)
    identity = (
        _CACHE_FORMAT,
        sizes,
        [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats],
    )
    fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    # full_name is name[/config]/version; a builder opened from a directory does not know its
    # data_dir_root.
    root = Path(builder.data_dir).parents[builder.info.full_name.count("/")] / ".jaxmodels_cache"
    directory = root / f"{name}-{split}-{fingerprint}"
    cached = _read_cache(directory, len(records), shape)
    if cached is not None:
        return cached
    examples = None
    try:
        root.mkdir(exist_ok=True)
        # of several processes one decodes, the others find its result
        with locked(root, directory.name):
            cached = _read_cache(directory, len(records), shape, say=False)
            if cached is not None:
                return cached
            examples = records.load(f"decoding {name}/{split}")
            _write_cache(directory, examples)
    except OSError:
        pass  # Read-only or full: the cache only saves time.
    return records.load(f"decoding {name}/{split}") if examples is None else examples


def _read_cache(
    directory: Path, count: int, shape: tuple[int, ...], *, say: bool = True
) -> ArrayExamples | None:
    found = checked(directory, _CACHE_FILES, say=say)
    if found is None:
        return None
    image, label = (array_of(found[name]) for name in _CACHE_FILES)
    return (
        ArrayExamples(image, label)
        if image.shape == (count, *shape) and label.shape[:1] == (count,)
        else None
    )


def _write_cache(directory: Path, examples: ArrayExamples) -> None:
    with written(directory, _CACHE_FILES) as temporary:
        np.save(temporary / "image.npy", examples.image)
        np.save(temporary / "label.npy", examples.label)
