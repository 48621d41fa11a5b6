"""Contrastive learning: images and their texts find each other (Radford et al. 2021,
arXiv:2103.00020)."""

import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxmodels.families.fusion.model import ContrastiveOutputs
from train.step import Metric
from train.task import Bundle, Setting, Task, without_labels
from train.tasks import retrieval
from train.tasks.preprocessing import model_inputs, preprocessing


def contrastive(outputs: ContrastiveOutputs, batch: dict[str, Array]) -> dict[str, Metric]:
    """Cross-entropy, in nats, of which text belongs to an image and which image to a text, among
    those of the batch.

    ``loss_b = -1/2 (log softmax_k(s v_b t_k)_b + log softmax_k(s v_k t_b)_b)`` with v and t the
    embeddings and s their scale (Radford et al. 2021, figure 3). The others of the batch, over all
    devices, are the negatives; of an accumulated batch those of the same micro-batch. ``accuracy``
    is the mean over both ways, so both depend on the batch size; recall over a whole split is
    measured when a run ends.

    Args:
      batch: ``weight`` float [b]; examples of weight 0 are nobody's negatives either.
    """
    weight = batch["weight"].astype(outputs.image.dtype)
    similarity = outputs.scale * outputs.image @ outputs.text.T  # [image, text]
    own = jnp.arange(len(weight))
    loss = correct = jnp.zeros_like(weight)
    for logits in (similarity, similarity.T):
        logits = jnp.where(weight > 0, logits, jnp.finfo(logits.dtype).min)
        loss += optax.softmax_cross_entropy_with_integer_labels(logits, own) / 2
        correct += (logits.argmax(-1) == own) / 2
    count = weight.sum()
    return {"loss": ((loss * weight).sum(), count), "accuracy": ((correct * weight).sum(), count)}


def _make(setting: Setting) -> Task:
    model, card = setting.model, setting.card
    train_batch, eval_batch = preprocessing(setting)
    return Task(
        BUNDLE,
        train_objective=contrastive,
        eval_objective=contrastive,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=model_inputs(model, card),
        reports=(retrieval.REPORT,),
    )


BUNDLE = Bundle(
    "contrastive",
    _make,
    outputs=("pair",),
    form="labels",
    suits=("prune.method",),
    check=without_labels,
)
