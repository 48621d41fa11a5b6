"""Comparisons below float64: float32, with PyTorch's own error as the yardstick, and bfloat16."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.parity.extra import torch
from jaxmodels.parity.record import (
    FLOAT32_FACTOR,
    FLOAT32_FLOOR,
    Certificate,
    relative,
    worst,
)
from jaxmodels.parity.sides import Side, counted, our_side, torch_side
from jaxmodels.parity.subject import Batch, Original, Subject

BATCHES, MOST_BATCHES = 8, 48
"""Batches of the float32 comparison: at least, at most."""


def compare_float32(
    subject: Subject,
    tensors: Mapping[str, np.ndarray],
    truth_of: Callable[[Batch], Side],
    result: Certificate,
) -> None:
    """Records distances from the truth: for each tensor the smallest of several batches, per side.

    A ReLU whose input is within rounding of 0 is open in one precision and shut in another, on
    either side, and the gradients before it jump. Few batches would compare the luck of the two, so
    batches go on while a tensor fails. A fault that is in every batch stays.

    Args:
      tensors: the original's, in float64.
      truth_of: batch -> the original's results in float64.
      result: gets the distances, and a failure for each tensor beyond the bar.
    """
    narrow = narrowed(tensors)
    original = subject.original("float32")
    ours = subject.ours("float32", original)
    state_dict = {k: torch.from_numpy(np.array(v)) for k, v in narrow.items()}
    run, variables = our_side(ours, subject.inputs), ours.to_ours(narrow)
    smallest: dict[str, tuple[float, float]] = {}  # ours, PyTorch's
    wrong: list[str] = []
    for i in range(MOST_BATCHES):
        batch = subject.batch(i)
        truth, batch = truth_of(batch), narrowed(batch)
        original.load(state_dict)
        theirs = torch_side(original, ours, subject.inputs, batch)
        with jax.default_matmul_precision("highest"):
            mine = run(variables, batch)
        on_both = (_compared(mine), _compared(theirs))
        for k, true in _compared(truth, result.zero_gradients).items():
            a, b = smallest.get(k, (math.inf, math.inf))
            found = [relative(side[k], true) for side in on_both]
            smallest[k] = (np.minimum(a, found[0]), np.minimum(b, found[1]))
        wrong = [
            k for k, (a, b) in smallest.items() if not a <= max(FLOAT32_FLOOR, FLOAT32_FACTOR * b)
        ]
        result.float32_batches = i + 1
        if i + 1 >= BATCHES and not wrong:
            break
    result.logits_rel_f32, result.torch_logits_rel_f32 = map(float, smallest["logits"])
    for what, prefix in (("grad", "params/"), ("bn", "batch_stats/")):
        group = {k: v for k, v in smallest.items() if k.startswith(prefix)}
        for place, side in enumerate(("", "torch_")) if group else ():
            value = worst({k: float(v[place]) for k, v in group.items()})[1]
            setattr(result, f"{side}{what}_rel_f32", value)
    for k in wrong:
        ours_off, torch_off = smallest[k]
        result.failures.append(f"float32 {k}: {ours_off:.1e} from float64, PyTorch {torch_off:.1e}")


def _compared(side: Side, without: list[str] | tuple[()] = ()) -> dict[str, np.ndarray]:
    grads = {k: g for k, g in side.grads.items() if k not in without}
    return {"logits": side.logits, **grads, **side.stats}


def cost_of_precision(
    subject: Subject,
    original: Original,
    tensors: Mapping[str, np.ndarray],
    truth: Side,
    result: Certificate,
) -> None:
    """Records how far logits of the first batch are from the truth in bfloat16, and in float32 at
    the backend's default precision."""
    narrow, batch = narrowed(tensors), subject.batch(0)
    for name, dtype in (
        ("default_precision_logits_rel", "float32"),
        ("bf16_logits_rel", "bfloat16"),
    ):
        if dtype == "float32" and jax.default_backend() == "cpu":  # its default is the highest
            result.default_precision_logits_rel = result.logits_rel_f32
            continue
        ours = subject.ours(dtype, original)
        given = [batch[k] for k in subject.inputs]
        inputs = [jnp.asarray(x, x.dtype if x.dtype == np.int32 else dtype) for x in given]
        outputs: Any = jax.jit(partial(ours.model.apply, train=False))(
            jax.tree.map(jnp.asarray, ours.to_ours(narrow)), *inputs
        )
        logits = counted(np.asarray(ours.main(outputs), np.float64), batch)
        setattr(result, name, relative(logits, truth.logits))


def narrowed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of float64 as float32; others as they are."""
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in tensors.items()}
