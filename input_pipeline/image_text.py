"""Images with a text: one data set whose examples have both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from input_pipeline.cards import DatasetCard, Shapes
from input_pipeline.examples import ArrayExamples, Draw, RecordExamples
from input_pipeline.sequences import LabelledTexts
from input_pipeline.text import TextCard


@dataclasses.dataclass(frozen=True)
class ImageTextCard:
    """What a data set of images with a text and a label is.

    Attributes:
        image: of its images and labels.
        text: of its texts.
    """

    image: DatasetCard
    text: TextCard

    @property
    def name(self) -> str:
        """As TFDS knows it."""
        return self.image.name

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        return self.image.num_classes

    @property
    def label_names(self) -> tuple[str, ...]:
        """One per class."""
        return self.image.label_names

    @property
    def directory(self) -> str:
        """Where it lies on disk."""
        return self.image.directory

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.image.image_shape

    @property
    def tasks(self) -> dict[str, int]:
        """See `DatasetCard`."""
        return self.image.tasks

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that texts of a batch may have."""
        return self.text.lengths

    def shapes(self, size: int, length: int) -> Shapes:
        """Shape and type of every array of a batch of ``size`` examples."""
        return {
            **self.text.shapes(size, length),
            **self.image.shapes(size, length),
            "present": ((size, 2), np.bool_),
        }

    def summary(self) -> str:
        """One line for the header of a run."""
        text = (
            f"{', '.join(self.text.texts)} with {self.text.vocab_size:,} tokens, padded to "
            f"{self.text.max_len}"
        )
        return f"{self.image.summary()}; {text}"


def text_card(card: object) -> TextCard | None:
    """The card of the texts, of whatever data set; None where there are none."""
    return (
        card.text
        if isinstance(card, ImageTextCard)
        else card
        if isinstance(card, TextCard)
        else None
    )


class ImageTextExamples:
    """Images and texts of the same split side by side, with the interface of image examples.

    Args:
        images, texts: of the same examples.
        frame: number of tokens around a text.
    """

    def __init__(self, images: ArrayExamples | RecordExamples, texts: LabelledTexts, frame: int):
        self._images, self._texts, self._frame = images, texts, frame

    def __len__(self) -> int:
        return len(self._images)

    def batch(
        self, indices: np.ndarray, draws: Sequence[Draw] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns what images and texts give, and present bool [k, 2]: an empty text is one that is
        missing."""
        texts = self._texts.batch(indices)
        present = np.stack(
            [np.ones(len(indices), bool), texts["segments"].sum(1) > self._frame], axis=1
        )
        return {**texts, **self._images.batch(indices, draws), "present": present}
