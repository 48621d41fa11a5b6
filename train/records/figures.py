"""Plots and pictures that a run leaves for people."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.records.files import write_atomically


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
    figure = empty(5.0 * max(1, len(panels)), 3.6)
    for i, name in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for kind in dict.fromkeys(r["kind"] for r in records):
            points = [(r["step"], r[name]) for r in records if r["kind"] == kind and name in r]
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(
                    steps,
                    values,
                    label=literal(splits.get(kind, kind)),
                    marker="." if len(points) < 40 else "",
                )
        axes.set(title=name.replace("_", " "), xlabel="step")
        positive = all(r[name] > 0 for r in records if name in r)
        if name in ("loss", "grad_norm") and positive:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)


def empty(width: float, height: float) -> Any:
    """An empty matplotlib figure of this size in inches."""
    # here: they take a second, and most commands draw nothing
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def literal(text: str) -> str:
    """A name as matplotlib shows it letter by letter: its dollars begin no formula."""
    return text.replace("$", r"\$")


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG, replacing a file of that name at once."""
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
