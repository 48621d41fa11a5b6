"""The plot of what compression costs."""

from pathlib import Path
from typing import Any

from train.records import figures


def plot_pareto(rows: list[dict[str, Any]], path: Path, split: str) -> None:
    """Accuracy against bytes and against latency, each row a labelled point, and the line of those
    no other beats.

    Args:
      rows: with ``name``, ``accuracy``, ``bytes`` and ``latency_ms``.
      split: that accuracy is of.
    """
    figure = figures.empty(14.0, 5.0)
    for i, cost in enumerate(("bytes", "latency_ms")):
        axes = figure.add_subplot(1, 2, i + 1)
        best, front = -1.0, []
        for row in sorted(rows, key=lambda row: (row[cost], -row["accuracy"])):
            axes.plot(row[cost], row["accuracy"], "o", color="tab:blue")
            axes.annotate(
                figures.literal(row["name"]),
                (row[cost], row["accuracy"]),
                (4, 4),
                textcoords="offset points",
                fontsize=8,
            )
            if row["accuracy"] > best:
                best = row["accuracy"]
                front.append((row[cost], best))
        axes.plot(*zip(*front, strict=True), color="tab:blue", alpha=0.4)
        axes.set(
            xlabel=cost.replace("_", " "),
            ylabel=f"accuracy on {figures.literal(split)}",
            xscale="log",
        )
        axes.grid(alpha=0.3)
    figures.save(figure, path)
