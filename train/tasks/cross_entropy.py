"""Cross-entropy over a vocabulary, whose logits would take more memory than all else if they were
made at once.

The training step's gradient is made beside the loss, part by part, so that no logits are made twice
(as by Wijmans et al. 2024, "Cut your losses in large-vocabulary language models", and Liger
Kernel).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from jaxmodels.nn.cpu import target_platform
from jaxmodels.nn.layers import TokenLogits

CHUNK = {"cpu": 2**26, "gpu": 2**27, "tpu": 2**25}
"""Logits that a device makes at a time: 4 bytes each, and half as much beside them for their
gradient in bfloat16. For each part the kernel is read three times and its gradient once, and
written; on TPUs small parts can stay on chip."""

LANES = 128
"""GPUs multiply matrices whose sides are multiples of this at their full rate, and slowly what is
odd."""


class TokenSums(NamedTuple):
    """Weighted sums over tokens: what is minimised, the same without smoothing (which has no
    gradient), and how many have the largest logit for their target."""

    loss: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    correct: Float[Array, ""]


def token_cross_entropy(
    outputs: TokenLogits,
    target: Int[Array, "b l"],
    weight: Float[Array, "b l"],
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> TokenSums:
    """Cross-entropy of tokens in nats, ``sum_bl w_bl (-log softmax(logits_bl)_target_bl)``.

    Logits are made for a part of the places at a time, with the gradients of the hidden states and
    the kernel: memory is that of ``chunk`` numbers on each device which has its own tokens, not of
    batch x length x vocabulary. There is no forward-mode derivative.

    Args:
      label_smoothing: share of the target's probability that is spread evenly over the vocabulary
        (Szegedy et al. 2016, section 7).
      chunk: numbers on a device; logits that are fewer are made at once. None: :data:`CHUNK`.
    """
    batch, length = target.shape
    chunk = chunk or CHUNK.get(target_platform(), CHUNK["tpu"])
    shape = jax.sharding.get_abstract_mesh().shape
    split = shape.get("sequence", 1)
    split = split if length % split == 0 else 1  # else every device has the whole length
    devices = shape.get("data", 1) * shape.get("fsdp", 1) * split
    most = chunk * devices // (batch * len(outputs.kernel))
    size = max(
        (n for n in range(split, length + 1, split) if length % n == 0 and n <= most), default=split
    )
    # along the length, every k-th token: every device keeps the tokens it has
    parts = (
        rearrange(x, "b (n k) ... -> k b n ...", n=size) for x in (outputs.hidden, target, weight)
    )
    sums = _sums(label_smoothing, outputs.kernel, outputs.bias, *parts)
    return TokenSums(sums.loss, *map(jax.lax.stop_gradient, sums[1:]))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(
    label_smoothing: float,
    kernel: Float[Array, "v d"],
    bias: Float[Array, " v"] | None,
    hidden: Float[Array, "k b n d"],
    target: Int[Array, "k b n"],
    weight: Float[Array, "k b n"],
) -> TokenSums:
    head = _Head(kernel, bias, hidden.dtype)

    def step(sums: TokenSums, part: tuple[Array, Array, Array]) -> tuple[TokenSums, None]:
        found, _, _ = _part(label_smoothing, head, *part)
        return jax.tree.map(jnp.add, sums, found), None

    return _over_parts(step, _no_sums(hidden), (hidden, target, weight))[0]


def _sums_forward(label_smoothing, kernel, bias, hidden, target, weight):
    """With the gradients of the loss: it is a sum, so those of a multiple of it are multiples of
    them."""
    head = _Head(kernel, bias, hidden.dtype)
    wide = _wide(hidden)

    def step(carry, part):
        sums, of_kernel, of_bias = carry
        hidden, _, _ = part
        found, losses, of_logits = _part(label_smoothing, head, *part)
        if of_bias is not None:
            of_bias = of_bias + of_logits.sum((0, 1))
        of_logits = of_logits.astype(hidden.dtype)
        product = partial(jnp.einsum, preferred_element_type=wide)
        of_kernel = of_kernel + product("bnv,bnd->vd", of_logits, hidden)
        of_hidden = product("bnv,vd->bnd", of_logits, head.kernel).astype(hidden.dtype)
        return (jax.tree.map(jnp.add, sums, found), of_kernel, of_bias), (of_hidden, losses)

    start = (
        jnp.zeros(head.kernel.shape, wide),
        None if bias is None else jnp.zeros(len(head.kernel), wide),
    )
    (sums, of_kernel, of_bias), (of_hidden, losses) = _over_parts(
        step, (_no_sums(hidden), *start), (hidden, target, weight)
    )
    of_kernel = of_kernel[: len(kernel)].astype(kernel.dtype)
    of_bias = None if bias is None else of_bias[: len(kernel)].astype(bias.dtype)
    return sums, (of_kernel, of_bias, of_hidden, losses.astype(weight.dtype))


def _sums_backward(label_smoothing, residuals, cotangent):
    of_kernel, of_bias, of_hidden, of_weight = jax.tree.map(
        lambda x: (x * cotangent.loss).astype(x.dtype), residuals
    )
    return of_kernel, of_bias, of_hidden, None, of_weight


_sums.defvjp(_sums_forward, _sums_backward)


def _over_parts(step: Callable, start: Any, parts: tuple[Array, ...]) -> tuple[Any, Any]:
    return jax.lax.scan(step, start, parts, unroll=len(parts[0]) == 1)  # a single part is no loop


def _no_sums(hidden: Array) -> TokenSums:
    return TokenSums(*3 * [jnp.zeros((), _wide(hidden))])


def _wide(hidden: Array) -> jnp.dtype:
    """Of logits, and of what is summed over them."""
    return jnp.promote_types(hidden.dtype, jnp.float32)


class _Head:
    """Kernel and bias in the dtype of the hidden states, with rows added for a GPU, whose logits
    are -inf."""

    def __init__(self, kernel: Array, bias: Array | None, dtype: jnp.dtype):
        self.vocabulary = len(kernel)
        # else it may be split by rows
        alone = jax.sharding.get_abstract_mesh().shape.get("tensor", 1) == 1
        more = -len(kernel) % LANES if alone and target_platform() == "gpu" else 0
        self.kernel = jnp.pad(kernel.astype(dtype), ((0, more), (0, 0)))
        self.bias = None if bias is None else jnp.pad(bias, (0, more))
        self.tokens = jnp.arange(len(self.kernel))

    def logits(self, hidden: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        logits = TokenLogits(hidden, self.kernel, self.bias).logits
        return (
            logits
            if len(self.tokens) == self.vocabulary
            else jnp.where(self.real, logits, -jnp.inf)
        )

    @property
    def real(self) -> Array:
        return self.tokens < self.vocabulary


def _part(
    label_smoothing: float, head: _Head, hidden: Array, target: Array, weight: Array
) -> tuple[TokenSums, Float[Array, "b n"], Float[Array, "b n v"]]:
    """Sums, the loss of each token, and the gradient of the sum of losses by the logits."""
    logits = head.logits(hidden)
    weight = weight.astype(logits.dtype)
    largest = logits.max(-1)
    shares = jnp.exp(logits - largest[..., None])
    total = shares.sum(-1)
    normaliser = jnp.log(total) + largest
    own = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    losses = cross_entropy = normaliser - own
    of_wanted = jnp.where(head.tokens == target[..., None], weight[..., None], 0)
    if label_smoothing:
        even = jnp.where(head.real, 1 / head.vocabulary, 0).astype(logits.dtype)
        mean = jnp.where(head.real, logits, 0).sum(-1) / head.vocabulary
        losses = (1 - label_smoothing) * losses + label_smoothing * (normaliser - mean)
        of_wanted = (1 - label_smoothing) * of_wanted + label_smoothing * even * weight[..., None]
    # argmax == target by a reduction that fuses: on a CPU, argmax over a vocabulary takes as long
    # as the loss
    earlier = head.tokens < target[..., None]
    larger = (logits > own[..., None]) | (earlier & (logits == own[..., None]))
    sums = ((values * weight).sum() for values in (losses, cross_entropy, ~larger.any(axis=-1)))
    of_logits = shares * (weight / total)[..., None] - of_wanted
    return TokenSums(*sums), losses, of_logits
