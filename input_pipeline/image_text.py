"""Images with a text: one data set whose examples have both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from input_pipeline.examples import ArrayExamples, Draw, RecordExamples
from input_pipeline.sequences import LabelledTexts


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
