"""Schedules and optimisers, through Optax. Order of the chain: clip, then the optimiser with its
weight decay."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmodels.adapt.patterns import rate_of, split
from train.compress.prune import pruned
from train.options import OptimConfig, PruneConfig
from train.sharding import path_name


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate of each step: linear warm-up from 0 to the peak, then the decay that
    ``config.schedule`` names.

    cosine and linear end at ``end_factor`` times the peak at ``steps``; rsqrt is
    ``peak * sqrt(w / t)`` with t counted from the beginning and w = max(1, warmup_steps) (Vaswani
    et al. 2017, section 5.3); constant stays at the peak.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    decay_steps = max(1, steps - warmup)
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=config.end_factor)
    elif config.schedule == "linear":
        decay = optax.linear_schedule(peak, peak * config.end_factor, decay_steps)
    elif config.schedule == "rsqrt":
        start = max(1, warmup)

        def decay(count):
            # during warm-up count is negative
            return peak * (start / (jnp.maximum(count, 0) + start)) ** 0.5

    else:
        decay = optax.constant_schedule(peak)
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def decay_mask(params: Any) -> Any:
    """True for the leaves that weight decay acts on: two or more dimensions and neither a bias nor
    a norm's scale.

    The names matter for scanned layers, whose biases are stacked to two dimensions.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim >= 2 and path[-1].key not in ("bias", "scale"), params
    )


def make_optimizer(
    config: OptimConfig, steps: int, prune: PruneConfig | None = None
) -> optax.GradientTransformation:
    """The Optax chain of a config.

    ``adamw`` is Loshchilov & Hutter 2019 (decay times learning rate, as PyTorch); ``sgd`` adds
    ``weight_decay * p`` to the gradient before the momentum, as PyTorch; ``lion`` is Chen et al.
    2023; ``adafactor`` is Shazeer & Stern 2018 with the given learning rate as it stands (no
    scaling by the parameter's size) and decay decoupled.

    Factors of ``config.rates`` scale the finished updates. Frozen parameters are taken out of what
    is given, so they count in no norm, and the update and the state have None in their places.
    Pruning, if ``prune`` asks for any, acts on the finished updates.
    """
    rate, decay = make_schedule(config, steps), config.weight_decay
    if config.name == "adamw":
        tx = optax.adamw(
            rate, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=decay, mask=decay_mask
        )
    elif config.name == "sgd":
        tx = optax.chain(
            optax.add_decayed_weights(decay, mask=decay_mask) if decay else optax.identity(),
            optax.sgd(rate, momentum=config.momentum or None, nesterov=config.nesterov),
        )
    elif config.name == "lion":
        tx = optax.lion(rate, b1=config.b1, b2=config.b2, weight_decay=decay, mask=decay_mask)
    else:
        tx = optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(decay, mask=decay_mask) if decay else optax.identity(),
            optax.scale_by_learning_rate(rate),
        )
    if config.rates:
        tx = optax.chain(tx, optax.stateless(partial(_scale, rates=config.rates)))
    if config.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    if prune is not None and prune.sparsity:
        tx = pruned(tx, prune)
    return _of_the_rest(tx, config.freeze) if config.freeze else tx


def _scale(updates: Any, params: Any, *, rates: Mapping[str, float]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, u: rate_of(rates, path_name(path)) * u, updates
    )


def _of_the_rest(
    tx: optax.GradientTransformation, freeze: Sequence[str]
) -> optax.GradientTransformation:
    def init(params):
        return tx.init(split(params, freeze)[0])

    def update(grads, state, params):
        return tx.update(split(grads, freeze)[0], state, split(params, freeze)[0])

    return optax.GradientTransformation(init, update)
