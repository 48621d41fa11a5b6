"""Explanations of all examples, and how faithful they are on average."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from train.explain.methods import Explained
from train.run import Run
from train.sharding import batch_shards, put_batch
from train.state import TrainState

STEPS = 64
"""Of integrated gradients, unless --ig_steps says otherwise."""

COMPLETE = 0.01
"""Mean completeness error up to which integrated gradients are said to be complete."""


def explained(
    explain: Callable[..., Explained],
    run: Run,
    state: TrainState,
    arrays: dict[str, np.ndarray],
    wanted: int,
    methods: tuple[str, ...],
    replace: str,
    size: int,
    steps: int = STEPS,
) -> Explained:
    """Explanations of all examples by a function of :mod:`train.explain.methods`, on the host.

    ``size`` examples are explained at a time.
    """
    count, size = (
        len(next(iter(arrays.values()))),
        -(-size // batch_shards(run.mesh)) * batch_shards(run.mesh),
    )
    step, parts = jax.jit(partial(explain, run, methods, replace, steps=steps)), []
    for start in range(0, count, size):
        # the last example fills the last chunk
        rows = np.minimum(np.arange(start, start + size), count - 1)
        chunk = {k: x[rows] for k, x in arrays.items()} | {
            "wanted": np.full(size, wanted, np.int32)
        }
        with jax.set_mesh(run.mesh):
            batch = put_batch(chunk, run.mesh)
            parts.append(jax.device_get(step(state, batch, batch.pop("wanted"))))

    def joined(axis: int, *fields: Any) -> Any:
        return jax.tree.map(
            lambda *x: np.concatenate(x, axis).take(np.arange(count), axis), *fields
        )

    layered = ("attention", "lens")  # whose first axis is the layers
    found = Explained(
        *(joined(int(k in layered), *(getattr(p, k) for p in parts)) for k in Explained._fields)
    )
    order = [method for method in methods if method in found.attributions]  # jax has sorted them
    return found._replace(attributions={method: found.attributions[method] for method in order})


def scores(found: Explained, there: np.ndarray) -> dict[str, dict[str, float | int]]:
    """Means over the examples that are there, of each method and of random order.

    Completeness errors that are not defined are left out and counted as ``undefined``.
    """
    result = {}
    for method in (*found.attributions, "random"):
        values = {}
        if method in found.errors:
            errors = found.errors[method][there]
            defined = errors[~np.isinf(errors)]
            if defined.size:
                values |= {
                    "completeness_error": float(defined.mean()),
                    "median_error": float(np.median(defined)),
                }
            values["undefined"] = errors.size - defined.size
        areas = {
            kind: float(getattr(found, kind)[method][there].mean())
            for kind in ("deletion", "insertion")
        }
        result[method] = values | areas
    return result


def remarks(
    found: dict[str, Explained], there: dict[str, np.ndarray], steps: int = STEPS
) -> list[str]:
    """What a reader of :func:`scores` must know of the images, texts or rows, a line each."""
    lines = []
    for kind, one in found.items():
        for method, errors in one.errors.items():
            defined = errors[there[kind]][np.isfinite(errors[there[kind]])]
            if method == "integrated_gradients" and defined.size and defined.mean() > COMPLETE:
                lines.append(
                    f"{kind} {method}: the parts miss the whole by {defined.mean():.1%} on average "
                    f"with {steps} steps; --ig_steps={4 * steps} comes nearer"
                )
            if undefined := np.isinf(errors[there[kind]]).sum():
                lines.append(
                    f"{kind} {method}: completeness of {undefined} of {there[kind].sum()} "
                    "examples, whose score equals the baseline's, is not defined"
                )
        if one.instead_of is not None:
            lines.append(f"attention by einsum in the place of {one.instead_of}")
    return lines


def table(result: dict[str, dict[str, float | int]]) -> str:
    """:func:`scores` as aligned text."""
    columns = ("completeness_error", "median_error", "deletion", "insertion")
    rows = [f"{'':<21}" + "".join(f"{c:>20}" for c in columns)]
    for method, values in result.items():
        rows.append(
            f"{method:<21}"
            + "".join(f"{values[c]:>20.4g}" if c in values else f"{'-':>20}" for c in columns)
        )
    return "\n".join(rows)
