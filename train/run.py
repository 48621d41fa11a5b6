"""The record of a run: a config made concrete. It has no behaviour."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

import jaxmodels
from input_pipeline import DataSpec
from train.options import Config
from train.state import TrainState
from train.step import Batch, Objective
from train.task import Task


@dataclass(frozen=True)
class Teacher:
    """A model in evaluation mode that a run learns from.

    Attributes:
      state: its parameters, on the mesh, without an optimiser's state. They are given to every
        step, not part of what a run saves.
      outputs: (state, batch as the student gets it) -> logits [b, classes], with the features that
        ``distill.hidden`` asks for.
      origin: in words.
      model: its student as it trains.
      objective: the student's, which takes the teacher's state as ``teacher``.
    """

    state: TrainState
    outputs: Callable[[TrainState, Batch], Any]
    origin: str
    model: jaxmodels.Module
    objective: Objective


@dataclass(frozen=True)
class Run:
    """A config made concrete by :func:`train.setup.build`.

    Attributes:
      config: as checked.
      card: what the data are.
      mesh: of the devices.
      model: with the heads and weights that several tasks put around it.
      task: made for this config, model and data.
      tx: the optimiser.
      shapes: the abstract ``TrainState``, with its shardings.
      teacher: whom it learns from, once :func:`train.setup.with_teacher` has read it.
    """

    config: Config
    card: DataSpec
    mesh: Mesh
    model: jaxmodels.Module
    task: Task
    tx: optax.GradientTransformation
    shapes: TrainState
    teacher: Teacher | None = None


def parameter_count(run: Run) -> tuple[int, int]:
    """Number of parameters and their bytes, over all devices once."""
    leaves = jax.tree.leaves(run.shapes.params)
    return sum(p.size for p in leaves), sum(p.size * p.dtype.itemsize for p in leaves)
