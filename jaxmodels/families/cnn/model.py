"""The small convolutional network of every framework's first tutorial (after LeCun et al. 1998,
LeNet).

Parity reference: ``torch.nn.Conv2d(padding=1)``, ReLU, ``MaxPool2d(2)``, ``Linear``. Deliberate
difference: activations are laid out height, width, channel, so the dense layer after the flattening
sees PyTorch's inputs in another order.
"""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.layers import (
    at_least_float32,
    conv,
    he_normal,
    lecun_normal,
    max_pool,
    require_positive,
    require_rate,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh


@on_any_mesh
class CNN(nn.Module):
    """3x3 convolutions with ReLU, an optional 2x2 max pool, an optional hidden dense layer, and a
    linear classifier.

    Any image size and number of channels; the size is fixed by the first batch, because of the
    dense layer.

    Attributes:
      num_classes: number of logits.
      features: output channels of each convolution, first to last.
      pool: where a 2x2 max pool (stride 2) stands: after the ``"last"`` convolution, after
        ``"each"``, or ``"none"``.
      hidden_size: width of a dense ReLU layer before the classifier; 0 leaves it out.
      dropout_rate: before each dense layer, when training.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    features: tuple[int, ...] = (32, 64)
    pool: str = "last"
    hidden_size: int = 0
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b classes"]:
        """Maps images to float32 (or wider) logits. Dropout draws from the ``dropout`` RNG."""
        if self.pool not in ("none", "last", "each"):
            raise ValueError(f"pool {self.pool!r} is not one of none, last, each")
        require_positive(num_classes=self.num_classes, features=self.features)
        require_rate(dropout_rate=self.dropout_rate)
        if self.hidden_size < 0:
            raise ValueError(f"hidden_size {self.hidden_size} must be at least 0")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype, "bias_init": zeros}
        for i, size in enumerate(self.features):
            x = conv(size, 3, padding=1, kernel_init=he_normal, **dtypes, name=f"conv_{i}")(x)
            x = constrain_batch(nn.relu(x))
            if self.pool == "each" or (self.pool == "last" and i == len(self.features) - 1):
                if min(x.shape[1:3]) < 2:
                    raise ValueError(
                        f"a 2x2 pool cannot take a {x.shape[1]}x{x.shape[2]} map: fewer pools, "
                        "larger images"
                    )
                x = max_pool(x, 2, stride=2)
        x = rearrange(x, "b h w c -> b (h w c)")
        if self.hidden_size:
            x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout_0")(x)
            x = nn.Dense(self.hidden_size, kernel_init=he_normal, **dtypes, name="dense")(x)
            x = constrain_batch(nn.relu(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout_1")(x)
        x = nn.Dense(self.num_classes, kernel_init=lecun_normal, **dtypes, name="head")(x)
        return at_least_float32(x)


def cnn(**fields: Any) -> CNN:
    """Two convolutions and a classifier (after LeCun et al. 1998).

    144,266 parameters for 10 classes of 28x28 greys.
    """
    return CNN(**fields)
