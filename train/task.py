"""What differs between the objectives of a run; everything else in ``train/`` is the same for all
of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from input_pipeline import DataSpec, image
from input_pipeline.masking import mask_tokens
from input_pipeline.tokenizers import special_tokens
from jaxmodels import Module
from jaxmodels.families.fusion.model import MODALITIES
from train.config import Config, ConfigError, task_names
from train.objectives import (
    causal_lm,
    classification,
    contrastive,
    elbo,
    importance_weighted_log_likelihood,
    labelled,
    masked_lm,
    multi_task,
    multi_task_loss,
    regression,
)
from train.preprocessing import all_but, check_embeddings, model_inputs, preprocessing, row_keys
from train.state import TrainState
from train.step import Batch, Metrics, Objective, predict_step


@dataclass(frozen=True)
class Task:
    """An objective with what it needs of a run.

    Attributes:
      train_objective: (model outputs, batch) -> sums and counts; its ``"loss"`` is minimised.
      eval_objective: the same for evaluation.
      train_batch: (key of the step, batch as loaded) -> batch: augmentation, normalisation, noise.
      eval_batch: the same for evaluation, without chance.
      inputs: keys of the batch that the model takes, in order.
      score: metric by which a checkpoint is the best: the higher, or the lower if
        ``lower_is_better``.
      unit: what the metrics count.
      derive: means of the metrics -> what follows from them.
      confusion: whether outputs are logits of classes, with a confusion matrix and scores of each
        class.
      pictures: whether the model draws images (see train/pictures.py) at every evaluation.
      correlates: whether outputs are numbers, with their correlation to the labels (see
        train/metrics.py) when a run ends.
      retrieves: whether images and texts find each other (see train/retrieval.py) when a run ends.
      translates: whether the model translates (see train/translate.py) when a run ends.
      final_step: (state, batch as loaded) -> sums and counts of what is too slow for every
        evaluation, or None; measured on ``data.eval_split`` when the run ends.
    """

    train_objective: Objective
    eval_objective: Objective
    train_batch: Callable[[PRNGKeyArray, Batch], Batch]
    eval_batch: Callable[[Batch], Batch]
    inputs: tuple[str, ...]
    score: str
    lower_is_better: bool = False
    unit: str = "examples"
    derive: Callable[[dict[str, float]], dict[str, float]] = lambda means: {}
    confusion: bool = False
    pictures: bool = False
    correlates: bool = False
    retrieves: bool = False
    translates: bool = False
    final_step: Callable[[TrainState, Batch], Metrics] | None = None


def make_task(config: Config, model: Module, card: DataSpec) -> Task:
    """The task that ``config.objective`` names.

    Raises:
      ConfigError: the data do not suit the objective, or the model has no place for their tokens.
    """
    check_embeddings(model, card)
    makers = {
        "classification": _classification,
        "regression": _regression,
        "elbo": _elbo,
        "causal_lm": _causal_lm,
        "masked_lm": _masked_lm,
        "seq2seq": _seq2seq,
        "contrastive": _contrastive,
    }
    return makers[config.objective](config, model, card)


def _fixed_key(config: Config, use: int) -> PRNGKeyArray:
    """A key for evaluation: no step has the number 2**32 - 1, so training never draws from
    these."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2**32 - 1), use)


def _classification(config: Config, model: Module, card: DataSpec) -> Task:
    if config.tasks.labels:
        return _labels(config, model, card)
    train_batch, eval_batch = preprocessing(config, model, card)
    inputs = model_inputs(model, card)

    def without_one(state: TrainState, batch: Batch) -> Metrics:
        """Accuracy where one of the two is hidden, of the examples that have both."""
        batch, found = eval_batch(batch), {}
        both = batch["present"].all(1)
        for i, name in enumerate(MODALITIES):
            present = batch["present"] & (jnp.arange(2) != i)
            given = ({**batch, "present": present}[k] for k in inputs)
            outputs = predict_step(state, *given, model=model, quantized=config.quantization_aware)
            metrics = classification(outputs, {**batch, "weight": batch["weight"] * both})
            found[f"accuracy_without_{name}"] = metrics["accuracy"]
        return found

    return Task(
        train_objective=partial(classification, label_smoothing=config.label_smoothing),
        eval_objective=classification,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=inputs,
        score="accuracy",
        confusion=True,
        final_step=without_one if "present" in inputs else None,
    )


