"""Inception-v3 (Szegedy et al. 2016, arXiv:1512.00567).

Parity reference: ``torchvision.models.inception_v3``: batch norm with epsilon 1e-3 after every
convolution, the average pools of the blocks count the zeros of their padding, one auxiliary head
after the last block of the 17x17 maps.

Initial values are torchvision's: weights normal with standard deviation 0.1, of the auxiliary
classifier 0.001 (its cut at -2 and 2 is at least 20 standard deviations away and does nothing),
biases as ``torch.nn.Linear``. torchvision also sets 0.01 for the auxiliary head's second
convolution, on a module where its loop does not look; it stays at 0.1 there and here.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.layers import (
    AuxiliaryLogits,
    ConvBN,
    at_least_float32,
    avg_pool,
    imagenet_to_half,
    max_pool,
    normal,
    pair,
    require_positive,
    require_rate,
    torch_bias,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh

init = normal(0.1)

# A branch is a name and its convolutions: (features, kernel), or with two kernels side by side on
# the same input. Blocks with a branch "pool" keep the size of the map: it averages before its
# convolution. The others halve the map by the last convolution of each branch and a max pool
# without convolution.
Branches = tuple[tuple[Any, ...], ...]


def _block_a(pooled: int) -> Branches:
    return (
        ("1x1", (64, 1)),
        ("5x5", (48, 1), (64, 5)),
        ("3x3dbl", (64, 1), (96, 3), (96, 3)),
        ("pool", (pooled, 1)),
    )


def _block_c(c: int) -> Branches:
    return (
        ("1x1", (192, 1)),
        ("7x7", (c, 1), (c, (1, 7)), (192, (7, 1))),
        ("7x7dbl", (c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7))),
        ("pool", (192, 1)),
    )


_BLOCK_B = (("3x3", (384, 3)), ("3x3dbl", (64, 1), (96, 3), (96, 3)))
_BLOCK_D = (
    ("3x3", (192, 1), (320, 3)),
    ("7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)),
)
_BLOCK_E = (
    ("1x1", (320, 1)),
    ("3x3", (384, 1), (384, (1, 3), (3, 1))),
    ("3x3dbl", (448, 1), (384, 3), (384, (1, 3), (3, 1))),
    ("pool", (192, 1)),
)

BLOCKS: dict[str, Branches] = {
    "5b": _block_a(32),
    "5c": _block_a(64),
    "5d": _block_a(64),
    "6a": _BLOCK_B,
    "6b": _block_c(128),
    "6c": _block_c(160),
    "6d": _block_c(160),
    "6e": _block_c(192),
    "7a": _BLOCK_D,
    "7b": _BLOCK_E,
    "7c": _BLOCK_E,
}


@on_any_mesh
class InceptionV3(nn.Module):
    """Stem, eleven Inception blocks, global average pool, linear classifier; an auxiliary
    classifier in training.

    Any image size from 75 pixels, with ``aux_heads`` from 299, and any channels.

    Attributes:
      num_classes: number of logits.
      aux_heads: have the auxiliary classifier; it is used in training only.
      transform_input: take images normalised for ImageNet and give them mean and standard deviation
        0.5, which torchvision's pretrained weights were trained with.
      dropout_rate: before the classifier, when training.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    aux_heads: bool = True
    transform_input: bool = False
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b classes"] | AuxiliaryLogits:
        """Maps images to float32 (or wider) logits; training updates ``batch_stats`` and draws from
        ``dropout``.

        Returns:
          Logits; in training with ``aux_heads``, ``AuxiliaryLogits(logits, (aux,))``.

        Raises:
          ValueError: the images are too small, or a field is out of its limits.
        """
        require_positive(num_classes=self.num_classes)
        require_rate(dropout_rate=self.dropout_rate)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # initialised in evaluation too: the parameters do not depend on the mode
        use_aux = self.aux_heads and (train or self.is_initializing())
        smallest = 299 if use_aux else 75
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small: at least {smallest} pixels "
                "each way" + ("; with aux_heads=False 75" if use_aux else "")
            )
        if self.transform_input:
            x = imagenet_to_half(x)
        for name, features, kernel, stride, padding in (
            ("conv_1a_3x3", 32, 3, 2, 0),
            ("conv_2a_3x3", 32, 3, 1, 0),
            ("conv_2b_3x3", 64, 3, 1, 1),
            ("conv_3b_1x1", 80, 1, 1, 0),
            ("conv_4a_3x3", 192, 3, 1, 0),
        ):
            layer = ConvBN(
                features,
                kernel,
                stride=stride,
                padding=padding,
                kernel_init=init,
                name=name,
                **dtypes,
            )
            x = layer(x, train=train)
            if name in ("conv_2b_3x3", "conv_4a_3x3"):
                x = max_pool(x, 3, stride=2)
        auxiliary = []
        for block, branches in BLOCKS.items():
            x = Inception(branches, name=f"mixed_{block}", **dtypes)(
                constrain_batch(x), train=train
            )
            if block == "6e" and use_aux:
                auxiliary.append(
                    AuxiliaryHead(self.num_classes, name="aux", **dtypes)(x, train=train)
                )
        x = x.mean((1, 2))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        x = nn.Dense(
            self.num_classes,
            kernel_init=init,
            bias_init=torch_bias(x.shape[-1]),
            name="head",
            **dtypes,
        )(x)
        logits = at_least_float32(x)
        return AuxiliaryLogits(logits, tuple(auxiliary)) if train and self.aux_heads else logits


