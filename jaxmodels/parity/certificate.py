"""Certificates: a model against its PyTorch original, from forward pass to optimiser steps.

In float64 both are the truth up to rounding, so the bars are absolute. In float32 the yardstick is
PyTorch itself: our distance from the float64 truth is at most three times PyTorch's own. Every
parameter is random and no running statistic is at its initial value, because zeros agree with
anything. Dropout is off on both sides.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.capture import capture
from jaxmodels.parity.extra import optax, torch
from jaxmodels.parity.precision import BATCHES, compare_float32, cost_of_precision
from jaxmodels.parity.provenance import provenance
from jaxmodels.parity.randomness import deterministic_torch
from jaxmodels.parity.record import BARS, Certificate, relative, worst
from jaxmodels.parity.sides import Side, our_side, torch_batch, torch_loss, torch_side
from jaxmodels.parity.subject import Batch, Original, Ours, Subject
from jaxmodels.parity.trace import differences, first_divergence, trace_torch

ZERO_GRADIENT = 1e-11
"""A gradient smaller than this times the norm of the whole gradient is 0 by construction: a bias
that batch normalisation or softmax takes away again. Both sides must find it so; there is nothing
else to compare."""

FIRST_STEP = 0.05
"""Share of the loss that the first step of each optimiser takes away, to first order; it sets the
learning rate. With longer steps deep networks depend on their weights chaotically, and rounding
alone parts the two curves."""

SLOPES: dict[str, Callable[[np.ndarray], Any]] = {
    "adamw": lambda g: np.abs(g).sum(),  # its first step is the gradient's sign
    "sgd": lambda g: np.square(g).sum(),
}
"""Decrease of the loss by a first step at learning rate 1, to first order, from a gradient."""


def certify(
    name: str,
    subject: Subject,
    *,
    steps: int = 20,
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16"),
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Certificate:
    """Compares a model with its original.

    Args:
      name: of the certificate.
      steps: number of steps of each optimiser; 0 leaves them out.
      dtypes: precisions to compare in; float64 is the truth and always there.
      seed: of the original's random weights.
      say: told of each stage.

    Returns:
      The record. ``failures`` is empty where every bar is passed.
    """
    ours_count, theirs_count = subject.parameters
    result = Certificate(
        name,
        params=ours_count,
        torch_params=theirs_count,
        params_equal=ours_count == theirs_count,
        made=provenance(),
    )
    inputs = subject.inputs
    with jax.enable_x64(True), deterministic_torch(seed):
        original = subject.original("float64")
        result.original = original.source
        batches = [subject.batch(i) for i in range(BATCHES)]
        subject.randomise(original.module, [torch_batch(batches[0])[k] for k in inputs])
        state_dict = {k: v.clone() for k, v in original.tensors().items()}
        tensors = {k: v.numpy() for k, v in state_dict.items()}
        ours = subject.ours("float64", original)
        variables = ours.to_ours(tensors)
        result.roundtrip_bitwise = _same_bits(ours.to_theirs(variables), tensors)
        say("float64: forward, gradients and statistics")

        def truth_of(batch: Batch) -> Side:
            original.load(state_dict)
            return torch_side(original, ours, inputs, batch)

        truth = truth_of(batches[0])
        mine = our_side(ours, inputs)(variables, batches[0])
        _compare_layers(original, ours, inputs, variables, state_dict, subject.whole(), result)
        _compare_float64(mine, truth, result)
        for kind, optimizer in subject.optimizers.items() if steps else ():
            say(f"float64: {steps} steps of {kind}")
            original.load(state_dict)
            slope = sum(SLOPES[kind](g) for g in truth.grads.values())
            rate = float(FIRST_STEP * abs(truth.loss) / slope)
            turns = [batches[i % len(batches)] for i in range(steps)]
            theirs = _torch_curve(original, optimizer.theirs(original, rate), inputs, turns)
            found = _our_curve(ours, variables, optimizer.ours(rate, steps), turns)
            result.curves[kind] = {"torch": theirs, "ours": found}
            setattr(result, f"{kind}_loss_rel_f64", relative(found, theirs))
        original.load(state_dict)
    for dtype in dtypes:
        if dtype == "float32":
            say("float32: forward, gradients and statistics")
            compare_float32(subject, tensors, truth_of, result)
        elif dtype == "bfloat16":
            say("bfloat16 and default precision: logits")
            cost_of_precision(subject, original, tensors, truth, result)
    _judge(result)
    return result


def _same_bits(back: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray]) -> bool:
    return set(back) == set(tensors) and all(
        back[k].dtype == v.dtype and back[k].shape == v.shape and back[k].tobytes() == v.tobytes()
        for k, v in tensors.items()
    )


def _compare_layers(
    original: Original,
    ours: Ours,
    inputs: tuple[str, ...],
    variables: Any,
    state_dict: Mapping[str, torch.Tensor],
    batch: Batch,
    result: Certificate,
) -> None:
    """Compares every layer's input and output in training mode, and in evaluation if it differs."""
    pairs, tensors = dict(ours.modules), torch_batch(batch)
    given = tuple(jnp.asarray(batch[k]) for k in inputs)
    variables = jax.tree.map(jnp.asarray, variables)
    for train in (False, True) if "batch_stats" in variables else (True,):
        original.load(state_dict)
        original.module.train(train)
        with torch.no_grad():
            theirs = trace_torch(original.module, list(pairs), [tensors[k] for k in inputs])
        forward = jax.jit(partial(capture, ours.model, train=train))
        mine = jax.device_get(forward(variables, *given, rngs={"dropout": jax.random.key(0)}))
        found = differences(pairs, theirs, mine)
        result.blocks = [d for d in found if d.what == "output"]
        compared = {d.torch for d in result.blocks if d.norm > 0}
        for name in sorted(pairs.keys() - compared) if train else ():
            result.failures.append(f"layer {pairs[name].module} (PyTorch: {name}) was not compared")
        result.first_divergence = result.first_divergence or first_divergence(
            found, BARS["logits_rel_f64"]
        )


