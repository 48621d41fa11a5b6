"""ResNet (He et al. 2016, arXiv:1512.03385) for ImageNet and for small images.

Parity reference: ``torchvision.models.resnet``, whose bottleneck strides in its 3x3 convolution
("v1.5"). The CIFAR networks of the paper's section 4.2 (three stages of 16, 32, 64 channels,
shortcuts without parameters) are the same module with ``shortcut="pad"``; their reference is the
widely used ``akamaster/pytorch_resnet_cifar10``.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.cpu import relu
from jaxmodels.nn.layers import (
    BatchNorm,
    at_least_float32,
    conv,
    kaiming_normal_fan_out,
    max_pool,
    ones,
    require_choice,
    require_positive,
    torch_bias,
    torch_uniform,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh


@on_any_mesh
class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average pool, linear classifier. Any image size and
    channels.

    Attributes:
      num_classes: number of logits.
      stage_sizes: blocks of each stage; every stage after the first halves the map and doubles the
        width.
      block: ``"basic"`` (two 3x3 convolutions) or ``"bottleneck"`` (1x1, 3x3, 1x1 with four times
        the width).
      width: channels of the first stage (before the bottleneck's expansion).
      stem: ``"imagenet"`` (7x7 convolution with stride 2, then a max pool: maps a quarter of the
        image) or ``"small"`` (one 3x3 convolution, for images of 28 or 32 pixels).
      shortcut: where the shape changes, ``"projection"`` (1x1 convolution and batch norm) or
        ``"pad"`` (every second pixel, new channels zero; the paper's option A).
      zero_init_residual: start the last batch norm of each block at scale 0 (Goyal et al. 2017).
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    block: str = "basic"
    width: int = 64
    stem: str = "imagenet"
    shortcut: str = "projection"
    zero_init_residual: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b classes"]:
        """Maps images to float32 (or wider) logits; training updates collection ``batch_stats``."""
        require_choice("block", self.block, ("basic", "bottleneck"))
        require_choice("stem", self.stem, ("imagenet", "small"))
        require_choice("shortcut", self.shortcut, ("projection", "pad"))
        require_positive(
            num_classes=self.num_classes, stage_sizes=self.stage_sizes, width=self.width
        )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        imagenet = self.stem == "imagenet"
        x = conv(
            self.width,
            7 if imagenet else 3,
            stride=2 if imagenet else 1,
            padding=3 if imagenet else 1,
            use_bias=False,
            kernel_init=kaiming_normal_fan_out,
            name="conv_stem",
            **dtypes,
        )(x)
        x = relu(BatchNorm(name="bn_stem", **dtypes)(x, train=train))
        if imagenet:
            x = max_pool(x, 3, stride=2, padding=1)
        for i, blocks in enumerate(self.stage_sizes):
            for j in range(blocks):
                x = Block(
                    width=self.width * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    bottleneck=self.block == "bottleneck",
                    pad_shortcut=self.shortcut == "pad",
                    zero_init_residual=self.zero_init_residual,
                    name=f"stage_{i + 1}_block_{j}",
                    **dtypes,
                )(constrain_batch(x), train=train)
        x = x.mean((1, 2))
        x = nn.Dense(
            self.num_classes,
            kernel_init=torch_uniform,
            bias_init=torch_bias(x.shape[-1]),
            name="head",
            **dtypes,
        )(x)
        return at_least_float32(x)


class Block(nn.Module):
    """``relu(residual(x) + shortcut(x))``; see :class:`ResNet` for the fields."""

    width: int
    stride: int
    bottleneck: bool
    pad_shortcut: bool
    zero_init_residual: bool
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Applies the block; training updates collection ``batch_stats``."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        convolve = partial(conv, use_bias=False, kernel_init=kaiming_normal_fan_out, **dtypes)
        last_scale = zeros if self.zero_init_residual else ones
        features = self.width * (4 if self.bottleneck else 1)
        if self.bottleneck:  # (features, kernel, stride)
            layers = [(self.width, 1, 1), (self.width, 3, self.stride), (features, 1, 1)]
        else:
            layers = [(self.width, 3, self.stride), (features, 3, 1)]
        y = x
        for i, (size, kernel, stride) in enumerate(layers, start=1):
            last = i == len(layers)
            y = convolve(size, kernel, stride=stride, padding=kernel // 2, name=f"conv_{i}")(y)
            y = BatchNorm(scale_init=last_scale if last else ones, name=f"bn_{i}", **dtypes)(
                y, train=train
            )
            y = y if last else relu(y)
        if x.shape != y.shape or self.stride != 1:
            if self.pad_shortcut:
                x = x[:, :: self.stride, :: self.stride]
                missing = features - x.shape[-1]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
            else:
                x = convolve(features, 1, stride=self.stride, name="conv_shortcut")(x)
                x = BatchNorm(name="bn_shortcut", **dtypes)(x, train=train)
        return relu(x + y)


def resnet18(*, stage_sizes: tuple[int, ...] = (2, 2, 2, 2), **fields: Any) -> ResNet:
    """ResNet-18 (He et al. 2016): 8 basic blocks, 11,689,512 parameters."""
    return ResNet(stage_sizes=stage_sizes, **fields)


def resnet34(*, stage_sizes: tuple[int, ...] = (3, 4, 6, 3), **fields: Any) -> ResNet:
    """ResNet-34 (He et al. 2016): 16 basic blocks, 21,797,672 parameters."""
    return ResNet(stage_sizes=stage_sizes, **fields)


def resnet50(
    *, stage_sizes: tuple[int, ...] = (3, 4, 6, 3), block: str = "bottleneck", **fields: Any
) -> ResNet:
    """ResNet-50 (He et al. 2016): 16 bottleneck blocks, 25,557,032 parameters."""
    return ResNet(stage_sizes=stage_sizes, block=block, **fields)


def resnet101(
    *, stage_sizes: tuple[int, ...] = (3, 4, 23, 3), block: str = "bottleneck", **fields: Any
) -> ResNet:
    """ResNet-101 (He et al. 2016): 33 bottleneck blocks, 44,549,160 parameters."""
    return ResNet(stage_sizes=stage_sizes, block=block, **fields)


def resnet152(
    *, stage_sizes: tuple[int, ...] = (3, 8, 36, 3), block: str = "bottleneck", **fields: Any
) -> ResNet:
    """ResNet-152 (He et al. 2016): 50 bottleneck blocks, 60,192,808 parameters."""
    return ResNet(stage_sizes=stage_sizes, block=block, **fields)


def resnet20(
    *,
    stage_sizes: tuple[int, ...] = (3, 3, 3),
    width: int = 16,
    stem: str = "small",
    shortcut: str = "pad",
    **fields: Any,
) -> ResNet:
    """ResNet-20 for CIFAR (He et al. 2016): 9 blocks, 269,722 parameters for 10 classes."""
    return ResNet(stage_sizes=stage_sizes, width=width, stem=stem, shortcut=shortcut, **fields)


def resnet56(
    *,
    stage_sizes: tuple[int, ...] = (9, 9, 9),
    width: int = 16,
    stem: str = "small",
    shortcut: str = "pad",
    **fields: Any,
) -> ResNet:
    """ResNet-56 for CIFAR (He et al. 2016): 27 blocks, 853,018 parameters for 10 classes."""
    return ResNet(stage_sizes=stage_sizes, width=width, stem=stem, shortcut=shortcut, **fields)
