"""A run with the parameters of a file of compressed ones: ``--weights=FILE`` of train.evaluate and train.predict."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.compress import files
from jaxmodels.compress.quantize import dequantize
from jaxmodels.paths import path_name
from train.config import ConfigError
from train.setup import Run
from train.sharding import shardings_of
from train.state import PyTree, TrainState


def load(run: Run, path: Path) -> tuple[Run, TrainState]:
    """The run with the variables of a file in the place of its own, and its state; for use within ``executing()``.

    Args:
      path: of what :func:`jaxmodels.compress.files.save` wrote, quantised or pruned or neither.

    Raises:
      WeightsError: missing, damaged, or not such a file.
      ConfigError: of another model.
    """
    variables = files.load(path)
    _require_same(path, {**variables, "params": dequantize(variables.get("params", {}))}, run)
    variables = jax.device_put(variables, shardings_of(variables, run.mesh))
    config = dataclasses.replace(run.config, quantization_aware=False)  # the file is taken as it is
    whole = NamedSharding(run.mesh, P())
    state = TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), whole),
        params=variables.pop("params"),
        model_state=variables,
        opt_state=(),
        ema_params=None,
        finite=jax.device_put(jnp.ones((), bool), whole),
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    return dataclasses.replace(run, config=config, shapes=shapes), state


def _require_same(path: Path, variables: PyTree, run: Run) -> None:
    def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
        return {path_name(key): x.shape for key, x in jax.tree_util.tree_leaves_with_path(tree)}

    theirs, ours = shapes(variables), shapes({"params": run.shapes.params, **run.shapes.model_state})
    wrong = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
    if wrong:
        name = wrong[0]
        raise ConfigError(
            f"{path} is not of this run's model {run.config.model}: {len(wrong)} arrays differ, first {name}: "
            f"{theirs.get(name, 'missing')} in the file, {ours.get(name, 'missing')} in the model"
        )
