"""Beam search with an encoder-decoder: token for token and score for score what transformers'
``generate`` finds.

Everything lies in arrays of ``max_len`` places; so there is one compilation for each (batch, length
of the sources, ``max_len``, ``beams``, kinds of rules, number of end tokens, sampling). The
sources' keys and values are made once.
"""

import dataclasses
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

from jaxmodels.decode import settings as decoding
from jaxmodels.decode.processors import Rules, Written, normalised, process
from jaxmodels.decode.rules import make_rules
from jaxmodels.decode.sampling import Sampling, warped
from jaxmodels.decode.settings import GenerationConfig
from jaxmodels.families.transformer.model import Transformer
from jaxmodels.nn.cpu import argmax

NOTHING = -1e9
"""Score of a place in a beam that nothing has taken yet."""

EARLY = {False: 0, True: 1, "never": 2}
"""``early_stopping``, as numbers."""


class Beams(struct.PyTreeNode):
    """The k best texts for each of b sources: those that go on, and those that have ended.

    Attributes:
      place: number of places that are written, the start token's included.
      tokens, scores: of the texts that go on, the best first; a score is the sum of log
        probabilities.
      ended_tokens, ended_scores, ended: of those that do not, the best first; a score is divided by
        length ** penalty. ``ended`` is False where there is none yet.
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
    beams: int | None = None,
    max_len: int | None = None,
    bos: int | None = None,
    eos: int | Sequence[int] | None = None,
    length_penalty: float | None = None,
    forbidden: Sequence[int] = (),
    settings: GenerationConfig | None = None,
    seed: int = 0,
) -> tuple[list[list[int]], list[float]]:
    """The most probable text for each source, as far as a search along ``beams`` texts at a time
    finds it.

    A text ends with ``eos`` or at ``max_len``, and scores
    ``log p(text | source) / length ** length_penalty``. A search ends when ``beams`` texts have,
    none worse than the best that goes on would be if it ended where it is (``early_stopping`` of
    the settings changes that). One beam is greedy decoding, or drawing, and ends with its text.

    With ``settings=weights.generation_config(directory)`` texts are those of transformers'
    ``generate``.

    Args:
      model: called as :class:`jaxmodels.families.transformer.model.Transformer`.
      source_segments: 1 for tokens, 0 for padding; None: no padding.
      beams: default: as the settings say, or 1.
      max_len: places of a text, the start token's included; at most the model's. Default: as the
        settings say, or 21.
      bos: the start token; opus-mt's is its padding token. Default: as the settings say.
      eos: the token that ends a text, or several. Default: as the settings say.
      length_penalty: above 0 prefers long texts (they have lower probabilities, and are divided by
        more). Default: as the settings say, or 1.
      forbidden: tokens that are never written; their probability is not given to others. Default:
        as the settings say.
      settings: all else. The other arguments go over it.
      seed: of the draws, if the settings say ``do_sample``.

    Returns:
      Texts without the start token, ``eos`` included where one was met, and their scores; with
      ``num_return_sequences`` so many for each source, the best first, one source after the other.

    Raises:
      ValueError: another model; lengths, beams or tokens that the model does not have; settings
        that do not fit.
    """
    if not isinstance(model, Transformer):
        raise ValueError(
            f"a {type(model).__name__} has no encoder, and a beam search needs one (Transformer); "
            "language models write by jaxmodels.decode.generate.generate"
        )
    source, size = np.asarray(source), model.target_vocab_size or model.vocab_size
    ends = (
        ()
        if eos is None
        else (int(eos),)
        if isinstance(eos, int | np.integer)
        else tuple(map(int, eos))
    )
    _check(model, source, beams, max_len, [*ends, *forbidden, *(() if bos is None else (bos,))])
    given: dict[str, Any] = {"beams": beams, "start": bos, "length_penalty": length_penalty}
    given |= {
        "stop": ends if eos is not None else None,
        "forbidden": tuple(map(int, forbidden)) or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if settings is None and (max_len is None or not {"beams", "start", "stop"} <= {*given}):
        raise ValueError("beams, max_len, bos and eos must all be given where no settings are")
    said = dataclasses.replace(settings or GenerationConfig(), **given)
    beams, count = said.beams or 1, said.num_return_sequences or 1
    max_len = decoding.places(said, 1, model.max_len) if max_len is None else max_len
    if said.start is None:
        raise ValueError(
            "neither bos nor the settings (decoder_start_token_id) say with which token a text "
            "starts"
        )
    _check(model, source, beams, max_len, [said.start])
    drawn = decoding.sampling(said, beams) if said.do_sample else None
    if drawn and drawn.greedy:
        drawn = None
    if count > 1 and count > (beams if beams > 1 or not drawn else count):
        raise ValueError(
            f"num_return_sequences {count} is above the {beams} beams, of which so many texts come"
        )
    rules = make_rules(said, prompt=1, max_len=max_len, size=size)
    source = source.astype(np.int32)
    segments = (
        np.ones_like(source) if source_segments is None else np.asarray(source_segments, np.int32)
    )
    if beams == 1 and count > 1:  # each is a draw of its own
        source, segments = (np.repeat(x, count, axis=0) for x in (source, segments))
    penalty = 1.0 if said.length_penalty is None else said.length_penalty
    found = _search(
        variables,
        source,
        segments,
        (
            np.int32(said.start),
            np.array(said.stop, np.int32),
            np.float32(penalty),
            np.int32(EARLY[said.early_stopping or False]),
        ),
        rules,
        jax.random.key(seed),
        model=model,
        beams=beams,
        max_len=max_len,
        sampling=drawn,
    )
    best = 1 if beams == 1 else count
    tokens, scores, ended = jax.device_get(
        (found.ended_tokens[:, :best, 1:], found.ended_scores[:, :best], found.ended[:, :best])
    )
    texts = [
        _until(text, said.stop) if there else []
        for text, there in zip(
            rearrange(tokens, "b k t -> (b k) t").tolist(), ended.flatten().tolist(), strict=True
        )
    ]
    return texts, scores.flatten().tolist()


def _until(text: list[int], stop: Sequence[int]) -> list[int]:
    """A text up to the first token that ends it."""
    return text[: next((i + 1 for i, token in enumerate(text) if token in stop), len(text))]


def _check(
    model: Any, source: np.ndarray, beams: int | None, max_len: int | None, tokens: Sequence[int]
) -> None:
    size = model.target_vocab_size or model.vocab_size
    if max_len is not None and not 2 <= max_len <= model.max_len:
        raise ValueError(
            f"max_len {max_len} must be at least 2, and at most the model's max_len {model.max_len}"
        )
    if beams is not None and not 1 <= beams <= size // 2:
        raise ValueError(
            f"beams {beams} must be at least 1, and at most half the vocabulary of {size}"
        )
    for token in tokens:
        if not 0 <= token < size:
            raise ValueError(f"token {token} is outside the model's vocabulary of {size}")
    if source.dtype.kind not in "iu":
        raise ValueError(f"a source is of {source.dtype}, and tokens are whole numbers")
    wrong = source[(source < 0) | (source >= model.vocab_size)]
    if wrong.size:
        raise ValueError(
            f"a source has token {wrong[0]}, outside the model's vocabulary of {model.vocab_size}: "
            "another tokenizer?"
        )


@partial(jax.jit, static_argnames=("model", "beams", "max_len", "sampling"))
def _search(
    variables: Any,
    source: jax.Array,
    source_segments: jax.Array,
    ends: tuple[Any, Any, Any, Any],
    rules: Rules,
    key: jax.Array,
    *,
    model: Any,
    beams: int,
    max_len: int,
    sampling: Sampling | None,
) -> Beams:
    """Args: ``ends`` are start token, end tokens [e], length penalty, and when a search ends
    (:data:`EARLY`)."""
    bos, stops, length_penalty, early = ends
    batch = len(source)
    memory = model.apply(variables, source, source_segments, method="encode")
    memory, segments = (repeat(x, "b ... -> (b k) ...", k=beams) for x in (memory, source_segments))
    target_segments = jnp.ones((batch * beams, max_len), jnp.int32)
    first = jnp.zeros(batch * beams, jnp.int32)
    of_source = (repeat(source, "b n -> (b k) n", k=beams), segments > 0) if rules.of_source else ()

    # logits of the next token, cache
    def read(tokens: jax.Array, place: Any, cache: Any) -> tuple[jax.Array, Any]:
        outputs, changed = model.apply(
            {**variables, **cache},
            tokens,
            memory,
            segments,
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

    def processed(scores: jax.Array, now: Beams) -> jax.Array:
        written = Written(rearrange(now.tokens, "b k t -> (b k) t"), first, now.place, *of_source)
        scores = process(rules, scores, written)
        return normalised(rules, scores if sampling is None else warped(scores, sampling))

    # scores, parent and token [b, j]
    def candidates(now: Beams) -> tuple[jax.Array, jax.Array, jax.Array]:
        if beams == 1:  # the logits are processed, and the score is the model's
            scores, logp = processed(now.logits, now), jax.nn.log_softmax(now.logits)
            token = (
                argmax(scores)
                if sampling is None
                else jax.random.categorical(_key(key, now), scores)
            )
            token = token.astype(jnp.int32)[:, None]
            return (
                now.scores + jnp.take_along_axis(logp, token, axis=1),
                jnp.zeros_like(token),
                token,
            )
        scores = processed(jax.nn.log_softmax(now.logits), now)
        scores = now.scores[:, :, None] + rearrange(scores, "(b k) v -> b k v", k=beams)
        vocabulary = scores.shape[-1]
        scores = rearrange(scores, "b k v -> b (k v)")
        # of each text as many end as there are end tokens, so that as many go on
        count = beams * max(2, 1 + len(stops))
        if sampling is None:
            scores, index = jax.lax.top_k(scores, count)
        else:
            # draws without replacement (Kool et al. 2019, arXiv:1903.06059), the first drawn first
            index = jax.lax.top_k(
                scores + jax.random.gumbel(_key(key, now), scores.shape, scores.dtype), count
            )[1]
            scores = jnp.take_along_axis(scores, index, axis=1)
        return scores, index // vocabulary, (index % vocabulary).astype(jnp.int32)

    def step(now: Beams) -> Beams:
        place = now.place
        scores, parent, token = candidates(now)
        texts = _taken(now.tokens, parent).at[:, :, place].set(token)
        ends = jnp.isin(token, stops) | (place + 1 >= max_len)

        running, best = jax.lax.top_k(jnp.where(ends, scores + NOTHING, scores), beams)
        tokens, token, parent = (_taken(x, best) for x in (texts, token, parent))
        rows = rearrange(parent + beams * jnp.arange(batch)[:, None], "b k -> (b k)")
        logits, cache = read(rearrange(token, "b k -> (b k) 1"), place, _of_rows(now.cache, rows))

        length = place.astype(scores.dtype)
        new = ends & (jnp.arange(scores.shape[1]) < beams) & now.open[:, None]
        new_scores = jnp.where(new, scores / length**length_penalty, NOTHING)
        ended_scores, best = jax.lax.top_k(
            jnp.concatenate([now.ended_scores, new_scores], axis=1), beams
        )
        ended = _taken(jnp.concatenate([now.ended, new], axis=1), best)
        full = ended.all(1)
        # with "never" the best that goes on may still be as good as it would be at its full length
        hoped = jnp.where(
            (early == EARLY["never"]) & (length_penalty > 0), max_len - 1, place
        ).astype(scores.dtype)
        better = running[:, 0] / hoped**length_penalty > ended_scores[:, -1]
        goes_on = ~full if beams == 1 else ~full | (better & (early != EARLY[True]))
        return Beams(
            place=place + 1,
            tokens=tokens,
            scores=running,
            ended_tokens=_taken(jnp.concatenate([now.ended_tokens, texts], axis=1), best),
            ended_scores=ended_scores,
            ended=ended,
            open=now.open & goes_on,
            logits=logits,
            cache=cache,
        )

    return jax.lax.while_loop(lambda now: now.open.any() & (now.place < max_len), step, start)


def _key(key: jax.Array, now: Beams) -> jax.Array:
    """The key of the draws at a place."""
    return jax.random.fold_in(key, now.place)


def _taken(x: Array, index: Int[Array, "b j"]) -> Array:
    """``x[b, index[b]]`` of [b, k, ...]."""
    return jax.vmap(lambda x, index: x[index])(x, index)


def _of_rows(cache: Any, rows: Int[Array, " bk"]) -> Any:
    """The cache of other rows of the batch; what is of the sources stays, which are the same for
    all beams."""

    def taken(path: tuple[Any, ...], x: jax.Array) -> jax.Array:  # [layers] b h k d
        same = any(getattr(key, "key", None) == "cross_attention" for key in path)
        return x if same else jnp.take(x, rows, axis=x.ndim - 4)

    return jax.tree_util.tree_map_with_path(taken, cache)
