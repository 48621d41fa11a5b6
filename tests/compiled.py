"""Models as one compiled program each: eagerly every operation of every layer is compiled by
itself, which takes several times as long."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def init(model: nn.Module, *inputs: Any, seed: int = 0, **options: Any) -> Any:
    """The initial variables of a model for inputs of these shapes."""
    return jax.jit(partial(model.init, **options))(jax.random.key(seed), *inputs)


def drawn(
    model: nn.Module, *inputs: Any, rng: np.random.Generator, scale: float, **options: Any
) -> Any:
    """Variables of the shapes of the initial ones, all of them normal with mean 0."""
    shapes = jax.eval_shape(partial(model.init, **options), jax.random.key(0), *inputs)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * scale), shapes)


def apply(model: nn.Module, variables: Any, *inputs: Any, **options: Any) -> Any:
    """What a model gives; options, such as ``train`` or ``method``, are constants of the
    program."""
    return jax.jit(partial(model.apply, **options))(variables, *inputs)
