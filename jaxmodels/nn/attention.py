"""Multi-head attention (Vaswani et al. 2017, section 3.2), its masks, its backends and its cache.

On a mesh with an axis ``sequence`` every device has a part of the queries and gathers all keys and
values; kernels, which XLA cannot split, run on each device's own heads, queries and examples.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax import struct
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.nn.cpu import target_kind, target_platform
from jaxmodels.nn.layers import (
    Dense,
    Initializer,
    at_least_float32,
    require_choice,
    require_rate,
    torch_uniform,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch

BACKENDS = ("auto", "einsum", "deferred", "xla", "cudnn", "splash")
"""What :func:`choose_backend` takes; plain products; the same with the softmax's division put off
until the weights are multiplied with the values; ``jax.nn.dot_product_attention`` by XLA or by
cuDNN (NVIDIA, bfloat16); the splash kernel of Pallas (TPU; elsewhere interpreted, for tests).
Dropout on attention weights is for einsum and deferred alone."""

SPLASH_BLOCK, SPLASH_BLOCKS = 128, (128, 256, 512)
"""Lengths are padded to a multiple of the first for the splash kernel, one that is shorter gains
nothing; it works on squares of the largest that divides them, and on the larger faster."""

KERNELS = {"gpu": "cudnn", "tpu": "splash"}
"""Of each platform, that which keeps no weights [queries, keys] in memory."""

WITHOUT_BFLOAT16 = ("TPU v2", "TPU v3")
"""Kinds of devices whose matrix unit takes no bfloat16 from a kernel: Mosaic refuses to compile
it."""

PRODUCTS = ("einsum", "deferred")
"""Those that can do everything, and of which XLA makes the program."""


def choose_backend(
    backend: str,
    *,
    platform: str,
    dtype: DTypeLike,
    head_size: int,
    queries: int,
    keys: int,
    dropout_rate: float = 0.0,
    parts: int = 1,
    capability: float | None = None,
    device_kind: str = "",
) -> tuple[str, str]:
    """The backend that attention runs by, and why: of ``"auto"`` the platform's kernel where it
    can, else products.

    Args:
      backend: of :data:`BACKENDS`; any but ``"auto"`` is returned as it is.
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``, for which the program is compiled.
      dtype: of queries, keys and values; head_size: their last dimension; queries, keys: their
        lengths.
      dropout_rate: on attention weights, now: 0 in evaluation.
      parts: that the queries are split into over devices.
      capability: of an NVIDIA GPU; None: unknown.
      device_kind: "TPU v3", as jax names the devices; "": unknown.

    Raises:
      ValueError: a backend that was named cannot do it.
    """
    if backend == "auto" and platform not in KERNELS:
        # XLA for CPUs goes through memory once for the division, where others do it on the way
        return "deferred" if platform == "cpu" else "einsum", f"there is no kernel for {platform}"
    kernel = KERNELS[platform] if backend == "auto" else backend
    if kernel in PRODUCTS:
        return kernel, "as told"
    hindrance = ""
    size, short = jnp.dtype(dtype), min(queries, keys)
    if dropout_rate:
        hindrance = f"has no dropout_rate {dropout_rate}"
    elif kernel == "cudnn" and platform != "gpu":
        hindrance = f"is not for {platform}"
    elif kernel == "cudnn" and capability is not None and capability < 8:
        hindrance = f"needs compute capability 8.0, not {capability}"
    elif kernel == "cudnn" and size not in (jnp.bfloat16, jnp.float16):
        hindrance = f"is for bfloat16 and float16, not for {size}"
    elif kernel == "cudnn" and (head_size % 8 or head_size > 128):
        hindrance = f"is for heads of 8, 16, ... 128 features, not of {head_size}"
    elif kernel == "splash" and size == jnp.float64:
        hindrance = "has no float64"
    elif kernel == "splash" and size.itemsize < 4 and device_kind in WITHOUT_BFLOAT16:
        hindrance = f"does not compile in {size} for {device_kind}"
    elif kernel == "splash" and parts > 1 and queries % (SPLASH_BLOCK * parts):
        hindrance = f"needs queries that are {parts} x a multiple of {SPLASH_BLOCK}, not {queries}"
    elif kernel == "cudnn" and queries % parts:
        hindrance = f"needs queries that {parts} divides, not {queries}"
    elif backend == "auto" and short < SPLASH_BLOCK:
        hindrance = f"gains nothing below {SPLASH_BLOCK} tokens, and these are {short}"
    if backend == "auto":
        return (
            ("einsum", f"{kernel} {hindrance}")
            if hindrance
            else (kernel, f"the kernel for {platform}")
        )
    if hindrance:
        raise ValueError(f"attention {backend!r} {hindrance}: 'einsum' can")
    return backend, "as told"


@contextlib.contextmanager
def exact_attention() -> Iterator[set[str]]:
    """What is traced within attends by ``"einsum"``: with weights to show and operations to count,
    and without kernels.

    Yields:
      the backends in whose place it did, filled as models are traced.
    """
    replaced: set[str] = set()

    def plainly(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        if (
            not isinstance(context.module, MultiHeadAttention)
            or context.method_name != "chosen_backend"
        ):
            return call(*args, **kwargs)
        replaced.update({call(*args, **kwargs)} - {*PRODUCTS})
        return "einsum"

    with nn.intercept_methods(plainly):
        yield replaced


def gpu_capability() -> float | None:
    """Compute capability of this process's NVIDIA GPU; None: there is none."""
    if jax.default_backend() != "gpu":
        return None
    capability = getattr(jax.local_devices()[0], "compute_capability", None)
    return None if capability is None else float(capability)


