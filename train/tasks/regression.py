"""Regression: a number of each example, by squared error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float

from input_pipeline import DataSpec
from jaxmodels import BERT, LSTMClassifier, Module
from train.compiling import outputs as outputs_of
from train.options import Config
from train.options.fields import ConfigError
from train.passes import collect
from train.state import TrainState
from train.step import Metric
from train.task import Bundle, Report, Task, without_labels
from train.tasks.preprocessing import model_inputs, preprocessing
from train.tasks.scores import correlations


def regression(outputs: Float[Array, "b 1"], batch: dict[str, Array]) -> dict[str, Metric]:
    """Squared error, ``loss = sum_b w_b (output_b - label_b)^2``, as a weighted sum over examples.

    Args:
      batch: ``label`` float [b]; ``weight`` float [b], 0 for padding.
    """
    error = optax.squared_error(outputs[:, 0], batch["label"].astype(outputs.dtype))
    weight = batch["weight"].astype(outputs.dtype)
    return {"loss": ((error * weight).sum(), weight.sum())}


def _correlations(
    run: Any, state: TrainState, split: str, stopping: Callable[[], bool]
) -> dict[str, float]:
    pairs = collect(
        run,
        lambda s, b: (b["label"], outputs_of(run, s, b)[:, 0]),
        state,
        split,
        stopping=stopping,
    )
    return correlations(*pairs)


def _show(run: Any, answer: np.ndarray, top: int) -> tuple[dict[str, Any], str]:
    value = float(answer[0])
    return {"value": value}, f"{value:.4f}"


def _make(config: Config, model: Module, card: DataSpec) -> Task:
    if model.num_classes != 1:
        raise ConfigError(
            f"config.model_fields.num_classes = {model.num_classes}, and objective regression has "
            "one; nearest: 1"
        )
    train_batch, eval_batch = preprocessing(config, model, card)
    return Task(
        BUNDLE,
        train_objective=regression,
        eval_objective=regression,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=model_inputs(model, card),
        reports=(Report("correlations", measure=_correlations, means=lambda found: found),),
    )


BUNDLE = Bundle(
    "regression",
    _make,
    models=(BERT, LSTMClassifier),
    head="classification",
    form="numbers",
    suits=("prune.method", "data.buckets"),
    check=without_labels,
    answer=lambda outputs: outputs,
    show=_show,
)