def _compare_float64(mine: Side, truth: Side, result: Certificate) -> None:
    result.logits_rel_f64 = relative(mine.logits, truth.logits)
    result.loss_rel_f64 = abs(mine.loss - truth.loss) / abs(truth.loss)
    whole = _norm(truth.grads)
    zero = [
        k
        for k, g in truth.grads.items()
        if k.endswith("/bias") and np.linalg.norm(g) < ZERO_GRADIENT * whole
    ]
    result.zero_gradients = zero
    errors = {}
    for k, g in truth.grads.items():
        if k in zero:  # at the bar if it is as large as a zero may be
            share = np.linalg.norm(mine.grads[k]) / (ZERO_GRADIENT * whole)
            errors[k] = float(share * BARS["grad_rel_f64"])
        else:
            errors[k] = relative(mine.grads[k], g)
    result.worst_grad, result.grad_rel_f64 = worst(errors)
    if truth.stats:
        name, result.bn_rel_f64 = worst(
            {k: relative(mine.stats[k], v) for k, v in truth.stats.items()}
        )
        if not result.bn_rel_f64 <= BARS["bn_rel_f64"] and result.first_divergence is None:
            result.first_divergence = (
                f"{name}: the running statistics differ by {result.bn_rel_f64:.1e}"
            )
    if not result.grad_rel_f64 <= BARS["grad_rel_f64"] and result.first_divergence is None:
        result.first_divergence = (
            f"{result.worst_grad}: its gradient differs by {result.grad_rel_f64:.1e}"
        )
    result.norms = {
        "logits": float(np.linalg.norm(truth.logits)),
        "loss": truth.loss,
        "gradient": whole,
        "smallest compared gradient": min(
            float(np.linalg.norm(g)) for k, g in truth.grads.items() if k not in zero
        ),
    }
    if truth.stats:
        result.norms["batch statistics"] = _norm(truth.stats)


def _norm(leaves: Mapping[str, np.ndarray]) -> float:
    """Norm of all leaves as one vector."""
    return math.sqrt(sum(float(np.vdot(x, x)) for x in leaves.values()))


def _torch_curve(
    original: Original,
    optimizer: torch.optim.Optimizer,
    inputs: tuple[str, ...],
    batches: list[Batch],
) -> list[float]:
    """The original's loss before each step."""
    original.module.train()
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = torch_loss(original, inputs, torch_batch(batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _our_curve(
    ours: Ours, variables: Any, tx: optax.GradientTransformation, batches: list[Batch]
) -> list[float]:
    """Our loss before each step."""
    init, step = ours.steps(tx)
    state = init(jax.tree.map(jnp.asarray, variables))
    step = jax.jit(step, donate_argnums=0)
    losses = []
    for batch in batches:
        state, (loss, count) = step(state, jax.tree.map(jnp.asarray, batch))
        losses.append(float(loss / count))
    return losses


def _judge(result: Certificate) -> None:
    if not result.params_equal:
        result.failures.append(
            f"{result.params:,} parameters, the original has {result.torch_params:,}"
        )
    if not result.roundtrip_bitwise:
        result.failures.append("weights do not come back bit for bit")
    for name, bar in BARS.items():
        value = getattr(result, name)
        if value is not None and not value <= bar:
            result.failures.append(f"{name} {value:.1e} is above {bar:.0e}")
    if result.first_divergence:
        result.failures.append(f"first difference: {result.first_divergence}")
