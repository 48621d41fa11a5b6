"""A teacher for a classifier: where it comes from, and whether it reads what its student reads."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from jaxmodels import Module
from jaxmodels.adapt.features import WithFeatures
from train import sharding, transfer
from train.config import ConfigError
from train.evaluate import restore
from train.preprocessing import model_inputs
from train.setup import Run, build
from train.state import TrainState
from train.step import Batch, predict_step
from train.workdir import read_card, read_config


@dataclass(frozen=True)
class Teacher:
    """A model in evaluation mode.

    Attributes:
      state: its parameters, on the mesh, without an optimiser's state. They are given to every
        step, not part of what a run saves.
      outputs: (state, batch as the student gets it) -> logits [b, classes], with the features that
        ``distill.hidden`` asks for.
      origin: in words.
    """

    state: TrainState
    outputs: Callable[[TrainState, Batch], Any]
    origin: str


def load_teacher(run: Run) -> Teacher:
    """The teacher that ``config.distill.teacher`` names, for the student of ``run``.

    Raises:
      ConfigError: it cannot be read, or reads other data or knows other classes.
      CheckpointError, WorkdirError: there is no good checkpoint of it.
    """
    source = run.config.distill.teacher
    assert source is not None
    checkpoints = transfer.checkpoints_of(source, "config.distill.teacher")
    model, state, inputs, quantized = (
        _from_run(checkpoints.parent, run) if checkpoints.is_dir() else _from_weights(source, run)
    )

    hidden = run.config.distill.hidden > 0
    model = WithFeatures(model) if hidden else model

    def outputs(state: TrainState, batch: Batch) -> Any:
        return predict_step(state, *(batch[k] for k in inputs), model=model, quantized=quantized)

    batch = jax.eval_shape(run.task.eval_batch, run.batch_shapes(run.config.batch_size)[-1])
    try:
        found = jax.eval_shape(outputs, state, batch)
    except (ValueError, TypeError, FlaxError) as e:
        raise _unfit(
            source, f"it cannot take its student's inputs: {' '.join(str(e).split())}"
        ) from e
    if hidden:
        student = partial(predict_step, model=WithFeatures(run.model))
        try:
            ours = jax.eval_shape(
                student, run.shapes, *(batch[k] for k in run.task.inputs)
            ).features.shape[1]
        except ValueError as e:
            raise ConfigError(
                f"config.distill.hidden = {run.config.distill.hidden}: {e}; nearest: 0"
            ) from e
        found, theirs = found.outputs, found.features.shape[1]
        if ours != theirs:
            raise _unfit(
                source,
                f"its head takes {theirs} features and its student's {ours}; distill.hidden must "
                "be 0",
            )
    wanted = (run.config.batch_size, run.model.num_classes)
    if getattr(found, "shape", None) != wanted:
        shape = getattr(found, "shape", type(found).__name__)
        raise _unfit(source, f"it gives {shape} where its student gives logits of shape {wanted}")
    return Teacher(
        state,
        outputs,
        f"{source}, {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters",
    )


def _from_run(workdir: Path, run: Run) -> tuple[Module, TrainState, tuple[str, ...], bool]:
    config, card = read_config(workdir), read_card(workdir)
    same = {"config.objective": (config.objective, run.config.objective)}
    same["classes"] = card.label_names, run.card.label_names
    theirs_text, ours_text = card.kind("text"), run.card.kind("text")
    if theirs_text and ours_text:
        same |= {
            name: (getattr(theirs_text, name), getattr(ours_text, name))
            for name in ("texts", "tokenizer")
        }
        if theirs_text.max_len < ours_text.max_len:
            raise _unfit(
                workdir,
                f"it reads {theirs_text.max_len} tokens and its student {ours_text.max_len}",
            )
    rows = card.kind("row"), run.card.kind("row")
    if all(rows):
        same["mean and deviation of the columns"] = tuple((row.mean, row.std) for row in rows)
    if not card.kinds == run.card.kinds == ("text",):
        images = card.kind("image"), run.card.kind("image")
        same["image shape"] = tuple(x.image_shape if x else ("text",) for x in images)
        for name in ("mean", "std"):
            same[f"config.data.{name}"] = getattr(config.data, name), getattr(run.config.data, name)
    for name, (theirs, ours) in same.items():
        if theirs != ours:
            texts = (str(x) if len(str(x)) < 100 else "another" for x in (theirs, ours))
            raise _unfit(workdir, "its {} is {} and its student's {}".format(name, *texts))
    for name in ("mesh", "batch_size", "eval_batch_size", "accumulate"):
        setattr(config, name, getattr(run.config, name))
    theirs = build(config, card=card, devices=list(run.mesh.devices.flat))
    state = restore(theirs, workdir, "best")
    return (
        theirs.model,
        _bare(state.eval_params, state.model_state),
        theirs.task.inputs,
        config.quantization_aware,
    )


def _from_weights(source: str, run: Run) -> tuple[Module, TrainState, tuple[str, ...], bool]:
    from jaxmodels import weights  # here: most teachers are runs

    try:
        model, variables = weights.load(source, cast=True)
    except weights.WeightsError as e:
        raise _unfit(source, f"it is neither the workdir of a run nor weights: {e}") from e
    variables = jax.device_put(variables, sharding.shardings_of(variables, run.mesh))
    text = run.card.kind("text")
    if run.card.kinds == ("text",) and getattr(model, "vocab_size", 0) < text.vocab_size:
        raise _unfit(
            source, f"it knows fewer tokens than the {text.vocab_size} of config.data.tokenizer"
        )
    params = variables.pop("params")
    return model, _bare(params, variables), model_inputs(model, run.card), False


def _bare(params: Any, model_state: Any) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, (), None, jnp.ones((), bool))


def _unfit(source: str | Path, why: str) -> ConfigError:
    return ConfigError(f"config.distill.teacher = {str(source)!r} does not fit: {why}")
