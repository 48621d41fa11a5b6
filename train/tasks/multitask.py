"""Several tasks of one model: the weighted sum of their losses, or several labels of an example."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.adapt.multitask import WeightedOutputs
from train.step import Batch, Metric, Objective
from train.task import Bundle, Setting, Task
from train.tasks.classification import best, classification, line, probabilities
from train.tasks.preprocessing import model_inputs, preprocessing


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


def share(weight: Float[Array, " b"], counted: Float[Array, "b ..."]) -> Float[Array, " b"]:
    """Number of examples over what a task counts, in this batch; the same for all of its
    examples."""
    return jnp.broadcast_to(weight.sum() / jnp.maximum(counted.sum(), 1), weight.shape)


def labelled(
    outputs: Mapping[str, Array],
    batch: dict[str, Array],
    *,
    name: str,
    label_smoothing: float = 0.0,
) -> dict[str, Metric]:
    """Classification by the logits and labels of one task; see :func:`classification`.

    Args:
      outputs: logits [b, classes] of each task.
      batch: ``label_NAME`` int32 [b], below 0 where it is missing; ``weight`` float [b].
      name: of the task.
    """
    label = batch[f"label_{name}"]
    known = {"label": jnp.maximum(label, 0), "weight": batch["weight"] * (label >= 0)}
    return classification(outputs[name], known, label_smoothing=label_smoothing)


def _make(setting: Setting) -> Task:
    model, card = setting.model, setting.card
    train_batch, eval_batch = preprocessing(setting)
    names, weights = setting.tasks.labels, setting.tasks.weights

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
        BUNDLE,
        train_objective=objective(setting.options.label_smoothing),
        eval_objective=objective(0.0),
        train_batch=lambda key, batch: shared(train_batch(key, batch)),
        eval_batch=lambda batch: shared(eval_batch(batch)),
        inputs=model_inputs(model, card),
        derive=lambda means: {"loss": multi_task_loss(means, names, weights)},
    )


def _show(run: Any, answer: dict[str, Any], top: int) -> tuple[dict[str, Any], str]:
    """Only the classes of the task named label have names."""
    tasks = {
        task: best(answer[task], run.card.label_names if task == "label" else (), top)
        for task in run.config.tasks.labels
    }
    return {"tasks": tasks}, "  ".join(f"{task}: {line(found)}" for task, found in tasks.items())


BUNDLE = Bundle("classification", _make, answer=probabilities, show=_show, explains="class")
"""Several labels of each example: classification by each."""
