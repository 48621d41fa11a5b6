"""Tables: data sets whose examples are rows of numbers with a class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.corpus import read_records, split_name
from input_pipeline.errors import DataError
from input_pipeline.examples import checked_numbers, label_of, split_parts, standardised, task_sizes
from input_pipeline.features.row import Row
from input_pipeline.features.spec import DataSpec, make_spec
from input_pipeline.ids import check_labels


class TableExamples:
    """Rows held in memory: features float32 [n, d]; label int32 [n], or float32 [n] or [n, k] of
    numbers; the interface of image examples.

    Raises:
        DataError: unknown split, a number that is not finite, or an example without a label or of
          no class.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        split_parts(builder, split)
        key, source = vector_feature(builder), split_name(builder, split)
        records = list(read_records(builder, split))
        with np.errstate(over="ignore"):  # a number too large for float32 is counted below
            self.features = np.stack([record[key] for record in records]).astype(np.float32)
        labels = np.array([record["label"] for record in records])
        holes = np.flatnonzero(~np.isfinite(self.features).all(1))
        if holes.size:
            raise DataError(
                f"{source} has {holes.size} row(s) with a number that is missing or not finite, "
                f"first example {holes[0]}; prepare it without"
            )
        label = label_of(builder)
        if label.kind == "number":
            self.label = checked_numbers(labels, source)
        else:
            check_labels(labels, label.num_classes, source, complete=True)
            self.label = labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a batch."""
        return 4 * self.features.shape[1] + 8

    def batch(
        self, indices: np.ndarray, draws: Sequence[tuple[int, ...]] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns features float32 [k, d], label int32 [k] and weight float32 [k] of k indices."""
        weight = np.ones(len(indices), np.float32)
        return {"features": self.features[indices], "label": self.label[indices], "weight": weight}


def vector_feature(builder: tfds.core.DatasetBuilder) -> str | None:
    """Name of the one feature that is a vector of floating-point numbers; None if the data set is
    no table."""
    found = [
        name
        for name, feature in builder.info.features.items()
        if name != "label"
        and isinstance(feature, tfds.features.Tensor)
        and len(feature.shape) == 1
        and feature.shape[0]
        and np.issubdtype(feature.np_dtype, np.floating)
    ]
    return found[0] if len(found) == 1 and label_of(builder) else None


def describe_table(
    builder: tfds.core.DatasetBuilder,
    name: str,
    train_split: str,
    labels: Sequence[str] = (),
    *,
    numbers: bool = False,
) -> DataSpec:
    """What a prepared table is.

    Args:
        builder: of a data set with a `vector_feature`.
        name: of the data set.
        train_split: TFDS split string, over which mean and std are taken.
        labels: features that are class labels, each a task.
        numbers: whether numbers of the label are learned, and so standardised.

    Raises:
        DataError: see `TableExamples`.
    """
    rows = TableExamples(builder, train_split).features.astype(np.float64)
    std, width = rows.std(0), rows.shape[1]
    feature = builder.info.features[vector_feature(builder)]
    named = tuple(filter(None, (feature.doc.desc or "").split(", ")))  # see BreastCancer
    names = named if len(named) == width else tuple(map("column {}".format, range(width)))
    mean, std = tuple(rows.mean(0).tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
    return make_spec(
        name,
        str(builder.version),
        {split: info.num_examples for split, info in builder.info.splits.items()},
        str(builder.data_dir),
        {"row": Row(names, mean, std)},
        standardised(builder, train_split) if numbers else label_of(builder),
        task_sizes(builder, labels),
    )
