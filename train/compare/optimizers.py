"""Objectives and optimisers of certificates, timings and twins: ours by a config, and PyTorch's to
match."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch

from jaxmodels import weights
from jaxmodels.foreign.original import Case, Original
from jaxmodels.nn.paths import path_name
from jaxmodels.originals.cases import inputs_of
from train.config import OptimConfig
from train.optim import decay_mask
from train.state import TrainState
from train.step import Objective, train_step
from train.tasks.causal_lm import causal_lm
from train.tasks.classification import classification
from train.tasks.elbo import elbo
from train.tasks.masked_lm import masked_lm

OBJECTIVES: dict[str, Objective] = {
    "elbo": elbo,
    "classification": classification,
    "causal_lm": causal_lm,
    "masked_lm": masked_lm,
    "seq2seq": causal_lm,
}
"""Training objectives, by the name that a case has for them."""

OPTIMIZERS = {  # timings step with these; certificates set a learning rate of their own
    "adamw": OptimConfig(name="adamw", learning_rate=3e-4, schedule="constant", weight_decay=0.05),
    "sgd": OptimConfig(name="sgd", schedule="constant", weight_decay=5e-4, momentum=0.9),
}


def torch_optimizer(
    original: Original,
    model: Any,
    image_shape: tuple[int, ...],
    config: OptimConfig,
    **options: Any,
) -> torch.optim.Optimizer:
    """PyTorch's optimiser that matches ours.

    Args:
      model: ours, whose parameters are named.
      image_shape: (h, w, c); empty for text.
      options: of the way it computes, such as ``fused``.
    """
    groups = _parameter_groups(original, model, image_shape, config)
    if config.name == "adamw":
        betas = (config.b1, config.b2)
        return torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=betas, eps=config.eps, **options
        )
    momentum = {"momentum": config.momentum, "nesterov": config.nesterov}
    return torch.optim.SGD(groups, lr=config.learning_rate, **momentum, **options)


def _parameter_groups(
    original: Original, model: Any, image_shape: tuple[int, ...], config: OptimConfig
) -> list[dict[str, Any]]:
    """PyTorch's parameter groups: weight decay on the tensors that our mask lets decay."""
    shapes = weights.shapes(model, image_shape=image_shape)
    params = {k.removeprefix("params/"): v for k, v in shapes.items() if k.startswith("params/")}
    tree = weights.nested(params)
    mask = {
        path_name(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(decay_mask(tree))
    }
    names = weights.torch_names(model, image_shape=image_shape, format=original.format)
    decayed = {n for path, flag in mask.items() if flag for n in names[f"params/{path}"]}
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for name, parameter in original.module.named_parameters():
        groups[name in decayed].append(parameter)
    return [
        {"params": groups[True], "weight_decay": config.weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def our_state(variables: Any, tx: optax.GradientTransformation) -> TrainState:
    """A TrainState at step 0 with these variables."""
    variables = jax.tree.map(jnp.asarray, variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=tx.init(variables["params"]),
        ema_params=None,
        finite=jnp.ones((), bool),
    )


def our_step(model: Any, tx: optax.GradientTransformation, case: Case) -> partial:
    """The training step of every run, for this case."""
    return partial(
        train_step, model=model, tx=tx, objective=OBJECTIVES[case.objective], inputs=inputs_of(case)
    )
