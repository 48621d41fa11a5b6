"""Attention: every backend against plain products, masks by gradient, the cache against the whole text."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxmodels.attention import AttentionMask, MultiHeadAttention, attention
from jaxmodels.layers import segment_positions, xavier_uniform


def heads(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def mask_of(kind, queries, keys):
    if kind == "causal":
        return AttentionMask(causal=True)
    if kind == "packed":
        segments = jnp.asarray([[1] * 20 + [2] * 30 + [0] * (queries - 50), [1] * queries], jnp.int32)
        return AttentionMask(segments, segments, causal=True)
    valid = jnp.asarray([[1] * (keys - 7) + [0] * 7, [1] * keys], jnp.int32)
    return AttentionMask(jnp.ones((2, queries), jnp.int32), valid)


@pytest.mark.parametrize(
    ("backend", "kind", "size"),
    [*itertools.product(["xla", "splash"], ["causal", "padding", "cross", "packed"], [32, 64, 128])],
)
def test_backends_equal_plain_products(backend, kind, size):
    queries, keys = (64, 64) if kind != "cross" else (48, 70)
    q, k, v = (heads(2, 2, n, size, seed=i) for i, n in enumerate((queries, keys, keys)))
    mask = mask_of(kind, queries, keys)
    weight = heads(2, 2, queries, size, seed=3)
    if kind == "packed":  # padding looks at padding: what it gets is nobody's business, but it must not be NaN
        weight = weight * (mask.query_segments > 0)[:, None, :, None]

    def loss(q, k, v, backend):
        out = attention(q, k, v, mask, backend=backend)
        return (jnp.nan_to_num(out, nan=1e9) * weight).sum()

    value, grads = jax.value_and_grad(loss, (0, 1, 2))(q, k, v, backend)
    expected, expected_grads = jax.value_and_grad(loss, (0, 1, 2))(q, k, v, "einsum")
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backend", ["xla", "splash"])
def test_backends_equal_plain_products_with_a_cache(backend):
    q, k, v = (heads(2, 2, n, 32, seed=i) for i, n in enumerate((1, 16, 16)))
    segments = jnp.asarray([[0] * 3 + [1] * 13, [1] * 16], jnp.int32)
    mask = AttentionMask(jnp.ones((2, 1), jnp.int32), segments, jnp.asarray(9), causal=True)
    expected = attention(q, k, v, mask)
    np.testing.assert_allclose(attention(q, k, v, mask, backend=backend), expected, rtol=1e-5, atol=1e-6)


def test_softmax_is_wide():
    q, k = (heads(1, 1, 9, 8, seed=i, dtype=jnp.bfloat16) for i in range(2))
    seen = []
    attention(q, k, k, AttentionMask(), dropout=lambda w: seen.append(w) or w)
    assert seen[0].dtype == jnp.bfloat16  # the weights are for a product
    rows = np.asarray(jax.nn.softmax((q.astype(jnp.float32) / 8**0.5) @ k.astype(jnp.float32).swapaxes(2, 3)))
    np.testing.assert_allclose(np.asarray(seen[0], np.float32), rows, atol=4e-3)


def test_equals_pytorch():
    q, k, v = (np.random.default_rng(i).normal(size=(2, 3, n, 8)) for i, n in enumerate((5, 7, 7)))
    allowed = np.ones((2, 1, 5, 7), bool)
    allowed[0, :, :, 4:] = False
    mask = AttentionMask(jnp.ones((2, 5), jnp.int32), jnp.asarray(allowed[:, 0, 0], jnp.int32))
    with jax.enable_x64(True):
        ours = attention(*map(jnp.asarray, (q, k, v)), mask)
        theirs = F.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), attn_mask=torch.tensor(allowed))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        causal = attention(*map(jnp.asarray, (q, q, q)), AttentionMask(causal=True))
        theirs = F.scaled_dot_product_attention(*[torch.tensor(q)] * 3, is_causal=True)
        np.testing.assert_allclose(causal, theirs, rtol=1e-12)


def layer(**fields):
    fields = {"num_heads": 2, "dropout_rate": 0.0, "train": False, "backend": "einsum", **fields}
    return MultiHeadAttention(kernel_init=xavier_uniform, **fields)


def test_nothing_is_seen_of_later_tokens_nor_of_other_segments():
    """By gradient: which inputs an output depends on."""
    x = heads(1, 8, 4)
    segments = jnp.asarray([[0, 0, 1, 1, 1, 2, 2, 2]], jnp.int32)
    model = layer()
    params = model.init(jax.random.key(0), x)
    for causal in (True, False):
        mask = AttentionMask(segments, segments, causal=causal)
        jacobian = jax.jacobian(lambda x, mask=mask: model.apply(params, x, mask=mask))(x)[0, :, :, 0]
        depends = np.abs(jacobian).sum((1, 3)) > 0  # [output place, input place]
        same = np.asarray(segments[0])[:, None] == np.asarray(segments[0])
        expected = np.tril(same) if causal else same
        assert (depends == expected).all()


def test_cross_attention_sees_the_memory_that_is_not_padding():
    x, memory = heads(1, 3, 4), heads(1, 5, 4, seed=1)
    mask = AttentionMask(jnp.ones((1, 3), jnp.int32), jnp.asarray([[1, 1, 1, 0, 0]], jnp.int32))
    model = layer()
    params = model.init(jax.random.key(0), x, memory, mask)
    jacobian = jax.jacobian(lambda m: model.apply(params, x, m, mask))(memory)[0, :, :, 0]
    assert ((np.abs(jacobian).sum((0, 1, 3)) > 0) == [True, True, True, False, False]).all()


def test_a_cache_gives_what_the_whole_text_does():
    x = heads(2, 7, 4)
    segments = jnp.asarray([[1] * 7, [0, 0, 1, 1, 1, 1, 1]], jnp.int32)
    model = layer()
    params = model.init(jax.random.key(0), x)["params"]
    whole = model.apply({"params": params}, x, mask=AttentionMask(segments, segments, causal=True))
    cache, parts = {}, []
    for start, stop in ((0, 4), (4, 5), (5, 7)):
        mask = AttentionMask(segments[:, start:stop], segments, jnp.asarray(start), causal=True)
        part, changed = model.apply({"params": params, **cache}, x[:, start:stop], mask=mask, mutable=["cache"])
        cache = dict(changed)
        parts.append(part)
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(np.concatenate(parts, 1)[real], np.asarray(whole)[real], rtol=1e-5, atol=1e-6)


def test_positions_begin_anew_in_each_segment():
    segments = jnp.asarray([[0, 0, 1, 1, 1, 2], [3, 3, 3, 1, 0, 0]], jnp.int32)
    assert segment_positions(segments).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 0, 0, 1]]


def test_dropout_needs_the_weights():
    model = layer(backend="xla", dropout_rate=0.1, train=True)
    with pytest.raises(ValueError, match=r"attention 'xla' has no dropout_rate 0\.1"):
        model.init(jax.random.key(0), heads(1, 3, 4))
