"""How well images and texts find each other over a whole split: recall among all of its examples."""

import contextlib
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.setup import Run
from train.sharding import put_batch
from train.state import TrainState
from train.step import predict_step

RANKS = (1, 5, 10)


def measure(
    run: Run, state: TrainState, split: str, *, stopping: Callable[[], bool] = lambda: False
) -> dict[str, float] | None:
    """Recall both ways on a split, with what chance gives; None if ``stopping`` said so."""

    def embeddings(state, batch):
        batch = run.task.eval_batch(batch)
        inputs, quantized = (batch[k] for k in run.task.inputs), run.config.quantization_aware
        outputs = predict_step(state, *inputs, model=run.model, quantized=quantized)
        return outputs.image, outputs.text, batch["weight"]

    with jax.set_mesh(run.mesh):
        step = jax.jit(embeddings)
    found = []
    with contextlib.closing(run.loader(split, train=False)) as loader:
        for batch in loader:
            if stopping():
                return None
            arrays = step(state, put_batch(batch, run.mesh))
            several = jax.process_count() > 1
            found.append(multihost_utils.process_allgather(arrays, tiled=True) if several else jax.device_get(arrays))
    image, text, weight = (np.concatenate(parts) for parts in zip(*found, strict=True))
    similarity = image[weight > 0] @ text[weight > 0].T
    scores = {}
    for name, matrix in (("text_of_image", similarity), ("image_of_text", similarity.T)):
        scores |= {f"{name}_recall_at_{k}": recall(matrix, k) for k in RANKS}
    return scores | {f"chance_recall_at_{k}": min(1.0, k / len(similarity)) for k in RANKS}


def recall(similarity: np.ndarray, k: int) -> float:
    """Share of rows [n, n] whose own column is among the k most similar; a tie counts as lost."""
    own = np.diag(similarity)[:, None]
    better = (similarity >= own).sum(1) - 1
    return float((better < k).mean())
