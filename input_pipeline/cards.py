"""What a data set of images is, and what every batch with labels holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

Shapes = dict[str, tuple[tuple[int, ...], type]]
"""Shape and type of every array of a batch."""


def label_shapes(size: int, tasks: Iterable[str]) -> Shapes:
    """Of label, weight, and a label for each of several tasks, for ``size`` examples."""
    labels = {f"label_{name}": ((size,), np.int32) for name in tasks}
    return {"label": ((size,), np.int32), "weight": ((size,), np.float32), **labels}


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """What a data set is.

    Attributes:
        name: as TFDS knows it.
        version: "major.minor.patch".
        splits: split name -> number of examples.
        image_shape: (height, width, channels) of the decoded uint8 images.
        num_classes: labels are 0 .. num_classes - 1.
        label_names: one per class.
        directory: where it lies on disk.
        tasks: number of classes of each label that is a task, where there are several.
    """

    name: str
    version: str
    splits: dict[str, int]
    image_shape: tuple[int, int, int]
    num_classes: int
    label_names: tuple[str, ...]
    directory: str
    tasks: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Texts have lengths; images do not."""
        return (0,)

    def shapes(self, size: int, length: int) -> Shapes:
        """Shape and type of every array of a batch of ``size`` examples."""
        return {"image": ((size, *self.image_shape), np.uint8), **label_shapes(size, self.tasks)}

    def summary(self) -> str:
        """One line for the header of a run."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        return (
            f"{self.name} {self.version}: {splits}; images {'x'.join(map(str, self.image_shape))} "
            "uint8"
        )
