"""The training step and the evaluation step: pure functions of a state and a batch.

Everything that is not an array (model, optimiser, objective, sizes) is bound by
``functools.partial`` before ``jit``.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float

from jaxmodels import Module
from jaxmodels.adapt.frozen import evaluating
from jaxmodels.adapt.patterns import frozen_modules, merge, split
from jaxmodels.compress.quantize import fake_activations, fake_quantize
from jaxmodels.nn.meshes import under_auto_axes
from train.compress.prune import mask_average
from train.sharding import gather_fsdp, gathering_layers
from train.state import PyTree, TrainState

Batch = dict[str, Array]
Metric = tuple[Float[Array, ""], Float[Array, ""]]  # sum, count
Metrics = dict[str, Metric]
Objective = Callable[[Any, Batch], Metrics]
"""(model outputs, batch) -> sums and counts; ``"loss"`` is what training minimises."""


@partial(under_auto_axes, examples=None, changed="[0]")
def train_step(
    state: TrainState,
    batch: Batch,
    teacher: PyTree = None,
    *,
    model: Module,
    tx: optax.GradientTransformation,
    objective: Objective,
    inputs: tuple[str | None, ...] = ("image",),
    preprocess: Callable[[Array, Batch], Batch] = lambda key, batch: batch,
    seed: int = 0,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    freeze: tuple[str, ...] = (),
    quantized: bool = False,
) -> tuple[TrainState, Metrics]:
    """One optimiser step.

    Randomness is a function of (seed, step). The gradient is that of (sum of losses) / (sum of
    counts) over the whole batch, whatever the micro-batches and the mesh. A loss, gradient or
    update that is NaN or Inf leaves step, parameters, their average and the model's state as they
    were, with ``finite`` False (see :class:`TrainState`); the optimiser's state goes on as after a
    gradient of 0.

    Args:
      batch: arrays with leading dimension b.
      teacher: what the objective takes as ``teacher``, if not None: arrays that do not train.
      inputs: keys of the batch that the model takes, in order; None for what it is not given.
      preprocess: (key, batch) -> batch, run on the device: augmentation, normalisation.
      accumulate: micro-batches, run one after the other; must divide b.
      ema_decay: of the moving average of the parameters, where the state has one; it warms up as (1
        + t) / (10 + t).
      freeze: patterns (see ``train.config.Config``) of the parameters that stay as they are; ``tx``
        must know them too.
      quantized: the model computes with the rounding of int8 (see ``jaxmodels.compress.quantize``).

    Returns:
      The new state, and sums and counts of the objective's metrics, ``grad_norm`` and
      ``update_norm``.
    """
    key_data, key_model = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
    if teacher is not None:
        objective = partial(objective, teacher=teacher)
    grads, count, metrics, model_state = accumulated_gradients(
        state.params,
        state.model_state,
        preprocess(key_data, batch),
        key_model,
        model=model,
        objective=objective,
        inputs=inputs,
        accumulate=accumulate,
        freeze=freeze,
        quantized=quantized,
    )
    grads = jax.tree.map(lambda g: g / count.astype(g.dtype), grads)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(grad_norm) & state.finite
    # the optimiser sees a gradient of 0 instead of a bad one: a choice between its old and new
    # state afterwards keeps XLA for CPUs from updating it in place, a third of a step of ResNet-18
    seen = jax.tree.map(lambda g: jnp.where(finite, g, 0), grads)
    updates, opt_state = tx.update(seen, state.opt_state, state.params)
    norms = {"grad_norm": grad_norm, "update_norm": optax.tree.norm(updates)}
    trained = optax.apply_updates(split(state.params, freeze)[0], updates)
    params, ema_params = merge(trained, state.params), state.ema_params
    if ema_params is not None:
        t = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + t) / (10 + t))
        averaged = optax.incremental_update(trained, split(ema_params, freeze)[0], 1 - decay)
        ema_params = merge(mask_average(averaged, opt_state), ema_params)
    finite &= jnp.isfinite(norms["update_norm"])
    new = TrainState(state.step + 1, params, model_state, None, ema_params, finite)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state.replace(opt_state=None))
    new = new.replace(opt_state=opt_state, finite=finite)
    one = jnp.ones((), jnp.float32)
    return new, metrics | {k: (v, one) for k, v in norms.items()}


def train_steps(
    state: TrainState, batches: Batch, *teacher: PyTree, step: Callable
) -> tuple[TrainState, PyTree]:
    """Several steps in one program, one after the other.

    Args:
      batches: arrays [k, b, ...], of k steps.
      step: :func:`train_step` with everything but (state, batch, teacher) bound.

    Returns:
      The state after the last step, and the metrics of each, sums and counts [k].
    """
    return jax.lax.scan(lambda state, batch: step(state, batch, *teacher), state, batches)


@partial(under_auto_axes, examples=None, changed="[0]")
def accumulated_gradients(
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    key: Array,
    *,
    model: Module,
    objective: Objective,
    inputs: tuple[str | None, ...] = ("image",),
    accumulate: int = 1,
    freeze: tuple[str, ...] = (),
    quantized: bool = False,
) -> tuple[PyTree, Array, Metrics, PyTree]:
    """Gradient of the *sum* of losses over the batch, its count, the metrics and the model's new
    state.

    Frozen parameters have no gradient, but None, and modules of nothing else run as in evaluation.
    """
    trained, frozen = split(params, freeze)
    evaluated = frozen_modules(params, freeze)

    def loss_sum(trained, model_state, batch, key):
        with evaluating(evaluated), rounding(quantized), gathering_layers():
            params = rounded(merge(trained, frozen), quantized)
            outputs, model_state = _apply(
                model, params, model_state, [None if k is None else batch[k] for k in inputs], key
            )
        metrics = objective(outputs, batch)
        return metrics["loss"][0], (metrics, model_state)

    gradient = jax.grad(loss_sum, has_aux=True)
    if accumulate == 1:
        grads, (metrics, model_state) = gradient(trained, model_state, batch, key)
        return grads, metrics["loss"][1], metrics, model_state

    # "(b k) -> k b", not "(k b)": every device keeps the examples it has
    micro = jax.tree.map(lambda x: rearrange(x, "(b k) ... -> k b ...", k=accumulate), batch)

    def body(carry, xs):
        index, batch = xs
        grads, metrics, model_state = carry
        new_grads, (new_metrics, model_state) = gradient(
            trained, model_state, batch, jax.random.fold_in(key, index)
        )
        grads, metrics = jax.tree.map(jnp.add, (grads, metrics), (new_grads, new_metrics))
        return (grads, metrics, model_state), None

    first = jax.tree.map(lambda x: x[0], micro)
    shapes = jax.eval_shape(gradient, trained, model_state, first, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], shapes[1][0]))
    (grads, metrics, model_state), _ = jax.lax.scan(
        body, (*zeros, model_state), (jnp.arange(accumulate, dtype=jnp.uint32), micro)
    )
    return grads, metrics["loss"][1], metrics, model_state


@partial(under_auto_axes, examples=None)
def eval_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Module,
    objective: Objective,
    inputs: tuple[str, ...] = ("image",),
    preprocess: Callable[[Batch], Batch] = lambda batch: batch,
    count: Callable[[Any, Batch], Any] | None = None,
    quantized: bool = False,
) -> tuple[Metrics, Any]:
    """Sums and counts of the objective's metrics over one batch, and what ``count`` counts in it,
    or None.

    Args:
      count: (model outputs, batch) -> arrays of counts.
      quantized: see :func:`train_step`.
    """
    batch = preprocess(batch)
    outputs = predict_step(state, *(batch[k] for k in inputs), model=model, quantized=quantized)
    return objective(outputs, batch), None if count is None else count(outputs, batch)


@under_auto_axes
def predict_step(state: TrainState, *inputs: Array, model: Module, quantized: bool = False) -> Any:
    """Model outputs for a preprocessed batch, with the parameters that evaluation uses."""
    with rounding(quantized), gathering_layers():
        return model.apply(eval_variables(state, quantized), *inputs, train=False)


def eval_variables(state: TrainState, quantized: bool = False) -> PyTree:
    """What ``model.apply`` takes, with the parameters that evaluation uses."""
    return {"params": rounded(gather_fsdp(state.eval_params), quantized), **state.model_state}


def rounding(quantized: bool) -> contextlib.AbstractContextManager[None]:
    """The context in which a model that is ``quantized`` runs: its activations are rounded."""
    return fake_activations() if quantized else contextlib.nullcontext()


def rounded(params: PyTree, quantized: bool) -> PyTree:
    """Parameters as a model that is ``quantized`` uses them."""
    return fake_quantize(params) if quantized else params


def _apply(
    model: Module, params: PyTree, model_state: PyTree, inputs: list[Array | None], key: Array
) -> tuple[Any, PyTree]:
    variables, rngs = {"params": gather_fsdp(params), **model_state}, {"dropout": key}
    if not model_state:
        return model.apply(variables, *inputs, train=True, rngs=rngs), model_state
    return model.apply(variables, *inputs, train=True, rngs=rngs, mutable=list(model_state))
