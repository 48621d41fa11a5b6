"""Second-order pruning of a run's parameters before it trains. How:
:mod:`jaxmodels.compress.surgeon`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.adapt.patterns import matches_any
from jaxmodels.compress.prune import prunable
from jaxmodels.compress.surgeon import Calibration, prune_model
from train import batches
from train.config import ConfigError
from train.sharding import TEXTS
from train.state import TrainState

BATCH = 64
"""Examples of a batch: its activations are kept together, on one device."""


def operate(run: Any, state: TrainState) -> TrainState:
    """The state with the kernels that train pruned as ``config.prune`` says.

    Every process does the same work on one of its devices, so that the result depends neither on
    the mesh nor on the number of processes.

    Raises:
      ConfigError: the model has a kernel that cannot be pruned so.
    """
    config = run.config
    with jax.set_mesh(run.mesh):
        gather = jax.jit(lambda tree: tree, out_shardings=NamedSharding(run.mesh, P()))
        whole = jax.device_get(gather({"params": state.params, **state.model_state}))
    try:
        pruned = prune_model(
            run.model,
            whole,
            calibration(run, config.prune.examples),
            config.prune.sparsity,
            scope=config.prune.scope,
            select=lambda path: prunable(path) and not matches_any(config.optim.freeze, path),
        )
    except ValueError as e:
        raise ConfigError(f"config.prune.method = 'surgeon': {e}") from e

    def place(x: jax.Array, like: jax.Array) -> jax.Array:
        return jax.make_array_from_callback(x.shape, like.sharding, np.asarray(x).__getitem__)

    params = jax.tree.map(place, pruned["params"], state.params)
    ema_params = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema_params=ema_params)


def calibration(run: Any, count: int) -> list[Calibration]:
    """The first ``count`` examples of training as the model takes them in evaluation, short texts
    with short ones."""
    loaded, found = batches.unaugmented_examples(run, count), []
    order, lengths = np.arange(len(loaded["weight"])), np.zeros(len(loaded["weight"]), int)
    if "segments" in loaded:
        lengths = (loaded["segments"] > 0).sum(1)
        order = lengths.argsort(kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        length = next(n for n in run.card.lengths if n >= lengths[rows[-1]])
        cut = {
            k: v[rows, :length] if k in TEXTS and v.ndim == 2 else v[rows]
            for k, v in loaded.items()
        }
        batch = run.task.eval_batch(jax.tree.map(jnp.asarray, cut))
        weight = np.asarray(
            batch["segments" if "segments" in run.task.inputs else "weight"] > 0, np.float32
        )
        found.append(Calibration(tuple(batch[k] for k in run.task.inputs), weight))
    return found