class AttentionMask(struct.PyTreeNode):
    """Which keys a query may attend to: those of its segment, and, if causal, none behind it.

    Segments are numbers; 0 is padding by convention. Without them everything is one segment. A
    query that may attend to nothing gets a mean over all keys, or NaN from a kernel (cudnn,
    splash); as padding attends to padding, none does where queries and keys are the same text.
    Padding must have weight 0 in the loss.

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
    """``softmax(query key^T / sqrt(d)) value``, the softmax in at least float32 (Vaswani et al.
    2017, equation 1).

    Args:
      backend: of :data:`BACKENDS`.
      dropout: applied to the weights [b, h, q, k], which only einsum and deferred have, deferred
        not yet divided.
    """
    queries, keys = query.shape[2], key.shape[2]
    # its mask has no place for a cache; one query is no work either
    if backend == "splash" and mask.start is None:
        return _splash(query, key, value, mask)
    if backend == "cudnn":
        return _cudnn(query, key, value, mask)
    dense = mask.dense(queries, keys)
    if backend == "xla":
        q, k, v = (rearrange(x, "b h n d -> b n h d") for x in (query, key, value))
        return rearrange(
            jax.nn.dot_product_attention(q, k, v, mask=dense, implementation="xla"),
            "b n h d -> b h n d",
        )
    scores = jnp.einsum("bhqd,bhkd->bhqk", query / math.sqrt(query.shape[-1]), key)
    scores = at_least_float32(scores)
    if dense is not None:
        scores = jnp.where(dense, scores, jnp.finfo(scores.dtype).min)
    if backend == "deferred":
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = weights.sum(-1, keepdims=True)
        weights = dropout(weights.astype(value.dtype))
        y = jnp.einsum("bhqk,bhkd->bhqd", weights, value, preferred_element_type=total.dtype)
        return (y / total).astype(value.dtype)
    weights = dropout(jax.nn.softmax(scores).astype(value.dtype))
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value)


class _Places(NamedTuple):
    """Axes of the mesh over which a kernel's examples, heads and queries are split, None where they
    are not."""

    batch: tuple[str, ...] | None
    heads: str | None
    queries: str | None

    @staticmethod
    def of(query: jax.Array) -> "_Places":
        shape = jax.sharding.get_abstract_mesh().shape
        batch = tuple(axis for axis in ("data", "fsdp") if axis in shape)
        divides = not query.shape[0] % math.prod(shape[axis] for axis in batch)
        heads, queries = (
            axis if shape.get(axis, 1) > 1 and not query.shape[i] % shape[axis] else None
            for i, axis in ((1, "tensor"), (2, "sequence"))
        )
        return _Places(batch if batch and divides else None, heads, queries)


def _on_each_device(
    kernel: Callable[..., jax.Array],
    places: _Places,
    inputs: tuple[jax.Array, ...],
    segments: Any,
    more: Any = (),
) -> jax.Array:
    """``kernel(*inputs, segments, *more)`` with each device's own examples, heads and queries and
    all keys.

    Args:
      inputs: query, key, value; segments: of queries and of keys, or None; more: what else there
        is, and its places.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return kernel(*inputs, segments, *(value for value, _ in more))
    queries, keys = P(places.batch, places.heads, places.queries), P(places.batch, places.heads)
    of_segments = (
        None
        if segments is None
        else type(segments)(P(places.batch, places.queries), P(places.batch))
    )
    where = (queries, keys, keys, of_segments, *(place for _, place in more))
    mapped = jax.shard_map(kernel, in_specs=where, out_specs=queries, check_vma=False)
    return mapped(*inputs, segments, *(value for value, _ in more))


