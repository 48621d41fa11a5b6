"""Text from a causal language model, with cached keys and values.

Prompts are padded at the left to the longest of them, and everything lies in arrays of ``max_len`` places; so there is
one compilation for each (batch, ``max_len``, :class:`Sampling`, number of stop tokens), whatever the prompts' lengths
(of two programs: one draws the first token), and a shorter one, of what reads the prompts, for each multiple of
:data:`READ` that they reach.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.cpu import argmax

CHUNK = 16
"""Tokens between two looks at what is there: a smaller number streams more smoothly and is slower."""

READ = 64
"""Prompts are read up to a multiple of this many tokens."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; in the order in which it acts.

    Attributes:
      repetition_penalty: logits of tokens that the text has already are divided by this if positive, multiplied if
        negative (Keskar et al. 2019, arXiv:1909.05858, section 4.1); 1 does nothing.
      temperature: logits are divided by it; 0 takes the largest logit.
      top_k: draw from this many of the largest logits (Fan et al. 2018); 0 from all.
      top_p: draw from the fewest most probable tokens whose probabilities reach this sum (Holtzman et al. 2020); 1 from
        all.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty {self.repetition_penalty} must be above 0; 1 does nothing")
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} must be at least 0, which takes the largest logit")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be at least 1, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1")


GREEDY = Sampling(temperature=0.0)


class Text(struct.PyTreeNode):
    """Texts that are being written.

    Attributes:
      tokens: [b, max_len], prompts padded at the left; from ``place`` on there is nothing yet.
      segments: 0 at the left padding, else 1.
      place: number of places that are written.
      seen: which tokens the text has, if the repetition penalty needs it.
      done: texts that have met a stop token; they go on with it.
      cache: keys and values of the layers, of all that is written but the last token.
    """

    tokens: Int[Array, "b t"]
    segments: Int[Array, "b t"]
    place: Int[Array, ""]
    seen: Bool[Array, "b v"] | None
    done: Bool[Array, " b"]
    cache: Any


def generate(
    model: nn.Module,
    variables: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_len: int,
    sampling: Sampling = GREEDY,
    stop: Sequence[int] = (),
    seed: int = 0,
    on_tokens: Callable[[list[list[int]]], bool | None] = lambda texts: None,
    first_only: bool = False,
) -> list[list[int]]:
    """Continues prompts.

    Args:
      model: called as :class:`jaxmodels.gpt2.GPT2`.
      prompts: tokens of each, at least one.
      max_len: places of the longest prompt and its continuation together; at most the model's.
      stop: tokens after which a text ends.
      seed: of the draws.
      on_tokens: told of the first token and then every few tokens of all that is written so far; True ends it there.
      first_only: write no more than the first few tokens, for instance to compile.

    Returns:
      The continuations, a stop token included where one was met.

    Raises:
      ValueError: an empty prompt, one that leaves no place, or a token outside the vocabulary.
    """
    longest = _check(model, prompts, max_len)
    tokens, segments = np.zeros((2, len(prompts), max_len), np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, longest - len(prompt) : longest] = prompt
        segments[i, longest - len(prompt) :] = 1
    stops = jnp.asarray([*stop], jnp.int32)
    reading = {
        "model": model,
        "seen": sampling.repetition_penalty != 1,
        "length": min(max_len, -(-longest // READ) * READ),
    }
    text, logits = _read(variables, tokens, segments, longest, **reading)
    key = jax.random.key(seed)
    text = _begin(text, logits, key, stops, sampling=sampling)
    while True:
        place, done = int(text.place), bool(text.done.all())
        found = _continuations(np.asarray(text.tokens)[:, longest:place], stop)
        if on_tokens(found) or done or place == max_len or (first_only and place > longest + 1):
            return found
        text = _write(variables, text, key, stops, CHUNK, model=model, sampling=sampling)


def _check(model: Any, prompts: Sequence[Sequence[int]], max_len: int) -> int:
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt has no tokens: give at least one, such as the end-of-text token")
    longest = max(map(len, prompts))
    if max_len > model.max_len:
        raise ValueError(f"max_len {max_len} is above the model's max_len {model.max_len}")
    if longest >= max_len:
        raise ValueError(f"a prompt of {longest} tokens leaves nothing of max_len {max_len} to be written")
    vocabulary = model.vocab_size
    for token in (max(map(max, prompts)), min(map(min, prompts))):
        if not 0 <= token < vocabulary:
            raise ValueError(f"token {token} is outside the model's vocabulary of {vocabulary}: another tokenizer?")
    return longest


def _continuations(tokens: np.ndarray, stop: Sequence[int]) -> list[list[int]]:
    found = []
    for row in tokens.tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in stop), len(row))
        found.append(row[:end])
    return found


