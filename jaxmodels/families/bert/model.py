"""BERT (Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers",
arXiv:1810.04805).

Parity reference: transformers' ``BertForPreTraining``, ``BertForMaskedLM``,
``BertForNextSentencePrediction``, ``BertForSequenceClassification``, ``BertForMultipleChoice``,
``BertForTokenClassification``, ``BertForQuestionAnswering`` and ``BertModel``: one class here, with
a field ``head``. Initial values are the paper's: normal with deviation 0.02, biases 0.

Deliberate differences: logits of the vocabulary are made when they are asked for (see
:class:`jaxmodels.nn.layers.TokenLogits`), and only at the places that are to be predicted, if those
are given; tokens are grouped by segments, which serve for padding and for packed texts alike:
positions start anew in each.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.adapt.features import Encoded
from jaxmodels.nn.attention import AttentionMask, MultiHeadAttention, require_attention
from jaxmodels.nn.layers import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    TokenLogits,
    at_least_float32,
    normal,
    require_choice,
    require_positive,
    require_rate,
    segment_positions,
    unit_length,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh
from jaxmodels.nn.stack import run_stack
from jaxmodels.origin import Origin

HEADS = ("pretraining", "classification", "tokens", "spans", "none", "next_sentence", "choices")
"""Masked tokens and next sentence; one label for a text or a pair; one for each token; where an
answer starts and ends; the encoder's features; next sentence alone; one score for each of several
texts of an example."""


class PretrainingLogits(NamedTuple):
    """Logits of the masked tokens, and [b, 2] of the next sentence (0: the second text follows) if
    that is asked."""

    tokens: TokenLogits
    next_sentence: Float[Array, "b 2"] | None


class SpanLogits(NamedTuple):
    """Of an answer's first and last token, each [b, l]."""

    start: Float[Array, "b l"]
    end: Float[Array, "b l"]


