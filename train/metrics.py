"""Merging of sums and counts on the host, per-class scores, and the writers of a run.

``metrics.jsonl`` holds only what (config, seed) determine, so that it is equal, byte for byte, however often the run
was interrupted; times go to ``timings.jsonl``. TensorBoard gets both.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm


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
        """Sum over count of every metric, loss and accuracy first; NaN where nothing was counted."""
        names = sorted(self.values, key=lambda k: (k != "loss", k != "accuracy", k))
        return {k: self.values[k][0] / self.values[k][1] if self.values[k][1] else math.nan for k in names}


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and support of every class.

    Args:
      confusion: counts [classes, classes], true class by row, predicted class by column.

    Returns:
      Float arrays [classes]; a ratio whose denominator is 0 is 0, as in scikit-learn.
    """
    hit, predicted, support = np.diag(confusion), confusion.sum(0), confusion.sum(1)

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)

    return {
        "precision": ratio(hit, predicted),
        "recall": ratio(hit, support),
        "f1": ratio(2 * hit, predicted + support),
        "support": support,
    }


class Writers:
    """Console, ``metrics.jsonl``, ``timings.jsonl`` and TensorBoard events of one workdir.

    Args:
      workdir: an existing directory.
      start: step from which the run goes on; records of later steps, left by an interrupted run, are dropped.
      steps: total, for the progress bar.
      quiet: print and write nothing (every process but the first).
    """

    def __init__(self, workdir: Path, *, start: int, steps: int, quiet: bool = False):
        self.quiet = quiet
        self._last = 0
        if quiet:
            return
        for name in ("metrics.jsonl", "timings.jsonl"):
            _keep_until(workdir / name, start)
        self._metrics = (workdir / "metrics.jsonl").open("a")
        self._timings = (workdir / "timings.jsonl").open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1, write_to_disk=True)
        self._bar = tqdm(total=steps, initial=start, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._last = start

    def progress(self, step: int) -> None:
        """Moves the bar to ``step``."""
        if not self.quiet:
            self._bar.update(step - self._last)
            self._last = step

    def line(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if not self.quiet:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def record(self, step: int, kind: str, values: Mapping[str, float], timings: Mapping[str, float]) -> None:
        """Writes the metrics of ``kind`` (``train`` or a split) after ``step`` steps, and prints them in one line."""
        if self.quiet:
            return
        self._metrics.write(json.dumps({"step": step, "split": kind, **values}) + "\n")
        self._metrics.flush()
        self._timings.write(json.dumps({"step": step, "split": kind, **timings}) + "\n")
        self._timings.flush()
        for name, value in {**values, **timings}.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in {**values, **timings}.items())
        self.line(f"step {step:>6}  {kind:<5}  {numbers}")

    def close(self) -> None:
        """Flushes and closes everything."""
        if not self.quiet:
            self._bar.close()
            self._metrics.close()
            self._timings.close()
            self._events.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a JSONL file; a last line that was cut off by a kill is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file so that a kill leaves the old or the new text, never half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _keep_until(path: Path, step: int) -> None:
    kept = [r for r in read_records(path) if r["step"] <= step]
    write_atomically(path, "".join(json.dumps(r) + "\n" for r in kept))
