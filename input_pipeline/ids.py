"""Numbers that stand for classes and tokens, checked on the host: on a device one that is too large
becomes NaN."""

from __future__ import annotations

import numpy as np

from input_pipeline.errors import DataError


def check_labels(
    labels: np.ndarray,
    classes: int,
    source: str,
    *,
    complete: bool = False,
    indices: np.ndarray | None = None,
) -> None:
    """Checks labels [n] of a split.

    Args:
        labels: whole numbers; -1 stands for a label that is missing.
        classes: labels are 0 .. classes - 1.
        source: name of the split, for messages.
        complete: whether every example must have a label.
        indices: of the examples in the split; None: 0 .. n - 1.

    Raises:
        DataError: a label that is no class, or one that is missing; the first example that has it
          is named.
    """
    wrong = np.flatnonzero((labels >= classes) | (labels < -1))
    if wrong.size:
        example = _example(wrong, indices)
        raise DataError(
            f"example {example} of {source} has label {labels[wrong[0]]}, and its classes are 0 to "
            f"{classes - 1}: the data set is damaged, or of another version; prepare it again"
        )
    if complete and (missing := np.flatnonzero(labels < 0)).size:
        raise DataError(
            f"{source} has {missing.size} examples without a label, first example "
            f"{_example(missing, indices)}; name another split"
        )


def _example(places: np.ndarray, indices: np.ndarray | None) -> int:
    return int(places[0] if indices is None else indices[places[0]])
