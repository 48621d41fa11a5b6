"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

Parity reference: ``GPT2LMHeadModel`` of transformers. Initial values are the paper's: normal with
deviation 0.02, that of the last matrix of each residual branch divided by sqrt(2 layers).

Deliberate differences: query, key and value are three matrices where the reference has one; logits
are made when they are asked for (see :class:`nn.layers.TokenLogits`); and tokens are grouped
by segments, which serve for padding and for packed documents alike: positions start anew in each,
and nothing is seen of the others.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.nn.attention import AttentionMask, MultiHeadAttention, require_attention
from jaxmodels.nn.layers import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    TokenLogits,
    normal,
    require_choice,
    require_positive,
    require_rate,
    segment_positions,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh
from jaxmodels.nn.stack import run_stack
from jaxmodels.origin import Origin


@on_any_mesh
class GPT2(nn.Module):
    """Token and position embedding, pre-norm decoder blocks, logits of the next token.

    Attributes:
      vocab_size: number of tokens; max_len: of positions.
      num_layers, num_heads, hidden_size, mlp_dim: of the blocks.
      tie_embeddings: logits are products with the token embedding; without it there is a ``head``.
      activation: of the MLP; norm_eps: of every LayerNorm.
      embedding_dropout_rate: on the embedding; dropout_rate: on what each residual branch adds;
        attention_dropout_rate: on attention weights. All 0.1 in the paper's models.
      attention: backend, see ``jaxmodels.nn.attention.BACKENDS`` and ``choose_backend``.
      scan: run the layers as one scanned layer: parameters are stacked in ``blocks``, and compile
        time does not grow with depth. remat: recompute each layer's activations in the backward
          pass instead of keeping them.
      dtype: compute dtype; param_dtype: storage dtype.
      origin: what it was loaded from, for export; two models that differ in it are equal.
    """

    vocab_size: int
    max_len: int = 1024
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    mlp_dim: int = 3072
    tie_embeddings: bool = True
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    embedding_dropout_rate: float = 0.1
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    attention: str = "auto"
    scan: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    origin: Origin | None = dataclasses.field(default=None, compare=False, repr=False)

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b l"],
        segments: Int[Array, "b k"] | None = None,
        start: Int[Array, ""] | None = None,
        *,
        train: bool,
    ) -> TokenLogits:
        """Logits of the token behind each of ``tokens``. Dropout draws from the ``dropout`` RNG.

        Args:
          segments: of each token; 0 is padding. None: all one segment.
          start: with it, ``tokens`` are those at places start, start + 1, ... of a text whose
            ``segments`` are given in full; keys and values go to collection ``cache``, and those of
            earlier places are taken from there.

        Raises:
          ValueError: the text is longer than ``max_len``, or fields do not fit each other.
        """
        self._check(tokens.shape[1] if segments is None else segments.shape[1])
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        positions = (
            jnp.arange(tokens.shape[1])[None] if segments is None else segment_positions(segments)
        )
        queries = segments
        if start is not None:
            if segments is None:
                raise ValueError("start needs the segments of the whole text")
            positions, queries = (
                jax.lax.dynamic_slice_in_dim(x, start, tokens.shape[1], axis=1)
                for x in (positions, segments)
            )
        mask = AttentionMask(queries, segments, start, causal=True)
        embed = partial(nn.Embed, features=self.hidden_size, embedding_init=normal(0.02), **dtypes)
        token_embed = embed(self.vocab_size, name="token_embed")
        x = token_embed(tokens) + embed(self.max_len, name="position_embed")(positions)
        x = nn.Dropout(self.embedding_dropout_rate, deterministic=not train, name="dropout")(x)
        x = constrain_batch(x, "tokens")
        fields = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "activation": self.activation,
            "norm_eps": self.norm_eps,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "attention": self.attention,
            "out_deviation": 0.02 / math.sqrt(2 * self.num_layers),
            "train": train,
            **dtypes,
        }
        depth = {"num_layers": self.num_layers, "scan": self.scan, "remat": self.remat}
        x = run_stack(self, DecoderBlock, fields, x, mask, **depth)
        x = LayerNorm(self.norm_eps, name="norm", **dtypes)(x)
        if self.tie_embeddings:
            return TokenLogits(x, token_embed.embedding)
        return TokenLogits(x, embed(self.vocab_size, name="head").embedding)

    def _check(self, length: int) -> None:
        require_positive(
            vocab_size=self.vocab_size, max_len=self.max_len, num_layers=self.num_layers
        )
        require_positive(hidden_size=self.hidden_size, mlp_dim=self.mlp_dim)
        require_rate(
            dropout_rate=self.dropout_rate, embedding_dropout_rate=self.embedding_dropout_rate
        )
        require_choice("activation", self.activation, tuple(ACTIVATIONS))
        require_attention(
            backend=self.attention,
            num_heads=self.num_heads,
            hidden_size=self.hidden_size,
            dropout_rate=self.attention_dropout_rate,
        )
        if length > self.max_len:
            raise ValueError(f"a text of {length} tokens is longer than max_len {self.max_len}")


