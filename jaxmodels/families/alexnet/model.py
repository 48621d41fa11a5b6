"""AlexNet (Krizhevsky et al. 2012; in the one-column form of Krizhevsky 2014, arXiv:1404.5997).

Parity reference: ``torchvision.models.alexnet``, which leaves out the local response normalisation
of the 2012 paper; the field brings it back. Deliberate difference: the dense layers see height,
width, channel, not channel first.
"""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.layers import (
    adaptive_avg_pool,
    at_least_float32,
    conv,
    local_response_norm,
    max_pool,
    require_choice,
    require_positive,
    require_rate,
    torch_bias,
    torch_uniform,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh


@on_any_mesh
class AlexNet(nn.Module):
    """Five convolutions, three max pools, two hidden dense layers and a linear classifier. Any
    channels.

    Attributes:
      num_classes: number of logits.
      features: channels of the five convolutions.
      hidden_sizes: widths of the dense ReLU layers.
      stem: ``"imagenet"`` (11x11 convolution with stride 4; images from 63 pixels) or ``"small"``
        (5x5, stride 1; images from 15 pixels).
      pooled_size: height and width that the last map is averaged to before the dense layers; small
        images want 1 to 3.
      lrn: local response normalisation after the first two ReLUs, with the paper's constants.
      dropout_rate: before each hidden dense layer, when training.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    features: tuple[int, ...] = (64, 192, 384, 256, 256)
    hidden_sizes: tuple[int, ...] = (4096, 4096)
    stem: str = "imagenet"
    pooled_size: int = 6
    lrn: bool = False
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b classes"]:
        """Maps images to float32 (or wider) logits. Dropout draws from the ``dropout`` RNG."""
        require_choice("stem", self.stem, ("imagenet", "small"))
        require_positive(
            num_classes=self.num_classes, features=self.features, hidden_sizes=self.hidden_sizes
        )
        require_positive(pooled_size=self.pooled_size)
        require_rate(dropout_rate=self.dropout_rate)
        if len(self.features) != 5:
            raise ValueError(f"features {self.features} must be five numbers of channels")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        first = (
            {"kernel_size": 11, "stride": 4, "padding": 2} if self.stem == "imagenet" else _same(5)
        )
        for i, (size, shape) in enumerate(
            zip(self.features, (first, _same(5), _same(3), _same(3), _same(3)), strict=True)
        ):
            fan_in = shape["kernel_size"] ** 2 * x.shape[-1]
            x = nn.relu(
                conv(size, **shape, bias_init=torch_bias(fan_in), name=f"conv_{i}", **dtypes)(x)
            )
            if self.lrn and i < 2:
                # the paper's alpha is not divided by 5
                x = local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
            if i in (0, 1, 4):
                x = constrain_batch(max_pool(x, 3, stride=2))
        x = adaptive_avg_pool(x, (self.pooled_size, self.pooled_size))
        x = rearrange(x, "b h w c -> b (h w c)")
        for i, size in enumerate(self.hidden_sizes):
            x = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"dropout_{i}")(x)
            x = constrain_batch(nn.relu(_dense(size, x.shape[-1], f"dense_{i}", dtypes)(x)))
        return at_least_float32(_dense(self.num_classes, x.shape[-1], "head", dtypes)(x))


def _same(kernel_size: int) -> dict[str, int]:
    return {"kernel_size": kernel_size, "stride": 1, "padding": kernel_size // 2}


def _dense(features: int, fan_in: int, name: str, dtypes: dict[str, DTypeLike]) -> nn.Dense:
    return nn.Dense(
        features, kernel_init=torch_uniform, bias_init=torch_bias(fan_in), name=name, **dtypes
    )


def alexnet(**fields: Any) -> AlexNet:
    """AlexNet (Krizhevsky 2014): 5 convolutions, 61,100,840 parameters."""
    return AlexNet(**fields)