@on_any_mesh
class BERT(nn.Module):
    """Token, position and type embedding, post-norm encoder blocks, a head.

    Attributes:
      vocab_size: number of tokens; max_len: of positions; type_vocab_size: of types (first and
        second text).
      num_layers, num_heads, hidden_size, mlp_dim: of the blocks.
      head: of :data:`HEADS`; num_classes: of the heads classification and tokens.
      pool: what the head classification sees: the first token through the pooler, ``"cls"``, or the
        mean over the tokens, ``"mean"``, on which encoders of sentences are trained (then there is
        no pooler).
      pooler: whether the head none has a pooler. next_sentence: whether the head pretraining
        predicts the next sentence too; without it there is no pooler either, as in
        ``BertForMaskedLM``.
      tie_embeddings: logits of the head pretraining are products with the token embedding; without
        it, with a matrix of their own, ``head_decoder``.
      activation: of the MLP and of the pretraining head; norm_eps: of every LayerNorm.
      dropout_rate: on the embedding, on what each branch adds and before a classifier;
        attention_dropout_rate: on attention weights.
      attention: backend, see ``jaxmodels.nn.attention.BACKENDS`` and ``choose_backend``.
      scan: run the layers as one scanned layer, stacked in ``blocks``; remat: recompute activations
        in the backward pass.
      dtype: compute dtype; param_dtype: storage dtype.
      origin: what it was loaded from, for export; two models that differ in it are equal.
    """

    vocab_size: int
    max_len: int = 512
    type_vocab_size: int = 2
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    mlp_dim: int = 3072
    head: str = "pretraining"
    num_classes: int = 2
    pool: str = "cls"
    pooler: bool = True
    next_sentence: bool = True
    tie_embeddings: bool = True
    activation: str = "gelu"
    norm_eps: float = 1e-12
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
        tokens: Int[Array, "*n l"],
        segments: Int[Array, "*n l"] | None = None,
        types: Int[Array, "*n l"] | None = None,
        positions: Int[Array, "b k"] | None = None,
        *,
        train: bool,
    ) -> PretrainingLogits | SpanLogits | Encoded | Float[Array, "b ..."]:
        """What the head gives. Dropout draws from the ``dropout`` RNG.

        Args:
          tokens: [b, l]; for the head choices [b, choices, l], whose scores are [b, choices].
          segments: of each token; 0 is padding. None: all one segment.
          types: 0 for the first text and 1 for the second; None: all 0.
          positions: of head pretraining: places of the tokens to be predicted; None: all.

        Raises:
          ValueError: the text is longer than ``max_len``, or fields do not fit each other.
        """
        self._check(tokens.shape[-1])
        leading = tokens.shape[:-1]
        if self.head == "choices":
            tokens, segments, types = (
                x if x is None else x.reshape(-1, x.shape[-1]) for x in (tokens, segments, types)
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, self.norm_eps, **dtypes)
        dense = partial(Dense, kernel_init=normal(0.02), **dtypes)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        embed = partial(nn.Embed, features=self.hidden_size, embedding_init=normal(0.02), **dtypes)
        token_embed = embed(self.vocab_size, name="token_embed")
        places = (
            jnp.arange(tokens.shape[1])[None] if segments is None else segment_positions(segments)
        )
        x = token_embed(tokens) + embed(self.max_len, name="position_embed")(places)
        x += embed(self.type_vocab_size, name="type_embed")(
            jnp.zeros_like(tokens) if types is None else types
        )
        x = constrain_batch(dropout(name="dropout")(norm(name="norm")(x)), "tokens")
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
        mask = AttentionMask(segments, segments)
        depth = {"num_layers": self.num_layers, "scan": self.scan, "remat": self.remat}
        x = run_stack(self, EncoderBlock, fields, x, mask, **depth)
        if self.head == "tokens":
            return at_least_float32(
                dense(self.num_classes, name="head")(dropout(name="dropout_head")(x))
            )
        if self.head == "spans":
            logits = at_least_float32(dense(2, name="head")(x))
            return SpanLogits(logits[..., 0], logits[..., 1])
        pooled = None
        if self.pool == "mean":
            pooled = token_mean(x, jnp.ones_like(tokens) if segments is None else segments)
        elif {"none": self.pooler, "pretraining": self.next_sentence}.get(self.head, True):
            pooled = jnp.tanh(dense(self.hidden_size, name="pooler")(x[:, 0]))
        if self.head == "none":
            return Encoded(x, pooled)
        if self.head == "classification":
            return at_least_float32(
                dense(self.num_classes, name="head")(dropout(name="dropout_head")(pooled))
            )
        if self.head == "choices":
            scores = at_least_float32(dense(1, name="head")(dropout(name="dropout_head")(pooled)))
            return scores.reshape(leading)
        if self.head == "next_sentence":
            return at_least_float32(dense(2, name="head_next")(pooled))
        if positions is not None:
            x = jnp.take_along_axis(x, positions[..., None], axis=1)  # [b, k, d]
        x = ACTIVATIONS[self.activation](dense(self.hidden_size, name="head_dense")(x))
        bias = self.param("head_bias", zeros, (self.vocab_size,), self.param_dtype)
        kernel = token_embed.embedding
        if not self.tie_embeddings:
            kernel = embed(self.vocab_size, name="head_decoder").embedding
        return PretrainingLogits(
            TokenLogits(norm(name="head_norm")(x), kernel, bias),
            None if pooled is None else at_least_float32(dense(2, name="head_next")(pooled)),
        )

    def _check(self, length: int) -> None:
        require_positive(
            vocab_size=self.vocab_size, max_len=self.max_len, type_vocab_size=self.type_vocab_size
        )
        require_positive(
            num_layers=self.num_layers, hidden_size=self.hidden_size, mlp_dim=self.mlp_dim
        )
        require_positive(num_classes=self.num_classes)
        require_rate(dropout_rate=self.dropout_rate)
        require_choice("activation", self.activation, tuple(ACTIVATIONS))
        require_choice("head", self.head, HEADS)
        require_choice("pool", self.pool, ("cls", "mean"))
        if self.pool == "mean" and self.head != "classification":
            raise ValueError(f"pool 'mean' is for the head classification, not for {self.head!r}")
        for name, head in (
            ("pooler", "none"),
            ("next_sentence", "pretraining"),
            ("tie_embeddings", "pretraining"),
        ):
            if self.head != head and not getattr(self, name):
                raise ValueError(f"{name} False is for the head {head}, not for {self.head!r}")
        require_attention(
            backend=self.attention,
            num_heads=self.num_heads,
            hidden_size=self.hidden_size,
            dropout_rate=self.attention_dropout_rate,
        )
        if length > self.max_len:
            raise ValueError(f"a text of {length} tokens is longer than max_len {self.max_len}")


