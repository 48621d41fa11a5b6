"""Text from a causal language model, with cached keys and values.

Prompts are padded at the left to the longest of them, and everything lies in arrays of ``max_len``
places; so there is one compilation for each (batch, ``max_len``, :class:`Sampling`, kinds of rules,
number of stop tokens), whatever the prompts' lengths (of two programs: one draws the first token),
and a shorter one, of what reads the prompts, for each multiple of :data:`READ` that they reach.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Int

from jaxmodels.decode import settings as decoding
from jaxmodels.decode.processors import Rules, Written, normalised, process
from jaxmodels.decode.rules import make_rules
from jaxmodels.decode.sampling import GREEDY, Sampling, draw, kept
from jaxmodels.decode.settings import GenerationConfig
from jaxmodels.families.gpt2.model import GPT2

CHUNK = 16
"""Tokens between two looks at what is there: a smaller number streams more smoothly and is
slower."""

READ = 64
"""Prompts are read up to a multiple of this many tokens."""


class Text(struct.PyTreeNode):
    """Texts that are being written.

    Attributes:
      tokens: [b, max_len], prompts padded at the left; from ``place`` on there is nothing yet.
      segments: 0 at the left padding, else 1.
      place: number of places that are written.
      done: texts that have met a stop token; they go on with it.
      cache: keys and values of the layers, of all that is written but the last token.
    """

    tokens: Int[Array, "b t"]
    segments: Int[Array, "b t"]
    place: Int[Array, ""]
    done: Bool[Array, " b"]
    cache: Any


def generate(
    model: nn.Module,
    variables: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_len: int | None = None,
    sampling: Sampling | None = None,
    stop: Sequence[int] | None = None,
    seed: int = 0,
    on_tokens: Callable[[list[list[int]]], bool | None] = lambda texts: None,
    first_only: bool = False,
    settings: GenerationConfig | None = None,
) -> list[list[int]]:
    """Continues prompts.

    Args:
      model: called as :class:`jaxmodels.families.gpt2.model.GPT2`.
      prompts: tokens of each, at least one.
      max_len: places of the longest prompt and its continuation together; at most the model's.
        Default: as the settings say, or 20 tokens more than the longest prompt.
      sampling: how tokens are drawn; default: as the settings say, without them :data:`GREEDY`.
      stop: tokens after which a text ends; default: as the settings say.
      seed: of the draws.
      on_tokens: told of the first token and then every few tokens of all that is written so far;
        True ends it there.
      first_only: write no more than the first few tokens, for instance to compile.
      settings: all else, as ``weights.generation_config(directory)`` gives it. The other arguments
        go over it.

    Returns:
      The continuations, a stop token included where one was met; with ``num_return_sequences`` so
      many for each prompt, one after the other.

    Raises:
      ValueError: an empty prompt, one that leaves no place, a token outside the vocabulary;
        settings that do not fit.
    """
    said = GenerationConfig() if settings is None else settings
    if stop is not None:
        said = dataclasses.replace(said, stop=tuple(map(int, stop)))
    if sampling is None:
        sampling = decoding.sampling(said)
    else:
        penalty = sampling.repetition_penalty
        said = dataclasses.replace(
            said, repetition_penalty=said.repetition_penalty if penalty == 1 else penalty
        )
    if settings is None and max_len is None:
        raise ValueError("max_len is not given, and no settings that could say it")
    _check(model, said, sampling, max_len, prompts)
    longest = max(map(len, prompts))
    max_len = decoding.places(said, longest, model.max_len) if max_len is None else max_len
    if longest >= max_len:
        raise ValueError(
            f"a prompt of {longest} tokens leaves nothing of max_len {max_len} to be written"
        )
    prompts = [prompt for prompt in prompts for _ in range(said.num_return_sequences or 1)]
    tokens, segments = np.zeros((2, len(prompts), max_len), np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, longest - len(prompt) : longest] = prompt
        segments[i, longest - len(prompt) :] = 1
    stops = jnp.asarray(said.stop, jnp.int32)
    rules = make_rules(said, prompt=longest, max_len=max_len, size=model.vocab_size)
    length = min(max_len, -(-longest // READ) * READ)
    text, logits = _read(variables, tokens, segments, longest, model=model, length=length)
    key = jax.random.key(seed)
    text = _begin(text, logits, key, stops, rules, sampling=sampling)
    while True:
        place, done = int(text.place), bool(text.done.all())
        found = _continuations(np.asarray(text.tokens)[:, longest:place], said.stop)
        if on_tokens(found) or done or place == max_len or (first_only and place > longest + 1):
            return found
        text = _write(variables, text, key, stops, rules, CHUNK, model=model, sampling=sampling)


def _check(
    model: Any,
    said: GenerationConfig,
    sampling: Sampling,
    max_len: int | None,
    prompts: Sequence[Sequence[int]],
) -> None:
    if not isinstance(model, GPT2):
        raise ValueError(
            f"a {type(model).__name__} continues no prompts: this is for language models (GPT2); "
            "translations are by jaxmodels.decode.beam.beam_search"
        )
    if (said.beams or 1) > 1:
        raise ValueError(
            f"num_beams {said.beams}: a language model writes greedily or draws here; set "
            "num_beams to 1"
        )
    if (said.num_return_sequences or 1) > 1 and sampling.greedy:
        raise ValueError(
            f"num_return_sequences {said.num_return_sequences} of greedy texts, which are equal: "
            "draw"
        )
    if not len(prompts) or not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt has no tokens: give at least one, such as the end-of-text token")
    if max_len is not None and max_len > model.max_len:
        raise ValueError(f"max_len {max_len} is above the model's max_len {model.max_len}")
    for prompt in prompts:
        for token in (max(prompt), min(prompt)):
            if not 0 <= token < model.vocab_size:
                raise ValueError(
                    f"token {token} is outside the model's vocabulary of {model.vocab_size}: "
                    "another tokenizer?"
                )
        if np.asarray(prompt).dtype.kind not in "iu":
            raise ValueError(
                f"a prompt has tokens that are no whole numbers: {np.asarray(prompt).dtype}"
            )


def _continuations(tokens: np.ndarray, stop: Sequence[int]) -> list[list[int]]:
    found = []
    for row in tokens.tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in stop), len(row))
        found.append(row[:end])
    return found


@partial(jax.jit, static_argnames=("model", "length"))
def _read(
    variables: Any, tokens: jax.Array, segments: jax.Array, place: Any, *, model: Any, length: int
) -> tuple[Text, jax.Array]:
    """Reads ``length`` tokens; those behind ``place`` are written over before anything attends to
    them.

    Returns:
      The text, and logits [b, v] of its next token.
    """
    outputs, changed = model.apply(
        variables,
        tokens[:, :length],
        segments,
        jnp.zeros((), jnp.int32),
        train=False,
        mutable=["cache"],
    )
    last = jax.lax.dynamic_slice_in_dim(outputs.hidden, place - 1, 1, axis=1)
    text = Text(
        tokens=tokens,
        segments=segments,
        place=jnp.asarray(place, jnp.int32),
        done=jnp.zeros(len(tokens), bool),
        cache=changed["cache"],
    )
    return text, outputs._replace(hidden=last).logits[:, 0]


def _put(
    text: Text,
    logits: jax.Array,
    key: jax.Array,
    stops: jax.Array,
    rules: Rules,
    *,
    sampling: Sampling,
) -> Text:
    """Draws the next token of each text and writes it; a text that is done goes on with its
    last."""
    logits = process(rules, logits, _written(text, rules))
    logits = normalised(rules, logits) if sampling.greedy else logits  # no draw is changed by it
    drawn = draw(jax.random.fold_in(key, text.place), logits, None, sampling)
    token = jnp.where(text.done, _last(text), drawn)
    return text.replace(
        tokens=jax.lax.dynamic_update_slice_in_dim(text.tokens, token[:, None], text.place, axis=1),
        place=text.place + 1,
        done=text.done | jnp.isin(token, stops),
    )


# donated: the cache is not copied
_begin = jax.jit(_put, static_argnames="sampling", donate_argnums=0)


def _written(text: Text, rules: Rules) -> Written:
    """The texts so far, for the processors; the source is the prompt."""
    first = (text.segments == 0).sum(1)
    if not rules.of_source:
        return Written(text.tokens, first, text.place)
    index = jnp.arange(text.tokens.shape[1])
    return Written(
        text.tokens,
        first,
        text.place,
        text.tokens,
        (index >= first[:, None]) & (index < rules.prompt),
    )


def _last(text: Text) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(text.tokens, text.place - 1, 1, axis=1)[:, 0]


@partial(jax.jit, static_argnames=("model", "sampling"), donate_argnums=1)
def _write(
    variables: Any,
    text: Text,
    key: jax.Array,
    stops: jax.Array,
    rules: Rules,
    count: Any,
    *,
    model: Any,
    sampling: Sampling,
) -> Text:
    """Writes up to ``count`` tokens."""
    end = jnp.minimum(text.place + count, text.tokens.shape[1])
    whole = jax.tree.map(jnp.shape, text.cache)

    def body(text: Text) -> Text:
        outputs, changed = model.apply(
            {**variables, "cache": _shaped(text.cache, whole)},
            _last(text)[:, None],
            text.segments,
            text.place - 1,
            train=False,
            mutable=["cache"],
        )
        text = text.replace(cache=jax.tree.map(jnp.squeeze, changed["cache"]))
        return _put(text, outputs.logits[:, 0], key, stops, rules, sampling=sampling)

    # XLA for CPUs drops axes of one from products, and copies what is carried with such an axis
    # four times a token
    text = text.replace(cache=jax.tree.map(jnp.squeeze, text.cache))
    text = jax.lax.while_loop(lambda text: (text.place < end) & ~text.done.all(), body, text)
    return text.replace(cache=_shaped(text.cache, whole))


def _shaped(arrays: Any, shapes: Any) -> Any:
    return jax.tree.map(lambda array, shape: array.reshape(shape), arrays, shapes)


__all__ = ["GREEDY", "GenerationConfig", "Sampling", "Text", "draw", "generate", "kept"]
