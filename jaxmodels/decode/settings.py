"""Settings of generation: all of transformers' ``GenerationConfig`` that change a text."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxmodels.decode import values
from jaxmodels.decode.sampling import GREEDY, Sampling
from jaxmodels.decode.values import Check

NEW_TOKENS = 20
"""Tokens that are written where no length is set, as in transformers."""

TOP_K = 50
"""``top_k`` of a sampled text where none is set, as in transformers."""

MOST_BEAMS = 1024

Number = int | float
Tokens = tuple[int, ...] | list[int]

CHECKS: dict[str, Check] = {
    "start": values.token,
    "bos": values.token,
    "pad": values.whole(-1),  # -1 in some files: none
    "stop": values.token_or_tokens,
    "forbidden": values.tokens,
    "bad_words": values.words,
    "beams": values.whole(1, MOST_BEAMS),
    "length_penalty": values.number(-100, 100),
    "early_stopping": values.early,
    "num_return_sequences": values.whole(1, MOST_BEAMS),
    "max_length": values.whole(1),
    "max_new_tokens": values.whole(1),
    "min_length": values.whole(0),
    "min_new_tokens": values.whole(0),
    "do_sample": values.flag,
    "temperature": values.number(0, values.NORMAL[1]),
    "top_k": values.whole(0),
    "top_p": values.number(0, 1),
    "min_p": values.number(0, 1),
    "top_h": values.number(0, 1, above=True),
    "typical_p": values.number(0, 1, above=True),
    "epsilon_cutoff": values.number(0, 1),
    "eta_cutoff": values.number(0, 1),
    "repetition_penalty": values.factor,
    "encoder_repetition_penalty": values.factor,
    "no_repeat_ngram_size": values.whole(0),
    "encoder_no_repeat_ngram_size": values.whole(0),
    "forced_bos": values.token,
    "forced_eos": values.token_or_tokens,
    "suppress_tokens": values.tokens,
    "begin_suppress_tokens": values.tokens,
    "sequence_bias": values.biases,
    "exponential_decay_length_penalty": values.decay,
    "remove_invalid_values": values.flag,
    "renormalize_logits": values.flag,
}
"""Field -> its check."""


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of generation. None and () say nothing: then transformers' defaults hold.

    Lists become tuples, and whole numbers floats where these are meant.
    ``decode.generate.generate`` and ``decode.beam.beam_search`` take it as ``settings``;
    ``weights.generation_config`` reads it from a directory.

    Attributes:
      start: the token that a decoder begins with; bos: that a text without a prompt begins with.
      stop: tokens that end a text. They may lie outside the vocabulary: such a one is never
        written. pad: of padding.
      forbidden: tokens that are never written; bad_words: several tokens that are never written in
        this order.
      beams: texts of a beam search; 1 is greedy, or sampling.
      length_penalty, early_stopping: of a beam search. ``early_stopping`` True ends a search with
        as many texts as beams; "never" only when none can become better; False when the best that
        goes on is worse where it is.
      num_return_sequences: texts for each prompt or source.
      max_length: tokens of a text, its prompt or start token counted; max_new_tokens: without them,
        goes before it.
      min_length, min_new_tokens: the same, before which a text does not end.
      do_sample: draw tokens instead of taking the most probable.
      temperature, top_k, top_p, min_p, top_h, typical_p, epsilon_cutoff, eta_cutoff: of the draws;
        see :class:`jaxmodels.decode.sampling.Sampling`.
      repetition_penalty: see :class:`jaxmodels.decode.sampling.Sampling`.
        encoder_repetition_penalty: the same for tokens of the source or prompt, turned round: above
          1 prefers them.
      no_repeat_ngram_size: no tokens of this number in a row come twice;
        encoder_no_repeat_ngram_size: nor from the source or prompt.
      forced_bos: the first token after a single one; forced_eos: the last token at the full length.
      suppress_tokens: never written; begin_suppress_tokens: not as the first token.
      sequence_bias: pairs of tokens in a row and a number, which is added to the score of the last
        of them.
      exponential_decay_length_penalty: from so many tokens on the end's score grows by powers of
        the factor.
      remove_invalid_values: NaN and infinite scores become finite.
      renormalize_logits: scores become log probabilities behind all processors.
    """

    start: int | None = None
    bos: int | None = None
    pad: int | None = None
    stop: int | Tokens = ()
    forbidden: Tokens = ()
    bad_words: Sequence[Tokens] = ()
    beams: int | None = None
    length_penalty: Number | None = None
    early_stopping: bool | str | None = None
    num_return_sequences: int | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: Number | None = None
    top_k: int | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    top_h: Number | None = None
    typical_p: Number | None = None
    epsilon_cutoff: Number | None = None
    eta_cutoff: Number | None = None
    repetition_penalty: Number | None = None
    encoder_repetition_penalty: Number | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    forced_bos: int | None = None
    forced_eos: int | Tokens = ()
    suppress_tokens: Tokens = ()
    begin_suppress_tokens: Tokens = ()
    sequence_bias: Sequence[Sequence[Any]] = ()
    exponential_decay_length_penalty: Sequence[Number] | None = None
    remove_invalid_values: bool | None = None
    renormalize_logits: bool | None = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                object.__setattr__(self, field.name, CHECKS[field.name](field.name, value))
            elif field.default == ():
                object.__setattr__(self, field.name, ())
        for name in ("forced_bos", "forced_eos"):
            value = getattr(self, name)
            forced = {value} if isinstance(value, int) else {*(value or ())}
            if forced and forced <= {*self.suppress_tokens}:
                raise ValueError(
                    f"{name} {values.cut(value)} is in suppress_tokens too: no token would be left"
                )


