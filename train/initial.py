"""The state of a run at step 0."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import PRNGKeyArray

import jaxmodels
from input_pipeline import DataSpec
from jaxmodels.adapt.multitask import unwrapped
from jaxmodels.families.fusion.model import encoder_of
from train import transfer
from train.batches import shapes_of
from train.compress import surgeon
from train.options.fields import ConfigError
from train.run import Run
from train.state import TrainState, init_state
from train.task import Task


def init(run: Run) -> TrainState:
    """The state at step 0, every array made where it lies; values depend on the mesh by
    rounding only."""
    shardings = jax.tree.map(lambda s: s.sharding, run.shapes)
    with jax.set_mesh(run.mesh):
        init = initialiser(
            run.card, run.model, run.task, run.tx, ema=run.config.optim.ema_decay > 0
        )
        return jax.jit(init, out_shardings=shardings)(jax.random.key(run.config.seed))


def start(run: Run, *, warn: Callable[[str], None] = print) -> tuple[TrainState, str]:
    """The state at step 0 with what ``config.init_from`` or ``config.init_parts`` give, and the
    origin of that in words.

    Raises:
      ConfigError: the source cannot be read or does not fit.
    """
    config, state = run.config, init(run)
    options: dict[str, Any] = {
        "skip": config.init_skip,
        "image_shape": run.card.model_shape,
        "warn": warn,
    }
    if config.init_from is not None:
        state, origin = transfer.load(config.init_from, state, model=run.model, **options)
        if config.prune.sparsity and config.prune.method == "surgeon":
            state = surgeon.operate(run, state)
        return state, origin
    origins = []
    for name, source in config.init_parts.items():
        if name not in state.params:
            raise ConfigError(
                f"config.init_parts.{name}: the model has no such part with {config.model_fields}"
            )
        part = encoder_of(unwrapped(run.model), name)
        state, origin = transfer.load_part(name, source, state, model=part, **options)
        origins.append(origin)
    return state, "; ".join(origins)


def initialiser(
    card: DataSpec,
    model: jaxmodels.Module,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    ema: bool,
) -> Callable[[PRNGKeyArray], TrainState]:
    """The pure function from a key to the state at step 0."""
    batch = jax.eval_shape(task.eval_batch, shapes_of(card, 1)[0])
    inputs = tuple(batch[k] for k in task.inputs)
    return partial(init_state, model=model, tx=tx, inputs=inputs, ema=ema)
