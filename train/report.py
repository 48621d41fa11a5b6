"""Plots and pictures that a run leaves for people."""

import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.files import write_atomically
from train.tasks import binary


def _literally(plot: Callable[..., None]) -> Callable[..., None]:
    """The plot with every dollar in a class name or split name as a dollar."""

    @functools.wraps(plot)
    def drawn(*args: Any, **kwargs: Any) -> None:
        import matplotlib  # here: it takes a second, and most commands draw nothing

        with matplotlib.rc_context({"text.parse_math": False}):
            plot(*args, **kwargs)

    return drawn


def plot_curves(records: list[dict[str, Any]], path: Path, splits: Mapping[str, str]) -> None:
    """Loss and its parts, accuracy, learning rate and gradient norm over steps, for training and
    evaluation.

    Args:
      records: of ``metrics.jsonl``.
      splits: kind of record -> name of the split it is of, for the legend.
    """
    parts = ("masked_loss", "next_loss", "masked_accuracy", "next_accuracy", "reconstruction", "kl")
    names = ("loss", "accuracy", *parts, "learning_rate", "grad_norm")
    panels = [k for k in names if any(k in r for r in records)]
    figure = _figure(5.0 * max(1, len(panels)), 3.6)
    for i, name in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for kind in dict.fromkeys(r["kind"] for r in records):
            points = [(r["step"], r[name]) for r in records if r["kind"] == kind and name in r]
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(
                    steps,
                    values,
                    label=splits.get(kind, kind),
                    marker="." if len(points) < 40 else "",
                )
        axes.set(title=name.replace("_", " "), xlabel="step")
        positive = all(r[name] > 0 for r in records if name in r)
        if name in ("loss", "grad_norm") and positive:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


@_literally
def plot_confusion(confusion: np.ndarray, names: list[str], path: Path, split: str) -> None:
    """Confusion matrix of a split: share of each true class by colour, counts in the cells (up to
    20 classes)."""
    classes = len(confusion)
    side = min(12.0, 2.5 + 0.5 * classes)
    figure = _figure(side, side)
    axes = figure.add_subplot()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=split, xlabel="predicted", ylabel="true")
    if classes <= 20:
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
    _save(figure, path)


@_literally
def plot_two_classes(label: np.ndarray, probability: np.ndarray, path: Path, split: str) -> None:
    """Reliability diagram of a split, with Wilson's intervals and how often each probability
    occurs, and ROC curve.

    Args:
      label: 0 or 1 [n]; probability: [n], of label 1.
    """
    from sklearn.metrics import roc_curve  # here: seconds, and most runs have no use for it

    figure = _figure(10.0, 4.6)
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
    figure.suptitle(split)
    _save(figure, path)


@_literally
def plot_pareto(rows: list[dict[str, Any]], path: Path, split: str) -> None:
    """Accuracy against bytes and against latency, each row a labelled point, and the line of those
    no other beats.

    Args:
      rows: with ``name``, ``accuracy``, ``bytes`` and ``latency_ms``.
      split: that accuracy is of.
    """
    figure = _figure(14.0, 5.0)
    for i, cost in enumerate(("bytes", "latency_ms")):
        axes = figure.add_subplot(1, 2, i + 1)
        best, front = -1.0, []
        for row in sorted(rows, key=lambda row: (row[cost], -row["accuracy"])):
            axes.plot(row[cost], row["accuracy"], "o", color="tab:blue")
            axes.annotate(
                row["name"],
                (row[cost], row["accuracy"]),
                (4, 4),
                textcoords="offset points",
                fontsize=8,
            )
            if row["accuracy"] > best:
                best = row["accuracy"]
                front.append((row[cost], best))
        axes.plot(*zip(*front, strict=True), color="tab:blue", alpha=0.4)
        axes.set(xlabel=cost.replace("_", " "), ylabel=f"accuracy on {split}", xscale="log")
        axes.grid(alpha=0.3)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of this size in inches."""
    # here: they take a second, and most commands draw nothing
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    write_atomically(path, file.getvalue())


def write_pictures(pictures: dict[str, np.ndarray], directory: Path, step: int) -> None:
    """Writes ``NAME_STEP.png`` of each picture, uint8 [h, w, c]; a run that is resumed writes the
    same files again."""
    for name, pixels in pictures.items():
        write_png(directory / f"{name}_{step}.png", pixels)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Writes uint8 [h, w, c] with c = 1, 3 or 4, replacing a file of that name at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    write_atomically(path, file.getvalue())
