"""Scores of two classes by the probability of class 1, with their intervals; see
:mod:`train.tasks.binary`."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from train import compiling
from train.launch import cli
from train.passes import collect
from train.state import TrainState
from train.task import Report
from train.tasks import binary, figures
from train.tasks.names import class_name

Outcomes = tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]
"""Label, and probability of class 1, of each example."""


def outcomes(run: Any, state: TrainState, split: str, stopping=lambda: False) -> Outcomes | None:
    """Label and probability of class 1 of each example of a split, the same on every process.

    Returns:
      None if a probability is NaN, which a warning says.

    Raises:
      Stopped: ``stopping`` said so.
    """
    label, probability = collect(
        run,
        lambda state, batch: (
            batch["label"],
            jax.nn.softmax(compiling.outputs(run, state, batch))[:, 1],
        ),
        state,
        split,
        stopping=stopping,
    )
    probability = probability.astype(np.float64)
    if wrong := int((~np.isfinite(probability)).sum()):
        cli.warn(
            f"{wrong} of {len(probability)} probabilities on {split} are NaN: there are no scores "
            "of two classes"
        )
        return None
    return label, probability


def _values(run: Any, found: Outcomes, threshold: float = 0.5) -> dict[str, Any]:
    positive = class_name(run.card.label_names, 1)
    scores = binary.scores(*found, threshold=threshold)
    return {"two_classes": {"positive": positive, **scores}}


def _plot(
    run: Any, found: Outcomes, values: dict[str, Any], workdir: Path, split: str
) -> tuple[str, ...]:
    figures.plot_two_classes(*found, workdir / "two_classes.png", split)
    return ("two_classes.png",)


def _tuned(run: Any, state: TrainState, split: str, sensitivity: float) -> Report | None:
    found = outcomes(run, state, split)
    if found is None or not found[0].any():
        return None
    threshold = binary.threshold_of(sensitivity, *found)
    return dataclasses.replace(REPORT, values=partial(_values, threshold=threshold))


REPORT = Report(
    "two classes",
    measure=outcomes,
    values=_values,
    lines=lambda values: [binary.table(values["two_classes"])],
    files=_plot,
    tuned=_tuned,
)
