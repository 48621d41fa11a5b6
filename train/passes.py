"""One pass over a split: means of metrics, or arrays over all of its examples.

Every example counts exactly once: the last batch is padded with weight 0, and sums and counts are
merged. ``run`` is a ``train.run.Run``.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from train import batches, compiling
from train.errors import Stopped
from train.metrics import Sums
from train.sharding import put_batch
from train.state import TrainState


@dataclass(frozen=True)
class Evaluation:
    """Means of the metrics on a split, the number of examples (or tokens) that they count, and
    counts int64 of the task's reports, by their names."""

    means: dict[str, float]
    examples: int
    counts: dict[str, np.ndarray]


def evaluate(
    run: Any,
    step: Any,
    state: TrainState,
    split: str,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluates a whole split.

    Args:
      step: of ``train.compiling.compile_eval_step`` or ``compile_sums``.

    Raises:
      Stopped: ``stopping`` said so.
    """
    sums, totals = Sums(), {}
    with contextlib.closing(_results(run, step, state, split, stopping)) as results:
        for metrics, counts in results:
            sums.add(metrics)
            for name, count in (counts or {}).items():
                totals[name] = count.astype(np.int64) + totals.get(name, 0)
    count, means = next(iter(sums.values.values()))[1], sums.means()
    return Evaluation(means | run.task.derive(means), int(count), totals)


def collect(
    run: Any,
    step: Callable[[TrainState, Any], tuple[jax.Array, ...]],
    state: TrainState,
    split: str,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> list[np.ndarray]:
    """Arrays [n, ...] over the examples of a split, the same on every process.

    Args:
      step: (state, batch as loaded) -> arrays [b, ...].

    Raises:
      Stopped: ``stopping`` said so.
    """
    compiled = compiling.compile_collecting(run, lambda s, b: (b["weight"], *step(s, b)))
    with contextlib.closing(_results(run, compiled, state, split, stopping)) as results:
        found = [*results]
    weight, *arrays = map(np.concatenate, zip(*found, strict=True))
    return [x[weight > 0] for x in arrays]


def _results(
    run: Any, step: Any, state: TrainState, split: str, stopping: Callable[[], bool]
) -> Iterator[Any]:
    """What a compiled step gives for each batch of a split, on the host."""
    pending = None
    with contextlib.closing(batches.loader(run, split, train=False)) as loader:
        for batch in loader:
            # fetched late: the device stays busy
            done, pending = pending, step(state, put_batch(batch, run.mesh))
            if done is not None:
                yield jax.device_get(done)
                if stopping():
                    raise Stopped
    yield jax.device_get(pending)
    if stopping():
        raise Stopped