class EncoderBlock(nn.Module):
    """Self-attention and an MLP, each with a residual connection and a LayerNorm behind it; fields
    as in BERT."""

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
    def __call__(self, x: Float[Array, "b n d"], mask: AttentionMask) -> Float[Array, "b n d"]:
        """Applies the block. Dropout draws from the ``dropout`` RNG."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(LayerNorm, self.norm_eps, **dtypes)
        dense = partial(Dense, kernel_init=normal(0.02), **dtypes)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not self.train)
        y = MultiHeadAttention(
            num_heads=self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            train=self.train,
            backend=self.attention,
            kernel_init=normal(0.02),
            out_init=normal(0.02),
            name="attention",
            **dtypes,
        )(x, mask=mask)
        x = norm(name="norm_1")(x + dropout(name="dropout_1")(y))
        y = ACTIVATIONS[self.activation](dense(self.mlp_dim, name="mlp_in")(x))
        y = dense(x.shape[-1], name="mlp_out")(y)
        return constrain_batch(norm(name="norm_2")(x + dropout(name="dropout_2")(y)), "tokens")


def token_mean(hidden: Float[Array, "b l d"], segments: Int[Array, "b l"]) -> Float[Array, "b d"]:
    """Mean over the tokens of each text; segment 0 is padding."""
    real = (segments > 0).astype(hidden.dtype)[..., None]
    return (hidden * real).sum(1) / jnp.maximum(real.sum(1), 1)


def sentence_embedding(
    hidden: Float[Array, "b l d"], segments: Int[Array, "b l"]
) -> Float[Array, "b d"]:
    """Mean over the tokens of each text, scaled to length 1: Sentence-BERT (Reimers & Gurevych
    2019), as MiniLM's."""
    return unit_length(token_mean(hidden, segments))


def bert_tiny(
    *,
    max_len: int = 128,
    num_layers: int = 2,
    num_heads: int = 2,
    hidden_size: int = 128,
    mlp_dim: int = 512,
    **fields: Any,
) -> BERT:
    """A BERT to try things with: 2 layers of 128, 459,878 parameters for 100 tokens."""
    return BERT(
        max_len=max_len,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def bert_base(*, vocab_size: int = 30_522, **fields: Any) -> BERT:
    """BERT-base (Devlin et al. 2019): 12 layers of 768, 110,106,428 parameters.

    The heads of pre-training are among them.
    """
    return BERT(vocab_size=vocab_size, **fields)


def bert_large(
    *,
    vocab_size: int = 30_522,
    num_layers: int = 24,
    num_heads: int = 16,
    hidden_size: int = 1024,
    mlp_dim: int = 4096,
    **fields: Any,
) -> BERT:
    """BERT-large (Devlin et al. 2019): 24 layers of 1024, 336,226,108 parameters.

    The heads of pre-training are among them.
    """
    return BERT(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def minilm_l6(
    *,
    vocab_size: int = 30_522,
    num_layers: int = 6,
    hidden_size: int = 384,
    mlp_dim: int = 1536,
    **fields: Any,
) -> BERT:
    """MiniLM-L6 (Wang et al. 2020): 6 layers of 384, 22,893,116 parameters.

    The heads of pre-training are among them.
    """
    return BERT(
        vocab_size=vocab_size,
        num_layers=num_layers,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )


def minilm_l12(
    *,
    vocab_size: int = 30_522,
    num_layers: int = 12,
    hidden_size: int = 384,
    mlp_dim: int = 1536,
    **fields: Any,
) -> BERT:
    """MiniLM-L12 (Wang et al. 2020): 12 layers of 384, 33,539,900 parameters.

    The heads of pre-training are among them.
    """
    return BERT(
        vocab_size=vocab_size,
        num_layers=num_layers,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        **fields,
    )
