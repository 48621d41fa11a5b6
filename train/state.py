"""What a run carries from step to step: arrays only, so that it shards, donates and checkpoints as
one tree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmodels import Module

PyTree = Any
# an array, or what stands for one in a tree of the same shape: ShapeDtypeStruct, NamedSharding
Leaf = Any


class TrainState(struct.PyTreeNode):
    """State after ``step`` optimiser steps.

    Attributes:
      step: number of steps done.
      params: float32 parameters.
      model_state: the model's other collections (batch statistics), ``{}`` if it has none.
      opt_state: state of the Optax chain.
      ema_params: moving average of ``params``, or None.
      finite: no step so far met a loss or gradient that is NaN or Inf. Once False, steps change
        nothing any more but ``opt_state``, which gets gradients of 0: parameters and step stay
          those that met the bad batch.
    """

    step: Leaf  # int32 []
    params: PyTree
    model_state: PyTree
    opt_state: optax.OptState
    ema_params: PyTree
    finite: Leaf  # bool []

    @property
    def eval_params(self) -> PyTree:
        """The parameters to evaluate: the moving average where there is one."""
        return self.params if self.ema_params is None else self.ema_params


def init_state(
    key: jax.Array,
    *,
    model: Module,
    tx: optax.GradientTransformation,
    inputs: tuple[Any, ...],
    ema: bool = False,
) -> TrainState:
    """The state at step 0. Pure: run it under ``jit(..., out_shardings=...)`` or ``eval_shape``.

    Args:
      key: PRNG key.
      inputs: of the model, in order: batches [b, ...] or their ShapeDtypeStructs; only their shapes
        count.
      ema: keep a moving average of the parameters.
    """
    variables = model.init(key, *(jnp.zeros(x.shape, x.dtype) for x in inputs), train=False)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        finite=jnp.ones((), bool),
    )
