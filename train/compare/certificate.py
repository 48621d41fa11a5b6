"""The certificate of a case: ``jaxmodels.parity`` with the gradients and steps that runs take."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxmodels
from jaxmodels import originals, parity, weights
from jaxmodels.foreign.original import Case, Original
from jaxmodels.originals.batches import make_batch
from jaxmodels.originals.cases import inputs_of, make_model
from jaxmodels.parity import Certificate, Optimizer, Ours, Subject
from train.compare.optimizers import OBJECTIVES, OPTIMIZERS, our_state, torch_optimizer
from train.optim import make_optimizer
from train.step import accumulated_gradients, train_step


def certify(
    case: Case,
    *,
    steps: int = 20,
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16"),
    seed: int = 0,
    change: Callable[[jaxmodels.Module], jaxmodels.Module] = lambda model: model,
    say: Callable[[str], None] = lambda text: None,
) -> Certificate:
    """Compares a model with its original at the sizes of a case.

    Args:
      steps: number of steps of each optimiser; 0 leaves them out.
      dtypes: precisions to compare in; float64 is the truth and always there.
      seed: of weights and batches.
      change: applied to our model only; tests break it on purpose.
      say: told of each stage.
    """
    say("counting parameters at full size")
    subject = subject_of(case, parameters=count(case), seed=seed, change=change)
    result = parity.certify(case.key, subject, steps=steps, dtypes=dtypes, seed=seed, say=say)
    return dataclasses.replace(
        result,
        image_shape=case.image_shape,
        length=case.length,
        batch_size=case.batch_size,
        note=case.note,
    )


def count(case: Case) -> tuple[int, int]:
    """Number of parameters at full size, of our model and of the original."""
    model = make_model(case, jnp.float32, full=True)
    leaves = weights.shapes(model, image_shape=case.full_shape)
    ours = sum(math.prod(v.shape) for k, v in leaves.items() if k.startswith("params/"))
    with torch.device("meta"):
        module = originals.build(model, case.full_shape).module
    return ours, sum(p.numel() for p in module.parameters())


def subject_of(
    case: Case,
    *,
    parameters: tuple[int, int],
    seed: int,
    change: Callable[[jaxmodels.Module], jaxmodels.Module],
) -> Subject:
    """Both sides of a case, in any precision, with their batches and optimisers."""

    def original(dtype: str) -> Original:
        found = originals.build(make_model(case, jnp.dtype(dtype)), case.image_shape)
        if dtype == "float64":
            found.module.double()
        return found

    def ours(dtype: str, original: Original) -> Ours:
        model = make_model(case, jnp.dtype("float32" if dtype == "bfloat16" else dtype))
        model = model.clone(dtype=jnp.dtype(dtype))
        return _ours(case, change(model), original.format)

    return Subject(
        original,
        ours,
        inputs=inputs_of(case),
        batch=lambda i: make_batch(case, np.float64, seed + i),
        whole=lambda: make_batch(case, np.float64, seed, padded=False),
        parameters=parameters,
        optimizers={name: _optimizer(case, name) for name in OPTIMIZERS},
        randomise=randomise,
    )


def randomise(module: torch.nn.Module, inputs: Sequence[torch.Tensor] = ()) -> None:
    """:func:`jaxmodels.parity.randomness.randomise`, tamed for the deepest networks."""
    parity.randomness.randomise(module, inputs, condition=originals.condition)


def _ours(case: Case, model: Any, format: str) -> Ours:
    of = {"image_shape": case.image_shape, "format": format}
    bound = {"model": model, "objective": OBJECTIVES[case.objective], "inputs": inputs_of(case)}

    def gradients(variables, batch):
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        grads, count, metrics, state = accumulated_gradients(
            params, state, batch, jax.random.key(0), **bound
        )
        mean = jax.tree.map(lambda g: g / count, grads)
        return metrics["loss"], mean, state

    def steps(tx):
        def step(state, batch):
            state, metrics = train_step(state, batch, tx=tx, **bound)
            return state, metrics["loss"]

        return partial(our_state, tx=tx), step

    return Ours(
        model,
        to_ours=partial(weights.from_torch, model, **of),
        to_theirs=partial(weights.to_torch, model, **of),
        modules=weights.torch_modules(model, **of),
        gradients=gradients,
        steps=steps,
    )


def _optimizer(case: Case, name: str) -> Optimizer:
    def config(rate: float) -> Any:
        return dataclasses.replace(OPTIMIZERS[name], learning_rate=rate)

    def theirs(original: Original, rate: float) -> torch.optim.Optimizer:
        model = make_model(case, jnp.float64)
        return torch_optimizer(original, model, case.image_shape, config(rate))

    return Optimizer(lambda rate, steps: make_optimizer(config(rate), steps), theirs)
