"""VGG (Simonyan & Zisserman 2015, arXiv:1409.1556), with and without batch normalisation.

Parity reference: ``torchvision.models.vgg``. Deliberate difference: the dense layers see height,
width, channel, not channel first.
"""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.layers import (
    BatchNorm,
    adaptive_avg_pool,
    at_least_float32,
    conv,
    kaiming_normal_fan_out,
    max_pool,
    normal,
    require_positive,
    require_rate,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh


@on_any_mesh
class VGG(nn.Module):
    """Stages of 3x3 convolutions, each ended by a 2x2 max pool, then dense layers. Any channels.

    A stage halves the map, so five stages want 32 pixels or more; for 28 pixels take four stages at
    most.

    Attributes:
      num_classes: number of logits.
      stage_sizes: convolutions of each stage.
      stage_features: channels of each stage.
      hidden_sizes: widths of the dense ReLU layers.
      batch_norm: batch normalisation after each convolution.
      pooled_size: height and width that the last map is averaged to before the dense layers; small
        images want 1 to 3.
      dropout_rate: after each hidden dense layer, when training.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3)
    stage_features: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden_sizes: tuple[int, ...] = (4096, 4096)
    batch_norm: bool = False
    pooled_size: int = 7
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b classes"]:
        """Maps images to float32 (or wider) logits. Dropout draws from the ``dropout`` RNG."""
        require_positive(
            num_classes=self.num_classes,
            stage_sizes=self.stage_sizes,
            hidden_sizes=self.hidden_sizes,
        )
        require_positive(stage_features=self.stage_features, pooled_size=self.pooled_size)
        require_rate(dropout_rate=self.dropout_rate)
        if len(self.stage_sizes) != len(self.stage_features):
            raise ValueError(
                f"stage_sizes {self.stage_sizes} and stage_features {self.stage_features} differ "
                "in length"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for stage, (blocks, features) in enumerate(
            zip(self.stage_sizes, self.stage_features, strict=True)
        ):
            for block in range(blocks):
                at = f"{stage}_{block}"
                x = conv(
                    features,
                    3,
                    padding=1,
                    kernel_init=kaiming_normal_fan_out,
                    name=f"conv_{at}",
                    **dtypes,
                )(x)
                if self.batch_norm:
                    x = BatchNorm(name=f"bn_{at}", **dtypes)(x, train=train)
                x = nn.relu(x)
            x = constrain_batch(max_pool(x, 2, stride=2))
        x = adaptive_avg_pool(x, (self.pooled_size, self.pooled_size))
        x = rearrange(x, "b h w c -> b (h w c)")
        for i, size in enumerate(self.hidden_sizes):
            x = nn.relu(nn.Dense(size, kernel_init=normal(0.01), name=f"dense_{i}", **dtypes)(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"dropout_{i}")(
                constrain_batch(x)
            )
        x = nn.Dense(self.num_classes, kernel_init=normal(0.01), name="head", **dtypes)(x)
        return at_least_float32(x)


def vgg11(*, stage_sizes: tuple[int, ...] = (1, 1, 2, 2, 2), **fields: Any) -> VGG:
    """VGG-11 (Simonyan & Zisserman 2015): 8 convolutions, 132,863,336 parameters."""
    return VGG(stage_sizes=stage_sizes, **fields)


def vgg13(*, stage_sizes: tuple[int, ...] = (2, 2, 2, 2, 2), **fields: Any) -> VGG:
    """VGG-13 (Simonyan & Zisserman 2015): 10 convolutions, 133,047,848 parameters."""
    return VGG(stage_sizes=stage_sizes, **fields)


def vgg16(*, stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3), **fields: Any) -> VGG:
    """VGG-16 (Simonyan & Zisserman 2015): 13 convolutions, 138,357,544 parameters."""
    return VGG(stage_sizes=stage_sizes, **fields)


def vgg19(*, stage_sizes: tuple[int, ...] = (2, 2, 4, 4, 4), **fields: Any) -> VGG:
    """VGG-19 (Simonyan & Zisserman 2015): 16 convolutions, 143,667,240 parameters."""
    return VGG(stage_sizes=stage_sizes, **fields)


def vgg11_bn(
    *, stage_sizes: tuple[int, ...] = (1, 1, 2, 2, 2), batch_norm: bool = True, **fields: Any
) -> VGG:
    """VGG-11 with batch norm (Simonyan & Zisserman 2015): 132,868,840 parameters."""
    return VGG(stage_sizes=stage_sizes, batch_norm=batch_norm, **fields)


def vgg13_bn(
    *, stage_sizes: tuple[int, ...] = (2, 2, 2, 2, 2), batch_norm: bool = True, **fields: Any
) -> VGG:
    """VGG-13 with batch norm (Simonyan & Zisserman 2015): 133,053,736 parameters."""
    return VGG(stage_sizes=stage_sizes, batch_norm=batch_norm, **fields)


def vgg16_bn(
    *, stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3), batch_norm: bool = True, **fields: Any
) -> VGG:
    """VGG-16 with batch norm (Simonyan & Zisserman 2015): 138,365,992 parameters."""
    return VGG(stage_sizes=stage_sizes, batch_norm=batch_norm, **fields)


def vgg19_bn(
    *, stage_sizes: tuple[int, ...] = (2, 2, 4, 4, 4), batch_norm: bool = True, **fields: Any
) -> VGG:
    """VGG-19 with batch norm (Simonyan & Zisserman 2015): 143,678,248 parameters."""
    return VGG(stage_sizes=stage_sizes, batch_norm=batch_norm, **fields)
