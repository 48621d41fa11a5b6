"""Batches of images, text or rows of tables for training and evaluation.

Global batch t is a function of (data, seed, t) alone. The number of processes only decides who gets
which rows of it, and the whole state of a loader is t: a run resumes with the same batches, on any
number of processes. The item of the Grain source is a whole batch, because Grain's cost per item
(tens of microseconds) would dominate were it an example.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Sequence

import grain
import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.decode import Decoding
from input_pipeline.errors import DataError, shortened
from input_pipeline.examples import (
    ArrayExamples,
    MoreLabels,
    RecordExamples,
    image_and_label,
    image_shape,
    label_of,
    no_class,
    open_examples,
    read_labels,
    split_parts,
    standardised,
    task_sizes,
)
from input_pipeline.features.image import Image
from input_pipeline.features.spec import DataSpec, make_spec
from input_pipeline.image_text import ImageTextExamples
from input_pipeline.own import OwnExamples, describe_own, is_own
from input_pipeline.prepare import open_builder
from input_pipeline.sequences import LabelledTexts, Translations
from input_pipeline.table import TableExamples, describe_table, vector_feature
from input_pipeline.text import TextExamples, open_texts


def describe(
    name: str,
    *,
    train_split: str = "train",
    data_dir: str | os.PathLike | None = None,
    raw_dir: str | os.PathLike | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008  it is frozen
    labels: Sequence[str] = (),
    require: Sequence[str] = (),
    numbers: bool = False,
) -> DataSpec:
    """Returns what a data set of images or a table is, preparing it first if it is a
    built-in one.

    Args:
        name: see `make_loader`, as are data_dir, raw_dir, decoding and labels.
        train_split: over which the columns of a table are standardised.
        require: TFDS split strings that must be there.
        numbers: whether the label must be a number or several; else it must be a class.

    Raises:
        DataError: the data set cannot be found, prepared or used.
    """
    builder = open_builder(name, data_dir=data_dir, raw_dir=raw_dir)
    for split in require:
        split_parts(builder, split)
    if vector_feature(builder) is not None:
        _require_label(builder, numbers)
        return describe_table(builder, name, train_split, labels, numbers=numbers)
    image_and_label(builder)
    _require_label(builder, numbers)
    shape = image_shape(builder, decoding.image_size)
    if decoding.randaugment_layers and shape[2] not in (1, 3):
        raise DataError(
            f"randaugment_layers {decoding.randaugment_layers} is for 1 or 3 channels, not for "
            f"{shape[2]}"
        )
    return make_spec(
        name,
        str(builder.version),
        {split: info.num_examples for split, info in builder.info.splits.items()},
        str(builder.data_dir),
        {"image": Image(shape)},
        standardised(builder, train_split) if numbers else label_of(builder),
        task_sizes(builder, labels),
    )


def _require_label(builder: tfds.core.DatasetBuilder, numbers: bool) -> None:
    """Raises `DataError` unless the label is of the kind that a task reads."""
    found = label_of(builder).kind == "number"
    if found and not numbers:
        raise no_class(builder, "; it is a number, for task regression")
    if numbers and not found:
        raise DataError(
            f"{builder.info.full_name} has no feature 'label' that is a floating-point number; it "
            f"has {dict(builder.info.features.items())}"
        )


Examples = (
    ArrayExamples
    | RecordExamples
    | TableExamples
    | TextExamples
    | ImageTextExamples
    | MoreLabels
    | OwnExamples
)
"""What has a length and ``batch(indices, draws)``."""


class _TrainBatches:
    """Endless: item t is this process's rows of global training batch t."""

    def __init__(self, examples: Examples, batch_size: int, rows: slice, seed: int):
        self._examples, self._batch_size, self._rows, self._seed = examples, batch_size, rows, seed
        # Prefetching threads are at most a few batches apart, so few epochs are in use at a time.
        self._order = functools.lru_cache(maxsize=4)(self._permutation)

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size  # so that every example index fits in int64

    def __getitem__(self, t: int) -> dict[str, np.ndarray]:
        size = len(self._examples)
        start, stop = (
            t * self._batch_size + self._rows.start,
            t * self._batch_size + self._rows.stop,
        )
        indices = np.concatenate(
            [
                self._order(epoch)[max(start - epoch * size, 0) : stop - epoch * size]
                for epoch in range(start // size, (stop - 1) // size + 1)
            ]
        )
        draws = [(self._seed, position) for position in range(start, stop)]
        return self._examples.batch(indices, draws)

    def _permutation(self, epoch: int) -> np.ndarray:
        key = np.array([self._seed, epoch], np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(len(self._examples))


class _EvalBatches:
    """One ordered pass: item t is this process's rows of batch t; missing rows are zeros of weight
    0."""

    def __init__(self, examples: Examples, batch_size: int, rows: slice):
        self._examples, self._batch_size, self._rows = examples, batch_size, rows

    def __len__(self) -> int:
        return -(-len(self._examples) // self._batch_size)

    def __getitem__(self, t: int) -> dict[str, np.ndarray]:
        rows = np.arange(self._rows.start, self._rows.stop) + t * self._batch_size
        real = rows < len(self._examples)
        batch = self._examples.batch(np.where(real, rows, 0))
        for values in batch.values():
            values[~real] = 0
        return batch


class _BucketTrainBatches:
    """Endless: item t is this process's rows of global training batch t, whose examples are about
    equally long.

    In each epoch the examples of every length are put in a new order and divided into batches; what
    is left over goes to the next greater length, and the last batch is filled up with examples of
    its length, or of any. So all epochs have the same number of batches of each length; their order
    is drawn too.
    """

    def __init__(
        self, examples: Translations | LabelledTexts, batch_size: int, rows: slice, seed: int
    ):
        self._examples, self._batch_size, self._rows, self._seed = examples, batch_size, rows, seed
        self._plan = functools.lru_cache(maxsize=4)(self._make_plan)
        self._epoch = len(self._plan(0))

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, t: int) -> dict[str, np.ndarray]:
        length, indices = self._plan(t // self._epoch)[t % self._epoch]
        return self._examples.batch(indices[self._rows], length=length)

    def _make_plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        rng = np.random.Generator(np.random.Philox(key=np.array([self._seed, epoch], np.uint64)))
        size, batches, rest = (
            self._batch_size,
            list[tuple[int, np.ndarray]](),
            np.zeros(0, np.int64),
        )
        for length, indices in self._examples.buckets:
            pool = np.concatenate([rest, rng.permutation(indices)])
            count = len(pool) // size
            batches += [(length, pool[i * size : (i + 1) * size]) for i in range(count)]
            rest = pool[count * size :]
        if len(rest):
            missing = size - len(rest)
            length, last = self._examples.buckets[-1]
            others = last if len(last) >= missing else np.arange(len(self._examples))
            batches.append(
                (length, np.concatenate([rest, rng.choice(others, missing, len(others) < missing)]))
            )
        return [batches[i] for i in rng.permutation(len(batches))]


class _BucketEvalBatches:
    """One pass, length by length: item t is this process's rows of batch t; missing rows are zeros
    of weight 0."""

    def __init__(
        self, examples: Translations | LabelledTexts, batch_size: int, rows: slice, seed: int
    ):
        self._examples, self._rows = examples, rows
        self._batches = [
            (length, indices[i : i + batch_size], batch_size)
            for length, indices in examples.buckets
            for i in range(0, len(indices), batch_size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, t: int) -> dict[str, np.ndarray]:
        length, indices, size = self._batches[t]
        real = (np.arange(size) < len(indices))[self._rows]
        padded = np.concatenate([indices, np.zeros(size - len(indices), np.int64)])
        batch = self._examples.batch(padded[self._rows], length=length)
        for values in batch.values():
            values[~real] = 0
        return batch


def _read_options(examples: Examples, batch_bytes: int) -> grain.ReadOptions:
    # Pillow decodes without the interpreter lock, one batch per thread.
    if isinstance(examples, RecordExamples):
        threads = min(16, os.cpu_count() or 1)
        return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    # Copying this much takes less time than handing it over from another thread.
    if batch_bytes <= 1 << 20:
        return grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)


def make_loader(
    name: str,
    split: str,
    *,
    batch_size: int,
    seed: int = 0,
    train: bool,
    data_dir: str | os.PathLike | None = None,
    raw_dir: str | os.PathLike | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008  it is frozen
    text: DataSpec | None = None,
    images: bool | None = None,
    labels: Sequence[str] = (),
    known: DataSpec | None = None,
    complete: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    start_batch: int = 0,
    in_memory_bytes: int = 2**31,
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
    """Opens a data set, preparing it first if it is a built-in one, and iterates over its batches.

    With `train`, the stream is endless: epoch e visits every example once, in an order drawn from
    (seed, e); a batch may straddle epochs, so no remainder is dropped. Without, it is one pass in
    stored order; the last batch is padded with zeros of weight 0, and all processes get the same
    number of batches. Texts in batches of about the same length are visited length by length
    instead, and in training the last batch of an epoch is filled up with others.

    Args:
        name: a built-in data set, `name[/config][:version]` of one that TFDS has prepared in
          `data_dir`, or `package.module:attribute` of a `DataSet` of one's own, for which of the
          following only batch_size, seed, train, known and what is about processes count.
        split: TFDS split string, such as "test" or "train[:90%]".
        batch_size: examples in a global batch, over all processes.
        seed: of the order, 0 <= seed < 2**64; unused without `train`.
        train: see above.
        data_dir: TFDS root; None means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        raw_dir: where the raw files of a built-in set are; None looks in the usual places and then
          downloads.
        decoding: how images become pixels; its random parts act with `train` alone, and images are
            then decoded anew each time, whatever in_memory_bytes.
        text: whose feature of kind "text" makes tokens; None where there is no text.
        images: whether batches hold images; None: if there is no text. With text, both of each
          example.
        labels: further features that are class labels, found as `label_NAME` int32 [b].
        known: what a model was made for; the data set must have its classes and its shape of
          images.
        complete: whether every image must have a label; texts and rows must, unless there are
          further labels.
        process_index: which contiguous rows of each batch to yield, of `process_count`.
        process_count: number of processes that share each batch.
        start_batch: first batch to yield.
        in_memory_bytes: a split whose decoded images take at most this many bytes is held in
          memory.

    Returns:
        An iterator of dict(image=uint8 [b, h, w, c], label=int32 [b], weight=float32 [b]), of a
        table with features=float32 [b, d] in place of image, of text of what `Text.shapes`
        says; b is batch_size // process_count. `get_state()` is {"next_index": t}, t being the next
        batch to be returned, whatever is prefetched; `set_state(state)` goes there; `close()` stops
        the background threads.

    Raises:
        DataError: the data set or split cannot be found, prepared or used, or an argument is out of
            range. The iterator raises it for an image that cannot be read and, where images are not
            held in memory, for a label that is no class.
    """
    if process_count < 1 or not 0 <= process_index < process_count:
        raise DataError(
            f"process_index {process_index} is not in 0 .. process_count - 1 = {process_count - 1}"
        )
    if batch_size < 1 or batch_size % process_count:
        raise DataError(
            f"batch_size {batch_size} must be a positive multiple of process_count {process_count}"
        )
    if not 0 <= seed < 2**64:
        raise DataError(f"seed {seed} is not in 0 .. 2**64 - 1")
    if is_own(name):
        examples: Examples = OwnExamples(name, split, known or describe_own(name))
        row_bytes = examples.row_bytes
    else:
        builder = open_builder(name, data_dir=data_dir, raw_dir=raw_dir)
        if known is not None:
            _require_same(builder, known, decoding)
        in_memory_bytes = -1 if train and decoding.random else in_memory_bytes
        examples, row_bytes = _open(
            builder, split, train, decoding, text, images, complete, in_memory_bytes
        )
        if labels:
            more = {key: read_labels(builder, split, key) for key in labels}
            examples = MoreLabels(examples, more)
    local = batch_size // process_count
    rows = slice(process_index * local, (process_index + 1) * local)
    if isinstance(examples, Translations | LabelledTexts) and len(examples.buckets) > 1:
        kind = _BucketTrainBatches if train else _BucketEvalBatches
        source = kind(examples, batch_size, rows, seed)
    else:
        source = (
            _TrainBatches(examples, batch_size, rows, seed)
            if train
            else _EvalBatches(examples, batch_size, rows)
        )
    if not 0 <= start_batch <= len(source):
        raise DataError(
            f"start_batch {start_batch} is not in 0 .. {len(source)}, the number of batches"
        )
    iterator = iter(
        grain.MapDataset.source(source).to_iter_dataset(_read_options(examples, local * row_bytes))
    )
    iterator.set_state({"next_index": start_batch})
    return iterator


def _open(
    builder: tfds.core.DatasetBuilder,
    split: str,
    train: bool,
    decoding: Decoding,
    text: DataSpec | None,
    images: bool | None,
    complete: bool,
    in_memory_bytes: int,
) -> tuple[Examples, int]:
    """The examples of a split of a prepared data set, and the bytes of one; see `make_loader`."""
    if text is None and vector_feature(builder) is not None:
        table = TableExamples(builder, split)
        return table, table.row_bytes
    texts = None if text is None else open_texts(builder, split, text, train=train)
    if texts is not None and not images:
        return texts, texts.row_bytes
    pictures = open_examples(
        builder, split, decoding, in_memory_bytes=in_memory_bytes, complete=complete
    )
    image_bytes = math.prod(image_shape(builder, decoding.image_size))
    if text is None or texts is None:
        return pictures, image_bytes
    both = ImageTextExamples(pictures, texts, text.kind("text").frame)
    return both, texts.row_bytes + image_bytes


def _require_same(builder: tfds.core.DatasetBuilder, known: DataSpec, decoding: Decoding) -> None:
    """Raises `DataError` unless the classes of a data set, and the shape of its images, are those
    that are known."""
    name, features = builder.info.full_name, builder.info.features
    again = f"{name} in {builder.data_dir} is not what the run was trained on:"
    if known.label_names and (names := tuple(features["label"].names)) != known.label_names:
        there, then = (shortened(", ".join(x), 150) for x in (names, known.label_names))
        raise DataError(f"{again} its {len(names)} classes are {there}, and then they were {then}")
    if known.kind("number"):
        now, then = label_of(builder), known.label
        same = now is not None and (now.kind, now.num_classes) == (then.kind, then.size)
        if not same or (then.names and now.names != then.names):
            said = now and now.summary()
            raise DataError(f"{again} its label is {said}, and then it was {then.summary()}")
    for key, count in known.tasks.items():
        if features[key].num_classes != count:
            raise DataError(
                f"{again} {key} has {features[key].num_classes} classes, and then it had {count}"
            )
    image = known.kind("image")
    if image and (now := image_shape(builder, decoding.image_size)) != tuple(image.image_shape):
        shape = tuple(image.image_shape)
        raise DataError(f"{again} its images are {now}, and then they were {shape}")
