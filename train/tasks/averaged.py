"""A report of the means of slow metrics."""

from collections.abc import Callable

from train.compiling import compile_sums
from train.passes import evaluate
from train.run import Run
from train.state import TrainState
from train.step import Batch, Metrics
from train.task import Report


def averaged(name: str, step: Callable[[TrainState, Batch], Metrics]) -> Report:
    """A report of the means of metrics that are too slow for every evaluation.

    Args:
      step: (state, batch as loaded) -> sums and counts. Pure.
    """

    def measure(
        run: Run, state: TrainState, split: str, stopping: Callable[[], bool]
    ) -> dict[str, float]:
        return evaluate(run, compile_sums(run, step), state, split, stopping=stopping).means

    return Report(name, measure=measure, means=lambda found: found)
