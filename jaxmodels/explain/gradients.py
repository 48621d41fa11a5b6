"""Input times gradient, and integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365).

Both explain a score, a function of images or of embedded tokens; :func:`input_score` and
:func:`token_score` make one of a model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxmodels.capture import altering, capture, nearest
from jaxmodels.families.bert.model import PretrainingLogits
from jaxmodels.nn.layers import TokenLogits, at_least_float32
from jaxmodels.nn.meshes import under_auto_axes

Score = Callable[[Float[Array, "b ..."]], Float[Array, " b"]]
"""One number for each example, a function of that example alone."""


class Attribution(NamedTuple):
    """Parts of a difference of scores.

    Attributes:
      values: of every feature, shaped as the input.
      score: of the input; baseline_score: of the baseline.
    """

    values: Float[Array, "b ..."]
    score: Float[Array, " b"]
    baseline_score: Float[Array, " b"]

    @property
    def completeness_error(self) -> Float[Array, " b"]:
        """``|sum of values - (f(x) - f(baseline))| / |f(x) - f(baseline)|``; inf where those two
        are equal."""
        difference = self.score - self.baseline_score
        gap = jnp.abs(self.values.sum(tuple(range(1, self.values.ndim))) - difference)
        rounding = (
            16
            * jnp.finfo(difference.dtype).eps
            * jnp.maximum(jnp.abs(self.score), jnp.abs(self.baseline_score))
        )
        return jnp.where(jnp.abs(difference) <= rounding, jnp.inf, gap / jnp.abs(difference))


def logit(
    outputs: Any, target: Int[Array, " b"], place: Int[Array, " b"] | None = None
) -> Float[Array, " b"]:
    """The logit of a class, or of a token behind (or, for BERT, at) a place.

    Args:
      outputs: of a model.
      target: number of the class or token.
      place: of the token in its text.

    Raises:
      ValueError: the model gives no logits, or needs a place.
    """
    if isinstance(outputs, PretrainingLogits):
        outputs = outputs.tokens
    if isinstance(outputs, TokenLogits):
        if place is None:
            raise ValueError("logits of tokens are of one at each place: give place")
        outputs = logits_at(outputs, place)
    if not isinstance(outputs, jax.Array) or outputs.ndim != 2:
        raise ValueError(
            f"a model that gives {type(outputs).__name__} has no logits of one class for each "
            "example"
        )
    return jnp.take_along_axis(outputs, target[:, None], axis=1)[:, 0]


def logits_at(outputs: TokenLogits, place: Int[Array, " b"]) -> Float[Array, "b v"]:
    """Logits of the vocabulary at one place of each text."""
    hidden = jnp.take_along_axis(outputs.hidden, place[:, None, None], axis=1)
    return outputs._replace(hidden=hidden).logits[:, 0]


def input_score(model: nn.Module, variables: Any, target: Int[Array, " b"], *rest: Any) -> Score:
    """The logit of ``target`` as a function of the model's first input: preprocessed images, or
    rows of a table.

    Args:
      rest: the other inputs of the model, in order.
    """
    return lambda x: logit(model.apply(variables, x, *rest, train=False), target)


def token_score(
    model: nn.Module,
    variables: Any,
    inputs: tuple[Any, ...],
    target: Int[Array, " b"],
    place: Int[Array, " b"] | None = None,
    *,
    embedding: str = "token_embed",
) -> Score:
    """The logit of ``target`` as a function of the token embeddings [b, l, d], all else (positions,
    ...) being equal.

    Args:
      inputs: of the model, in order.
      place: see :func:`logit`.
      embedding: path of the module whose output is replaced, the first time that it is called.
    """

    @under_auto_axes
    def score(
        variables: Any,
        embedded: Float[Array, "b l d"],
        inputs: tuple[Any, ...],
        target: Any,
        place: Any,
    ) -> Float[Array, " b"]:
        with altering(embedding, output=lambda y: embedded.astype(y.dtype)):
            outputs = model.apply(variables, *inputs, train=False)
        return logit(outputs, target, place)

    return lambda embedded: score(variables, embedded, inputs, target, place)


def token_embeddings(
    model: nn.Module, variables: Any, *inputs: Any, embedding: str = "token_embed"
) -> Float[Array, "b l d"]:
    """What the module at ``embedding`` makes of the tokens: what a score of :func:`token_score`
    takes.

    Raises:
      ValueError: there is no such module; the nearest is named.
    """
    captured = capture(model, variables, *jax.tree.map(jnp.asarray, inputs), train=False)
    if embedding not in captured:
        raise ValueError(f"the model has no module {embedding!r}{nearest(embedding, captured)}")
    return captured[embedding][1]


def input_gradient(
    score: Score, x: Float[Array, "b ..."], baseline: Float[Array, "#b ..."]
) -> Attribution:
    """``(x - baseline) * gradient at x``: exact for linear models, a first-order estimate for
    others."""
    return _along_path(score, x, baseline, np.ones(1), np.ones(1), 1)


def integrated_gradients(
    score: Score,
    x: Float[Array, "b ..."],
    baseline: Float[Array, "#b ..."],
    *,
    steps: int = 64,
    chunk: int = 8,
) -> Attribution:
    """``(x - baseline) * integral over a from 0 to 1 of the gradient at baseline + a (x -
    baseline)``.

    Args:
      score: what is explained.
      x: images or embedded tokens; baseline: what stands for nothing.
      steps: nodes of the rule: midpoints of equal parts of u, with a = u^1.5. They are densest at
        the baseline, where deep networks with batch norm change most; rules of higher order gain
        nothing where ReLU bends the score.
      chunk: nodes that are computed at once: memory grows with it.

    Returns:
      Attribution in float32 or wider.
    """
    if steps < 1 or chunk < 1:
        raise ValueError(f"steps {steps} and chunk {chunk} must be at least 1")
    nodes = ((np.arange(steps) + 0.5) / steps) ** 1.5
    weights = np.diff((np.arange(steps + 1) / steps) ** 1.5)
    return _along_path(score, x, baseline, nodes, weights, min(chunk, steps))


def _along_path(
    score: Score,
    x: jax.Array,
    baseline: jax.Array,
    nodes: np.ndarray,
    weights: np.ndarray,
    chunk: int,
) -> Attribution:
    x, baseline = at_least_float32(x), at_least_float32(jnp.broadcast_to(baseline, x.shape))
    gradient = jax.grad(lambda x: score(x).sum())  # examples do not mix
    extra = (0, -len(nodes) % chunk)  # nodes of weight 0 fill the last chunk
    nodes, weights = (np.pad(v, extra).reshape(-1, chunk).astype(x.dtype) for v in (nodes, weights))

    def weighted(nodes_weights: tuple[jax.Array, jax.Array]) -> jax.Array:
        nodes, weights = nodes_weights
        gradients = jax.vmap(lambda a: gradient(baseline + a * (x - baseline)))(nodes)
        return (gradients * weights.reshape(-1, *[1] * x.ndim)).sum(0)

    values = (x - baseline) * jax.lax.map(weighted, (nodes, weights)).sum(0)
    return Attribution(values, score(x), score(baseline))
