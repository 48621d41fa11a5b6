"""Rows of a table: numbers with a name each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from input_pipeline.errors import shortened
from input_pipeline.features.feature import (
    Batch,
    Feature,
    Found,
    Given,
    Preparation,
    Shapes,
    readable,
)
from input_pipeline.files import read_text
from input_pipeline.table_file import read_table


@dataclasses.dataclass(frozen=True)
class Row(Feature):
    """Rows of numbers, and how a run standardises them.

    Attributes:
        feature_names: of the columns.
        mean, std: of each column over the split that is trained on; std is 1 where a column is
          constant.
    """

    kind: ClassVar[str] = "row"
    arrays: ClassVar[tuple[str, ...]] = ("features",)
    unit: ClassVar[str] = "column"
    named: ClassVar[str] = "row"
    fitted: ClassVar[bool] = True

    feature_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_features(self) -> int:
        """Numbers in a row."""
        return len(self.feature_names)

    @property
    def model_shape(self) -> tuple[int, ...]:
        """(numbers in a row,)."""
        return (self.num_features,)

    def shapes(self, size: int, length: int) -> Shapes:
        """See `Feature.shapes`."""
        return {"features": ((size, self.num_features), np.float32)}

    def summary(self, label: str, *, alone: bool) -> str:
        """See `Feature.summary`."""
        return ", ".join(filter(None, (f"{self.num_features} columns", label)))

    def eval_batch(self, batch: Batch, how: Preparation) -> Batch:
        """Standardises the numbers, in training too."""
        features = (batch["features"] - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        return {**batch, "features": features.astype(how.dtype)}

    def read(self, words: list[str], given: Given, source: str) -> Found:
        """Reads tables (see `read_table`); the names are FILE:LINE."""

        def table(path: str) -> tuple[list[int], np.ndarray]:
            text = given.text() if path == "-" else read_text(Path(path))
            return read_table(text, shortened(path, 200), self.feature_names, source)

        good, tables, broken = readable(words, table, given.warn)
        pairs = zip(good, tables, strict=True)
        names = [f"{path}:{line}" for path, (lines, _) in pairs for line in lines]
        arrays = {"features": np.concatenate([rows for _, rows in tables])} if tables else {}
        return names, arrays, broken
