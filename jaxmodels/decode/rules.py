"""Rules for the processors, as arrays, from settings."""

from collections.abc import Sequence

import numpy as np

from jaxmodels.decode import values
from jaxmodels.decode.processors import ANY, Rules, Sequences
from jaxmodels.decode.settings import GenerationConfig, outside

EVERY = False
"""True keeps rules that do nothing, so that all settings share one compiled program, which is
slower."""

NOWHERE = values.LARGEST
"""Stands for a place that no text reaches, and for a token that no vocabulary has."""


def make_rules(settings: GenerationConfig, *, prompt: int, max_len: int, size: int) -> Rules:
    """The rules of a text.

    Args:
      prompt: places of the prompt, or 1 for a start token; max_len: places of the whole text.
      size: of the vocabulary.

    Raises:
      ValueError: a token outside the vocabulary; a setting that needs an end token, and there is
        none.
    """
    if found := outside(settings, size):
        raise ValueError(
            f"{found[0]} has token {found[1]}, outside the model's vocabulary of {size}"
        )
    least = settings.min_length or 0
    if settings.min_new_tokens is not None:
        least = prompt + settings.min_new_tokens
    begin = prompt + (prompt == 1 and settings.forced_bos is not None)
    single = {word[0]: bias for word, bias in settings.sequence_bias if len(word) == 1}
    several = [(word, bias) for word, bias in settings.sequence_bias if len(word) > 1]
    # an end token alone is no bad word, as in transformers
    forbidden = settings.forbidden
    forbidden = (*forbidden, *(word[0] for word in settings.bad_words if len(word) == 1))
    bad_words = [(word, 0.0) for word in settings.bad_words if len(word) > 1]
    decay = settings.exponential_decay_length_penalty
    if decay is not None and not settings.stop:
        raise ValueError(
            "exponential_decay_length_penalty needs a token that ends a text: set eos_token_id"
        )
    given = Rules(
        single=_tokens([*single]) if settings.sequence_bias else None,
        single_bias=_numbers([*single.values()]) if settings.sequence_bias else None,
        sequences=_sequences(several) if several else None,
        encoder_penalty=_factor(settings.encoder_repetition_penalty, inverse=True),
        penalty=_factor(settings.repetition_penalty),
        ngram=_length(settings.no_repeat_ngram_size),
        encoder_ngram=_length(settings.encoder_no_repeat_ngram_size),
        forbidden=_tokens(forbidden) if forbidden else None,
        bad_words=_sequences(bad_words) if bad_words else None,
        least=np.int32(least) if least and settings.stop else None,
        forced_first=None if settings.forced_bos is None else np.int32(settings.forced_bos),
        forced_last=_tokens(settings.forced_eos) if settings.forced_eos else None,
        valid=np.bool_(True) if settings.remove_invalid_values else None,
        decay=None if decay is None else _decay(decay, prompt, max_len),
        suppressed=_tokens(settings.suppress_tokens) if settings.suppress_tokens else None,
        suppressed_first=_tokens(settings.begin_suppress_tokens)
        if settings.begin_suppress_tokens
        else None,
        normal=np.bool_(True) if settings.renormalize_logits else None,
    )
    if EVERY:
        given = _filled(given, max_len)
    return given.replace(
        stops=_tokens(settings.stop)
        if given.least is not None or given.decay is not None
        else None,
        prompt=np.int32(prompt) if given.of_source else None,
        # at another place nothing is forced
        last=np.int32(max_len - 1 if settings.forced_eos else NOWHERE)
        if given.forced_last is not None
        else None,
        begin=np.int32(begin) if given.suppressed_first is not None else None,
    )


def _filled(rules: Rules, max_len: int) -> Rules:
    """The rules and, for those that are not there, such as do nothing."""
    nothing = Rules(
        single=_tokens(()),
        single_bias=_numbers(()),
        sequences=_sequences([]),
        encoder_penalty=np.float32(1),
        penalty=np.float32(1),
        ngram=np.int32(0),
        encoder_ngram=np.int32(0),
        forbidden=_tokens(()),
        bad_words=_sequences([]),
        least=np.int32(0),
        forced_first=np.int32(NOWHERE),
        forced_last=_tokens(()),
        valid=np.bool_(False),
        decay=np.zeros(max_len, np.float32),
        suppressed=_tokens(()),
        suppressed_first=_tokens(()),
        normal=np.bool_(False),
    )
    there = {name: value for name, value in vars(rules).items() if value is not None}
    return nothing.replace(**there)


def _room(count: int) -> int:
    """To which lists are filled up: few lengths, so that there are few programs."""
    return max(4, 1 << (count - 1).bit_length()) if count else 4


def _tokens(tokens: Sequence[int]) -> np.ndarray:
    return np.array([*tokens, *[NOWHERE] * (_room(len(tokens)) - len(tokens))], np.int32)


def _numbers(numbers: Sequence[float]) -> np.ndarray:
    return np.array([*numbers, *[0.0] * (_room(len(numbers)) - len(numbers))], np.float32)


def _sequences(pairs: Sequence[tuple[tuple[int, ...], float]]) -> Sequences:
    pairs = sorted(pairs, key=lambda pair: len(pair[0]))
    length = _room(max((len(word) - 1 for word, _ in pairs), default=1))
    prefix = np.full((_room(len(pairs)), length), ANY, np.int32)
    for row, (word, _) in zip(prefix, pairs, strict=False):
        row[length - len(word) + 1 :] = word[:-1]
    return Sequences(
        prefix, _tokens([word[-1] for word, _ in pairs]), _numbers([bias for _, bias in pairs])
    )


def _factor(penalty: float | None, *, inverse: bool = False) -> np.float32 | None:
    if penalty is None or penalty == 1:
        return None
    return np.float32(1 / penalty if inverse else penalty)


def _length(ngram: int | None) -> np.int32 | None:
    return np.int32(ngram) if ngram else None


def _decay(decay: tuple[int, float], prompt: int, max_len: int) -> np.ndarray:
    """By how much of itself the score of an end grows, for each place."""
    start, factor = decay
    steps = np.maximum(np.arange(max_len) - prompt - start, 0)
    with np.errstate(over="ignore"):
        grown = (np.float64(factor) ** steps - 1).astype(np.float32)
    if not np.isfinite(grown).all():
        raise ValueError(
            f"exponential_decay_length_penalty {values.cut(decay)} has a factor whose powers are "
            f"infinite within {max_len} tokens: lower it"
        )
    return grown
