"""GoogLeNet, the first Inception network (Szegedy et al. 2015, arXiv:1409.4842).

Parity reference: ``torchvision.models.googlenet``. As there, and unlike the paper: batch norm
(epsilon 1e-3) follows every convolution in place of local response norms, the blocks' third branch
has a 3x3 convolution where the paper has 5x5, the auxiliary heads pool to 4x4 adaptively, so that
any image size will do, and dropout before the classifier is 0.2 (paper: 0.4).

Deliberate differences: auxiliary logits come shallower head first (torchvision: deeper first);
activations are laid out height, width, channel, so the auxiliary heads' first dense layer sees
torchvision's inputs in another order.

Initial values are torchvision's: weights normal with standard deviation 0.01 (its cut at -2 and 2
is 200 standard deviations away and does nothing), biases as ``torch.nn.Linear``.
"""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.nn.layers import (
    AuxiliaryLogits,
    ConvBN,
    adaptive_avg_pool,
    at_least_float32,
    imagenet_to_half,
    max_pool,
    normal,
    require_choice,
    require_positive,
    require_rate,
    torch_bias,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh

BLOCKS = {  # 1x1; 3x3 reduction, 3x3; "5x5" reduction, "5x5"; after the pool
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY = {"4a": "aux_1", "4d": "aux_2"}  # after block -> head

init = normal(0.01)


@on_any_mesh
class GoogLeNet(nn.Module):
    """Stem, nine Inception blocks, global average pool, linear classifier; two auxiliary
    classifiers in training.

    Any image size from 15 pixels (``stem="small"``: 4) and any channels.

    Attributes:
      num_classes: number of logits.
      stem: ``"imagenet"`` (7x7 convolution with stride 2, then a max pool) or ``"small"`` (3x3 with
        stride 1 and no pool, for images of 28 or 32 pixels; not in torchvision).
      aux_heads: have the auxiliary classifiers; they are used in training only.
      transform_input: take images normalised for ImageNet and give them mean and standard deviation
        0.5, which torchvision's pretrained weights were trained with.
      dropout_rate: before the classifier, when training.
      aux_dropout_rate: before the last layer of the auxiliary classifiers.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    stem: str = "imagenet"
    aux_heads: bool = True
    transform_input: bool = False
    dropout_rate: float = 0.2
    aux_dropout_rate: float = 0.7
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b classes"] | AuxiliaryLogits:
        """Maps images to float32 (or wider) logits; training updates ``batch_stats`` and draws from
        ``dropout``.

        Returns:
          Logits; in training with ``aux_heads``, ``AuxiliaryLogits(logits, (aux_1, aux_2))``, aux_1
          the shallower.

        Raises:
          ValueError: the images are too small, or a field is out of its limits.
        """
        require_choice("stem", self.stem, ("imagenet", "small"))
        require_positive(num_classes=self.num_classes)
        require_rate(dropout_rate=self.dropout_rate, aux_dropout_rate=self.aux_dropout_rate)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        imagenet = self.stem == "imagenet"
        smallest = 15 if imagenet else 4
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small for stem {self.stem!r}: "
                f"at least {smallest} pixels each way" + ("; 'small' takes 4" if imagenet else "")
            )
        if self.transform_input:
            x = imagenet_to_half(x)
        kernel, stride = (7, 2) if imagenet else (3, 1)
        x = ConvBN(
            64,
            kernel,
            stride=stride,
            padding=kernel // 2,
            kernel_init=init,
            name="conv_1",
            **dtypes,
        )(x, train=train)
        if imagenet:
            x = max_pool(x, 3, stride=2, ceil_mode=True)
        x = ConvBN(64, 1, kernel_init=init, name="conv_2", **dtypes)(x, train=train)
        x = ConvBN(192, 3, padding=1, kernel_init=init, name="conv_3", **dtypes)(x, train=train)
        x = max_pool(x, 3, stride=2, ceil_mode=True)
        auxiliary = []
        for block, features in BLOCKS.items():
            if block in ("4a", "5a"):
                x = max_pool(x, 3 if block == "4a" else 2, stride=2, ceil_mode=True)
            x = Inception(features, name=f"inception_{block}", **dtypes)(
                constrain_batch(x), train=train
            )
            # initialised in evaluation too: the parameters do not depend on the mode
            if block in AUXILIARY and self.aux_heads and (train or self.is_initializing()):
                head = AuxiliaryHead(
                    self.num_classes, self.aux_dropout_rate, name=AUXILIARY[block], **dtypes
                )
                auxiliary.append(head(x, train=train))
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


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1, 3x3; 1x1, 3x3 (the paper's 5x5); pool, 1x1.
    Concatenated in this order."""

    features: tuple[int, ...]
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c2"]:
        """Applies the block; training updates collection ``batch_stats``."""

        def convolve(x, features, kernel, name):
            layer = ConvBN(
                features,
                kernel,
                padding=kernel // 2,
                kernel_init=init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )
            return layer(x, train=train)

        one, reduce_three, three, reduce_five, five, pooled = self.features
        branches = [
            convolve(x, one, 1, "branch_1"),
            convolve(convolve(x, reduce_three, 1, "branch_2_0"), three, 3, "branch_2_1"),
            convolve(convolve(x, reduce_five, 1, "branch_3_0"), five, 3, "branch_3_1"),
            convolve(max_pool(x, 3, stride=1, padding=1), pooled, 1, "branch_4_1"),
        ]
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nn.Module):
    """Average pool to 4x4, 1x1 convolution, dense ReLU layer, dropout, linear classifier."""

    num_classes: int
    dropout_rate: float
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b classes"]:
        """Maps features to float32 (or wider) logits; training updates collection
        ``batch_stats``."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = adaptive_avg_pool(x, (4, 4))
        x = ConvBN(128, 1, kernel_init=init, name="conv", **dtypes)(x, train=train)
        x = rearrange(x, "b h w c -> b (h w c)")
        x = nn.Dense(
            1024, kernel_init=init, bias_init=torch_bias(x.shape[-1]), name="dense_0", **dtypes
        )(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(nn.relu(x))
        x = nn.Dense(
            self.num_classes,
            kernel_init=init,
            bias_init=torch_bias(x.shape[-1]),
            name="head",
            **dtypes,
        )(x)
        return at_least_float32(x)


def googlenet(**fields: Any) -> GoogLeNet:
    """GoogLeNet (Szegedy et al. 2015): 9 blocks, 13,004,888 parameters with its auxiliary heads."""
    return GoogLeNet(**fields)
