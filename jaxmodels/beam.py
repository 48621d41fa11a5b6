"""Beam search with an encoder-decoder: token for token and score for score what transformers' ``generate`` finds.

Everything lies in arrays of ``max_len`` places; so there is one compilation for each (batch, length of the sources,
``max_len``, ``beams``). The sources' keys and values are made once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

NOTHING = -1e9
"""Score of a place in a beam that nothing has taken yet."""


class Beams(struct.PyTreeNode):
    """The k best texts for each of b sources: those that go on, and those that have ended.

    Attributes:
      place: number of places that are written, the start token's included.
      tokens, scores: of the texts that go on, the best first; a score is the sum of log probabilities.
      ended_tokens, ended_scores, ended: of those that do not, the best first; a score is divided by length ** penalty.
        ``ended`` is False where there is none yet.
      open: sources for which something better may still come.
      logits: of the next token. cache: keys and values of the layers.
    """

    place: Int[Array, ""]
    tokens: Int[Array, "b k t"]
    scores: Float[Array, "b k"]
    ended_tokens: Int[Array, "b k t"]
    ended_scores: Float[Array, "b k"]
    ended: Bool[Array, "b k"]
    open: Bool[Array, " b"]
    logits: Float[Array, "bk v"]
    cache: Any


def beam_search(
    model: nn.Module,
    variables: Any,
    source: Int[Array, "b n"] | Int[np.ndarray, "b n"],
    source_segments: Int[Array, "b n"] | Int[np.ndarray, "b n"] | None = None,
    *,
    beams: int,
    max_len: int,
    bos: int,
    eos: int,
    length_penalty: float = 1.0,
    forbidden: Sequence[int] = (),
) -> tuple[list[list[int]], list[float]]:
    """The most probable text for each source, as far as a search along ``beams`` texts at a time finds it.

    A text ends with ``eos`` or at ``max_len``, and scores ``log p(text | source) / length ** length_penalty``. A search
    ends when ``beams`` texts have, none worse than the best that goes on would be if it ended where it is. One beam is
    greedy decoding, which ends with the first.

    Args:
      model: called as :class:`jaxmodels.transformer.Transformer`.
      source_segments: 1 for tokens, 0 for padding; None: no padding.
      max_len: places of a text, the start token's included; at most the model's.
      bos: the start token; opus-mt's is its padding token.
      eos: the token that ends a text.
      length_penalty: above 0 prefers long texts (they have lower probabilities, and are divided by more).
      forbidden: tokens that are never written; their probability is not given to others.

    Returns:
      Texts without the start token, ``eos`` included where one was met, and their scores.

    Raises:
      ValueError: lengths, beams or tokens that the model does not have.
    """
    source = np.asarray(source, np.int32)
    _check(model, source, beams, max_len, (bos, eos, *forbidden))
    found = _search(
        variables,
        source,
        np.ones_like(source) if source_segments is None else np.asarray(source_segments, np.int32),
        (bos, eos, np.float32(length_penalty)),
        np.asarray(forbidden, np.int32),
        model=model,
        beams=beams,
        max_len=max_len,
    )
    texts, scores = jax.device_get((found.ended_tokens[:, 0, 1:], found.ended_scores[:, 0]))
    return [text[: text.index(eos) + 1] if eos in text else text for text in texts.tolist()], scores.tolist()


def _check(model: Any, source: np.ndarray, beams: int, max_len: int, tokens: tuple[int, ...]) -> None:
    size = model.target_vocab_size or model.vocab_size
    if not 2 <= max_len <= model.max_len:
        raise ValueError(f"max_len {max_len} must be at least 2, and at most the model's max_len {model.max_len}")
    if not 1 <= beams <= size // 2:
        raise ValueError(f"beams {beams} must be at least 1, and at most half the vocabulary of {size}")
    for token in tokens:
        if not 0 <= token < size:
            raise ValueError(f"token {token} is outside the model's vocabulary of {size}")
    if source.size and not (0 <= source.min() and source.max() < model.vocab_size):
        raise ValueError(
            f"a source has token {source.max()}, outside the model's vocabulary of {model.vocab_size}: "
            "another tokenizer?"
        )


@partial(jax.jit, static_argnames=("model", "beams", "max_len"))
def _search(
    variables: Any,
    source: jax.Array,
    source_segments: jax.Array,
    rules: tuple[Any, Any, Any],
    forbidden: jax.Array,
    *,
    model: Any,
    beams: int,
    max_len: int,
) -> Beams:
    bos, eos, length_penalty = rules
    batch = len(source)
    memory = model.apply(variables, source, source_segments, method="encode")
    memory, source_segments = (repeat(x, "b ... -> (b k) ...", k=beams) for x in (memory, source_segments))
    target_segments = jnp.ones((batch * beams, max_len), jnp.int32)

    def read(tokens: jax.Array, place: Any, cache: Any) -> tuple[jax.Array, Any]:  # logits of the next token, cache
        outputs, changed = model.apply(
            {**variables, **cache},
            tokens,
            memory,
            source_segments,
            target_segments,
            place,
            method="decode",
            mutable=["cache"],
        )
        return outputs.logits[:, 0], dict(changed)

    logits, cache = read(jnp.full((batch * beams, 1), bos, jnp.int32), jnp.zeros((), jnp.int32), {})
    none = jnp.full((batch, beams), NOTHING, logits.dtype)
    tokens = jnp.zeros((batch, beams, max_len), jnp.int32).at[:, :, 0].set(bos)
    start = Beams(
        place=jnp.ones((), jnp.int32),
        tokens=tokens,
        scores=none.at[:, 0].set(0),  # all texts are still the same: one counts
        ended_tokens=tokens,
        ended_scores=none,
        ended=jnp.zeros((batch, beams), bool),
        open=jnp.ones(batch, bool),
        logits=logits,
        cache=cache,
    )

    def step(now: Beams) -> Beams:
        place, vocabulary = now.place, now.logits.shape[-1]
        scores = jax.nn.log_softmax(now.logits).at[:, forbidden].set(-jnp.inf)
        scores = now.scores[:, :, None] + rearrange(scores, "(b k) v -> b k v", k=beams)
        # twice as many as beams: each text ends in one way, so that as many go on
        scores, index = jax.lax.top_k(rearrange(scores, "b k v -> b (k v)"), 2 * beams)
        parent, token = index // vocabulary, (index % vocabulary).astype(jnp.int32)
        texts = _taken(now.tokens, parent).at[:, :, place].set(token)
        ends = (token == eos) | (place + 1 >= max_len)

        running, best = jax.lax.top_k(jnp.where(ends, scores + NOTHING, scores), beams)
        tokens, token, parent = (_taken(x, best) for x in (texts, token, parent))
        rows = rearrange(parent + beams * jnp.arange(batch)[:, None], "b k -> (b k)")
        logits, cache = read(rearrange(token, "b k -> (b k) 1"), place, _of_rows(now.cache, rows))

        length = place.astype(scores.dtype)
        new = ends & (jnp.arange(2 * beams) < beams) & now.open[:, None]
        new_scores = jnp.where(new, scores / length**length_penalty, NOTHING)
        ended_scores, best = jax.lax.top_k(jnp.concatenate([now.ended_scores, new_scores], axis=1), beams)
        ended = _taken(jnp.concatenate([now.ended, new], axis=1), best)
        full = ended.all(1)
        better = running[:, 0] / length**length_penalty > ended_scores[:, -1]
        return Beams(
            place=place + 1,
            tokens=tokens,
            scores=running,
            ended_tokens=_taken(jnp.concatenate([now.ended_tokens, texts], axis=1), best),
            ended_scores=ended_scores,
            ended=ended,
            open=now.open & (~full if beams == 1 else ~full | better),
            logits=logits,
            cache=cache,
        )

    return jax.lax.while_loop(lambda now: now.open.any() & (now.place < max_len), step, start)


def _taken(x: Array, index: Int[Array, "b j"]) -> Array:
    """``x[b, index[b]]`` of [b, k, ...]."""
    return jax.vmap(lambda x, index: x[index])(x, index)


def _of_rows(cache: Any, rows: Int[Array, " bk"]) -> Any:
    """The cache of other rows of the batch; what is of the sources stays, which are the same for all beams."""

    def taken(path: tuple[Any, ...], x: jax.Array) -> jax.Array:  # [layers] b h k d
        same = any(getattr(key, "key", None) == "cross_attention" for key in path)
        return x if same else jnp.take(x, rows, axis=x.ndim - 4)

    return jax.tree_util.tree_map_with_path(taken, cache)
