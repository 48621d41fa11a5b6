"""Regression: a number of each example, or several, by squared error."""

from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float

from jaxmodels.nn.layers import AuxiliaryLogits
from train.compiling import outputs as outputs_of
from train.options.fields import ConfigError
from train.passes import collect
from train.run import Run
from train.state import TrainState
from train.step import Metric
from train.task import Bundle, Report, Setting, Task, without_labels
from train.tasks.preprocessing import model_inputs, preprocessing
from train.tasks.scores import correlations


def regression(
    outputs: Float[Array, "b n"] | AuxiliaryLogits,
    batch: dict[str, Array],
    *,
    auxiliary_weight: float = 0.3,
) -> dict[str, Metric]:
    """Mean squared error, ``loss = sum_b w_b mean_n (output_bn - label_bn)^2``, as a weighted sum
    over examples.

    Labels are standardised where the data set has their mean and deviation; the loss is then in
    squares of the deviation. Auxiliary heads add ``auxiliary_weight`` times their own loss each, as
    in classification.

    Args:
      batch: ``label`` float [b], or [b, n] of several numbers; ``weight`` float [b], 0 for padding.
    """
    main, auxiliary = outputs if isinstance(outputs, AuxiliaryLogits) else (outputs, ())
    weight = batch["weight"].astype(main.dtype)

    def summed(found: Float[Array, "b n"]) -> Float[Array, ""]:
        if found.shape[1] == 1:
            error = optax.squared_error(found[:, 0], batch["label"].astype(found.dtype))
        else:
            error = optax.squared_error(found, batch["label"].astype(found.dtype)).mean(1)
        return (error * weight).sum()

    loss = summed(main)
    for extra in auxiliary:
        loss += auxiliary_weight * summed(extra)
    return {"loss": (loss, weight.sum())}


def _scores(run: Run, state: TrainState, split: str, stopping: Any) -> dict[str, float]:
    """Correlations of each number; where the numbers are standardised, the mean absolute error in
    the units of the data too."""
    label, found = collect(
        run, lambda s, b: (b["label"], outputs_of(run, s, b)), state, split, stopping=stopping
    )
    kind, label = run.card.label, label.reshape(len(found), -1)
    one = [correlations(*pair) for pair in zip(label.T, found.T, strict=True)]
    error = np.abs(kind.in_units(found) - label).mean(0)
    scores = {name: float(np.mean([x[name] for x in one])) for name in one[0]}
    if kind.mean and kind.size == 1:
        scores["mean_absolute_error"] = float(error[0])
    if kind.size > 1:
        for i, name in enumerate(_names(kind)):
            scores |= {f"{name}_{key}": value for key, value in one[i].items()}
            scores[f"{name}_mean_absolute_error"] = float(error[i])
    return scores


def _names(kind: Any) -> tuple[str, ...]:
    return kind.names or tuple(map(str, range(kind.size)))


def _show(run: Run, answer: np.ndarray, top: int) -> tuple[dict[str, Any], str]:
    kind = run.card.label
    values = [float(x) for x in kind.in_units(answer)]
    if kind.size == 1:
        return {"value": values[0]}, f"{values[0]:.4f}"
    named = dict(zip(_names(kind), values, strict=True))
    return {"values": named}, "  ".join(f"{name} {value:.4f}" for name, value in named.items())


def _make(setting: Setting) -> Task:
    model, card = setting.model, setting.card
    kind = card.label
    if kind is None or kind.kind != "number":
        raise ConfigError(
            f"config.task = 'regression' learns numbers, and {card.name} has "
            f"{'no label' if kind is None else f'a label of kind {kind.kind}'}"
        )
    if model.num_classes != kind.size:
        raise ConfigError(
            f"config.model_fields.num_classes = {model.num_classes}, and an example of {card.name} "
            f"has {'one' if kind.size == 1 else kind.size}; nearest: {kind.size}"
        )
    train_batch, eval_batch = preprocessing(setting)
    return Task(
        BUNDLE,
        train_objective=regression,
        eval_objective=regression,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=model_inputs(model, card),
        reports=(Report("scores", measure=_scores, means=lambda found: found),),
    )


BUNDLE = Bundle(
    "regression",
    _make,
    outputs=("logits",),
    head="classification",
    form="numbers",
    suits=("prune.method", "data.buckets"),
    check=without_labels,
    answer=lambda outputs: outputs,
    show=_show,
    explains="number",
)