def _name(branch: str, layers: Sequence[Any], i: int, j: int) -> str:
    """Of the j-th kernel of a branch's i-th layer (from 1), as in torchvision:
    ``branch_3x3dbl_3a``."""
    letter = "ab"[j] if len(layers[i - 1]) == 3 else ""
    return f"branch_{branch}" + (f"_{i}{letter}" if len(layers) > 1 else "")


def branch_names(branches: Branches) -> list[str]:
    """Names of all convolutions of a block."""
    return [
        _name(branch, layers, i, j)
        for branch, *layers in branches
        for i, (_, *kernels) in enumerate(layers, start=1)
        for j in range(len(kernels))
    ]


class Inception(nn.Module):
    """Branches side by side, concatenated; see :data:`BLOCKS`."""

    branches: Branches
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Applies the block; training updates collection ``batch_stats``."""
        reduces = all(branch != "pool" for branch, *_ in self.branches)
        outputs = []
        for branch, *layers in self.branches:
            y = avg_pool(x, 3, stride=1, padding=1) if branch == "pool" else x
            for i, (features, *kernels) in enumerate(layers, start=1):
                halve = reduces and i == len(layers)
                parts = []
                for j, kernel in enumerate(kernels):
                    layer = ConvBN(
                        features,
                        kernel,
                        stride=2 if halve else 1,
                        padding=0 if halve else tuple(k // 2 for k in pair(kernel)),
                        kernel_init=init,
                        name=_name(branch, layers, i, j),
                        dtype=self.dtype,
                        param_dtype=self.param_dtype,
                    )
                    parts.append(layer(y, train=train))
                y = jnp.concatenate(parts, axis=-1)
            outputs.append(y)
        if reduces:
            outputs.append(max_pool(x, 3, stride=2))
        return jnp.concatenate(outputs, axis=-1)


class AuxiliaryHead(nn.Module):
    """Average pool with stride 3, 1x1 and 5x5 convolutions, global average pool, linear
    classifier."""

    num_classes: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b classes"]:
        """Maps features to float32 (or wider) logits; training updates collection
        ``batch_stats``."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = avg_pool(x, 5, stride=3)
        x = ConvBN(128, 1, kernel_init=init, name="conv_0", **dtypes)(x, train=train)
        x = ConvBN(768, 5, kernel_init=init, name="conv_1", **dtypes)(x, train=train)
        x = x.mean((1, 2))
        x = nn.Dense(
            self.num_classes,
            kernel_init=normal(0.001),
            bias_init=torch_bias(x.shape[-1]),
            name="head",
            **dtypes,
        )(x)
        return at_least_float32(x)


def inception_v3(**fields: Any) -> InceptionV3:
    """Inception-v3 (Szegedy et al. 2016): 27,161,264 parameters with its auxiliary head."""
    return InceptionV3(**fields)
