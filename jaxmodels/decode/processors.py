"""Changes of scores before a token is chosen: pure functions, in the order of transformers.

Each takes the rules, scores [r, v] of the next token of r texts, and what is written; without its
rule it gives the scores back, and nothing of it is compiled. In a beam search scores are log
probabilities, else logits.

Parity reference: ``transformers.generation.logits_process``. Deliberate difference: padding counts
as no token of a prompt or source, so that a text does not depend on its batch. In transformers it
does for n-grams and for the two settings of the encoder's tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

ANY = -2
"""In a prefix: whatever token there is. A text has -1 before its first."""


class Written(NamedTuple):
    """The texts so far, when the next token is chosen.

    Attributes:
      tokens: [r, t]; from ``place`` on there is nothing yet. first: [r], place of a text's first
        token.
      place: how many places are written, padding at the left included.
      source, in_source: [r, n] tokens of the source or prompt, and where they are real; None where
        no rule asks.
    """

    tokens: jax.Array
    first: jax.Array
    place: jax.Array
    source: jax.Array | None = None
    in_source: jax.Array | None = None


class Sequences(struct.PyTreeNode):
    """Several tokens in a row: prefix [m, p] ends before ``last`` [m], is filled up with ANY at the
    left; bias [m].

    A ``last`` outside the vocabulary stands for nothing.
    """

    prefix: Any
    last: Any
    bias: Any


class Rules(struct.PyTreeNode):
    """The processors as arrays; None does nothing. Equal kinds of rules are one compiled program.

    Attributes:
      stops: [e] tokens that end a text.
      prompt: places of the prompt, where it is the source.
      single, single_bias: [n] tokens and what is added to their scores; sequences: the same behind
        others.
      encoder_penalty: one over encoder_repetition_penalty; penalty: repetition_penalty.
      ngram, encoder_ngram: lengths; 0 does nothing.
      forbidden: [n] tokens; bad_words: tokens behind others.
      least: place before which a text does not end.
      forced_first: token, or -1; forced_last: [n] tokens at place ``last``.
      valid: whether scores that are not finite are replaced.
      decay: [t] for each place, by how much of itself the score of the end grows.
      suppressed: [n] tokens; suppressed_first: [n] tokens at place ``begin``.
      normal: whether scores are normalised at the end.
    """

    stops: Any = None
    prompt: Any = None
    single: Any = None
    single_bias: Any = None
    sequences: Sequences | None = None
    encoder_penalty: Any = None
    penalty: Any = None
    ngram: Any = None
    encoder_ngram: Any = None
    forbidden: Any = None
    bad_words: Sequences | None = None
    least: Any = None
    forced_first: Any = None
    forced_last: Any = None
    last: Any = None
    valid: Any = None
    decay: Any = None
    suppressed: Any = None
    suppressed_first: Any = None
    begin: Any = None
    normal: Any = None

    @property
    def of_source(self) -> bool:
        """Tells if a rule asks for the source."""
        return self.encoder_penalty is not None or self.encoder_ngram is not None


def process(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    """Scores behind all processors; draws and :func:`normalised` come after."""
    for processor in PROCESSORS:
        scores = processor(rules, scores, written)
    return scores


def normalised(rules: Rules, scores: jax.Array) -> jax.Array:
    """Log probabilities, if the rules say so."""
    return (
        scores
        if rules.normal is None
        else jnp.where(rules.normal, jax.nn.log_softmax(scores), scores)
    )


def _put(scores: jax.Array, tokens: jax.Array, value: Any) -> jax.Array:
    """A value for tokens [n] of every row; those outside the vocabulary are left out."""
    return scores.at[:, tokens].set(value, mode="drop")


def _rows(scores: jax.Array) -> jax.Array:
    return jnp.arange(len(scores))[:, None]


def _real(written: Written) -> jax.Array:
    index = jnp.arange(written.tokens.shape[1])
    return (index >= written.first[:, None]) & (index < written.place)


def _matches(sequences: Sequences, written: Written) -> jax.Array:
    """[r, m]: which prefixes the texts end with."""
    length = sequences.prefix.shape[1]
    index = written.place - length + jnp.arange(length)
    recent = jnp.take(written.tokens, jnp.clip(index, 0), axis=1)
    recent = jnp.where(index >= written.first[:, None], recent, -1)[:, None]
    return ((sequences.prefix == ANY) | (sequences.prefix == recent)).all(-1)


def _sequence_bias(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.single is None:
        return scores
    bias = (
        jnp.zeros_like(scores)
        .at[:, rules.single]
        .set(rules.single_bias.astype(scores.dtype), mode="drop")
    )
    if rules.sequences is not None:
        added = jnp.where(
            _matches(rules.sequences, written), rules.sequences.bias.astype(scores.dtype), 0
        )
        bias = bias.at[:, rules.sequences.last].add(added, mode="drop")
    return scores + bias


def _penalised(
    scores: jax.Array, tokens: jax.Array, real: jax.Array, penalty: jax.Array
) -> jax.Array:
    penalty = penalty.astype(scores.dtype)
    own = jnp.take_along_axis(scores, tokens, axis=1)
    own = jnp.where(own < 0, own * penalty, own / penalty)
    return scores.at[_rows(scores), jnp.where(real, tokens, scores.shape[1])].set(own, mode="drop")


def _encoder_repetition(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.encoder_penalty is None:
        return scores
    return _penalised(scores, written.source, written.in_source, rules.encoder_penalty)


def _repetition(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.penalty is None:
        return scores
    return _penalised(scores, written.tokens, _real(written), rules.penalty)


def _ngrams(
    scores: jax.Array, written: Written, texts: jax.Array, real: jax.Array, length: jax.Array
) -> jax.Array:
    """-inf for tokens that end an n-gram of ``texts`` whose others the texts end with; length 0
    does nothing."""
    before = jnp.maximum(length - 1, 0)
    whole = real & jnp.roll(real, before, axis=1) & (jnp.arange(texts.shape[1]) >= before)
    whole &= (written.place - written.first[:, None] >= before) & (length > 0)

    def same(i: jax.Array, matches: jax.Array) -> jax.Array:
        own = jnp.take(written.tokens, jnp.maximum(written.place - i, 0), axis=1)
        return matches & (jnp.roll(texts, i, axis=1) == own[:, None])

    matches = jax.lax.fori_loop(1, length, same, whole)
    return scores.at[_rows(scores), jnp.where(matches, texts, scores.shape[1])].set(
        -jnp.inf, mode="drop"
    )


def _no_repeat(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.ngram is None:
        return scores
    return _ngrams(scores, written, written.tokens, _real(written), rules.ngram)


def _encoder_no_repeat(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.encoder_ngram is None:
        return scores
    return _ngrams(scores, written, written.source, written.in_source, rules.encoder_ngram)


def _bad_words(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.forbidden is not None:
        scores = _put(scores, rules.forbidden, -jnp.inf)
    if rules.bad_words is None:
        return scores
    last = jnp.where(_matches(rules.bad_words, written), rules.bad_words.last, scores.shape[1])
    return scores.at[_rows(scores), last].set(-jnp.inf, mode="drop")


def _least(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.least is None:
        return scores
    return jnp.where(written.place < rules.least, _put(scores, rules.stops, -jnp.inf), scores)


def _forced_first(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.forced_first is None:
        return scores
    forced = _put(jnp.full_like(scores, -jnp.inf), rules.forced_first[None], 0)
    return jnp.where((written.place == 1) & (rules.forced_first < scores.shape[1]), forced, scores)


def _forced_last(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.forced_last is None:
        return scores
    forced = _put(jnp.full_like(scores, -jnp.inf), rules.forced_last, 0)
    return jnp.where(written.place == rules.last, forced, scores)


def _valid(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.valid is None:
        return scores
    limits = jnp.finfo(scores.dtype)
    finite = jnp.nan_to_num(scores, nan=0.0, posinf=limits.max, neginf=limits.min)
    return jnp.where(rules.valid, finite, scores)


def _decay(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.decay is None:
        return scores
    own = jnp.take(scores, rules.stops, axis=1, mode="clip")
    grown = own + jnp.where(
        jnp.isfinite(own), jnp.abs(own) * rules.decay[written.place].astype(scores.dtype), 0
    )
    return scores.at[:, rules.stops].set(grown, mode="drop")


def _suppressed(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    return scores if rules.suppressed is None else _put(scores, rules.suppressed, -jnp.inf)


def _suppressed_first(rules: Rules, scores: jax.Array, written: Written) -> jax.Array:
    if rules.suppressed_first is None:
        return scores
    return jnp.where(
        written.place == rules.begin, _put(scores, rules.suppressed_first, -jnp.inf), scores
    )


PROCESSORS = (
    _sequence_bias,
    _encoder_repetition,
    _repetition,
    _no_repeat,
    _encoder_no_repeat,
    _bad_words,
    _least,
    _forced_first,
    _forced_last,
    _valid,
    _decay,
    _suppressed,
    _suppressed_first,
)
"""In transformers' order."""
