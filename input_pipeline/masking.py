"""Masking of tokens for BERT's pretraining (Devlin et al. 2019, section 3.1), on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


def mask_tokens(
    key: PRNGKeyArray,
    tokens: Int[Array, " l"],
    maskable: Bool[Array, " l"],
    *,
    rate: float,
    mask_token: int,
    vocab_size: int,
) -> tuple[Int[Array, " l"], Int[Array, " k"], Int[Array, " k"], Float[Array, " k"]]:
    """Hides some of the tokens of one text.

    Of the places that may be masked, the share ``rate`` (at least one, if there is one) is drawn.
    Of these, 80% become the mask token, 10% a random token and 10% stay as they are.

    Args:
        key: of the draws.
        maskable: which places may be drawn.
        rate: of the places; k is this share of l, rounded.
        mask_token: its number.
        vocab_size: random tokens are below it.

    Returns:
        The tokens as the model gets them; the places that are to be predicted, what stood there,
        and 1 for each of them, 0 for those that only fill up k.
    """
    most = max(1, round(rate * len(tokens)))
    key_place, key_kind, key_token = jax.random.split(key, 3)
    score = jnp.where(maskable, jax.random.uniform(key_place, tokens.shape), -1.0)
    score, places = jax.lax.top_k(score, most)
    count = jnp.clip(jnp.round(rate * maskable.sum()), 1, most)
    drawn = (jnp.arange(most) < count) & (score >= 0)
    target = tokens[places]
    kind = jax.random.uniform(key_kind, (most,))
    random = jax.random.randint(key_token, (most,), 0, vocab_size, tokens.dtype)
    hidden = jnp.where(kind < 0.8, mask_token, jnp.where(kind < 0.9, random, target))
    tokens = tokens.at[places].set(jnp.where(drawn, hidden, target))
    return tokens, places, target, drawn.astype(jnp.float32)
