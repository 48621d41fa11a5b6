"""Merging of sums and counts on the host."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Sums:
    """Running (sum, count) of each metric, in float64."""

    def __init__(self, values: Mapping[str, Sequence[float]] | None = None):
        self.values = {k: (float(s), float(c)) for k, (s, c) in (values or {}).items()}

    def add(self, metrics: Mapping[str, tuple[Any, Any]]) -> None:
        """Adds the sums and counts of one step or batch."""
        for name, (value, count) in metrics.items():
            total, n = self.values.get(name, (0.0, 0.0))
            self.values[name] = (total + float(value), n + float(count))

    def means(self) -> dict[str, float]:
        """Sum over count of every metric, loss and accuracy first; NaN where nothing was
        counted."""
        names = sorted(self.values, key=lambda k: (k != "loss", k != "accuracy", k))
        return {
            k: self.values[k][0] / self.values[k][1] if self.values[k][1] else math.nan
            for k in names
        }
