"""Recall of images and texts that look for each other among all examples of a split."""

from collections.abc import Callable
from typing import Any

import numpy as np

from train import compiling
from train.passes import collect
from train.state import TrainState
from train.task import Report

RANKS = (1, 5, 10)


def measure(
    run: Any, state: TrainState, split: str, stopping: Callable[[], bool]
) -> dict[str, float]:
    """Recall both ways on a split, with what chance gives.

    Raises:
      Stopped: ``stopping`` said so.
    """

    def embeddings(state, batch):
        outputs = compiling.outputs(run, state, batch)
        return outputs.image, outputs.text

    image, text = collect(run, embeddings, state, split, stopping=stopping)
    similarity = image @ text.T
    scores = {}
    for name, matrix in (("text_of_image", similarity), ("image_of_text", similarity.T)):
        scores |= {f"{name}_recall_at_{k}": recall(matrix, k) for k in RANKS}
    return scores | {f"chance_recall_at_{k}": min(1.0, k / len(similarity)) for k in RANKS}


def recall(similarity: np.ndarray, k: int) -> float:
    """Share of rows [n, n] whose own column is among the k most similar; a tie counts as lost, and
    so does a NaN."""
    own = np.diag(similarity)[:, None]
    better = (~(similarity < own)).sum(1) - 1
    return float(((better < k) & ~np.isnan(own[:, 0])).mean())


REPORT = Report("retrieval", measure=measure, means=lambda found: found)
