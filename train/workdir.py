"""The directory of a run: who may write to it, and what it says of itself (``config.json``, ``dataset.json``)."""

import dataclasses
import fcntl
import json
from pathlib import Path
from typing import IO

import jax

from input_pipeline import DatasetCard
from train import config as config_lib
from train.config import Config, ConfigError
from train.metrics import write_atomically


class WorkdirError(RuntimeError):
    """The workdir cannot be used; the message is one line and meant for the user."""


def claim(workdir: Path, config: Config) -> IO[str] | None:
    """Makes the workdir this run's own and writes ``config.json``.

    Returns:
      The lock, to be kept open as long as the run writes (None on processes other than the first).

    Raises:
      WorkdirError: not writable, in use by another run, or of a run with another config (the fields are named).
    """
    if jax.process_index() != 0:
        return None
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / "lock").open("w")
    except OSError as e:
        raise WorkdirError(f"workdir {workdir} is not writable: {e.strerror}; choose another --workdir") from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise WorkdirError(f"workdir {workdir} is in use by another run; choose another --workdir") from None
    if (workdir / "config.json").exists():
        try:
            changed = config_lib.differences(read_config(workdir), config)
        except ConfigError as e:
            raise WorkdirError(f"workdir {workdir} is of another version of this program ({e})") from e
        if changed:
            raise WorkdirError(
                f"workdir {workdir} belongs to a run with another config ({'; '.join(changed)}); "
                "give the same config to resume it, or another --workdir"
            )
    elif (workdir / "checkpoints").is_dir() and any((workdir / "checkpoints").iterdir()):
        raise WorkdirError(f"workdir {workdir} has checkpoints but no config.json; choose another --workdir")
    write_atomically(workdir / "config.json", config_lib.to_json(config))
    return lock


def write_card(workdir: Path, card: DatasetCard) -> None:
    """Writes ``dataset.json``: what :func:`read_card` reads."""
    write_atomically(workdir / "dataset.json", json.dumps(dataclasses.asdict(card), indent=2) + "\n")


def read_config(workdir: Path) -> Config:
    """The config that the run in ``workdir`` was started with."""
    return config_lib.from_json(_read(workdir, "config.json"))


def read_card(workdir: Path) -> DatasetCard:
    """What the run in ``workdir`` was trained on: image shape and label names, without the data."""
    card = json.loads(_read(workdir, "dataset.json"))
    return DatasetCard(**{k: tuple(v) if isinstance(v, list) else v for k, v in card.items()})


def _read(workdir: Path, name: str) -> str:
    try:
        return (workdir / name).read_text()
    except OSError as e:
        raise WorkdirError(f"{workdir} is not the workdir of a run: {name}: {e.strerror}") from e
