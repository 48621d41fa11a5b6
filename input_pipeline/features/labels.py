"""Labels: a class, several classes, or numbers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from input_pipeline.features.feature import Batch, Feature, Preparation, Shapes


@dataclasses.dataclass(frozen=True)
class ClassLabel(Feature):
    """One class of each example.

    Attributes:
        num_classes: labels are 0 .. num_classes - 1.
        label_names: one per class; of two, the second is the positive one.
    """

    kind: ClassVar[str] = "class_label"

    num_classes: int
    label_names: tuple[str, ...]

    def shapes(self, size: int, length: int) -> Shapes:
        """See `Feature.shapes`."""
        return {"label": ((size,), np.int32)}

    def summary(self, label: str = "", *, alone: bool = True) -> str:
        """See `Feature.summary`."""
        return f"{self.num_classes} classes"


@dataclasses.dataclass(frozen=True)
class ClassLabels(Feature):
    """Several classes of each example, each a task.

    Attributes:
        tasks: number of classes of each, by name.
    """

    kind: ClassVar[str] = "class_labels"

    tasks: dict[str, int]

    def shapes(self, size: int, length: int) -> Shapes:
        """See `Feature.shapes`."""
        return {f"label_{name}": ((size,), np.int32) for name in self.tasks}

    def summary(self, label: str = "", *, alone: bool = True) -> str:
        """See `Feature.summary`."""
        return f"{len(self.tasks)} labels"


@dataclasses.dataclass(frozen=True)
class Number(Feature):
    """Numbers of each example, which a model has one output each for.

    Attributes:
        size: numbers of an example; of one the label is [b], of more [b, size].
        names: of the numbers; () where nobody names them.
        mean, std: of each number over the split that is trained on; a model learns the standardised
          numbers. (): it learns them as they are.
    """

    kind: ClassVar[str] = "number"

    size: int = 1
    names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def fitted(self) -> bool:  # type: ignore[override]
        """Whether mean and std were taken of a split."""
        return bool(self.mean)

    @property
    def num_classes(self) -> int:
        """Outputs of a model."""
        return self.size

    @property
    def label_names(self) -> tuple[str, ...]:
        """Numbers have no classes, and so no names of classes."""
        return ()

    def shapes(self, size: int, length: int) -> Shapes:
        """See `Feature.shapes`."""
        return {"label": ((size,) if self.size == 1 else (size, self.size), np.float32)}

    def summary(self, label: str = "", *, alone: bool = True) -> str:
        """See `Feature.summary`."""
        what = "a number each" if self.size == 1 else f"{self.size} numbers each"
        return f"{what} ({', '.join(self.names)})" if self.names else what

    def eval_batch(self, batch: Batch, how: Preparation) -> Batch:
        """Standardises the numbers, in training too."""
        if not self.mean:
            return batch
        mean, std = (np.asarray(x, np.float32) for x in (self.mean, self.std))
        if self.size == 1:
            mean, std = mean[0], std[0]
        return {**batch, "label": (batch["label"] - mean) / std}

    def in_units(self, values: Any) -> Any:
        """Outputs of a model [..., size] in the units of the data."""
        if not self.mean:
            return values
        return values * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)
