"""The state of a run, out of a checkpoint of its workdir."""

from pathlib import Path
from typing import Any

from train.checkpoint import CheckpointError, Checkpoints
from train.launch import cli
from train.options.fields import ConfigError, shown
from train.state import TrainState


def restore(run: Any, workdir: Path, step: str = "last") -> TrainState:
    """The state of a checkpoint of ``workdir``: the ``"last"``, the ``"best"`` or the one of step
    ``"N"``."""
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(f"{workdir} has no checkpoints yet")
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        number = None if step in ("last", "best") else _step_number(step)
        restored = checkpoints.restore(run.shapes, step=number, warn=cli.warn)
        if step == "best":
            number = checkpoints.best_step()  # known from the newest
            if number is None:
                raise CheckpointError(f"{workdir} has no checkpoint with a score; use --step=last")
            if restored is None or number != int(restored[0].step):
                restored = checkpoints.restore(run.shapes, step=number)
        if restored is None:
            raise CheckpointError(f"{workdir} has no finished checkpoint yet")
        return restored[0]
    finally:
        checkpoints.close()


def _step_number(text: str) -> int:
    """The number of a step as a person writes it; digits of other scripts, and more than any step
    has, are none."""
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise ConfigError(f"--step={shown(text)} is not last, best or the number of a step")
    return int(text)
