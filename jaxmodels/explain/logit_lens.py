"""Logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"): what GPT-2 would say after
each layer."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxmodels.capture import altering, capture
from jaxmodels.families.gpt2.model import GPT2
from jaxmodels.nn.layers import TokenLogits
from jaxmodels.nn.meshes import under_auto_axes


class Lens(NamedTuple):
    """The most probable next tokens after the embedding and after each block, in descending order.

    Attributes:
      tokens, probabilities: [layers + 1, b, l, top].
    """

    tokens: Int[Array, "layers b l top"]
    probabilities: Float[Array, "layers b l top"]


def hidden_states(
    model: GPT2,
    variables: Any,
    tokens: Int[Array, "b l"],
    segments: Int[Array, "b l"] | None = None,
) -> Float[Array, "layers b l d"]:
    """The residual stream before the first block and behind each, [layers + 1, b, l, d]."""
    captured = capture(model, variables, tokens, segments, train=False)
    if model.scan:
        before, behind = captured["blocks"]
        return jnp.concatenate([before[:1], behind])
    blocks = [captured[f"block_{i}"] for i in range(model.num_layers)]
    return jnp.stack([blocks[0][0], *(behind for _, behind in blocks)])


@partial(under_auto_axes, examples=2)
def read_out(
    model: GPT2,
    variables: Any,
    hidden: Float[Array, "b l d"],
    tokens: Int[Array, "b l"],
    segments: Int[Array, "b l"] | None = None,
) -> TokenLogits:
    """Logits of a hidden state, as the model's final norm and head make them; its blocks are run
    for nothing.

    Under ``jit`` they are not run at all.
    """
    with altering("norm", input=lambda _: hidden):
        return model.apply(variables, tokens, segments, train=False)


@partial(under_auto_axes, examples=2)
def logit_lens(
    model: nn.Module,
    variables: Any,
    tokens: Int[Array, "b l"],
    segments: Int[Array, "b l"] | None = None,
    *,
    top: int = 5,
) -> Lens:
    """The ``top`` most probable tokens at every layer and place, a layer at a time.

    Raises:
      ValueError: the model is no GPT-2.
    """
    if not isinstance(model, GPT2):
        raise ValueError(f"{type(model).__name__} is not GPT2, for which the logit lens is")

    def look(hidden: jax.Array) -> Lens:
        logits = read_out(model, variables, hidden, tokens, segments).logits
        probabilities, found = jax.lax.top_k(jax.nn.softmax(logits), top)
        return Lens(found, probabilities)

    return jax.lax.map(look, hidden_states(model, variables, tokens, segments))
