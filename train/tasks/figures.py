"""Plots of what reports of classifiers have measured."""

from pathlib import Path

import numpy as np

from train.records import figures
from train.tasks import binary


def plot_confusion(confusion: np.ndarray, names: list[str], path: Path, split: str) -> None:
    """Confusion matrix of a split: share of each true class by colour, counts in the cells (up to
    20 classes)."""
    classes = len(confusion)
    side = min(12.0, 2.5 + 0.5 * classes)
    figure = figures.empty(side, side)
    axes = figure.add_subplot()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=figures.literal(split), xlabel="predicted", ylabel="true")
    if classes <= 20:
        names = [*map(figures.literal, names)]
        axes.set_xticks(range(classes), names, rotation=45, ha="right")
        axes.set_yticks(range(classes), names)
        for i, j in np.argwhere(confusion):
            dark = share[i, j] > 0.5
            axes.text(
                j,
                i,
                f"{confusion[i, j]}",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize=8,
            )
    figures.save(figure, path)


def plot_two_classes(label: np.ndarray, probability: np.ndarray, path: Path, split: str) -> None:
    """Reliability diagram of a split, with Wilson's intervals and how often each probability
    occurs, and ROC curve.

    Args:
      label: 0 or 1 [n]; probability: [n], of label 1.
    """
    from sklearn.metrics import roc_curve  # here: seconds, and most runs have no use for it

    figure = figures.empty(10.0, 4.6)
    reliability, roc = figure.subplots(1, 2)
    bins = binary.calibration(label, probability)
    count, positives, total = (x[bins[0] > 0] for x in bins)
    share = positives / count
    low, high = binary.wilson(positives, count)
    distances = np.maximum([share - low, high - share], 0)  # rounding may pass 0
    reliability.errorbar(total / count, share, yerr=distances, fmt="o", capsize=3)
    for x, y, n in zip(total / count, share, count, strict=True):
        reliability.annotate(
            f"{n}", (x, y), xytext=(6, -10), textcoords="offset points", fontsize=8
        )
    reliability.set(
        title="reliability; examples of each bin",
        xlabel="mean probability",
        ylabel="share of positives",
    )
    if 0 < label.sum() < len(label):
        roc.plot(*roc_curve(label, probability)[:2])
    roc.set(title="ROC", xlabel="1 - specificity", ylabel="sensitivity")
    for axes in (reliability, roc):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes.grid(alpha=0.3)
    figure.suptitle(figures.literal(split))
    figures.save(figure, path)
