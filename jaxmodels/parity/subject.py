"""The parts of a comparison: an original, our model, their batches and optimisers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import linen as nn

from jaxmodels.families.bert.model import PretrainingLogits
from jaxmodels.foreign.rules import Pair
from jaxmodels.nn.layers import TokenLogits
from jaxmodels.parity.extra import optax, torch
from jaxmodels.parity.randomness import randomise

Batch = dict[str, np.ndarray]
Variables = dict[str, Any]
Loss = Callable[[Any, dict[str, Any]], tuple[jax.Array, jax.Array]]
"""(outputs of our model, batch) -> sum of the losses and their count."""
Gradients = Callable[[Variables, dict[str, Any]], tuple[tuple[Any, Any], Any, dict[str, Any]]]
"""(variables, batch) -> (sum of the losses, count), gradient of their mean, new collections."""
Steps = Callable[[optax.GradientTransformation], tuple[Callable[..., Any], Callable[..., Any]]]
"""optimiser -> ``init(variables) -> state``, ``step(state, batch) -> (state, (sum, count))``."""


@runtime_checkable
class Original(Protocol):
    """A PyTorch model.

    Attributes:
      module: called with the batch's inputs, in order.
      source: library, version and model, in words.
      main: outputs of the module -> the tensor that is compared, laid out as ours.
      loss: (outputs of the module, batch) -> mean loss, the same as ours.
    """

    module: torch.nn.Module
    source: str
    main: Callable[[Any], torch.Tensor]
    loss: Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The module's own tensors by name, each once."""
        ...

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Sets the module's tensors to what :meth:`tensors` gave."""
        ...


def main_output(outputs: Any) -> jax.Array:
    """The part of our models' outputs that is compared: logits, or the reconstruction."""
    if isinstance(outputs, PretrainingLogits):
        outputs = outputs.tokens
    if isinstance(outputs, TokenLogits):
        return outputs.logits
    return outputs[0] if isinstance(outputs, tuple) else outputs


@dataclass(frozen=True)
class Ours:
    """Our side, in one precision.

    Attributes:
      model: called as ``model.apply(variables, *inputs, train=...)``.
      to_ours: the original's tensors by name -> our variables.
      to_theirs: our variables -> the original's tensors, the inverse.
      modules: path of an original's module -> our module that computes the same.
      gradients: traced inside ``jit``; see :func:`gradients_of`.
      steps: optimiser -> its start and its step, traced inside ``jit``; see :func:`steps_of`.
      main: outputs of the model -> the array that is compared.
    """

    model: nn.Module
    to_ours: Callable[[Mapping[str, np.ndarray]], Variables]
    to_theirs: Callable[[Variables], Mapping[str, np.ndarray]]
    modules: Mapping[str, Pair]
    gradients: Gradients
    steps: Steps
    main: Callable[[Any], jax.Array] = main_output


@dataclass(frozen=True)
class Optimizer:
    """The same optimiser on both sides.

    Attributes:
      ours: (learning rate, number of steps) -> Optax's.
      theirs: (the original, learning rate) -> PyTorch's.
    """

    ours: Callable[[float, int], optax.GradientTransformation]
    theirs: Callable[[Original, float], torch.optim.Optimizer]


@dataclass(frozen=True)
class Subject:
    """A pair to certify.

    Attributes:
      original: dtype (``"float64"``, ``"float32"``) -> the original computing in it, dropout off.
      ours: (dtype, an original) -> our side computing in it, for the original's names. Parameters
        are float64 for ``"float64"``, else float32; ``"bfloat16"`` is asked for too.
      inputs: keys of the batch that both models take, in order.
      batch: i -> the i-th batch, in float64.
      whole: a batch without padding, by which layers are compared.
      parameters: number of parameters on our side and in the original.
      optimizers: ``"adamw"`` and ``"sgd"``, or some of them.
      randomise: (module, inputs) sets random parameters and statistics, in place.
    """

    original: Callable[[str], Original]
    ours: Callable[[str, Original], Ours]
    inputs: tuple[str, ...]
    batch: Callable[[int], Batch]
    whole: Callable[[], Batch]
    parameters: tuple[int, int]
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    randomise: Callable[[torch.nn.Module, Sequence[torch.Tensor]], None] = randomise


def ours_of(
    model: nn.Module,
    *,
    to_ours: Callable[[Mapping[str, np.ndarray]], Variables],
    to_theirs: Callable[[Variables], Mapping[str, np.ndarray]],
    modules: Mapping[str, Pair],
    inputs: Sequence[str],
    loss: Loss,
) -> Ours:
    """Our side of a model and its loss, with plain gradients and steps; see :class:`Ours`."""
    gradients = gradients_of(model, loss, inputs)
    return Ours(model, to_ours, to_theirs, modules, gradients, steps_of(gradients))


def gradients_of(model: nn.Module, loss: Loss, inputs: Sequence[str]) -> Gradients:
    """The gradient of ``sum of losses / count`` in training mode, and collections that change."""

    def gradients(variables, batch):
        state = {k: v for k, v in variables.items() if k != "params"}

        def total(params):
            given, rngs = [batch[k] for k in inputs], {"dropout": jax.random.key(0)}
            outputs, new = model.apply(
                {"params": params, **state}, *given, train=True, rngs=rngs, mutable=list(state)
            )
            value, count = loss(outputs, batch)
            return value, (count, new)

        (value, (count, new)), grads = jax.value_and_grad(total, has_aux=True)(variables["params"])
        return (value, count), jax.tree.map(lambda g: g / count, grads), dict(new)

    return gradients


def steps_of(gradients: Gradients) -> Steps:
    """Optimiser steps along these gradients."""

    def steps(tx):
        def init(variables):
            return variables, tx.init(variables["params"])

        def step(state, batch):
            variables, memory = state
            loss, grads, new = gradients(variables, batch)
            updates, memory = tx.update(grads, memory, variables["params"])
            params = optax.apply_updates(variables["params"], updates)
            return ({"params": params, **new}, memory), loss

        return init, step

    return steps