class _Segments(NamedTuple):
    queries: jax.Array
    keys: jax.Array


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask) -> jax.Array:
    places = _Places.of(query)
    segments = None
    if mask.query_segments is not None and mask.key_segments is not None:
        segments = _Segments(mask.query_segments, mask.key_segments)

    def kernel(query: jax.Array, key: jax.Array, value: jax.Array, segments: Any) -> jax.Array:
        own, start = segments or _Segments(None, None), mask.start
        if places.queries:
            start = jax.lax.axis_index(places.queries) * query.shape[2]
        # then no mask is read from memory
        plain = mask.causal and segments is None and start is None
        whole = AttentionMask(*own, start, causal=mask.causal)
        dense = None if plain else whole.dense(query.shape[2], key.shape[2])
        # jax refuses odd lengths in training, as a ViT's of 197: one more of each. Nothing attends
        # to the key; the query attends to all, since a row without keys could be NaN
        q, k, v = (_padded(rearrange(x, "b h n d -> b n h d"), 1, 2) for x in (query, key, value))
        lengths = None
        if dense is not None:
            dense = _padded(_padded(dense, 2, 2, 1), 3, 2)
        elif key.shape[2] % 2:
            lengths = jnp.full(len(key), key.shape[2], jnp.int32)
        y = jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=dense,
            is_causal=plain,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )
        return rearrange(y[:, : query.shape[2]], "b n h d -> b h n d")

    return _on_each_device(kernel, places, (query, key, value), segments)


