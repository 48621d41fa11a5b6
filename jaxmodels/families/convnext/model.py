"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545).

Parity reference: ``torchvision.models.convnext``. Initial values are the paper's: weights normal
with deviation 0.02 (the cut at -2 and 2 is 100 deviations away and does nothing), biases 0.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.layers import (
    Dense,
    LayerNorm,
    at_least_float32,
    conv,
    gelu,
    normal,
    require_positive,
    require_rate,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh

EPSILON = 1e-6
"""Epsilon of every LayerNorm; torchvision's and the paper's code agree."""


@on_any_mesh
class ConvNeXt(nn.Module):
    """Patches, stages of depthwise 7x7 convolutions with an MLP each, mean of the map, classifier.

    Images may have any size from ``patch_size * 2 ** (stages - 1)`` pixels and any channels.

    Attributes:
      num_classes: number of logits.
      stage_sizes: blocks of each stage; every stage after the first halves the map.
      stage_features: channels of each stage.
      patch_size: side of the patches that the stem makes one pixel each.
      layer_scale: initial factor of every residual branch, one for each channel (Touvron et al.
        2021, arXiv:2103.17239).
      depth_dropout_rate: probability in training that the last block leaves its branch out of an
        example (Huang et al. 2016, arXiv:1603.09382); from 0 in the first block linear in depth.
        Drawn from the ``dropout`` RNG.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 3, 9, 3)
    stage_features: tuple[int, ...] = (96, 192, 384, 768)
    patch_size: int = 4
    layer_scale: float = 1e-6
    depth_dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b classes"]:
        """Maps images to float32 (or wider) logits."""
        require_positive(
            num_classes=self.num_classes,
            stage_sizes=self.stage_sizes,
            stage_features=self.stage_features,
            patch_size=self.patch_size,
        )
        require_rate(depth_dropout_rate=self.depth_dropout_rate)
        if len(self.stage_sizes) != len(self.stage_features):
            raise ValueError(
                f"stage_sizes {self.stage_sizes} and stage_features {self.stage_features} must be "
                "of one length"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, EPSILON, **dtypes)
        depth, last = 0, max(1, sum(self.stage_sizes) - 1)
        for i, (blocks, features) in enumerate(
            zip(self.stage_sizes, self.stage_features, strict=True)
        ):
            side = 2 if i else self.patch_size
            if i:
                x = norm(name=f"norm_{i + 1}")(x)
            x = conv(
                features,
                side,
                stride=side,
                kernel_init=normal(0.02),
                name=f"conv_{i + 1}",
                **dtypes,
            )(x)
            x = x if i else norm(name="norm_1")(x)
            for j in range(blocks):
                x = Block(
                    layer_scale=self.layer_scale,
                    dropout_rate=self.depth_dropout_rate * depth / last,
                    name=f"stage_{i + 1}_block_{j}",
                    **dtypes,
                )(constrain_batch(x), train=train)
                depth += 1
        x = norm(name="norm")(x.mean((1, 2)))
        x = Dense(self.num_classes, kernel_init=normal(0.02), name="head", **dtypes)(x)
        return at_least_float32(x)


class Block(nn.Module):
    """``x + scale * MLP(norm(depthwise(x)))``; see :class:`ConvNeXt` for the fields."""

    layer_scale: float
    dropout_rate: float
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Applies the block. In training whole examples lose the branch."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(Dense, kernel_init=normal(0.02), **dtypes)
        size = x.shape[-1]
        y = nn.Conv(
            size,
            (7, 7),
            padding=3,
            feature_group_count=size,
            kernel_init=normal(0.02),
            name="conv",
            **dtypes,
        )(x)
        y = dense(4 * size, name="mlp_in")(LayerNorm(EPSILON, name="norm", **dtypes)(y))
        y = dense(size, name="mlp_out")(gelu(y))
        initial = nn.initializers.constant(self.layer_scale)
        scale = self.param("layer_scale", initial, (size,), self.param_dtype)
        y = y * scale.astype(self.dtype)
        rows = nn.Dropout(self.dropout_rate, broadcast_dims=(1, 2, 3), deterministic=not train)
        return x + rows(y)


def convnext_tiny(**fields: Any) -> ConvNeXt:
    """ConvNeXt-T (Liu et al. 2022): 18 blocks, 28,589,128 parameters."""
    return ConvNeXt(**fields)


def convnext_small(
    *,
    stage_sizes: tuple[int, ...] = (3, 3, 27, 3),
    depth_dropout_rate: float = 0.4,
    **fields: Any,
) -> ConvNeXt:
    """ConvNeXt-S (Liu et al. 2022): 36 blocks, 50,223,688 parameters."""
    return ConvNeXt(stage_sizes=stage_sizes, depth_dropout_rate=depth_dropout_rate, **fields)


def convnext_base(
    *,
    stage_sizes: tuple[int, ...] = (3, 3, 27, 3),
    stage_features: tuple[int, ...] = (128, 256, 512, 1024),
    depth_dropout_rate: float = 0.5,
    **fields: Any,
) -> ConvNeXt:
    """ConvNeXt-B (Liu et al. 2022): 36 blocks, 88,591,464 parameters."""
    return ConvNeXt(
        stage_sizes=stage_sizes,
        stage_features=stage_features,
        depth_dropout_rate=depth_dropout_rate,
        **fields,
    )


def convnext_large(
    *,
    stage_sizes: tuple[int, ...] = (3, 3, 27, 3),
    stage_features: tuple[int, ...] = (192, 384, 768, 1536),
    depth_dropout_rate: float = 0.5,
    **fields: Any,
) -> ConvNeXt:
    """ConvNeXt-L (Liu et al. 2022): 36 blocks, 197,767,336 parameters."""
    return ConvNeXt(
        stage_sizes=stage_sizes,
        stage_features=stage_features,
        depth_dropout_rate=depth_dropout_rate,
        **fields,
    )
