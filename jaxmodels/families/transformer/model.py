"""The encoder-decoder Transformer (Vaswani et al. 2017, "Attention Is All You Need").

Parity references: ``torch.nn.Transformer`` between the paper's embeddings, sine positions and
logits; and ``MarianMTModel`` of transformers. Initial values are those of ``torch.nn.Transformer``,
Xavier's, and for embeddings normal with deviation hidden_size^-1/2, which the scale of section 3.4
takes to 1.

Deliberate differences: query, key and value are three matrices where ``torch.nn.Transformer`` has
one; logits are made when they are asked for (see :class:`nn.layers.TokenLogits`); and tokens
are grouped by segments, which serve for padding and for packed pairs alike: positions start anew in
each, and a target sees the source of its own number.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.families.vit.model import packed_xavier_uniform
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
    torch_bias,
    xavier_uniform,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh
from jaxmodels.nn.stack import run_stack
from jaxmodels.origin import Origin


@on_any_mesh
class Transformer(nn.Module):
    """Embeddings, an encoder of the source, a causal decoder of the target that attends to it,
    logits.

    Attributes:
      vocab_size: number of tokens; target_vocab_size: of the target, 0 if it is the same; max_len:
        of positions.
      num_layers, num_heads, hidden_size, mlp_dim: of encoder and decoder each.
      share_embeddings: source and target have one token embedding; tie_embeddings: logits are
        products with the target's. The paper does both; without the latter there is a ``head``.
        logits_bias: logits have a bias.
      position: ``"sine"``, sines at even and cosines at odd features as in the paper, or
        ``"sine_halves"``, all sines before all cosines as in Marian. Neither has parameters.
      scale_embedding: token embeddings are multiplied by sqrt(hidden_size).
      activation: of the MLP.
      norm_first: LayerNorm at the beginning of each residual branch (Xiong et al. 2020) instead of
        behind the sum.
      final_norm: a LayerNorm behind the last layer of either stack. ``torch.nn.Transformer`` has it
        always, the paper does not; with ``norm_first`` it is needed.
      norm_eps: of every LayerNorm.
      dropout_rate: on embeddings and on what each residual branch adds; attention_dropout_rate: on
        attention weights; activation_dropout_rate: inside the MLP. The paper has the first,
        ``torch.nn.Transformer`` one rate for all.
      attention: backend, see ``jaxmodels.nn.attention.BACKENDS`` and ``choose_backend``.
      scan: run the layers of a stack as one scanned layer: parameters are stacked in ``blocks``,
        and compile time does not grow with depth. remat: recompute each layer's activations in the
          backward pass instead of keeping them.
      dtype: compute dtype; param_dtype: storage dtype.
      origin: what it was loaded from, for export; two models that differ in it are equal.
    """

    vocab_size: int
    target_vocab_size: int = 0
    max_len: int = 512
    num_layers: int = 6
    num_heads: int = 8
    hidden_size: int = 512
    mlp_dim: int = 2048
    share_embeddings: bool = True
    tie_embeddings: bool = True
    logits_bias: bool = False
    position: str = "sine"
    scale_embedding: bool = True
    activation: str = "relu"
    norm_first: bool = False
    final_norm: bool = True
    norm_eps: float = 1e-5
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    activation_dropout_rate: float = 0.1
    attention: str = "auto"
    scan: bool = False
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    origin: Origin | None = dataclasses.field(default=None, compare=False, repr=False)

    def setup(self):
        self._check()
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embed = partial(
            nn.Embed,
            features=self.hidden_size,
            embedding_init=normal(self.hidden_size**-0.5),
            **dtypes,
        )
        target_vocab_size = self.target_vocab_size or self.vocab_size
        if self.share_embeddings:
            self.token_embed = embed(self.vocab_size)
        else:
            self.source_embed, self.target_embed = embed(self.vocab_size), embed(target_vocab_size)
        if not self.tie_embeddings:
            self.head = embed(target_vocab_size)
        if self.logits_bias:
            self.bias = self.param("logits_bias", zeros, (target_vocab_size,), self.param_dtype)
        self.dropout = nn.Dropout(self.dropout_rate)
        block = partial(
            Block,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_first=self.norm_first,
            norm_eps=self.norm_eps,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            activation_dropout_rate=self.activation_dropout_rate,
            attention=self.attention,
            **dtypes,
        )
        norm = partial(LayerNorm, self.norm_eps, **dtypes) if self.final_norm else None
        stack = partial(
            Stack, block, norm, num_layers=self.num_layers, scan=self.scan, remat=self.remat
        )
        self.encoder, self.decoder = stack(), stack()

    def __call__(
        self,
        source: Int[Array, "b n"],
        target: Int[Array, "b m"],
        source_segments: Int[Array, "b n"] | None = None,
        target_segments: Int[Array, "b m"] | None = None,
        *,
        train: bool,
    ) -> TokenLogits:
        """Logits of the token behind each of ``target``. Dropout draws from the ``dropout`` RNG.

        Args:
          target: what the decoder reads: the translation from its start token on, without its last.
          source_segments, target_segments: of each token; 0 is padding. None: all one segment.

        Raises:
          ValueError: a text is longer than ``max_len``, or fields do not fit each other.
        """
        memory = self.encode(source, source_segments, train=train)
        return self.decode(target, memory, source_segments, target_segments, train=train)

    def encode(
        self,
        source: Int[Array, "b n"],
        source_segments: Int[Array, "b n"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b n d"]:
        """What the decoder attends to; see :meth:`__call__`."""
        self._require_length("source", source.shape[1])
        if source_segments is None:
            positions = jnp.arange(source.shape[1])[None]
        else:
            positions = segment_positions(source_segments)
        embed = self.token_embed if self.share_embeddings else self.source_embed
        mask = AttentionMask(source_segments, source_segments)
        return self.encoder(self._embedded(embed, source, positions, train), mask, train=train)

    def decode(
        self,
        target: Int[Array, "b m"],
        memory: Float[Array, "b n d"],
        source_segments: Int[Array, "b n"] | None = None,
        target_segments: Int[Array, "b k"] | None = None,
        start: Int[Array, ""] | None = None,
        *,
        train: bool = False,
    ) -> TokenLogits:
        """Logits of the token behind each of ``target``, given what :meth:`encode` made of the
        source.

        Args:
          start: with it, ``target`` are the tokens at places start, start + 1, ... of a text whose
            ``target_segments`` are given in full. Keys and values go to collection ``cache``, and
            those of earlier places and of the memory, once they are there, are taken from it.
        """
        whole = target if target_segments is None else target_segments
        self._require_length("target", whole.shape[1])
        if start is not None and target_segments is None:
            raise ValueError("start needs the target_segments of the whole text")
        positions = (
            jnp.arange(target.shape[1])[None]
            if target_segments is None
            else segment_positions(target_segments)
        )
        queries = target_segments
        if start is not None:
            positions, queries = (
                jax.lax.dynamic_slice_in_dim(x, start, target.shape[1], axis=1)
                for x in (positions, queries)
            )
        context = (
            AttentionMask(queries, target_segments, start, causal=True),
            memory,
            _memory_mask(target, queries, source_segments, start),
        )
        embed = self.token_embed if self.share_embeddings else self.target_embed
        x = self.decoder(self._embedded(embed, target, positions, train), *context, train=train)
        kernel = embed.embedding if self.tie_embeddings else self.head.embedding
        return TokenLogits(x, kernel, self.bias if self.logits_bias else None)

    def _embedded(
        self, embed: nn.Embed, tokens: jax.Array, positions: jax.Array, train: bool
    ) -> jax.Array:
        x = embed(tokens)
        if self.scale_embedding:
            x = x * math.sqrt(self.hidden_size)
        table = sine_positions(
            self.max_len, self.hidden_size, halves=self.position == "sine_halves"
        )
        x = x + jnp.asarray(table, x.dtype)[positions]
        return constrain_batch(self.dropout(x, deterministic=not train), "tokens")

    def _require_length(self, name: str, length: int) -> None:
        if length > self.max_len:
            raise ValueError(f"a {name} of {length} tokens is longer than max_len {self.max_len}")

    def _check(self) -> None:
        require_positive(
            vocab_size=self.vocab_size, max_len=self.max_len, num_layers=self.num_layers
        )
        require_positive(hidden_size=self.hidden_size, mlp_dim=self.mlp_dim)
        require_rate(
            dropout_rate=self.dropout_rate, activation_dropout_rate=self.activation_dropout_rate
        )
        require_choice("activation", self.activation, tuple(ACTIVATIONS))
        require_choice("position", self.position, ("sine", "sine_halves"))
        require_attention(
            backend=self.attention,
            num_heads=self.num_heads,
            hidden_size=self.hidden_size,
            dropout_rate=self.attention_dropout_rate,
        )
        if self.hidden_size % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} is odd: positions are pairs of sine and cosine"
            )
        if self.target_vocab_size < 0:
            raise ValueError(
                f"target_vocab_size {self.target_vocab_size} must be at least 0, which is "
                "vocab_size"
            )
        if self.share_embeddings and self.target_vocab_size not in (0, self.vocab_size):
            raise ValueError(
                f"target_vocab_size {self.target_vocab_size} is not vocab_size {self.vocab_size}: "
                "set share_embeddings to False"
            )


def _memory_mask(
    target: jax.Array,
    queries: jax.Array | None,
    source_segments: jax.Array | None,
    start: jax.Array | None,
) -> AttentionMask:
    """Each target sees the source of its segment; padding sees what the first source token does, so
    none sees nothing.

    A query without keys is a mean over all of them by plain products, but NaN by kernels.
    """
    if source_segments is None:
        return AttentionMask(start=start)
    queries = jnp.ones_like(target) if queries is None else queries
    return AttentionMask(
        jnp.where(queries > 0, queries, source_segments[:, :1]), source_segments, start
    )


class Stack(nn.Module):
    """Blocks behind each other, and a last LayerNorm.

    Attributes:
      block: :class:`Block` with its fields, but for ``train``; norm: LayerNorm with its fields, or
        None.
      num_layers, scan, remat: see :class:`Transformer`.
    """

    block: partial
    norm: partial | None
    num_layers: int
    scan: bool
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], *context: AttentionMask | Float[Array, "b k d"], train: bool
    ) -> Float[Array, "b n d"]:
        """Applies the blocks; ``context`` is what a block takes besides ``x``."""
        fields = self.block.keywords | {"train": train}
        depth = {"num_layers": self.num_layers, "scan": self.scan, "remat": self.remat}
        x = run_stack(self, Block, fields, x, *context, **depth)
        return x if self.norm is None else self.norm(name="norm")(x)


class Block(nn.Module):
    """Self-attention, attention to a memory if there is one, and an MLP, each with a residual
    connection and a norm.

    ``norm(x + branch(x))`` or, with ``norm_first``, ``x + branch(norm(x))``; fields as in
    :class:`Transformer`.
    """

    num_heads: int
    mlp_dim: int
    activation: str
    norm_first: bool
    norm_eps: float
    dropout_rate: float
    attention_dropout_rate: float
    activation_dropout_rate: float
    attention: str
    train: bool  # a field, not an argument, so that scan and remat see arrays only
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: AttentionMask,
        memory: Float[Array, "b k d"] | None = None,
        memory_mask: AttentionMask = AttentionMask(),  # noqa: B008  it is frozen
    ) -> Float[Array, "b n d"]:
        """Applies the block. Dropout draws from the ``dropout`` RNG."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attend = partial(
            MultiHeadAttention,
            num_heads=self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            train=self.train,
            backend=self.attention,
            kernel_init=packed_xavier_uniform,
            out_init=xavier_uniform,
            **dtypes,
        )
        branches = [lambda x: attend(name="attention")(x, mask=mask)]
        if memory is not None:
            branches.append(lambda x: attend(name="cross_attention")(x, memory, memory_mask))
        branches.append(self._mlp)
        for i, branch in enumerate(branches, 1):
            norm = LayerNorm(self.norm_eps, name=f"norm_{i}", **dtypes)
            dropout = nn.Dropout(
                self.dropout_rate, deterministic=not self.train, name=f"dropout_{i}"
            )
            x = x + dropout(branch(norm(x))) if self.norm_first else norm(x + dropout(branch(x)))
        return constrain_batch(x, "tokens")

    def _mlp(self, x: jax.Array) -> jax.Array:
        dtypes = {
            "kernel_init": xavier_uniform,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        y = Dense(self.mlp_dim, bias_init=torch_bias(x.shape[-1]), name="mlp_in", **dtypes)(x)
        y = ACTIVATIONS[self.activation](y)
        y = nn.Dropout(
            self.activation_dropout_rate, deterministic=not self.train, name="mlp_dropout"
        )(y)
        return Dense(x.shape[-1], bias_init=torch_bias(self.mlp_dim), name="mlp_out", **dtypes)(y)


def sine_positions(length: int, size: int, *, halves: bool) -> np.ndarray:
    """Position embedding [length, size] of Vaswani et al. 2017, section 3.5, in float64.

    Sines and cosines of ``place / 10000^(2 i / size)`` for i below size / 2: in turn, or all sines
    first.
    """
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, size, 2) / size)
    pair = (np.sin(angles), np.cos(angles))
    return np.concatenate(pair, axis=1) if halves else np.stack(pair, axis=2).reshape(length, size)


