"""Draws of the next token: which tokens may be drawn, as transformers' warpers of the same names
have it."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decode import values
from jaxmodels.nn.cpu import argmax

TOP_H = 100
"""``top_h`` looks at this many of the most probable tokens."""


@dataclass(frozen=True)
class Sampling:
    """The draw of the next token; in the order in which it acts.

    Attributes:
      repetition_penalty: logits of tokens that the text has already are divided by this if
        positive, multiplied if negative (Keskar et al. 2019, arXiv:1909.05858, section 4.1); 1 does
        nothing.
      temperature: logits are divided by it; 0 takes the largest logit.
      top_h: draw from the most probable tokens (of 100) whose entropy stays within this share of
        the entropy of all; None from all.
      top_k: draw from this many of the largest logits (Fan et al. 2018); 0 from all.
      top_p: draw from the fewest most probable tokens whose probabilities reach this sum (Holtzman
        et al. 2020); 1 from all.
      min_p: leave out tokens below this share of the largest probability; 0 leaves out none.
      typical_p: draw from the fewest tokens, of the most typical information, whose probabilities
        reach this sum (Meister et al. 2022, arXiv:2202.00666); 1 from all.
      epsilon_cutoff: leave out tokens of a lower probability; eta_cutoff: the same, less where the
        entropy is high (Hewitt et al. 2022, arXiv:2210.15191). 0 and 1 leave out none.
      keep: of the most probable tokens this many always stay.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    top_h: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    keep: int = 1

    RANGES: ClassVar[dict[str, str]] = {
        "repetition_penalty": "must be above 0; 1 does nothing",
        "temperature": "must be at least 0, which takes the largest logit",
        "top_p": "must be above 0 and at most 1",
        "min_p": "must be at least 0 and at most 1",
        "top_h": "must be above 0 and at most 1",
        "typical_p": "must be above 0 and at most 1",
        "epsilon_cutoff": "must be at least 0 and at most 1",
        "eta_cutoff": "must be at least 0 and at most 1",
    }

    def __post_init__(self):
        smallest, largest = values.NORMAL
        good = {  # NaN is in no range
            "repetition_penalty": smallest <= self.repetition_penalty <= largest,
            "temperature": 0 <= self.temperature <= largest,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "top_h": self.top_h is None or 0 < self.top_h <= 1,
            "typical_p": 0 < self.typical_p <= 1,
            "epsilon_cutoff": 0 <= self.epsilon_cutoff <= 1,
            "eta_cutoff": 0 <= self.eta_cutoff <= 1,
        }
        for name, right in good.items():
            if not right:
                raise ValueError(f"{name} {values.cut(getattr(self, name))} {self.RANGES[name]}")
        if not 0 <= self.top_k <= values.LARGEST:
            raise ValueError(
                f"top_k {values.cut(self.top_k)} must be at least 1, or 0 for all tokens"
            )
        if self.keep < 1:
            raise ValueError(f"keep {values.cut(self.keep)} must be at least 1")

    @property
    def greedy(self) -> bool:
        """True if the largest logit is taken: a temperature below float32's is 0."""
        return self.temperature < values.NORMAL[0]


GREEDY = Sampling(temperature=0.0)


def draw(
    key: jax.Array, logits: Float[Array, "b v"], seen: Bool[Array, "b v"] | None, sampling: Sampling
) -> Int[Array, " b"]:
    """The next token of each text.

    Args:
      seen: tokens that a text has, for the repetition penalty; None: it has been applied, or does
        nothing.
    """
    if seen is not None:
        penalty = sampling.repetition_penalty
        logits = jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)
    if sampling.greedy:
        return argmax(logits)
    return jax.random.categorical(key, warped(logits, sampling)).astype(jnp.int32)