def _regression(config: Config, model: Module, card: DataSpec) -> Task:
    if model.num_classes != 1:
        raise ConfigError(
            f"config.model_fields.num_classes = {model.num_classes}, and objective regression has "
            "one; nearest: 1"
        )
    train_batch, eval_batch = preprocessing(config, model, card)
    return Task(
        train_objective=regression,
        eval_objective=regression,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=model_inputs(model, card),
        score="loss",
        lower_is_better=True,
        correlates=True,
    )


def _labels(config: Config, model: Module, card: DataSpec) -> Task:
    train_batch, eval_batch = preprocessing(config, model, card)
    names, weights = config.tasks.labels, config.tasks.weights

    def shared(batch: Batch) -> Batch:
        known = {name: batch["weight"] * (batch[f"label_{name}"] >= 0) for name in names}
        return {
            **batch,
            **{f"share_{name}": share(batch["weight"], weight) for name, weight in known.items()},
        }

    def objective(label_smoothing: float) -> Objective:
        parts = {
            name: partial(labelled, name=name, label_smoothing=label_smoothing) for name in names
        }
        return partial(multi_task, tasks=parts, weights=weights)

    return Task(
        train_objective=objective(config.label_smoothing),
        eval_objective=objective(0.0),
        train_batch=lambda key, batch: shared(train_batch(key, batch)),
        eval_batch=lambda batch: shared(eval_batch(batch)),
        inputs=model_inputs(model, card),
        score="loss",
        lower_is_better=True,
        derive=lambda means: {"loss": multi_task_loss(means, names, weights)},
    )


def share(weight: Float[Array, " b"], counted: Float[Array, "b ..."]) -> Float[Array, " b"]:
    """Number of examples over what a task counts, in this batch; the same for all of its
    examples."""
    return jnp.broadcast_to(weight.sum() / jnp.maximum(counted.sum(), 1), weight.shape)


def _contrastive(config: Config, model: Module, card: DataSpec) -> Task:
    train_batch, eval_batch = preprocessing(config, model, card)
    return Task(
        train_objective=contrastive,
        eval_objective=contrastive,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=model_inputs(model, card),
        score="loss",
        lower_is_better=True,
        retrieves=True,
    )


def _causal_lm(config: Config, model: Module, card: DataSpec) -> Task:
    return Task(
        train_objective=partial(causal_lm, label_smoothing=config.label_smoothing),
        eval_objective=causal_lm,
        train_batch=lambda key, batch: batch,
        eval_batch=lambda batch: batch,
        inputs=("tokens", "segments") if card.kind("text").isolate else ("tokens",),
        score="loss",
        lower_is_better=True,
        unit="tokens",
        derive=_perplexity,
    )


def _seq2seq(config: Config, model: Module, card: DataSpec) -> Task:
    return Task(
        train_objective=partial(causal_lm, label_smoothing=config.label_smoothing),
        eval_objective=causal_lm,
        train_batch=lambda key, batch: batch,
        eval_batch=lambda batch: batch,
        inputs=("source", "tokens", "source_segments", "segments"),
        score="loss",
        lower_is_better=True,
        unit="tokens",
        derive=_perplexity,
        translates=True,
    )


def _perplexity(means: dict[str, float]) -> dict[str, float]:
    return {"perplexity": math.exp(min(means["cross_entropy"], 700.0))}


