"""Plots show names letter by letter, and the numbers of logarithmic axes as powers."""

import io
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from train.compress.figures import plot_pareto
from train.records import figures
from train.tasks.figures import plot_confusion, plot_two_classes

NAME = "a$b$"  # a formula to matplotlib, and no class's name
CURVES = [{"step": i, "kind": "train", "loss": 2 / i, "grad_norm": 3 / i} for i in range(1, 50)]
ROWS = [
    {"name": f"{NAME}{i}", "accuracy": 0.5 + i / 10, "bytes": 10**i, "latency_ms": 0.2 * 2**i}
    for i in range(4)
]
LABELS, PROBABILITIES = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.4, 0.6])
PLOTS = {
    "curves": lambda path: figures.plot_curves(CURVES, path, {"train": NAME}),
    "pareto": lambda path: plot_pareto(ROWS, path, NAME),
    "confusion": lambda path: plot_confusion(np.eye(2, dtype=int), [NAME, "c"], path, NAME),
    "two_classes": lambda path: plot_two_classes(LABELS, PROBABILITIES, path, NAME),
}


@pytest.mark.parametrize("name", PLOTS)
def test_words_of_a_plot(name, tmp_path, monkeypatch, plots):
    def words(figure, path):
        file = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters, not their outlines
            figure.savefig(file, format="svg")
        path.write_text("|".join(ElementTree.fromstring(file.getvalue()).itertext()))

    monkeypatch.setattr(figures, "save", words)
    PLOTS[name](tmp_path / "words")
    found = (tmp_path / "words").read_text()
    assert NAME in found and r"\mathdefault" not in found and r"\$" not in found


def test_a_plot_is_a_png(tmp_path):
    for name, plot in PLOTS.items():
        plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