def warped(logits: Float[Array, "b v"], sampling: Sampling) -> Float[Array, "b v"]:
    """Logits by temperature, and -inf for the tokens that are left out."""
    # quotients of float32 would be infinite; not so their differences
    if sampling.temperature < 1e-20:
        logits = logits - logits.max(-1, keepdims=True)
    return kept(logits / sampling.temperature, sampling)


def kept(logits: Float[Array, "b v"], sampling: Sampling) -> Float[Array, "b v"]:
    """Logits with -inf for the tokens that ``top_h``, ``top_k`` and so on leave out."""
    size = logits.shape[-1]
    keep = min(sampling.keep, size)
    if sampling.top_h is not None:
        logits = jnp.where(_of_low_entropy(logits, sampling.top_h), logits, -jnp.inf)
    if 0 < sampling.top_k < size:
        smallest = jax.lax.top_k(logits, min(size, max(sampling.top_k, keep)))[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities  # of all that are more probable
        stays = (before < sampling.top_p) | (jnp.arange(size) < keep)
        smallest = jnp.where(stays, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if sampling.min_p > 0:
        probabilities = jax.nn.softmax(logits)
        low = probabilities < sampling.min_p * probabilities.max(-1, keepdims=True)
        logits = _without(logits, low, keep)
    if sampling.typical_p < 1:
        logits = jnp.where(_untypical(logits, sampling.typical_p, keep), -jnp.inf, logits)
    if 0 < sampling.epsilon_cutoff < 1:
        logits = _without(logits, jax.nn.softmax(logits) < sampling.epsilon_cutoff, keep)
    if 0 < sampling.eta_cutoff < 1:
        probabilities, epsilon = (
            jax.nn.softmax(logits),
            jnp.asarray(sampling.eta_cutoff, logits.dtype),
        )
        eta = jnp.minimum(epsilon, jnp.sqrt(epsilon) * jnp.exp(-_entropy(logits)))
        logits = _without(logits, probabilities < eta, keep)
    return logits


def _without(logits: jax.Array, low: jax.Array, keep: int) -> jax.Array:
    """-inf where ``low``, but for the ``keep`` largest."""
    smallest = jax.lax.top_k(logits, keep)[0][:, -1:]
    return jnp.where(low & (logits < smallest), -jnp.inf, logits)


def _entropy(logits: jax.Array) -> jax.Array:
    logp = jax.nn.log_softmax(logits)
    probabilities = jnp.exp(logp)
    return -jnp.where(probabilities > 0, probabilities * logp, 0).sum(-1, keepdims=True)


def _of_low_entropy(logits: jax.Array, top_h: float) -> jax.Array:
    """Mask of the most probable tokens whose summed entropy stays within a share."""
    top, index = jax.lax.top_k(logits, min(TOP_H, logits.shape[-1]))
    logp = jax.nn.log_softmax(top)
    terms = -jnp.exp(logp) * logp  # NaN where a probability is 0: such a token stays out
    chosen = jnp.cumsum(terms, axis=-1) <= top_h * _entropy(top)
    chosen = chosen.at[:, 0].set(True)
    rows = jnp.arange(len(logits))[:, None]
    return jnp.zeros(logits.shape, bool).at[rows, index].set(chosen)


def _untypical(logits: jax.Array, mass: float, keep: int) -> jax.Array:
    """Mask of the tokens whose information is far from the mean, behind those that reach a mass."""
    logp = jax.nn.log_softmax(logits)
    terms = logp * jnp.exp(logp)
    entropy = -jnp.where(jnp.isnan(terms), 0, terms).sum(-1, keepdims=True)
    far = jnp.abs(-logp - entropy)
    order = jnp.argsort(far, axis=-1)
    far_ordered = jnp.take_along_axis(far, order, axis=-1)
    reached = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1)), axis=-1)
    last = jnp.minimum((reached < mass).sum(-1, keepdims=True), logits.shape[-1] - 1)
    last = jnp.maximum(last, keep - 1)
    return far > jnp.take_along_axis(far_ordered, last, axis=-1)
