"""The protocol of a feature: one kind of input or label of a data set, with all that is to be known
of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import PRNGKeyArray

from input_pipeline.errors import DataError

Shapes = dict[str, tuple[tuple[int, ...], type]]
"""Shape and type of every array of a batch."""

Batch = dict[str, Any]
"""Arrays of a batch by name; the first axis is that of the examples."""

Found = tuple[list[str], dict[str, np.ndarray], int]
"""Names of examples, their arrays, and the number of inputs that cannot be read."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to a batch on the device.

    Attributes:
        mean, std: see `image.normalize`.
        crop_padding, flip, erasing: see `image.augment`.
        mixup: alpha of `image.mixup`; 0 does not mix.
        soft_labels: number of classes of the labels that mixup makes.
        crop_text: see `cropping.crop_text`; 0 does not crop.
        hide_rate: share of the examples of which one of several inputs is hidden in training.
        dtype: of images and numbers that a model reads.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop_padding: int = 0
    flip: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    soft_labels: int = 0
    crop_text: float = 0.0
    hide_rate: float = 0.0
    dtype: Any = "float32"


@dataclasses.dataclass(frozen=True)
class Given:
    """How a person's inputs are read.

    Attributes:
        text: gives standard input.
        lines: gives the lines of standard input.
        warn: told of what is passed over, cut or skipped.
        resize_size: see `Decoding`.
        invert: white of an image becomes black.
    """

    text: Callable[[], str]
    lines: Callable[[], list[str]]
    warn: Callable[[str], None]
    resize_size: int | None = None
    invert: bool = False


@runtime_checkable
class Feature(Protocol):
    """One input or label of every example: a frozen dataclass whose fields are what is kept of it.

    The methods here are those of a label that no device function touches.
    """

    kind: ClassVar[str]
    """Name of the kind."""

    arrays: ClassVar[tuple[str, ...]] = ()
    """Keys of a batch that a model may take, in order; () of a label."""

    unit: ClassVar[str] = ""
    """What an explanation gives a number to."""

    named: ClassVar[str] = "example"
    """What a person's input of this kind is called."""

    fitted: ClassVar[bool] = False
    """Whether something in it was learned from the training split: a run keeps what it began
    with."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that batches may have; (0,) where examples have none."""
        return (0,)

    @property
    def model_shape(self) -> tuple[int, ...]:
        """Shape of one example as a model takes it; () where it varies."""
        return ()

    def shapes(self, size: int, length: int) -> Shapes:
        """Arrays of a batch of `size` examples, padded to `length`."""
        ...

    def summary(self, label: str, *, alone: bool) -> str:
        """A few words for the header of a run.

        Args:
            label: the words of the label.
            alone: whether it is the only input.
        """
        ...

    def train_batch(self, key: PRNGKeyArray, batch: Batch, how: Preparation) -> Batch:
        """The whole batch as a model trains on it. Pure."""
        return self.eval_batch(batch, how)

    def eval_batch(self, batch: Batch, how: Preparation) -> Batch:
        """The whole batch as a model is evaluated on it. Pure."""
        return batch

    def in_units(self, values: Any) -> Any:
        """Outputs of a model for a label, in the units of the data."""
        return values

    def read(self, words: list[str], given: Given, source: str) -> Found:
        """What a person gives, read as a data set is read.

        Args:
            words: texts, paths, or "-" for standard input.
            given: how to read.
            source: name of the data set, for messages.

        Raises:
            DataError: the only input, or all of them, cannot be read.
        """
        raise DataError(f"a {self.kind} of {source} cannot be given")

    def part(self, word: str, given: Given) -> Any:
        """One of several inputs of an example; an empty word is one that is missing.

        Raises:
            DataError: it cannot be read.
        """
        raise DataError(f"a {self.kind} cannot be given with other inputs")

    def stacked(self, parts: list[Any], given: Given, source: str) -> dict[str, np.ndarray]:
        """Arrays of a batch of what `part` gave."""
        raise DataError(f"a {self.kind} of {source} cannot be given with other inputs")


def readable(
    inputs: Sequence[T],
    load: Callable[[T], Any],
    warn: Callable[[str], None],
    *,
    several: bool = False,
) -> tuple[list[T], list[Any], int]:
    """Those that can be read, what they hold, and the number of those that cannot.

    Args:
        inputs: what the user gave.
        load: reads one of them; raises DataError.
        warn: told of each that cannot be read.
        several: a single input that cannot be read is a warning too, and not an error.
    """
    if len(inputs) == 1 and not several:
        return [*inputs], [load(inputs[0])], 0
    good, found = [], []
    for one in inputs:
        try:
            found.append(load(one))
            good.append(one)
        except DataError as error:
            warn(f"skipped {error}")
    return good, found, len(inputs) - len(good)
