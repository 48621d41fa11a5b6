"""How faithful an attribution is: deletion and insertion curves (Petsiuk et al. 2018, RISE,
arXiv:1806.07421).

An example has n units, pixels or patches of an image or tokens of a text, each with its
attribution. They are removed in the order of attribution, greatest first: the sooner the class
becomes improbable, the better. Or all are removed and come back in that order.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Probability = Callable[[Bool[Array, "b n"]], Float[Array, " b"]]
"""(units that are removed) -> probability of the class that is explained."""


class Curves(NamedTuple):
    """Probability of the class over the share of units that were removed or brought back: 0, 1 /
    steps, ..., 1."""

    deletion: Float[Array, "b shares"]
    insertion: Float[Array, "b shares"]


def curves(
    probability: Probability,
    attribution: Float[Array, "b n"],
    real: Bool[Array, "b n"] | None = None,
    *,
    steps: int = 16,
) -> Curves:
    """Deletion and insertion curves; of equal attributions the first unit goes first.

    Args:
      real: units that may be removed; None: all.
    """
    real = jnp.ones(attribution.shape, bool) if real is None else real
    order = jnp.argsort(jnp.where(real, -attribution, jnp.inf), axis=1)
    rank = jnp.argsort(order, axis=1)  # 0 is removed first

    def at(share: jax.Array) -> Curves:
        first = rank < jnp.round(share * real.sum(1, keepdims=True))
        return Curves(probability(real & first), probability(real & ~first))

    found = jax.lax.map(at, jnp.arange(steps + 1) / steps)
    return Curves(*(rearrange(x, "shares b -> b shares") for x in found))


def random_curves(
    key: PRNGKeyArray,
    probability: Probability,
    real: Bool[Array, "b n"],
    *,
    steps: int = 16,
    draws: int = 8,
) -> Curves:
    """The mean over ``draws`` of the curves in random order: what an attribution must be better
    than."""

    def draw(key: jax.Array) -> Curves:
        return curves(probability, jax.random.uniform(key, real.shape), real, steps=steps)

    return jax.tree.map(lambda x: x.mean(0), jax.lax.map(draw, jax.random.split(key, draws)))


def area(curve: Float[Array, "b shares"]) -> Float[Array, " b"]:
    """The area under a curve by the trapezoidal rule, in [0, 1]."""
    return jnp.trapezoid(curve, dx=1 / (curve.shape[1] - 1), axis=1)


def image_units(values: Float[Array, "b h w"], rows: int, columns: int) -> Float[Array, "b n"]:
    """Averages of an attribution over the ``rows * columns`` units that an image is divided
    into."""
    return rearrange(
        jax.image.resize(values, (len(values), rows, columns), "linear"), "b r c -> b (r c)"
    )


def replace_units(
    images: Float[Array, "b h w c"],
    baseline: Float[Array, "#b #h #w c"],
    removed: Bool[Array, "b n"],
    rows: int,
    columns: int,
) -> Float[Array, "b h w c"]:
    """Images with the baseline, such as black or :func:`blurred` ones, where units are removed."""
    mask = rearrange(removed, "b (r c) -> b r c 1", r=rows, c=columns)
    mask = jax.image.resize(mask.astype(images.dtype), (*images.shape[:3], 1), "nearest")
    return jnp.where(mask > 0, baseline, images)


def blurred(images: Float[Array, "b h w c"], deviation: float) -> Float[Array, "b h w c"]:
    """Images blurred by a Gaussian of ``deviation`` pixels; beyond the edge they go on as at the
    edge."""
    radius = max(1, round(3 * deviation))
    kernel = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / deviation) ** 2)
    kernel = (kernel / kernel.sum()).astype(images.dtype)
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (radius, radius)
        padded = jnp.pad(images, widths, mode="edge")
        windows = [
            jax.lax.slice_in_dim(padded, i, i + images.shape[axis], axis=axis)
            for i in range(2 * radius + 1)
        ]
        images = sum(weight * window for weight, window in zip(kernel, windows, strict=True))
    return images


def replace_tokens(
    tokens: Int[Array, "b l"], replacement: Int[Array, ""] | int, removed: Bool[Array, "b l"]
) -> Int[Array, "b l"]:
    """Tokens with another, such as the mask token, where they are removed."""
    return jnp.where(removed, replacement, tokens)


def drop_tokens(
    removed: Bool[Array, "b l"], *arrays: Int[Array, "b l"]
) -> tuple[Int[Array, "b l"], ...]:
    """Tokens, segments, types without what is removed: the rest moves up, and 0, which is padding,
    follows.

    To hide tokens by their segments alone would start positions anew behind each.
    """
    order = jnp.argsort(removed, axis=1, stable=True)
    return tuple(jnp.take_along_axis(jnp.where(removed, 0, x), order, axis=1) for x in arrays)
