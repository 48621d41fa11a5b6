"""Spans of texts in the place of whole ones, in training, on the device.

A teacher that labels spans of a few thousand sentences shows a student more than the sentences do;
Jiao et al. 2020 (TinyBERT, arXiv:1909.10351, section 3.2) replace words to the same end.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

SHORTEST = 0.15
"""Share of a text's tokens that a span has at least."""


def crop_text(
    key: PRNGKeyArray,
    tokens: Int[Array, " l"],
    segments: Int[Array, " l"],
    ordinary: Bool[Array, " l"],
    *,
    rate: float,
) -> tuple[Int[Array, " l"], Int[Array, " l"]]:
    """One text, or with probability ``rate`` a span of it: of its tokens a share drawn from
    :data:`SHORTEST` to 1.

    Args:
        key: of the draws.
        ordinary: which tokens stand for text; the others, such as those around it, all stay.

    Returns:
        Tokens and segments, moved together to the left; 0 behind.
    """
    key_rate, key_share, key_start = jax.random.split(key, 3)
    count = ordinary.sum()
    share = jax.random.uniform(key_share, minval=SHORTEST)
    kept = jnp.where(jax.random.uniform(key_rate) < rate, jnp.ceil(share * count), count).astype(
        jnp.int32
    )
    first = jax.random.randint(key_start, (), 0, count - kept + 1)
    place = jnp.cumsum(ordinary) - 1  # of each among those
    stays = (segments > 0) & (~ordinary | ((place >= first) & (place < first + kept)))
    order = jnp.argsort(~stays, stable=True)
    return tuple(jnp.where(stays, x, 0)[order] for x in (tokens, segments))
