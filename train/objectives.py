"""Objectives: pure functions from model outputs and a batch to sums and counts.

Only the training step divides, once, by the global count; so accumulation, padding (weight 0) and evaluation are exact.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxmodels.layers import AuxiliaryLogits

Metric = tuple[Float[Array, ""], Float[Array, ""]]  # sum, count


def classification(
    outputs: Float[Array, "b classes"] | AuxiliaryLogits,
    batch: dict[str, Array],
    *,
    label_smoothing: float = 0.0,
    auxiliary_weight: float = 0.3,
) -> dict[str, Metric]:
    """Softmax cross-entropy in nats, accuracy and top-5 accuracy, as weighted sums over examples.

    ``loss = sum_b w_b (-sum_c q_bc log softmax(logits_b)_c)`` with q the (smoothed, possibly mixed) label distribution.
    Auxiliary heads add ``auxiliary_weight`` times their own loss each (Szegedy et al. 2015, section 5: 0.3). Accuracy
    against a mixed label counts its largest part. Top-5 is left out below six classes.

    Args:
      batch: ``label`` int32 [b] or, mixed, float [b, classes]; ``weight`` float [b], 0 for padding.
    """
    logits, auxiliary = outputs if isinstance(outputs, AuxiliaryLogits) else (outputs, ())
    label, weight = batch["label"], batch["weight"].astype(logits.dtype)
    classes = logits.shape[-1]
    soft = label.astype(logits.dtype) if label.ndim == 2 else jax.nn.one_hot(label, classes, dtype=logits.dtype)
    hard = label.argmax(-1) if label.ndim == 2 else label
    if label_smoothing:
        soft = optax.smooth_labels(soft, label_smoothing)
    count = weight.sum()
    loss = (optax.softmax_cross_entropy(logits, soft) * weight).sum()
    for extra in auxiliary:
        loss += auxiliary_weight * (optax.softmax_cross_entropy(extra, soft) * weight).sum()
    metrics = {"loss": (loss, count), "accuracy": (((logits.argmax(-1) == hard) * weight).sum(), count)}
    if classes > 5:
        own = jnp.take_along_axis(logits, hard[:, None], axis=-1)
        above = (logits > own).sum(-1)  # classes ranked before the true one: cheaper than a sort
        metrics["top5"] = (((above < 5) * weight).sum(), count)
    return metrics


def confusion_counts(logits: Float[Array, "b classes"], batch: dict[str, Array]) -> Float[Array, "classes classes"]:
    """Number of examples by true class (row) and predicted class (column), padding left out."""
    classes = logits.shape[-1]
    true = jax.nn.one_hot(batch["label"], classes) * batch["weight"][:, None]
    return true.T @ jax.nn.one_hot(logits.argmax(-1), classes)