@partial(jax.jit, static_argnames=("model", "seen", "length"))
def _read(
    variables: Any, tokens: jax.Array, segments: jax.Array, place: Any, *, model: Any, seen: bool, length: int
) -> tuple[Text, jax.Array]:
    """Reads ``length`` tokens; those behind ``place`` are written over before anything attends to them.

    Returns:
      The text, and logits [b, v] of its next token.
    """
    outputs, changed = model.apply(
        variables, tokens[:, :length], segments, jnp.zeros((), jnp.int32), train=False, mutable=["cache"]
    )
    last = jax.lax.dynamic_slice_in_dim(outputs.hidden, place - 1, 1, axis=1)
    vocabulary = outputs.kernel.shape[0]
    there = None
    if seen:
        real = (segments > 0) & (jnp.arange(tokens.shape[1]) < place)
        there = jax.vmap(lambda t, r: jnp.zeros(vocabulary, bool).at[t].max(r))(tokens, real)
    text = Text(
        tokens=tokens,
        segments=segments,
        place=jnp.asarray(place, jnp.int32),
        seen=there,
        done=jnp.zeros(len(tokens), bool),
        cache=changed["cache"],
    )
    return text, outputs._replace(hidden=last).logits[:, 0]


def _put(text: Text, logits: jax.Array, key: jax.Array, stops: jax.Array, *, sampling: Sampling) -> Text:
    """Draws the next token of each text and writes it; a text that is done goes on with its last."""
    drawn = draw(jax.random.fold_in(key, text.place), logits, text.seen, sampling)
    token = jnp.where(text.done, _last(text), drawn)
    return text.replace(
        tokens=jax.lax.dynamic_update_slice_in_dim(text.tokens, token[:, None], text.place, axis=1),
        place=text.place + 1,
        seen=None if text.seen is None else text.seen.at[jnp.arange(len(token)), token].set(True),
        done=text.done | jnp.isin(token, stops),
    )


_begin = jax.jit(_put, static_argnames="sampling", donate_argnums=0)  # donated: the cache is not copied


def _last(text: Text) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(text.tokens, text.place - 1, 1, axis=1)[:, 0]


@partial(jax.jit, static_argnames=("model", "sampling"), donate_argnums=1)
def _write(
    variables: Any, text: Text, key: jax.Array, stops: jax.Array, count: Any, *, model: Any, sampling: Sampling
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
        return _put(text, outputs.logits[:, 0], key, stops, sampling=sampling)

    # XLA for CPUs drops axes of one from products, and copies what is carried with such an axis four times a token
    text = text.replace(cache=jax.tree.map(jnp.squeeze, text.cache))
    text = jax.lax.while_loop(lambda text: (text.place < end) & ~text.done.all(), body, text)
    return text.replace(cache=_shaped(text.cache, whole))


def _shaped(arrays: Any, shapes: Any) -> Any:
    return jax.tree.map(lambda array, shape: array.reshape(shape), arrays, shapes)


def draw(
    key: jax.Array, logits: Float[Array, "b v"], seen: Bool[Array, "b v"] | None, sampling: Sampling
) -> Int[Array, " b"]:
    """The next token of each text."""
    if seen is not None:
        penalty = sampling.repetition_penalty
        logits = jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)
    if not sampling.temperature:
        return argmax(logits)
    logits = kept(logits / sampling.temperature, sampling)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def kept(logits: Float[Array, "b v"], sampling: Sampling) -> Float[Array, "b v"]:
    """Logits with -inf for the tokens that ``top_k`` and then ``top_p`` leave out."""
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities  # of all that are more probable
        smallest = jnp.where(before < sampling.top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    return logits