def _masked_lm(config: Config, model: Module, card: DataSpec) -> Task:
    if not getattr(model, "next_sentence", True):
        raise ConfigError(
            "config.model_fields.next_sentence = False, and objective masked_lm learns the next "
            "sentence too: leave the field out"
        )
    special, mask_token = special_tokens(card.kind("text").tokenizer)
    ordinary = all_but(special, card)

    def masked(key: PRNGKeyArray, batch: Batch) -> Batch:
        mask = partial(
            mask_tokens,
            rate=config.data.mask_rate,
            mask_token=mask_token,
            vocab_size=card.kind("text").vocab_size,
        )
        maskable = ordinary[batch["tokens"]] & (batch["segments"] > 0)
        found = jax.vmap(mask)(row_keys(key, len(maskable)), batch["tokens"], maskable)
        tokens, positions, target, weight = found
        weight = weight * batch["weight"][:, None]
        return {
            **batch,
            "tokens": tokens,
            "positions": positions,
            "masked_target": target,
            "masked_weight": weight,
            "share_masked": share(batch["weight"], weight),
        }

    weights = config.tasks.weights
    return Task(
        train_objective=partial(masked_lm, label_smoothing=config.label_smoothing, weights=weights),
        eval_objective=partial(masked_lm, weights=weights),
        train_batch=masked,
        eval_batch=partial(masked, _fixed_key(config, 0)),
        inputs=("tokens", "segments", "types", "positions"),
        score="loss",
        lower_is_better=True,
        derive=lambda means: {"loss": multi_task_loss(means, task_names(config), weights)},
    )


def _elbo(config: Config, model: Module, card: DataSpec) -> Task:
    data = config.data
    low, high = (
        [(x - m) / s for m, s in zip(data.mean, data.std, strict=True)] for x in (0.0, 1.0)
    )  # what black and white become
    if model.likelihood == "bernoulli" and (min(low) < 0 or max(high) > 1):
        raise ConfigError(
            f"config.data.mean = {data.mean} and config.data.std = {data.std} take pixels to "
            f"[{min(low):g}, {max(high):g}], and the Bernoulli likelihood is for [0, 1]; nearest: "
            "mean 0 and std 1, or config.model_fields.likelihood=gaussian"
        )

    def draw(key: PRNGKeyArray, batch: Batch) -> Float[Array, "b latent"]:
        return jax.random.normal(key, (len(batch["image"]), model.latent_size))

    def train_batch(key: PRNGKeyArray, batch: Batch) -> Batch:
        augment_key, noise_key = jax.random.split(key)
        pixels = image.augment(
            augment_key,
            batch["image"],
            crop_padding=data.crop_padding,
            flip=data.flip,
            erasing=data.erasing,
        )
        # float32 whatever the model computes in: these are also the targets
        return {
            **batch,
            "image": image.normalize(pixels, data.mean, data.std),
            "noise": draw(noise_key, batch),
        }

    def eval_batch(batch: Batch) -> Batch:
        """Noise is drawn from (seed, place in the batch), so every evaluation has the same, and so
        has every batch."""
        keys = row_keys(_fixed_key(config, 0), len(batch["image"]))
        noise = jax.vmap(lambda key: jax.random.normal(key, (model.latent_size,)))(keys)
        return {
            **batch,
            "image": image.normalize(batch["image"], data.mean, data.std),
            "noise": noise,
        }

    def final_step(state: TrainState, batch: Batch) -> Metrics:
        batch = eval_batch(batch)
        keys = jax.random.split(_fixed_key(config, 1), config.vae.importance_samples)
        noise = jax.vmap(draw, (0, None))(keys, batch)
        forward = partial(predict_step, state, model=model)
        values = importance_weighted_log_likelihood(forward, batch["image"], noise)
        return {
            "importance_weighted_log_likelihood": (
                (values * batch["weight"]).sum(),
                batch["weight"].sum(),
            )
        }

    objective = partial(elbo, beta=config.vae.beta)
    return Task(
        train_objective=objective,
        eval_objective=objective,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=("image", "noise"),
        score="elbo",
        pictures=True,
        final_step=final_step,
    )