def _padded(x: jax.Array, axis: int, multiple: int, value: int = 0) -> jax.Array:
    """With ``value`` behind the end of an axis, up to a multiple."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, widths, constant_values=value)


def _splash(query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask) -> jax.Array:
    # imported here: Pallas takes a second that only its users should wait
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, heads, queries, keys = *query.shape[:3], key.shape[2]
    mesh, places = jax.sharding.get_abstract_mesh(), _Places.of(query)

    inputs = tuple(
        _padded(x, 2, SPLASH_BLOCK) for x in (query / math.sqrt(query.shape[-1]), key, value)
    )
    head_shards, query_shards = (mesh.shape[axis] if axis else 1 for axis in places[1:])
    own, shape = inputs[0].shape[2] // query_shards, (inputs[0].shape[2], inputs[1].shape[2])
    if not mask.causal:  # every device's queries see the same
        query_shards, shape = 1, (own, shape[1])
    one = masks.CausalMask(shape) if mask.causal else masks.FullMask(shape)
    block_q, block_k = (
        max(size for size in SPLASH_BLOCKS if not length % size) for length in (own, shape[1])
    )
    splash = kernels.make_splash_mha(
        mask=masks.MultiHeadMask([one] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block_q,
            block_kv=block_k,
            block_q_dkv=block_q,
            block_kv_dkv=block_k,
            block_q_dq=block_q,
            block_kv_dq=block_k,
        ),
        head_shards=head_shards,
        q_seq_shards=query_shards,
        interpret=target_platform() != "tpu",
    )
    query_segments, key_segments = mask.query_segments, mask.key_segments
    if query_segments is None or key_segments is None:
        query_segments, key_segments = (
            jnp.ones((batch, queries), jnp.int32),
            jnp.ones((batch, keys), jnp.int32),
        )
    # what is added must attend to itself: a row without keys is NaN there; no segment has the
    # number -1
    segments = kernels.SegmentIds(
        *(_padded(x, 1, SPLASH_BLOCK, -1) for x in (query_segments, key_segments))
    )
    if mesh.empty:
        place = None
    else:
        place = splash.manual_sharding_spec(
            NamedSharding(mesh, P(places.heads, places.queries if mask.causal else None))
        )

    def kernel(
        query: jax.Array, key: jax.Array, value: jax.Array, segments: Any, splash: Any
    ) -> jax.Array:
        return jax.vmap(splash)(query, key, value, segments)

    return _on_each_device(kernel, places, inputs, segments, ((splash, place),))[:, :, :queries]


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

        Where ``mask.start`` is given, keys and values of ``x`` are written to collection ``cache``
        at that place, and all that is cached is attended to; the cache is as long as
        ``mask.key_segments``. Those of a ``memory`` are made once, where the cache has none.
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def heads(name: str, x: jax.Array) -> jax.Array:
            y = Dense(x.shape[-1], kernel_init=self.kernel_init, name=name, **dtypes)(x)
            y = rearrange(y, "b n (h d) -> b h n d", h=self.num_heads)
            return constrain_batch(y, "heads", "tokens")

        query = heads("query", x)
        if memory is None:
            key, value = heads("key", x), heads("value", x)
            if mask.start is not None:
                key, value = self._cached("key", key, mask), self._cached("value", value, mask)
        elif mask.start is None:
            key, value = heads("key", memory), heads("value", memory)
        else:
            key, value = (
                self.variable("cache", f"cached_{name}", heads, name, memory).value
                for name in ("key", "value")
            )
        # each device has made the keys of its own tokens and now takes the others'
        key, value = (constrain_batch(y, "heads", "all_tokens") for y in (key, value))
        dropout = nn.Dropout(self.dropout_rate, deterministic=not self.train, name="dropout")
        y = attention(
            query, key, value, mask, backend=self.chosen_backend(query, key, mask), dropout=dropout
        )
        y = rearrange(y, "b h n d -> b n (h d)")
        return Dense(x.shape[-1], kernel_init=self.out_init, bias_init=zeros, name="out", **dtypes)(
            y
        )

    def chosen_backend(self, query: jax.Array, key: jax.Array, mask: AttentionMask) -> str:
        """By which this attention runs."""
        if self.backend == "auto" and mask.start is not None and target_platform() in KERNELS:
            return "einsum"  # of one query there are few weights
        return choose_backend(
            self.backend,
            platform=target_platform(),
            dtype=query.dtype,
            head_size=query.shape[-1],
            queries=query.shape[2],
            keys=key.shape[2],
            dropout_rate=self.dropout_rate if self.train else 0.0,
            parts=jax.sharding.get_abstract_mesh().shape.get("sequence", 1),
            capability=gpu_capability(),
            device_kind=target_kind(),
        )[0]

    def _cached(self, name: str, new: jax.Array, mask: AttentionMask) -> jax.Array:
        if mask.key_segments is None:
            raise ValueError("a mask with start needs key_segments, which are as long as the cache")
        shape = (*new.shape[:2], mask.key_segments.shape[1], new.shape[3])
        cache = self.variable("cache", f"cached_{name}", jnp.zeros, shape, new.dtype)
        cache.value = jax.lax.dynamic_update_slice_in_dim(cache.value, new, mask.start, axis=2)
        return cache.value


def require_attention(
    *, backend: str, num_heads: int, hidden_size: int, dropout_rate: float
) -> None:
    """Raises ValueError, naming the field, for what :class:`MultiHeadAttention` cannot do."""
    require_choice("attention", backend, BACKENDS)
    require_rate(attention_dropout_rate=dropout_rate)
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not divisible by num_heads {num_heads}")
