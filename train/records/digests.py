"""Digests of arrays, computed on the devices that hold them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from train.sharding import path_name


def digest(x: Array) -> UInt32[Array, ""]:
    """32-bit digest of an array's values and their places: ``sum_i word_i * w_i mod 2^32`` with odd
    weights w_i.

    Any change inside one 32-bit word changes the digest, because odd weights are invertible modulo
    2^32; other changes go unnoticed with probability 2^-32. Integer sums are exact, so the digest
    is the same on every mesh and backend.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    # finaliser of MurmurHash3: neighbouring places get unrelated weights
    index = (index ^ (index >> 16)) * jnp.uint32(0x85EBCA6B)
    index = (index ^ (index >> 13)) * jnp.uint32(0xC2B2AE35)
    weights = (index ^ (index >> 16)) | jnp.uint32(1)
    return jnp.sum(words * weights, dtype=jnp.uint32)


@jax.jit
def _digest_tree(tree: Any) -> list[Array]:
    return [digest(x) for x in jax.tree.leaves(tree)]


def digests(state: Any) -> dict[str, dict[str, Any]]:
    """Type, shape and digest of every array of a tree, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    values = jax.device_get(_digest_tree(state))
    return {
        path_name(path): {"dtype": str(x.dtype), "shape": list(x.shape), "digest": int(value)}
        for (path, x), value in zip(leaves, values, strict=True)
    }
