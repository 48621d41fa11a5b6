"""Labels: a class, several classes, or numbers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from input_pipeline.features.feature import Feature, Shapes


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
    """

    kind: ClassVar[str] = "number"

    size: int = 1

    @property
    def num_classes(self) -> int:
        """Outputs of a model."""
        return self.size

    @property
    def label_names(self) -> tuple[str, ...]:
        """Numbers have no classes, and so no names."""
        return ()

    def shapes(self, size: int, length: int) -> Shapes:
        """See `Feature.shapes`."""
        return {"label": ((size,) if self.size == 1 else (size, self.size), np.float32)}

    def summary(self, label: str = "", *, alone: bool = True) -> str:
        """See `Feature.summary`."""
        return "a number each" if self.size == 1 else f"{self.size} numbers each"
