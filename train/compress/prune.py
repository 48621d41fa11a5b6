"""Pruning during training, around any optimiser, and once before it. How:
``jaxmodels.compress``."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxmodels.compress import prune
from train.options import PruneConfig
from train.state import PyTree


class PruneState(NamedTuple):
    """Steps done; which weights stay (None: all); the state of the optimiser inside."""

    count: Int[Array, ""]
    masks: PyTree
    inner: optax.OptState


def pruned(tx: optax.GradientTransformation, config: PruneConfig) -> optax.GradientTransformation:
    """``tx``, after whose update the weights that are masked are exactly 0.

    Masks are chosen by the weights before the update, at ``begin_step``, every ``every`` steps and
    at ``end_step``, to the sparsity of :func:`jaxmodels.compress.prune.gradual`. What has gone is 0
    and so the smallest: it stays away. Masked weights have no gradient; their update is ``-p``,
    because ``p + -p`` is 0 whatever the rounding. Of method surgeon the weights are pruned before:
    at step 0 exactly those that are 0 are masked.
    """

    def init(params):
        return PruneState(
            jnp.zeros((), jnp.int32), prune.masks(params, 0.0, scope=config.scope), tx.init(params)
        )

    def update(grads, state, params):
        count, begin, end = state.count, config.begin_step, config.end_step
        share = prune.gradual(count, sparsity=config.sparsity, begin=begin, end=end)
        due = (
            (begin <= count)
            & (count <= end)
            & (((count - begin) % config.every == 0) | (count == end))
        )

        def chosen():
            once = config.method == "surgeon"
            return prune.nonzero(params) if once else prune.masks(params, share, scope=config.scope)

        masks = jax.lax.cond(due, chosen, lambda: state.masks)
        updates, inner = tx.update(prune.apply_masks(grads, masks), state.inner, params)
        updates = jax.tree.map(
            lambda u, p, m: u if m is None else jnp.where(m, u, -p), updates, params, masks
        )
        return updates, PruneState(count + 1, masks, inner)

    return optax.GradientTransformation(init, update)


def mask_average(average: PyTree, opt_state: optax.OptState) -> PyTree:
    """A moving average of the parameters with 0 where they are pruned: by itself it would only come
    near."""
    return (
        prune.apply_masks(average, opt_state.masks)
        if isinstance(opt_state, PruneState)
        else average
    )
