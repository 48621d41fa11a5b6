"""What is said of a step whose loss or gradient is NaN or Inf: the batch, and the first tensor
where it appears."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels.adapt.frozen import evaluating
from jaxmodels.adapt.patterns import frozen_modules, merge, split
from train import compiling
from train.run import Run
from train.sharding import path_name, put_batch
from train.state import TrainState
from train.step import rounded, rounding


def report(
    run: Run, state: TrainState, batch: dict[str, np.ndarray], step: int, workdir: Path
) -> str:
    """Writes ``nonfinite/step_N.npz`` (the batch as loaded) and ``.json``; returns the first
    non-finite tensor's name.

    Args:
      state: as it was before the step: the step leaves it alone when it meets NaN or Inf, but for
        ``opt_state``, which has gone on by gradients of 0, through further steps of the same call
        too.
      batch: this process's rows of the batch that met it.
      step: number of the step, counted from 1.
    """
    name = first_nonfinite(run, state, batch)
    if jax.process_index() == 0:
        directory = workdir / "nonfinite"
        try:
            directory.mkdir(exist_ok=True)
            np.savez_compressed(directory / f"step_{step}.npz", **batch)
            (directory / f"step_{step}.json").write_text(
                json.dumps({"step": step, "first_nonfinite": name}) + "\n"
            )
        except OSError as e:
            return f"{name} (the batch could not be written: {e.strerror})"
    return name


def first_nonfinite(run: Run, state: TrainState, batch: dict[str, np.ndarray]) -> str:
    """Replays the step with every module's output captured, and names the first tensor that is not
    finite.

    Order: parameters, inputs, module outputs as they are computed, loss, gradients and their norm,
    updates and theirs. Micro-batches are replayed as one batch, and dropout then draws other masks.
    """
    for name, value in _tensors(run, state, put_batch(batch, run.mesh)):
        if jnp.issubdtype(value.dtype, jnp.inexact) and not bool(jnp.isfinite(value).all()):
            return name
    return (
        "none on replay: the fault is in the machine or depends on the device's order of operations"
    )


def _tensors(run: Run, state: TrainState, batch: Any) -> Iterator[tuple[str, jax.Array]]:
    yield from _named("params", state.params)
    yield from _named("model_state", state.model_state)
    step = compiling.step_function(run)
    key = jax.random.fold_in(jax.random.key(run.config.seed), state.step)
    key_data, key_model = jax.random.split(key)
    batch = step.keywords["preprocess"](key_data, batch)
    yield from _named("batch", batch)

    freeze, quantized = run.config.optim.freeze, run.config.quantization_aware
    teacher = {} if run.teacher is None else {"teacher": run.teacher.state}
    trained, frozen = split(state.params, freeze)

    def forward(trained):
        variables = {"params": rounded(merge(trained, frozen), quantized), **state.model_state}
        with evaluating(frozen_modules(state.params, freeze)), rounding(quantized):
            outputs, captured = step.keywords["model"].apply(
                variables,
                *(batch[k] for k in run.task.inputs),
                train=True,
                rngs={"dropout": key_model},
                capture_intermediates=True,
                mutable=["intermediates", *state.model_state],
            )
        metrics = step.keywords["objective"](outputs, batch, **teacher)
        return metrics["loss"][0] / metrics["loss"][1], captured["intermediates"]

    _, intermediates = forward(trained)  # not under jit, which would sort the outputs by name
    yield from _in_order("outputs", intermediates)
    (loss, _), grads = jax.value_and_grad(forward, has_aux=True)(trained)
    yield "loss", loss
    yield from _named("grads", grads)
    yield "norm of the gradients", optax.tree.norm(grads)
    updates, _ = run.tx.update(grads, state.opt_state, state.params)
    yield from _named("updates", updates)
    yield "norm of the updates", optax.tree.norm(updates)


def _named(prefix: str, tree: Any) -> Iterator[tuple[str, jax.Array]]:
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
        yield f"{prefix}/{path_name(path)}", value


def _in_order(prefix: str, tree: Any) -> Iterator[tuple[str, jax.Array]]:
    """Leaves of nested dicts in order of insertion: the order in which modules returned."""
    for name, value in tree.items():
        path = prefix if name == "__call__" else f"{prefix}/{name}"
        if isinstance(value, dict):
            yield from _in_order(path, value)
        else:
            for leaf in jax.tree.leaves(value):
                yield path, leaf
