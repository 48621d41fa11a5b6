"""Several tasks over one trunk (Caruana 1997), and weights of their losses that are learned
(Kendall et al. 2018).

Both wrap a model and keep the names of its parameters, so that what was trained alone can be
loaded.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.adapt.features import features
from jaxmodels.nn.layers import (
    Dense,
    at_least_float32,
    freeze_fields,
    lecun_normal,
    require_positive,
    zeros,
)
from jaxmodels.nn.meshes import on_any_mesh


@on_any_mesh
class MultiHead(nn.Module):
    """A classifier with a head for each of several tasks in place of its own.

    Attributes:
      trunk: the classifier.
      num_classes: number of logits of each task, by its name.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    trunk: nn.Module
    num_classes: Mapping[str, int]
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        freeze_fields(self, "num_classes")
        super().__post_init__()

    def setup(self):
        require_positive(
            **{f"num_classes of task {name}": n for name, n in self.num_classes.items()}
        )
        nn.share_scope(self, self.trunk)
        self.heads = {
            name: Dense(
                n,
                kernel_init=lecun_normal,
                name=f"head_{name}",
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )
            for name, n in self.num_classes.items()
        }

    def __call__(self, *inputs: Any, train: bool) -> dict[str, Float[Array, "b _"]]:
        """Float32 (or wider) logits of each task."""
        x = features(self.trunk, *inputs, train=train).whole
        return {name: at_least_float32(head(x)) for name, head in self.heads.items()}


@on_any_mesh
class OneTask(nn.Module):
    """One task of a model with several, as if it were the only one.

    Attributes:
      whole: a :class:`MultiHead`, or :class:`LearnedWeights` around one.
      task: its name; num_classes: number of its logits.
    """

    whole: nn.Module
    task: str
    num_classes: int

    def setup(self):
        nn.share_scope(self, self.whole)

    def __call__(self, *inputs: Any, train: bool) -> Float[Array, "b classes"]:
        """Float32 (or wider) logits."""
        outputs = self.whole(*inputs, train=train)
        return (outputs.outputs if isinstance(outputs, WeightedOutputs) else outputs)[self.task]


class WeightedOutputs(NamedTuple):
    """What a model gives, and the logarithm of each task's variance."""

    outputs: Any
    log_variances: Float[Array, " tasks"]


@on_any_mesh
class LearnedWeights(nn.Module):
    """A model together with a learned variance of each of its tasks.

    Attributes:
      model: any model.
      num_tasks: number of variances; all begin with 1.
    """

    model: nn.Module
    num_tasks: int

    def setup(self):
        nn.share_scope(self, self.model)
        self.log_variances = self.param("log_variances", zeros, (self.num_tasks,), jnp.float32)

    def __call__(self, *inputs: Any, train: bool) -> WeightedOutputs:
        """Outputs of the model with the logarithms of the variances."""
        return WeightedOutputs(self.model(*inputs, train=train), self.log_variances)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without the heads and learned weights that several tasks put around it."""
    match model:
        case LearnedWeights(model=inner) | MultiHead(trunk=inner) | OneTask(whole=inner):
            return unwrapped(inner)
    return model
