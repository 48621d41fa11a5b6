"""Counts the FLOPs of a traced function: those of its matrix products and convolutions."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

REMATTED = "rematted_computation"
"""Name that jax gives to what ``jax.checkpoint`` computes again."""


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """FLOPs of matrix products and convolutions, over all devices; an addition and a multiplication
    are two.

    A product counts ``2 b m n k``. A convolution counts two for each pair of a weight and a value
    that meet, so neither padding nor the holes of a dilation count. Bodies of loops count as often
    as they run; the body of a ``while``, whose number of rounds is not known, counts once. The most
    expensive branch counts. Operations that rematerialisation repeats do not count: MFU is measured
    by the operations of the model (Chowdhery et al. 2022, appendix B). Words that fill up a
    vocabulary for a GPU do count, 0.1% of its logits' products.
    """
    return sum(map(_of_equation, getattr(jaxpr, "jaxpr", jaxpr).eqns))


def _of_equation(eqn: JaxprEqn) -> int:
    if REMATTED in str(eqn.source_info.name_stack):
        return 0
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return _product(eqn)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name == "cond":
        return max(map(count_flops, params["branches"]))
    inner = sum(map(count_flops, _bodies(params)))
    if name == "scan":
        return params["length"] * inner
    if name == "shard_map":  # its body is what one device does
        return params["mesh"].size * inner
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid) * inner
    return inner


def _bodies(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value


def _product(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    left, right, out = (v.aval.shape for v in (*eqn.invars, *eqn.outvars))
    p = eqn.params
    (batch, features, *space), (outputs, _, *window), (_, _, *out_space) = (
        getattr(p["dimension_numbers"], f"{x}_spec") for x in ("lhs", "rhs", "out")
    )
    met = math.prod(
        meeting(left[i], right[j], out[k], *rest)
        for i, j, k, *rest in zip(
            space,
            window,
            out_space,
            p["window_strides"],
            (low for low, _ in p["padding"]),
            p["lhs_dilation"],
            p["rhs_dilation"],
            strict=True,
        )
    )
    groups = p["feature_group_count"] * p["batch_group_count"]
    return 2 * met * left[batch] * left[features] * right[outputs] // groups


def meeting(
    size: int, window: int, out: int, stride: int, low: int, dilation: int, window_dilation: int
) -> int:
    """Counts pairs (place of the output, weight) along one dimension that meet a value, not padding
    or a hole.

    Args:
      size: length of the input before dilation.
      window: length of the kernel.
      out: length of the output.
      low: padding in front, may be negative.
    """
    place = np.arange(out)[:, None] * stride - low + np.arange(window) * window_dilation
    return int(((place >= 0) & (place <= (size - 1) * dilation) & (place % dilation == 0)).sum())