def transformer_tiny(
    *,
    max_len: int = 256,
    num_layers: int = 3,
    num_heads: int = 4,
    hidden_size: int = 128,
    mlp_dim: int = 512,
    **fields: Any,
) -> Transformer:
    """A Transformer to try things with: 3 and 3 layers of 128.

    1,401,856 parameters for 100 tokens.
    """
    return Transformer(
        max_len=max_len,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def transformer_base(**fields: Any) -> Transformer:
    """Transformer base (Vaswani et al. 2017): 6 and 6 layers of 512.

    63,084,544 parameters for the paper's 37,000 tokens.
    """
    return Transformer(**fields)


def transformer_big(
    *,
    num_heads: int = 16,
    hidden_size: int = 1024,
    mlp_dim: int = 4096,
    dropout_rate: float = 0.3,
    **fields: Any,
) -> Transformer:
    """Transformer big (Vaswani et al. 2017): 6 and 6 layers of 1024.

    214,249,472 parameters for the paper's 37,000 tokens.
    """
    return Transformer(
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        dropout_rate=dropout_rate,
        **fields,
    )


def marian(
    *,
    position: str = "sine_halves",
    activation: str = "silu",
    final_norm: bool = False,
    logits_bias: bool = True,
    attention_dropout_rate: float = 0.0,
    activation_dropout_rate: float = 0.0,
    **fields: Any,
) -> Transformer:
    """Marian of the opus-mt models (Junczys-Dowmunt et al. 2018): 6 and 6 layers of 512.

    73,944,309 parameters for 58,101 tokens.
    """
    return Transformer(
        position=position,
        activation=activation,
        final_norm=final_norm,
        logits_bias=logits_bias,
        attention_dropout_rate=attention_dropout_rate,
        activation_dropout_rate=activation_dropout_rate,
        **fields,
    )