class DecoderBlock(nn.Module):
    """Causal self-attention and an MLP, each behind a LayerNorm and with a residual connection;
    fields as in GPT2.

    Attributes:
      out_deviation: of the initial values of the last matrix of either branch.
    """

    num_heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    dropout_rate: float
    attention_dropout_rate: float
    attention: str
    out_deviation: float
    train: bool  # a field, not an argument, so that scan and remat see arrays only
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], mask: AttentionMask) -> Float[Array, "b n d"]:
        """Applies the block. Dropout draws from the ``dropout`` RNG."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, self.norm_eps, **dtypes)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not self.train)
        y = MultiHeadAttention(
            num_heads=self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            train=self.train,
            backend=self.attention,
            kernel_init=normal(0.02),
            out_init=normal(self.out_deviation),
            name="attention",
            **dtypes,
        )(norm(name="norm_1")(x), mask=mask)
        x = x + dropout(name="dropout_1")(y)
        y = Dense(self.mlp_dim, kernel_init=normal(0.02), name="mlp_in", **dtypes)(
            norm(name="norm_2")(x)
        )
        y = ACTIVATIONS[self.activation](y)
        y = Dense(x.shape[-1], kernel_init=normal(self.out_deviation), name="mlp_out", **dtypes)(y)
        return constrain_batch(x + dropout(name="dropout_2")(y), "tokens")


def gpt2_tiny(
    *,
    max_len: int = 256,
    num_layers: int = 4,
    num_heads: int = 4,
    hidden_size: int = 128,
    mlp_dim: int = 512,
    **fields: Any,
) -> GPT2:
    """A GPT-2 to try things with: 4 layers of 128, 834,432 parameters for 65 characters."""
    return GPT2(
        max_len=max_len,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def gpt2_124m(*, vocab_size: int = 50_257, **fields: Any) -> GPT2:
    """GPT-2 small (Radford et al. 2019): 12 layers of 768, 124,439,808 parameters."""
    return GPT2(vocab_size=vocab_size, **fields)


def gpt2_355m(
    *,
    vocab_size: int = 50_257,
    num_layers: int = 24,
    num_heads: int = 16,
    hidden_size: int = 1024,
    mlp_dim: int = 4096,
    **fields: Any,
) -> GPT2:
    """GPT-2 medium (Radford et al. 2019): 24 layers of 1024, 354,823,168 parameters."""
    return GPT2(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def gpt2_774m(
    *,
    vocab_size: int = 50_257,
    num_layers: int = 36,
    num_heads: int = 20,
    hidden_size: int = 1280,
    mlp_dim: int = 5120,
    **fields: Any,
) -> GPT2:
    """GPT-2 large (Radford et al. 2019): 36 layers of 1280, 774,030,080 parameters."""
    return GPT2(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def gpt2_1558m(
    *,
    vocab_size: int = 50_257,
    num_layers: int = 48,
    num_heads: int = 25,
    hidden_size: int = 1600,
    mlp_dim: int = 6400,
    **fields: Any,
) -> GPT2:
    """GPT-2 XL (Radford et al. 2019): 48 layers of 1600, 1,557,611,200 parameters."""
    return GPT2(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )
