"""A run with the parameters of a file of compressed ones: ``--weights=FILE`` of train.evaluate and
train.predict."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.compress import files
from jaxmodels.compress.quantize import INT8, SCALE, scale_shape
from jaxmodels.nn.paths import path_name
from train.config import ConfigError
from train.run import Run
from train.sharding import shardings_of
from train.state import TrainState


def load(run: Run, path: Path) -> tuple[Run, TrainState]:
    """The run with the variables of a file in the place of its own, and its state; for use within
    ``executing()``.

    Args:
      path: of what :func:`jaxmodels.compress.files.save` wrote, quantised or pruned or neither.

    Raises:
      WeightsError: missing, damaged, or not such a file.
      ConfigError: of another model.
    """
    variables = files.load(path, check=partial(_require_same, path, run))
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
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    return dataclasses.replace(run, config=config, shapes=shapes), state


def _require_same(path: Path, run: Run, stored: files.Shapes) -> None:
    """Raises ConfigError unless the arrays of a file are those of the model, or stand for them in
    int8."""
    trees = {"params": run.shapes.params, **run.shapes.model_state}
    ours = {path_name(key): x.shape for key, x in jax.tree_util.tree_leaves_with_path(trees)}
    theirs = dict(stored)
    for name, shape in stored.items():
        whole = name.removesuffix(INT8)
        if whole != name and name.startswith("params/"):
            scale = theirs.pop(whole + SCALE, None)
            fits = scale == scale_shape(whole.removeprefix("params/"), shape)
            theirs[whole] = theirs.pop(name) if fits else (f"scales {scale}",)
    wrong = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
    if wrong:
        name = wrong[0]
        raise ConfigError(
            f"{path} is not of this run's model {run.config.model}: {len(wrong)} arrays differ, "
            f"first {name[:100]}: {str(theirs.get(name, 'missing'))[:60]} in the file, "
            f"{ours.get(name, 'missing')} in the model"
        )
