"""Attention weights of every layer, and their rollout (Abnar & Zuidema 2020, arXiv:2005.00928)."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxmodels.capture import capture
from jaxmodels.nn.attention import exact_attention
from jaxmodels.nn.layers import at_least_float32

WEIGHTS = re.compile(
    r"(?P<stack>.*?)(?P<scanned>blocks|block_(?P<layer>\d+))/(?P<name>(cross_)?attention)/dropout"
)
"""Paths of the modules that attention weights go through."""


class AttentionMaps(NamedTuple):
    """Attention weights.

    Attributes:
      maps: float32 (or wider) [layers, b, heads, queries, keys] of ``attention``, or of
        ``encoder/attention``, ``decoder/attention`` and ``decoder/cross_attention``; rows sum to 1.
      instead_of: the backend that the model runs by, chosen or named, if it shows no weights and
        ``einsum`` was run in its place.
    """

    maps: dict[str, Float[Array, "layers b heads queries keys"]]
    instead_of: str | None


def attention_maps(model: nn.Module, variables: Any, *inputs: Any) -> AttentionMaps:
    """Attention weights of every layer, scanned or not.

    Args:
      inputs: of the model, in order.

    Raises:
      ValueError: the model has no attention.
    """
    with exact_attention() as replaced:
        captured = capture(model, variables, *jax.tree.map(jnp.asarray, inputs), train=False)
    layers: dict[str, dict[int, jax.Array]] = {}
    for path, (weights, _) in captured.items():
        if match := WEIGHTS.fullmatch(path):
            found = layers.setdefault(match["stack"] + match["name"], {})
            found[int(match["layer"] or 0)] = (
                weights if match["scanned"] == "blocks" else weights[None]
            )
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no attention; ViT, BERT, GPT2 and Transformer have"
        )
    maps = {
        k: at_least_float32(jnp.concatenate([found[i] for i in sorted(found)]))
        for k, found in layers.items()
    }
    return AttentionMaps(maps, ", ".join(sorted(replaced)) or None)


def rollout(
    maps: Float[Array, "layers b heads n n"], segments: Int[Array, "b n"] | None = None
) -> Float[Array, "b n n"]:
    """How much of each input token is in each token behind the last layer, if attention is all that
    moves them.

    ``A_L ... A_1`` with ``A = 0.5 mean over heads + 0.5 I``, rows scaled to sum 1 (Abnar & Zuidema
    2020).

    Args:
      maps: of self-attention, first layer first.
      segments: of each token; rows and columns of padding, 0, are 0.
    """
    mixed = 0.5 * maps.mean(2) + 0.5 * jnp.eye(maps.shape[-1], dtype=maps.dtype)
    if segments is not None:
        real = segments > 0
        mixed = jnp.where(real[:, :, None] & real[:, None, :], mixed, 0)
    total = mixed.sum(-1, keepdims=True)
    mixed = mixed / jnp.where(total > 0, total, 1)
    exact = jax.lax.Precision.HIGHEST  # rows of the product sum to 1 on every accelerator
    result, _ = jax.lax.scan(
        lambda below, layer: (jnp.matmul(layer, below, precision=exact), None), mixed[0], mixed[1:]
    )
    return result


def over_patches(
    rolled: Float[Array, "b n n"], rows: int, columns: int
) -> Float[Array, "b rows columns"]:
    """What a ViT's features are made of: the class token's row, or without one the mean of all."""
    patches = rows * columns
    if rolled.shape[-1] not in (patches, patches + 1):
        raise ValueError(
            f"{rows} x {columns} patches, with a class token or without, are not "
            f"{rolled.shape[-1]} tokens"
        )
    features = rolled[:, 0, 1:] if rolled.shape[-1] == patches + 1 else rolled.mean(1)
    return features.reshape(-1, rows, columns)