def places(settings: GenerationConfig, prompt: int, most: int) -> int:
    """Places of a text, those of its ``prompt`` (or start token) counted; at most ``most``, as the
    model has."""
    wanted = settings.max_length
    if settings.max_new_tokens is not None:
        wanted = prompt + settings.max_new_tokens
    return min(most, prompt + NEW_TOKENS if wanted is None else wanted)


def says_length(settings: GenerationConfig) -> bool:
    """True if there is a greatest length."""
    return settings.max_length is not None or settings.max_new_tokens is not None


def sampling(settings: GenerationConfig, beams: int = 1) -> Sampling:
    """The draw of the next token; :data:`GREEDY` without one.

    Args:
      beams: with several, as many tokens are kept as there are ends, and one more.
    """
    if not settings.do_sample:
        return GREEDY
    given = {
        name: getattr(settings, name)
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "top_h",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
        )
    }
    if given["top_p"] == 0:  # the most probable token alone
        given["top_p"] = values.NORMAL[0]
    given["top_k"] = TOP_K if settings.top_k is None else settings.top_k
    keep = 1 if beams == 1 else max(1, len(settings.stop)) + 1
    return Sampling(
        **{name: value for name, value in given.items() if value is not None}, keep=keep
    )


def outside(settings: GenerationConfig, size: int) -> tuple[str, int] | None:
    """A field that names a token outside a vocabulary of ``size``, and the token; None: there is
    none.

    The start token is the caller's to check. Tokens that end texts or stand before them may lie
    outside: transformers' own defaults do for small vocabularies.
    """
    named: dict[str, Any] = {
        "forced_bos": () if settings.forced_bos is None else (settings.forced_bos,),
        "bad_words": [token for word in settings.bad_words for token in word],
        "sequence_bias": [token for word, _ in settings.sequence_bias for token in word],
    }
    named |= {
        name: getattr(settings, name) for name in ("forbidden", "forced_eos", "suppress_tokens")
    }
    named["begin_suppress_tokens"] = settings.begin_suppress_tokens
    for name, tokens in named.items():
        for token in tokens:
            if token >= size:
                return name, token
    return None
