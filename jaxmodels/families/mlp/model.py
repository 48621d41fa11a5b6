"""Multi-layer perceptron (Rumelhart, Hinton & Williams 1986).

Parity reference: ``torch.nn.Sequential(Flatten, Linear, ReLU|Sigmoid, ..., Linear)``. An image is
flattened in the order height, width, channel; PyTorch flattens channel, height, width, so
first-layer weights of images with several channels need that permutation.
"""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.layers import (
    ACTIVATIONS,
    at_least_float32,
    he_normal,
    lecun_normal,
    require_positive,
    require_rate,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh


@on_any_mesh
class MLP(nn.Module):
    """``len(hidden_sizes)`` hidden layers and a linear classifier; with no hidden layer it is
    softmax regression.

    Attributes:
      num_classes: number of logits.
      hidden_sizes: width of each hidden layer, first to last.
      activation: ``"relu"`` or ``"sigmoid"``.
      dropout_rate: after every hidden activation, when training.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    hidden_sizes: tuple[int, ...] = (256, 128)
    activation: str = "relu"
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], *, train: bool) -> Float[Array, "b classes"]:
        """Maps a batch of images or vectors to float32 (or wider) logits. Dropout draws from the
        ``dropout`` RNG."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {self.activation!r} is not one of {', '.join(ACTIVATIONS)}"
            )
        require_positive(num_classes=self.num_classes, hidden_sizes=self.hidden_sizes)
        require_rate(dropout_rate=self.dropout_rate)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype, "bias_init": zeros}
        x = rearrange(x, "b ... -> b (...)")
        for i, size in enumerate(self.hidden_sizes):
            x = nn.Dense(size, kernel_init=he_normal, **dtypes, name=f"dense_{i}")(x)
            x = constrain_batch(ACTIVATIONS[self.activation](x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"dropout_{i}")(x)
        x = nn.Dense(self.num_classes, kernel_init=lecun_normal, **dtypes, name="head")(x)
        return at_least_float32(x)


def mlp(**fields: Any) -> MLP:
    """Hidden layers of 256 and 128 (Rumelhart, Hinton & Williams 1986).

    235,146 parameters for 10 classes of 28x28 greys.
    """
    return MLP(**fields)
