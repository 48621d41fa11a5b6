"""A data set of one's own, written in Python and named by `"package.module:attribute"`."""

from __future__ import annotations

import dataclasses
import functools
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.errors import DataError
from input_pipeline.examples import slices_of
from input_pipeline.features.feature import Feature
from input_pipeline.features.spec import DataSpec

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set of one's own.

    Attributes:
        features: makes the inputs, in the order in which a model takes them, and then the labels.
        splits: split name -> what opens it: the arrays [n, ...] of all of its examples, by the keys
            that `Feature.shapes` of the features say; or, where they do not fit in memory, an
            object with `__len__()` and `batch(indices, draws)`, which gives such arrays for k
            indices. `draws`, one (seed, position) for each, are None in evaluation.
        version: "major.minor.patch".
    """

    features: Callable[[], dict[str, Feature]]
    splits: Mapping[str, Callable[[], Any]]
    version: str = "1.0.0"


def is_own(name: str) -> bool:
    """Tells whether a name is `package.module:attribute`; `:1.0.0` after a name is a version."""
    return _NAME.fullmatch(name) is not None


def own_data(name: str) -> DataSet:
    """The data set that a name leads to.

    Raises:
        DataError: no such module, no such attribute, or no `DataSet`.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (Exception, SystemExit) as error:  # of code that is not the project's
        hint = "; is its folder in PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
        raise DataError(
            f"data set {name!r} cannot be imported ({type(error).__name__}: {error}){hint}"
        ) from error
    if not isinstance(found, DataSet):
        raise DataError(f"{name} is a {type(found).__name__}, not an input_pipeline.DataSet")
    return found


def describe_own(name: str, require: Sequence[str] = ()) -> DataSpec:
    """What a data set of one's own is.

    Args:
        name: see `own_data`.
        require: split strings that must be there.

    Raises:
        DataError: it cannot be imported, or lacks a split.
    """
    data = own_data(name)
    sizes = {split: len(_whole(name, split)) for split in data.splits}
    for split in require:
        slices_of(split, _split_infos(sizes), name)
    spec = DataSpec(name, data.version, sizes, "", data.features())
    if len(spec.lengths) > 1:
        raise DataError(f"{name} has lengths {spec.lengths}; texts of one's own have one length")
    return spec


class OwnExamples:
    """The examples of a split string of a data set of one's own."""

    def __init__(self, name: str, split: str, known: DataSpec):
        spec = describe_own(name)
        for key in sorted({*spec.features, *known.features}):
            now, then = spec.features.get(key), known.features.get(key)
            if now != then:
                raise DataError(
                    f"{name} is not what the run was trained on: its feature {key!r} is {now}, and "
                    f"then it was {then}"
                )
        parts = slices_of(split, _split_infos(spec.splits), name)
        self._parts = [(_whole(name, part), start, stop) for part, start, stop in parts]
        self._ends = np.cumsum([stop - start for _, start, stop in parts])
        self._shapes, self._source = known.shapes(1, known.lengths[-1]), f"{name}/{split}"

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of an example."""
        return sum(
            int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self._shapes.values()
        )

    def batch(
        self, indices: np.ndarray, draws: Sequence[tuple[int, int]] | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays of k examples, with `weight` 1 where the data set gives none.

        Raises:
            DataError: an array is missing, or of another shape or type than its feature says.
        """
        part = np.searchsorted(self._ends, indices, side="right")
        found: dict[str, np.ndarray] = {}
        for i, (whole, start, _) in enumerate(self._parts):
            at = np.flatnonzero(part == i)
            if not len(at):
                continue
            begin = self._ends[i - 1] if i else 0
            some = whole.batch(
                indices[at] - begin + start, None if draws is None else [draws[j] for j in at]
            )
            some = {"weight": np.ones(len(at), np.float32)} | dict(some)
            for key, (shape, dtype) in self._shapes.items():
                value = self._checked(key, some, (len(at), *shape[1:]), dtype)
                found.setdefault(key, np.zeros((len(indices), *shape[1:]), dtype))[at] = value
        return found

    def _checked(
        self, key: str, values: Mapping[str, Any], shape: tuple[int, ...], dtype: type
    ) -> np.ndarray:
        if key not in values:
            raise DataError(f"{self._source} has no array {key!r}; it has {', '.join(values)}")
        value = np.asarray(values[key])
        if value.shape != shape or not np.can_cast(value.dtype, dtype, "same_kind"):
            raise DataError(
                f"{self._source}: {key} is {value.dtype} {list(value.shape)}, and its feature says "
                f"{np.dtype(dtype)} {list(shape)}"
            )
        return value


@dataclasses.dataclass(frozen=True)
class _Arrays:
    """Examples whose arrays are in memory."""

    arrays: Mapping[str, np.ndarray]
    size: int

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: np.ndarray, draws: Any = None) -> dict[str, np.ndarray]:
        return {key: value[indices] for key, value in self.arrays.items()}


@functools.lru_cache(maxsize=16)
def _whole(name: str, split: str) -> Any:
    """A whole split, opened once in a process."""
    opened = own_data(name).splits[split]()
    if not isinstance(opened, Mapping):
        return opened
    sizes = {key: len(value) for key, value in opened.items()}
    if len({*sizes.values()}) != 1:
        raise DataError(f"{name}/{split}: its arrays have different lengths, {sizes}")
    return _Arrays({k: np.asarray(v) for k, v in opened.items()}, next(iter(sizes.values())))


def _split_infos(sizes: Mapping[str, int]) -> tfds.core.SplitDict:
    return tfds.core.SplitDict(
        [tfds.core.SplitInfo(name=n, shard_lengths=[k], num_bytes=0) for n, k in sizes.items()]
    )
