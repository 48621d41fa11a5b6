"""Random batches of the sizes of a case."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.foreign.original import Case
from jaxmodels.originals.cases import inputs_of, make_model

Batch = dict[str, np.ndarray]


def make_batch(
    case: Case, dtype: Any, seed: int, *, size: int | None = None, padded: bool = True
) -> Batch:
    """A random batch of a case. Images are noise over a slope, different for each channel, so that
    they are neither centred nor symmetric.

    Args:
      size: number of examples; by default the case's.
      padded: give texts different lengths.
    """
    rng = np.random.default_rng(seed)
    size = size or case.batch_size
    if case.length:
        return _make_text(case, dtype, rng, size, padded)
    h, w, c = case.image_shape
    slope = (
        np.linspace(-1, 1, h)[:, None, None]
        + 0.5 * np.linspace(0, 1, w)[:, None]
        + 0.2 * np.arange(c)
    )
    image = 0.3 + 0.5 * slope + rng.normal(size=(size, h, w, c))
    batch = {
        "label": rng.integers(0, case.classes, size).astype(np.int32),
        "weight": np.ones(size, dtype),
    }
    if case.objective == "elbo":
        image = 1 / (1 + np.exp(-image))
        batch["noise"] = rng.normal(size=(size, make_model(case, jnp.float32).latent_size)).astype(
            dtype
        )
    return {"image": image.astype(dtype), **batch}


def _make_text(case: Case, dtype: Any, rng: np.random.Generator, size: int, padded: bool) -> Batch:
    def padded_to(length: int) -> np.ndarray:  # True for real tokens, bool [size, length]
        lengths = rng.integers(1, length + 1, size) if padded else np.full(size, length)
        lengths[0] = length
        return np.arange(length) < lengths[:, None]

    # 0 is kept for padding, as embeddings of PyTorch with a padding_idx keep it
    tokens = rng.integers(1, case.classes, (size, case.length + 1)).astype(np.int32)
    real = padded_to(case.length)
    batch = {"tokens": tokens[:, :-1] * real, "segments": real.astype(np.int32)}
    if "types" in inputs_of(case):
        batch["types"] = (np.arange(case.length) >= case.length // 3) * batch["segments"]
    if case.objective == "masked_lm":
        # more places than are counted, as in a run; padding among them
        places = np.argsort(rng.random((size, case.length)), axis=1)[:, : case.length // 3].astype(
            np.int32
        )
        masked = np.take_along_axis(batch["segments"], places, axis=1) * (
            np.arange(case.length // 3) < 5
        )
        label = rng.integers(0, 2, size).astype(np.int32)
        weights_of = {"weight": np.ones(size, dtype), "masked_weight": masked.astype(dtype)}
        weights_of["share_masked"] = np.full(size, size / masked.sum(), dtype)
        target = np.take_along_axis(tokens, places, axis=1)
        return batch | {"positions": places, "masked_target": target, "label": label, **weights_of}
    if case.objective == "classification":
        label = rng.integers(0, make_model(case, jnp.float32).num_classes, size).astype(np.int32)
        return batch | {"label": label, "weight": np.ones(size, dtype)}
    batch |= {"target": tokens[:, 1:] * real, "weight": real.astype(dtype)}
    if case.objective == "seq2seq":
        real = padded_to(case.length - 3)
        source = rng.integers(1, case.classes, real.shape).astype(np.int32) * real
        batch |= {"source": source, "source_segments": real.astype(np.int32)}
    return batch
