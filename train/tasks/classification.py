"""Classification: one label of each example, by softmax over the classes."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxmodels.adapt.multitask import WeightedOutputs
from jaxmodels.families.fusion.model import MODALITIES
from jaxmodels.nn.layers import AuxiliaryLogits
from train.options.fields import limit
from train.state import TrainState
from train.step import Batch, Metric, Metrics, predict_step
from train.task import Bundle, Report, Setting, Task
from train.tasks import figures, two_classes
from train.tasks.averaged import averaged
from train.tasks.names import class_name
from train.tasks.preprocessing import model_inputs, preprocessing
from train.tasks.scores import macro_f1, matthews, per_class


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


def confusion_counts(
    logits: Float[Array, "b classes"], batch: dict[str, Array]
) -> Float[Array, "classes classes"]:
    """Number of examples by true class (row) and predicted class (column), padding left out."""
    classes = logits.shape[-1]
    true = jax.nn.one_hot(batch["label"], classes) * batch["weight"][:, None]
    return true.T @ jax.nn.one_hot(logits.argmax(-1), classes)


def probabilities(outputs: Any) -> Any:
    """Probabilities of the classes [b, classes] by logits, or of those of each task by its name."""
    return jax.tree.map(
        jax.nn.softmax, outputs.outputs if isinstance(outputs, WeightedOutputs) else outputs
    )


def best(
    probability: Float[np.ndarray, " classes"], names: tuple[str, ...], top: int
) -> list[dict[str, Any]]:
    """The most probable classes of one example, with their names."""
    order = np.argsort(-probability, kind="stable")[:top]
    return [
        {"label": class_name(names, int(i)), "probability": float(probability[i])} for i in order
    ]


def line(labels: list[dict[str, Any]]) -> str:
    """What :func:`best` found as text."""
    return "  ".join(f"{x['label']} {x['probability']:.4f}" for x in labels)


def table(values: dict[str, Any]) -> str:
    """Scores of each class as aligned text."""
    rows = [f"{'class':<16} precision  recall      f1  support"]
    for name, c in values["per_class"].items():
        rows.append(
            f"{name:<16} {c['precision']:9.4f} {c['recall']:7.4f} {c['f1']:7.4f}  {c['support']:7d}"
        )
    return "\n".join(rows)


def _show(run: Any, answer: np.ndarray, top: int) -> tuple[dict[str, Any], str]:
    labels = best(answer, run.card.label_names, top)
    return {"labels": labels}, line(labels)


def _values(run: Any, confusion: np.ndarray) -> dict[str, Any]:
    """Scores of all classes and of each, and the confusion matrix, as JSON values."""
    classes = per_class(confusion.astype(np.float64))
    names = [class_name(run.card.label_names, i) for i in range(len(confusion))]
    return {
        "macro_f1": macro_f1(confusion),
        "matthews": matthews(confusion.astype(np.float64)),
        "per_class": {
            name: {k: float(v[i]) for k, v in classes.items()}
            | {"support": int(classes["support"][i])}
            for i, name in enumerate(names)
        },
        "confusion": confusion.tolist(),
    }


def _plot(
    run: Any, confusion: np.ndarray, values: dict[str, Any], workdir: Path, split: str
) -> tuple[str, ...]:
    figures.plot_confusion(confusion, list(values["per_class"]), workdir / "confusion.png", split)
    return ("confusion.png",)


CONFUSION = Report(
    "confusion",
    count=confusion_counts,
    values=_values,
    lines=lambda values: [table(values)],
    files=_plot,
)
"""Confusion matrix, and the scores of each class."""


@dataclass
class ClassificationOptions:
    """Options of the task."""

    label_smoothing: float = field(default=0.0, metadata=limit(low=0, high=1))


def _make(setting: Setting) -> Task:
    model, card = setting.model, setting.card
    train_batch, eval_batch = preprocessing(setting)
    inputs = model_inputs(model, card)

    def without_one(state: TrainState, batch: Batch) -> Metrics:
        """Accuracy where one of the two is hidden, of the examples that have both."""
        batch, found = eval_batch(batch), {}
        both = batch["present"].all(1)
        for i, name in enumerate(MODALITIES):
            present = batch["present"] & (jnp.arange(2) != i)
            given = ({**batch, "present": present}[k] for k in inputs)
            outputs = predict_step(state, *given, model=model, quantized=setting.quantized)
            metrics = classification(outputs, {**batch, "weight": batch["weight"] * both})
            found[f"accuracy_without_{name}"] = metrics["accuracy"]
        return found

    reports = (averaged("without one", without_one),) if "present" in inputs else ()
    reports += (CONFUSION, two_classes.REPORT) if model.num_classes == 2 else (CONFUSION,)
    return Task(
        BUNDLE,
        train_objective=partial(classification, label_smoothing=setting.options.label_smoothing),
        eval_objective=classification,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=inputs,
        reports=reports,
    )


BUNDLE = Bundle(
    "classification",
    _make,
    outputs=("logits",),
    head="classification",
    form="labels",
    complete=True,
    options=ClassificationOptions,
    suits=(
        "distill",
        "prune.method",
        "tasks.labels",
        "data.buckets",
        "data.crop_text",
        "data.hide_rate",
    ),
    score="accuracy",
    lower_is_better=False,
    answer=probabilities,
    show=_show,
    explains="class",
)
