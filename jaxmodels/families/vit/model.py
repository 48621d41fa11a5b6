"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929).

Parity references: ``torchvision.models.vision_transformer`` (LayerNorm epsilon 1e-6), and
``ViTForImageClassification`` and ``ViTModel`` of transformers (epsilon 1e-12): the same module, two
weight maps. The plain ViT of Beyer et al. 2022 (arXiv:2205.01580), with global average pooling and
fixed sine positions, is a matter of two fields.

Deliberate difference: patches are cut out and multiplied by one matrix, which is what the
reference's convolution with stride = kernel computes.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.adapt.features import Encoded
from jaxmodels.nn.attention import MultiHeadAttention, require_attention
from jaxmodels.nn.layers import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    at_least_float32,
    normal,
    require_choice,
    require_positive,
    require_rate,
    xavier_uniform,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh
from jaxmodels.nn.stack import run_stack
from jaxmodels.origin import Origin

packed_xavier_uniform = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
"""Xavier's bound for query, key and value as one [3 d, d] matrix, as
``torch.nn.MultiheadAttention`` takes it."""


@on_any_mesh
class ViT(nn.Module):
    """Patches, pre-norm transformer encoder, classifier. Any channels and any image size that the
    patches divide.

    The learned position embedding is as large as the first batch's images ask for.

    Attributes:
      num_classes: number of logits; 0 leaves the classifier out, and the model gives features.
      patch_size: height and width of a patch in pixels.
      num_layers, num_heads, hidden_size, mlp_dim: of the encoder.
      representation_size: width of a tanh layer before the classifier, transformers' pooler; 0
        leaves it out.
      pool: what is classified: the class token, ``"cls"``, or the mean over patches, ``"mean"`` (no
        class token then).
      position: ``"learned"``, or ``"sincos"``: fixed two-dimensional sines without parameters.
      activation: of the MLP; ``"gelu"`` is the exact one.
      norm_eps: of every LayerNorm; torchvision 1e-6, transformers 1e-12.
      dropout_rate: after the embedding, after attention and in the MLP; attention_dropout_rate: on
        attention weights.
      attention: backend, see ``jaxmodels.nn.attention.BACKENDS`` and ``choose_backend``.
      scan: run the layers as one scanned layer: parameters are stacked in ``blocks``, and compile
        time does not grow with depth. remat: recompute each layer's activations in the backward
          pass instead of keeping them.
      dtype: compute dtype; param_dtype: storage dtype.
      origin: what it was loaded from, for export; two models that differ in it are equal.
    """

    num_classes: int
    patch_size: int = 16
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    mlp_dim: int = 3072
    representation_size: int = 0
    pool: str = "cls"
    position: str = "learned"
    activation: str = "gelu"
    norm_eps: float = 1e-6
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    attention: str = "auto"
    scan: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    origin: Origin | None = dataclasses.field(default=None, compare=False, repr=False)

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b classes"] | Encoded:
        """Maps images to float32 (or wider) logits. Dropout draws from the ``dropout`` RNG.

        Without classes, features: of the class token, if there is one, and of each patch;
        ``pooled`` is those behind the tanh layer, or None without it.

        Raises:
          ValueError: the patches do not divide the image, or the heads the width.
        """
        self._check(x.shape[1], x.shape[2])
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size, p = self.hidden_size, self.patch_size
        rows, columns = x.shape[1] // p, x.shape[2] // p
        x = rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        x = Dense(
            size, kernel_init=normal(1 / math.sqrt(x.shape[-1])), name="patch_embed", **dtypes
        )(x)
        if self.pool == "cls":
            token = self.param("class_token", zeros, (1, 1, size), self.param_dtype)
            x = jnp.concatenate(
                [jnp.broadcast_to(token, (len(x), 1, size)).astype(x.dtype), x], axis=1
            )
        if self.position == "learned":
            position = self.param("position", normal(0.02), (1, x.shape[1], size), self.param_dtype)
        else:
            position = jnp.asarray(sincos_positions(rows, columns, size), self.param_dtype)
            position = jnp.pad(position, ((0, 0), (x.shape[1] - rows * columns, 0), (0, 0)))
        # a product with ones, and so its gradient: for a sum over images XLA for GPUs turns around
        # all that leads to it
        position = jnp.einsum(
            "b,nd->bnd", jnp.ones(len(x), x.dtype), position[0].astype(x.dtype), precision="highest"
        )
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x + position)
        fields = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "activation": self.activation,
            "norm_eps": self.norm_eps,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "attention": self.attention,
            "train": train,
            **dtypes,
        }
        depth = {"num_layers": self.num_layers, "scan": self.scan, "remat": self.remat}
        x = run_stack(self, EncoderBlock, fields, constrain_batch(x, "tokens"), **depth)
        hidden = x = LayerNorm(self.norm_eps, name="norm", **dtypes)(x)
        x = x[:, 0] if self.pool == "cls" else x.mean(1)
        if self.representation_size:
            init = normal(1 / math.sqrt(x.shape[-1]))
            x = jnp.tanh(
                Dense(self.representation_size, kernel_init=init, name="dense", **dtypes)(x)
            )
        if not self.num_classes:
            return Encoded(hidden, x if self.representation_size else None)
        x = Dense(self.num_classes, kernel_init=zeros, name="head", **dtypes)(x)
        return at_least_float32(x)

    def _check(self, height: int, width: int) -> None:
        require_positive(patch_size=self.patch_size, num_layers=self.num_layers)
        require_positive(
            num_heads=self.num_heads, hidden_size=self.hidden_size, mlp_dim=self.mlp_dim
        )
        require_rate(dropout_rate=self.dropout_rate)
        require_choice("pool", self.pool, ("cls", "mean"))
        require_choice("position", self.position, ("learned", "sincos"))
        require_choice("activation", self.activation, tuple(ACTIVATIONS))
        require_attention(
            backend=self.attention,
            num_heads=self.num_heads,
            hidden_size=self.hidden_size,
            dropout_rate=self.attention_dropout_rate,
        )
        if self.position == "sincos" and self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by 4, which position 'sincos' "
                "needs"
            )
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"an image of {height}x{width} is not divisible by patch_size {self.patch_size}"
            )
        if self.num_classes < 0:
            raise ValueError(
                f"num_classes {self.num_classes} must be at least 0, which leaves the classifier "
                "out"
            )
        if self.representation_size < 0:
            raise ValueError(f"representation_size {self.representation_size} must be at least 0")


class EncoderBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; see :class:`ViT` for the fields."""

    num_heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    dropout_rate: float
    attention_dropout_rate: float
    attention: str
    train: bool  # a field, not an argument, so that scan and remat see arrays only
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Applies the block. Dropout draws from the ``dropout`` RNG."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, self.norm_eps, **dtypes)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not self.train)
        y = MultiHeadAttention(
            num_heads=self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            train=self.train,
            backend=self.attention,
            kernel_init=packed_xavier_uniform,
            name="attention",
            **dtypes,
        )(norm(name="norm_1")(x))
        x = x + dropout(name="dropout_1")(y)
        mlp_init = {"kernel_init": xavier_uniform, "bias_init": normal(1e-6)}
        y = Dense(self.mlp_dim, name="mlp_in", **mlp_init, **dtypes)(norm(name="norm_2")(x))
        y = dropout(name="dropout_2")(ACTIVATIONS[self.activation](y))
        y = Dense(x.shape[-1], name="mlp_out", **mlp_init, **dtypes)(y)
        return constrain_batch(x + dropout(name="dropout_3")(y), "tokens")


def sincos_positions(rows: int, columns: int, size: int) -> np.ndarray:
    """Fixed two-dimensional position embedding [1, rows * columns, size] of Beyer et al. 2022 (MoCo
    v3's).

    A quarter of the features each for the sine and cosine of column and row, at frequencies
    10000^(-i / (size/4 - 1)).
    """
    y, x = np.mgrid[:rows, :columns]
    frequency = 1 / 10_000 ** (np.arange(size // 4) / max(1, size // 4 - 1))
    angles = [np.outer(x.ravel(), frequency), np.outer(y.ravel(), frequency)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)[None]


def vit_ti_16(
    *, num_heads: int = 3, hidden_size: int = 192, mlp_dim: int = 768, **fields: Any
) -> ViT:
    """ViT-Ti/16 (Steiner et al. 2022): 12 layers of 192, 5,717,416 parameters."""
    return ViT(num_heads=num_heads, hidden_size=hidden_size, mlp_dim=mlp_dim, **fields)


def vit_s_16(
    *, num_heads: int = 6, hidden_size: int = 384, mlp_dim: int = 1536, **fields: Any
) -> ViT:
    """ViT-S/16 (Steiner et al. 2022): 12 layers of 384, 22,050,664 parameters."""
    return ViT(num_heads=num_heads, hidden_size=hidden_size, mlp_dim=mlp_dim, **fields)


def vit_b_16(**fields: Any) -> ViT:
    """ViT-B/16 (Dosovitskiy et al. 2021): 12 layers of 768, 86,567,656 parameters."""
    return ViT(**fields)


def vit_b_32(*, patch_size: int = 32, **fields: Any) -> ViT:
    """ViT-B/32 (Dosovitskiy et al. 2021): 12 layers of 768, 88,224,232 parameters."""
    return ViT(patch_size=patch_size, **fields)


def vit_l_16(
    *,
    num_layers: int = 24,
    num_heads: int = 16,
    hidden_size: int = 1024,
    mlp_dim: int = 4096,
    **fields: Any,
) -> ViT:
    """ViT-L/16 (Dosovitskiy et al. 2021): 24 layers of 1024, 304,326,632 parameters."""
    return ViT(
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def vit_l_32(
    *,
    patch_size: int = 32,
    num_layers: int = 24,
    num_heads: int = 16,
    hidden_size: int = 1024,
    mlp_dim: int = 4096,
    **fields: Any,
) -> ViT:
    """ViT-L/32 (Dosovitskiy et al. 2021): 24 layers of 1024, 306,535,400 parameters."""
    return ViT(
        patch_size=patch_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def vit_h_14(
    *,
    patch_size: int = 14,
    num_layers: int = 32,
    num_heads: int = 16,
    hidden_size: int = 1280,
    mlp_dim: int = 5120,
    **fields: Any,
) -> ViT:
    """ViT-H/14 (Dosovitskiy et al. 2021): 32 layers of 1280, 632,045,800 parameters."""
    return ViT(
        patch_size=patch_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def vit_b_16_hf(*, norm_eps: float = 1e-12, **fields: Any) -> ViT:
    """ViT-B/16 with transformers' epsilon of LayerNorm: 12 layers of 768, 86,567,656 parameters."""
    return ViT(norm_eps=norm_eps, **fields)
