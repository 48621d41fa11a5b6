"""Multi-head attention (Vaswani et al. 2017, section 3.2), its masks, its backends and its cache."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers import Dense, Initializer, at_least_float32, require_choice, require_rate, torch_uniform, zeros

BACKENDS = ("einsum", "xla", "cudnn", "splash")
"""Plain products; ``jax.nn.dot_product_attention`` by XLA or by cuDNN (NVIDIA, bfloat16); the splash kernel of Pallas
(TPU; elsewhere interpreted, for tests). Dropout on attention weights is for einsum alone."""

SPLASH_BLOCK = 128
"""Lengths are padded to a multiple of this for the splash kernel."""


class AttentionMask(struct.PyTreeNode):
    """Which keys a query may attend to: those of its segment, and, if causal, none behind it.

    Segments are numbers; 0 is padding by convention. Without them everything is one segment. A query that may attend
    to nothing gets a mean over all keys, or NaN from a kernel (cudnn, splash); as padding attends to padding, none does
    where queries and keys are the same text. Padding must have weight 0 in the loss.

    Attributes:
      query_segments, key_segments: int32 [b, q] and [b, k], or None.
      start: place of the first query among the keys, when keys are cached; else None.
      causal: whether keys behind the query are hidden.
    """

    query_segments: Int[Array, "b q"] | None = None
    key_segments: Int[Array, "b k"] | None = None
    start: Int[Array, ""] | None = None
    causal: bool = struct.field(pytree_node=False, default=False)

    def dense(self, queries: int, keys: int) -> Bool[Array, "#b 1 #q k"] | None:
        """The mask as an array, True where a query may attend; None if it may everywhere."""
        mask = None
        if self.causal:
            place = jnp.arange(queries) + (0 if self.start is None else self.start)
            mask = (jnp.arange(keys) <= place[:, None])[None, None]
        if self.query_segments is not None and self.key_segments is not None:
            same = self.query_segments[:, None, :, None] == self.key_segments[:, None, None, :]
            mask = same if mask is None else mask & same
        return mask


def attention(
    query: Float[Array, "b h q d"],
    key: Float[Array, "b h k d"],
    value: Float[Array, "b h k d"],
    mask: AttentionMask,
    *,
    backend: str = "einsum",
    dropout: Callable[[jax.Array], jax.Array] = lambda weights: weights,
) -> Float[Array, "b h q d"]:
    """``softmax(query key^T / sqrt(d)) value``, the softmax in at least float32 (Vaswani et al. 2017, equation 1).

    Args:
      backend: of :data:`BACKENDS`.
      dropout: applied to the weights [b, h, q, k]; only backend einsum has them.
    """
    queries, keys = query.shape[2], key.shape[2]
    if backend == "splash" and mask.start is None:  # its mask has no place for a cache; one query is no work either
        return _splash(query, key, value, mask)
    dense = mask.dense(queries, keys)
    if backend in ("xla", "cudnn"):
        q, k, v = (rearrange(x, "b h n d -> b n h d") for x in (query, key, value))
        return rearrange(
            jax.nn.dot_product_attention(q, k, v, mask=dense, implementation=backend), "b n h d -> b h n d"
        )
    scores = jnp.einsum("bhqd,bhkd->bhqk", query / math.sqrt(query.shape[-1]), key)
    scores = at_least_float32(scores)
    if dense is not None:
        scores = jnp.where(dense, scores, jnp.finfo(scores.dtype).min)
    weights = dropout(jax.nn.softmax(scores).astype(value.dtype))
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value)


def _splash(query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask) -> jax.Array:
    # imported here: Pallas takes a second that only its users should wait
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, heads, queries, keys = *query.shape[:3], key.shape[2]

    def padded(x: jax.Array, axis: int, value: int = 0) -> jax.Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, -x.shape[axis] % SPLASH_BLOCK)
        return jnp.pad(x, widths, constant_values=value)

    q, k, v = (padded(x, 2) for x in (query / math.sqrt(query.shape[-1]), key, value))
    shape = (q.shape[2], k.shape[2])
    one = masks.CausalMask(shape) if mask.causal else masks.FullMask(shape)
    splash = kernel.make_splash_mha(
        mask=masks.MultiHeadMask([one] * heads),
        head_shards=1,
        q_seq_shards=1,
        interpret=jax.default_backend() != "tpu",
    )
    query_segments, key_segments = mask.query_segments, mask.key_segments
    if query_segments is None or key_segments is None:
        query_segments, key_segments = jnp.ones((batch, queries), jnp.int32), jnp.ones((batch, keys), jnp.int32)
    # what is added must attend to itself: a row without keys is NaN there; no segment has the number -1
    segments = kernel.SegmentIds(padded(query_segments, 1, -1), padded(key_segments, 1, -1))
    return jax.vmap(splash)(q, k, v, segments)[:, :, :queries]


class MultiHeadAttention(nn.Module):
    """Attention with separate query, key and value matrices.

    Attributes:
      num_heads: must divide the width.
      dropout_rate: on the attention weights.
      train: whether dropout acts; a field, not an argument, so that scan and remat see arrays only.
      backend: of :data:`BACKENDS`.
      kernel_init: of query, key and value; out_init: of the output matrix.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_heads: int
    dropout_rate: float
    train: bool
    backend: str
    kernel_init: Initializer
    out_init: Initializer = torch_uniform
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        memory: Float[Array, "b k d"] | None = None,
        mask: AttentionMask = AttentionMask(),  # noqa: B008  it is frozen
    ) -> Float[Array, "b q d"]:
        """Attends from ``x`` to ``memory``, or to itself. Dropout draws from the ``dropout`` RNG.

        Where ``mask.start`` is given, keys and values of ``x`` are written to collection ``cache`` at that place, and
        all that is cached is attended to; the cache is as long as ``mask.key_segments``. Those of a ``memory`` are
        made once, where the cache has none.
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def heads(name: str, x: jax.Array) -> jax.Array:
            y = Dense(x.shape[-1], kernel_init=self.kernel_init, name=name, **dtypes)(x)
            return rearrange(y, "b n (h d) -> b h n d", h=self.num_heads)

        query = heads("query", x)
        if memory is None:
            key, value = heads("key", x), heads("value", x)
            if mask.start is not None:
                key, value = self._cached("key", key, mask), self._cached("value", value, mask)
        elif mask.start is None:
            key, value = heads("key", memory), heads("value", memory)
        else:
            key, value = (
                self.variable("cache", f"cached_{name}", heads, name, memory).value for name in ("key", "value")
            )
        dropout = nn.Dropout(self.dropout_rate, deterministic=not self.train, name="dropout")
        if self.backend != "einsum" and self.train and self.dropout_rate:
            raise ValueError(f"attention {self.backend!r} has no dropout_rate {self.dropout_rate}: 'einsum' has")
        y = attention(query, key, value, mask, backend=self.backend, dropout=dropout)
        y = rearrange(y, "b h n d -> b n (h d)")
        return Dense(x.shape[-1], kernel_init=self.out_init, bias_init=zeros, name="out", **dtypes)(y)

    def _cached(self, name: str, new: jax.Array, mask: AttentionMask) -> jax.Array:
        if mask.key_segments is None:
            raise ValueError("a mask with start needs key_segments, which are as long as the cache")
        shape = (*new.shape[:2], mask.key_segments.shape[1], new.shape[3])
        cache = self.variable("cache", f"cached_{name}", jnp.zeros, shape, new.dtype)
        cache.value = jax.lax.dynamic_update_slice_in_dim(cache.value, new, mask.start, axis=2)
        return cache.value


def require_attention(*, backend: str, num_heads: int, hidden_size: int, dropout_rate: float) -> None:
    """Raises ValueError, naming the field, for what :class:`MultiHeadAttention` cannot do."""
    require_choice("attention", backend, BACKENDS)
    require_rate(attention_dropout_rate=dropout_rate)
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not divisible by num_heads {num_heads}")
