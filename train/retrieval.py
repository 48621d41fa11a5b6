"""How well images and texts find each other over a whole split: recall among all of its
examples."""

from collections.abc import Callable

import numpy as np

from train.evaluate import collect
from train.setup import Run
from train.state import TrainState

RANKS = (1, 5, 10)


def measure(
    run: Run, state: TrainState, split: str, *, stopping: Callable[[], bool] = lambda: False
) -> dict[str, float] | None:
    """Recall both ways on a split, with what chance gives; None if ``stopping`` said so."""

    def embeddings(state, batch):
        outputs = run.outputs(state, batch)
        return outputs.image, outputs.text

    found = collect(run, embeddings, state, split, stopping=stopping)
    if found is None:
        return None
    image, text = found
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
