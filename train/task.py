"""Records of a task: what it is for every run, what it is for one run, and what it reports."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from input_pipeline import DataSpec
from input_pipeline.text import Form
from jaxmodels import Module
from train.options import Config, DataConfig, TasksConfig
from train.options.fields import ConfigError, shown
from train.state import TrainState
from train.step import Batch, Objective


@dataclass(frozen=True)
class Report:
    """Something that a task measures, prints or draws besides its metrics.

    ``run`` is a ``train.run.Run``, which lies above. A report measures in one of two
    ways: ``count`` at every evaluation, or ``measure`` once, when a run ends.

    Attributes:
      name: of its own among the reports of a task.
      count: (model outputs, batch) -> array of counts, part of the evaluation step; summed over a
        split. Pure.
      measure: (run, state, split, stopping) -> a finding, or None where there is nothing to
        report. Runs on every process; raises ``train.errors.Stopped`` if ``stopping`` says so.
      means: finding -> numbers that join the metrics of the split.
      values: (run, finding) -> what joins the split's JSON values. A later report's come first.
      lines: JSON values of the split -> what is printed.
      files: (run, finding, values, workdir, split) -> names of the files in the workdir, which it
        writes.
      draw: run -> (state -> name -> pixels uint8 [h, w, c]), drawn at every evaluation.
      tuned: (run, state, split, sensitivity) -> the report at the threshold that has this
        sensitivity on a split; None where the split cannot say it.
    """

    name: str
    count: Callable[[Any, Batch], jax.Array] | None = None
    measure: Callable[[Any, TrainState, str, Callable[[], bool]], Any] | None = None
    means: Callable[[Any], dict[str, float]] = lambda found: {}
    values: Callable[[Any, Any], dict[str, Any]] = lambda run, found: {}
    lines: Callable[[dict[str, Any]], list[str]] = lambda values: []
    files: Callable[[Any, Any, dict[str, Any], Path, str], tuple[str, ...]] = lambda *found: ()
    draw: Callable[[Any], Callable[[TrainState], dict[str, np.ndarray]]] | None = None
    tuned: Callable[[Any, TrainState, str, float], "Report | None"] | None = None


@dataclass(frozen=True)
class Task:
    """A task made for the config, the model and the data of one run.

    Attributes:
      bundle: what it is for every run.
      train_objective: (model outputs, batch) -> sums and counts; its ``"loss"`` is minimised.
      eval_objective: the same for evaluation.
      train_batch: (key of the step, batch as loaded) -> batch: augmentation, normalisation, noise.
      eval_batch: the same for evaluation, without chance.
      inputs: keys of the batch that the model takes, in order.
      derive: means of the metrics -> what follows from them.
      reports: what it measures, prints and draws besides, in the order in which it does.
    """

    bundle: "Bundle"
    train_objective: Objective
    eval_objective: Objective
    train_batch: Callable[[PRNGKeyArray, Batch], Batch]
    eval_batch: Callable[[Batch], Batch]
    inputs: tuple[str, ...]
    derive: Callable[[dict[str, float]], dict[str, float]] = lambda means: {}
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What a task is made for.

    Attributes:
      options: of the task, see ``Bundle.options``.
      model: with the heads and weights that several tasks put around it.
      card: what the data are.
      data: how they are read and augmented.
      tasks: the labels of several tasks, and weights of losses.
      seed: of the run.
      dtype: in which the model computes.
      quantized: whether it computes with the rounding of int8.
    """

    options: Any
    model: Module
    card: DataSpec
    data: DataConfig
    tasks: TasksConfig
    seed: int
    dtype: Any
    quantized: bool


@dataclass
class NoOptions:
    """Options of a task that has none."""


@dataclass(frozen=True)
class Bundle:
    """Everything that distinguishes a task from the others.

    Attributes:
      name: as ``config.task`` says it.
      make: setting -> the task of a run. Raises ``ConfigError`` where model and data do not suit
        it.
      outputs: kinds of model outputs that it takes, of :class:`jaxmodels.families.Family`; ():
        any model may try.
      head: field ``head`` of the models that have one.
      form: how text is cut for it; None: it takes none.
      complete: whether every example must have its label.
      options: dataclass of its options, ``config.options``.
      suits: options that it takes and some tasks refuse.
      parts: names of its parts, if it adds several losses.
      check: checks a config; raises ``ConfigError``.
      score: metric by which a checkpoint is the best: the higher, or the lower if
        ``lower_is_better``.
      unit: what the metrics count.
      answer: model outputs of a batch -> arrays that ``train.predict`` shows; pure. None: the task
        has no answer.
      show: (run, answer of one example, how many labels) -> its JSON values, and its line.
      explains: what ``train.explain`` explains of a run: its class, its number, its next token, its
        translation, or nothing.
      writes: what ``train.generate`` does with a run, its state, the settings of the command line
        and its other flags; returns the exit code. None: nothing.
    """

    name: str
    make: Callable[[Setting], Task]
    outputs: tuple[str, ...] = ()
    head: str | None = None
    form: Form | None = None
    complete: bool = False
    options: type = NoOptions
    suits: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    check: Callable[[Config], None] = lambda config: None
    score: str = "loss"
    lower_is_better: bool = True
    unit: str = "examples"
    answer: Callable[[Any], Any] | None = None
    show: Callable[[Any, Any, int], tuple[dict[str, Any], str]] | None = None
    explains: Literal["class", "number", "next token", "translation"] | None = None
    writes: Callable[[Any, TrainState, dict[str, Any], Any], int] | None = None


def without_labels(config: Config) -> None:
    """Raises ConfigError for mixup, where a task has no classes."""
    if config.data.mixup:
        raise ConfigError(
            f"config.data.mixup = {shown(config.data.mixup)} is for labels of classes, and task "
            f"{config.task} has none; nearest: 0"
        )


def fixed_key(seed: int, use: int) -> PRNGKeyArray:
    """A key for evaluation: no step has the number 2**32 - 1, so training never draws from it."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**32 - 1), use)
