"""Objectives: pure functions from model outputs and a batch to sums and counts.

Only the training step divides, once, by the global count; so accumulation, padding (weight 0) and
evaluation are exact.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxmodels.adapt.features import FeatureOutputs
from jaxmodels.adapt.multitask import WeightedOutputs
from jaxmodels.families.bert.model import PretrainingLogits
from jaxmodels.families.fusion.model import ContrastiveOutputs
from jaxmodels.families.vae.model import VAEOutputs
from jaxmodels.nn.layers import AuxiliaryLogits, TokenLogits, at_least_float32
from train.cross_entropy import token_cross_entropy

Metric = tuple[Float[Array, ""], Float[Array, ""]]  # sum, count


def classification(
    outputs: Float[Array, "b classes"] | AuxiliaryLogits,
    batch: dict[str, Array],
    *,
    label_smoothing: float = 0.0,
    auxiliary_weight: float = 0.3,
) -> dict[str, Metric]:
    """Softmax cross-entropy in nats, accuracy and top-5 accuracy, as weighted sums over examples.

    ``loss = sum_b w_b (-sum_c q_bc log softmax(logits_b)_c)`` with q the (smoothed, possibly mixed)
    label distribution. Auxiliary heads add ``auxiliary_weight`` times their own loss each (Szegedy
    et al. 2015, section 5: 0.3). Accuracy against a mixed label counts its largest part. Top-5 is
    left out below six classes.

    Args:
      batch: ``label`` int32 [b] or, mixed, float [b, classes]; ``weight`` float [b], 0 for padding.
    """
    logits, auxiliary = outputs if isinstance(outputs, AuxiliaryLogits) else (outputs, ())
    label, weight = batch["label"], batch["weight"].astype(logits.dtype)
    classes = logits.shape[-1]
    soft = (
        label.astype(logits.dtype)
        if label.ndim == 2
        else jax.nn.one_hot(label, classes, dtype=logits.dtype)
    )
    hard = label.argmax(-1) if label.ndim == 2 else label
    if label_smoothing:
        soft = optax.smooth_labels(soft, label_smoothing)
    count = weight.sum()
    loss = (optax.softmax_cross_entropy(logits, soft) * weight).sum()
    for extra in auxiliary:
        loss += auxiliary_weight * (optax.softmax_cross_entropy(extra, soft) * weight).sum()
    metrics = {
        "loss": (loss, count),
        "accuracy": (((logits.argmax(-1) == hard) * weight).sum(), count),
    }
    if classes > 5:
        own = jnp.take_along_axis(logits, hard[:, None], axis=-1)
        above = (logits > own).sum(-1)  # classes ranked before the true one: cheaper than a sort
        metrics["top5"] = (((above < 5) * weight).sum(), count)
    return metrics


def regression(outputs: Float[Array, "b 1"], batch: dict[str, Array]) -> dict[str, Metric]:
    """Squared error, ``loss = sum_b w_b (output_b - label_b)^2``, as a weighted sum over examples.

    Args:
      batch: ``label`` float [b]; ``weight`` float [b], 0 for padding.
    """
    error = optax.squared_error(outputs[:, 0], batch["label"].astype(outputs.dtype))
    weight = batch["weight"].astype(outputs.dtype)
    return {"loss": ((error * weight).sum(), weight.sum())}


def distillation(
    outputs: Float[Array, "b classes"] | AuxiliaryLogits | FeatureOutputs,
    batch: dict[str, Array],
    *,
    teacher: Any,
    teacher_outputs: Callable[[Any, dict[str, Array]], Float[Array, "b classes"] | FeatureOutputs],
    temperature: float,
    alpha: float,
    hidden: float = 0.0,
    label_smoothing: float = 0.0,
) -> dict[str, Metric]:
    """Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531, section 2).

    ``loss = (1 - alpha) classification + alpha T^2 sum_b w_b KL(softmax(teacher_b / T) ||
    softmax(logits_b /
    T))``; ``distillation`` is the second term without alpha, ``cross_entropy`` the first. The rest
    is as in :func:`classification`. With ``hidden``,
    ``hidden sum_b w_b (1 - cos(teacher's features_b, features_b))`` is added (Sanh et al. 2019,
    arXiv:1910.01108), and ``hidden`` among the metrics is that without the factor.

    Args:
      teacher: what ``teacher_outputs`` takes besides the batch.
      hidden: if not 0, student and teacher give :class:`FeatureOutputs` of the same width.
    """
    found, features = teacher_outputs(teacher, batch), {}
    if hidden:
        (outputs, ours), (found, theirs) = outputs, found
        distance = optax.losses.cosine_distance(
            at_least_float32(ours), at_least_float32(theirs), epsilon=1e-12
        )
        features = {
            "hidden": (
                (distance * batch["weight"].astype(distance.dtype)).sum(),
                batch["weight"].sum(),
            )
        }
    logits = outputs.logits if isinstance(outputs, AuxiliaryLogits) else outputs
    metrics = classification(outputs, batch, label_smoothing=label_smoothing)
    cross_entropy, count = metrics["loss"]
    target = jax.nn.log_softmax(found.astype(logits.dtype) / temperature)
    divergence = optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(logits / temperature), target
    )
    distilled = temperature**2 * (divergence * batch["weight"].astype(logits.dtype)).sum()
    loss = (1 - alpha) * cross_entropy + alpha * distilled
    if hidden:
        loss += hidden * features["hidden"][0]
    return (
        metrics
        | features
        | {
            "loss": (loss, count),
            "cross_entropy": (cross_entropy, count),
            "distillation": (distilled, count),
        }
    )


def confusion_counts(
    logits: Float[Array, "b classes"], batch: dict[str, Array]
) -> Float[Array, "classes classes"]:
    """Number of examples by true class (row) and predicted class (column), padding left out."""
    classes = logits.shape[-1]
    true = jax.nn.one_hot(batch["label"], classes) * batch["weight"][:, None]
    return true.T @ jax.nn.one_hot(logits.argmax(-1), classes)


def causal_lm(
    outputs: TokenLogits,
    batch: dict[str, Array],
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> dict[str, Metric]:
    """Cross-entropy of the next token in nats and accuracy, as weighted sums over tokens.

    ``loss = sum_bl w_bl (-log softmax(logits_bl)_target_bl)``; ``cross_entropy`` is the loss
    without label smoothing. Where the batch says how many characters each token stands for,
    ``bits_per_character`` is ``cross_entropy / ln 2`` over their number.

    Args:
      batch: ``target`` int32 [b, l]; ``weight`` float [b, l], 0 for padding; ``characters`` float
        [b, l], optional.
      chunk: see :func:`train.cross_entropy.token_cross_entropy`.
    """
    weight = batch["weight"]
    loss, cross_entropy, correct = token_cross_entropy(
        outputs, batch["target"], weight, label_smoothing=label_smoothing, chunk=chunk
    )
    weight = weight.astype(loss.dtype)
    count = weight.sum()
    metrics = {
        "loss": (loss, count),
        "accuracy": (correct, count),
        "cross_entropy": (cross_entropy, count),
    }
    if "characters" in batch:
        characters = batch["characters"].astype(weight.dtype)
        metrics["bits_per_character"] = (cross_entropy / math.log(2), (characters * weight).sum())
    return metrics


def masked_lm(
    outputs: PretrainingLogits | WeightedOutputs,
    batch: dict[str, Array],
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Metric]:
    """Cross-entropy of masked tokens plus that of the next sentence, in nats, with the accuracy of
    both.

    ``loss = sum_bk m_bk (-log softmax(logits_bk)_target_bk) / sum m - sum_b w_b log
    softmax(next_b)_label_b / sum
    w`` (Devlin et al. 2019, appendix A.2): :func:`multi_task` of :func:`masked_tokens` and
    :func:`next_sentence`.
    """
    tasks = {
        "masked": partial(masked_tokens, label_smoothing=label_smoothing, chunk=chunk),
        "next": next_sentence,
    }
    return multi_task(outputs, batch, tasks=tasks, weights=weights)


def masked_tokens(
    outputs: PretrainingLogits,
    batch: dict[str, Array],
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> dict[str, Metric]:
    """Cross-entropy of masked tokens in nats, and accuracy.

    Args:
      batch: ``masked_target`` int32 [b, k] and ``masked_weight`` float [b, k].
    """
    target, masked = batch["masked_target"], batch["masked_weight"]
    sums = token_cross_entropy(
        outputs.tokens, target, masked, label_smoothing=label_smoothing, chunk=chunk
    )
    count = masked.astype(sums.loss.dtype).sum()
    return {"loss": (sums.loss, count), "accuracy": (sums.correct, count)}


def next_sentence(outputs: PretrainingLogits, batch: dict[str, Array]) -> dict[str, Metric]:
    """Cross-entropy of whether the second text follows the first in nats, and accuracy.

    Args:
      batch: ``label`` int32 [b], 0 where it does; ``weight`` float [b], 0 for padding.
    """
    return classification(outputs.next_sentence, batch)


def labelled(
    outputs: Mapping[str, Array],
    batch: dict[str, Array],
    *,
    name: str,
    label_smoothing: float = 0.0,
) -> dict[str, Metric]:
    """:func:`classification` by the logits and labels of one task.

    Args:
      outputs: logits [b, classes] of each task.
      batch: ``label_NAME`` int32 [b], below 0 where it is missing; ``weight`` float [b].
      name: of the task.
    """
    label = batch[f"label_{name}"]
    known = {"label": jnp.maximum(label, 0), "weight": batch["weight"] * (label >= 0)}
    return classification(outputs[name], known, label_smoothing=label_smoothing)


def multi_task(
    outputs: Any,
    batch: dict[str, Array],
    *,
    tasks: Mapping[str, Callable[[Any, dict[str, Array]], dict[str, Metric]]],
    weights: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Metric]:
    """Weighted sum of the losses of several tasks, ``loss = sum_i w_i L_i``, and the metrics of
    each.

    Every L_i is a mean over what the task counts in the whole batch, whatever part of it this is;
    examples without a label for a task do not count there. If the model learns its weights,
    ``loss = sum_i (w_i exp(-s_i) L_i + s_i / 2)`` with s_i the logarithm of the task's variance
    (Kendall et al. 2018, arXiv:1705.07115, section 3.2; both terms for classification).

    Args:
      outputs: as the tasks take them; ``WeightedOutputs`` of them where the weights are learned.
      batch: ``weight`` float [b]; ``share_NAME`` float [b], the same for all: number of examples
        over what the task counts, in the whole batch. Without it the task counts every example.
      tasks: objective of each, by its name. Their metrics are found as ``NAME_METRIC``.
      weights: of tasks; 1 of those that are not named.
    """
    log_variances: Array | tuple[float, ...] = (0.0,) * len(tasks)
    if isinstance(outputs, WeightedOutputs):
        outputs, log_variances = outputs
    count = batch["weight"].sum()
    total, metrics = jnp.zeros(()), {}
    for (name, objective), log_variance in zip(tasks.items(), log_variances, strict=True):
        found = objective(outputs, batch)
        loss = found["loss"][0]
        weight = weights.get(name, 1.0) * jnp.exp(-jnp.asarray(log_variance, loss.dtype))
        share = batch[f"share_{name}"].max().astype(loss.dtype) if f"share_{name}" in batch else 1
        total += weight * loss * share
        metrics |= {f"{name}_{metric}": value for metric, value in found.items()}
        if not isinstance(log_variance, float):
            total += log_variance / 2 * count
            metrics[f"{name}_weight"] = (weight * count, count)
    return {"loss": (total, count.astype(total.dtype)), **metrics}


def multi_task_loss(
    means: dict[str, float], tasks: Iterable[str], weights: Mapping[str, float]
) -> float:
    """The loss over several batches, from the means of :func:`multi_task`'s metrics: each task's
    over its own count.

    A task of which nothing was counted adds nothing.
    """
    total = 0.0
    for name in tasks:
        fixed = weights.get(name, 1.0)
        weight = means.get(f"{name}_weight", fixed)
        if not math.isnan(means[f"{name}_loss"]):
            total += weight * means[f"{name}_loss"]
        if f"{name}_weight" in means:
            total -= math.log(weight / fixed) / 2
    return total


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


def elbo(outputs: VAEOutputs, batch: dict[str, Array], *, beta: float = 1.0) -> dict[str, Metric]:
    """Negative evidence lower bound of a variational autoencoder in nats, as weighted sums over
    images.

    ``loss = sum_b w_b (-log p(x_b | z_b) + beta KL(q(z | x_b) || N(0, 1)))`` with one draw ``z_b``
    of q, and, for the diagonal normal q, ``KL = 1/2 sum_i (mean_i^2 + exp(v_i) - 1 - v_i)`` with v
    the log variance (Kingma & Welling 2014, appendix B). ``beta`` other than 1 is the beta-VAE
    (Higgins et al. 2017); ``elbo`` is the bound itself, with beta = 1 and higher being better,
    ``reconstruction`` is ``-log p(x | z)``.

    Args:
      batch: ``image`` as the model got it; ``weight`` float [b], 0 for padding.
    """
    mean, log_variance = outputs.mean, outputs.log_variance
    weight = batch["weight"].astype(mean.dtype)
    count = weight.sum()
    kl = 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance).sum(-1)  # [b]
    reconstruction = -log_likelihood(outputs, batch["image"])  # [b]
    values = {
        "loss": reconstruction + beta * kl,
        "elbo": -(reconstruction + kl),
        "reconstruction": reconstruction,
        "kl": kl,
    }
    return {name: ((value * weight).sum(), count) for name, value in values.items()}


def log_likelihood(outputs: VAEOutputs, image: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """log p(x | z) of each image: Bernoulli by logits, or normal where the model has a
    ``log_sigma``."""
    # one axis of values: XLA for CPUs sums over a last axis of one several times as slowly
    decoded = outputs.reconstruction.reshape(len(image), -1)
    image = image.reshape(len(image), -1).astype(decoded.dtype)
    if outputs.log_sigma is None:
        values = -optax.sigmoid_binary_cross_entropy(decoded, image)
    else:
        distance = (image - decoded) * jnp.exp(-outputs.log_sigma)
        values = -0.5 * jnp.square(distance) - outputs.log_sigma - 0.5 * math.log(2 * math.pi)
    return values.sum(1)


def importance_weighted_log_likelihood(
    forward: Callable[[Array, Array], VAEOutputs],
    image: Float[Array, "b h w c"],
    noise: Float[Array, "k b latent"],
) -> Float[Array, " b"]:
    """Estimates log p(x) of each image from k draws of z (Burda et al. 2016, arXiv:1509.00519,
    equation 8).

    ``log 1/k sum_k p(x, z_k) / q(z_k | x)``, in expectation a lower bound of log p(x) that rises
    with k; with one draw it is the ELBO with the Kullback-Leibler divergence taken at that draw.

    Args:
      forward: (image, noise [b, latent]) -> outputs; called for one k at a time, so memory is that
        of one.
      noise: standard normal.
    """

    def log_weight(noise: Float[Array, "b latent"]) -> Float[Array, " b"]:
        outputs = forward(image, noise)
        noise = noise.astype(outputs.mean.dtype)
        latent = outputs.mean + jnp.exp(0.5 * outputs.log_variance) * noise
        # log p(z) - log q(z | x); the constants cancel, and (z - mean) / deviation is the noise
        ratio = 0.5 * (jnp.square(noise) - jnp.square(latent) + outputs.log_variance).sum(-1)
        return log_likelihood(outputs, image) + ratio

    return jax.nn.logsumexp(jax.lax.map(log_weight, noise), axis=0) - math.log(len(noise))
