"""Pieces that two or more families share.

Weight initialisation follows He et al. 2015 ("Delving Deep into Rectifiers", arXiv:1502.01852) for layers that feed a
ReLU and LeCun 1998 for the last one. PyTorch's own defaults (uniform, gain 1/sqrt(3), random biases) differ.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P

he_normal = nn.initializers.he_normal()
lecun_normal = nn.initializers.lecun_normal()
zeros = nn.initializers.zeros

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "sigmoid": nn.sigmoid}


def require_positive(**sizes: int | tuple[int, ...]) -> None:
    """Raises ValueError, naming the field, unless every size is at least 1."""
    for name, size in sizes.items():
        if any(s < 1 for s in (size if isinstance(size, tuple) else (size,))):
            raise ValueError(f"{name} {size} must be at least 1")


def require_rate(**rates: float) -> None:
    """Raises ValueError, naming the field, unless every rate is in [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} {rate} must be at least 0 and below 1")


def at_least_float32(x: jax.Array) -> jax.Array:
    """Widens bfloat16 or float16 to float32 and leaves float32 and float64 alone (logits and losses need the bits)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def constrain_batch(x: jax.Array) -> jax.Array:
    """Keeps the leading dimension split over the mesh's ``data`` and ``fsdp`` axes; does nothing without a mesh.

    Called at block boundaries. Without it XLA may choose to gather the batch instead of a split parameter, and every
    device then computes every example.
    """
    axes = tuple(a for a in ("data", "fsdp") if a in jax.sharding.get_abstract_mesh().axis_names)
    if not axes:
        return x
    rest = (P.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, P(axes, *rest))
