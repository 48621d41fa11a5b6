"""The directory of a run: who may write to it, and what it says of itself (``config.json``,
``dataset.json``)."""

import contextlib
import errno
import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import jax

from input_pipeline import DataSpec
from input_pipeline.features import from_json, to_json
from train import config as config_lib
from train.config import Config
from train.launch import distributed
from train.options import PIXELS
from train.options.fields import fits, one_line, shown
from train.records import files
from train.records.files import WorkdirError, is_disk_full, write_atomically

FILES = (
    *(
        "lock",
        "config.json",
        "dataset.json",
        "metrics.jsonl",
        "timings.jsonl",
        "summary.json",
        "translations.tsv",
    ),
    *("curves.png", "confusion.png", "two_classes.png"),
)
DIRECTORIES = ("checkpoints", "damaged", "tensorboard", "samples", "nonfinite")


@contextlib.contextmanager
def claimed(workdir: Path, config: Config) -> Iterator[Callable[[], None]]:
    """Makes the workdir this run's own for as long as the context lasts.

    Only the first process of several writes. The lock goes with the process, however it ends.

    Yields:
      A function to call when the start has succeeded. Without that call, what was made for it is
      taken away again.

    Raises:
      WorkdirError: not writable, in use by another run, or of a run with another config (the fields
        are named).
      ConfigError: several processes do not see the same directory.
    """
    if jax.process_index() != 0:
        # looked at only once it is there: network file systems remember absence
        distributed.agree("a workdir", {})
        distributed.agree("the workdir", _mark(workdir), _SHARED)
        yield lambda: None
        return
    made = _make(workdir)
    lock = None
    try:
        lock, new = _locked(workdir)
        made += [workdir / "lock"] * new
        made += [p for p in (workdir / "checkpoints",) if not p.exists()]
        _require_same_config(workdir, config)
        os.ftruncate(lock.fileno(), 0)  # only now: a run that is refused leaves the lock as it was
        lock.write(f"{uuid.uuid4()}\n".encode())
        lock.flush()
        distributed.before_exit(lambda: _unmake(made))
        distributed.agree("a workdir", {})
        distributed.agree("the workdir", _mark(workdir), _SHARED)
        yield made.clear
    finally:
        _unmake(made)
        if lock is not None:
            lock.close()


def _make(workdir: Path) -> list[Path]:
    """Makes the directory; what was made, outermost first."""
    missing = []
    try:
        missing += [p for p in (workdir, *workdir.parents) if not p.exists()][::-1]
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        _unmake(missing)
        _raise(workdir, e)
    return missing


def _locked(workdir: Path) -> tuple[BinaryIO, bool]:
    """The lock, held as long as it is open, and whether its file is new.

    Raises:
      WorkdirError: another run has it, or a file of the workdir is not what it should be.
    """
    for name in (*FILES, *DIRECTORIES):
        files.require(workdir / name, "a file" if name in FILES else "a directory")
    path = workdir / "lock"
    while True:
        new = files.kind(path) is None
        try:
            lock = files.open_own(path, os.O_RDWR | os.O_CREAT)
        except OSError as e:
            _raise(workdir, e)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise WorkdirError(
                f"workdir {workdir} is in use by another run; choose another --workdir"
            ) from None
        except OSError:
            pass  # a network file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock, new
        lock.close()  # a start that failed has just taken it away


def _unmake(made: list[Path]) -> None:
    """Takes away what was made, outermost first; directories only where they are empty."""
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _raise(workdir: Path, error: OSError) -> NoReturn:
    if is_disk_full(error):
        raise error
    raise WorkdirError(
        f"workdir {workdir} is not writable: {error.strerror}; choose another --workdir"
    ) from error


_SHARED = "--workdir must be on a file system that all processes share"


def _mark(workdir: Path) -> dict[str, str]:
    """What the first process wrote into the workdir, as this one reads it."""
    try:
        return {"the workdir's lock": (workdir / "lock").read_text().strip()}
    except OSError as e:
        return {"the workdir's lock": e.strerror or str(e)}


def _require_same_config(workdir: Path, config: Config) -> None:
    if (workdir / "config.json").exists():
        changed = config_lib.differences(read_config(workdir), config)
        if changed:
            raise WorkdirError(
                f"workdir {workdir} belongs to a run with another config ({'; '.join(changed)}); "
                "give the same config to resume it, or another --workdir"
            )
    elif (workdir / "checkpoints").is_dir() and any((workdir / "checkpoints").iterdir()):
        raise WorkdirError(
            f"workdir {workdir} has checkpoints but no config.json; choose another --workdir"
        )


def write_identity(workdir: Path, config: Config, card: DataSpec) -> None:
    """Writes ``config.json`` and ``dataset.json``: only once the config is known to be good."""
    write_atomically(workdir / "config.json", config_lib.to_json(config))
    write_atomically(workdir / "dataset.json", json.dumps(to_json(card), indent=2) + "\n")


def read_config(workdir: Path) -> Config:
    """The config that the run in ``workdir`` was started with."""
    text = _read(workdir, "config.json")
    try:
        return config_lib.from_json(text)
    except (ValueError, RecursionError) as e:  # ConfigError and JSONDecodeError among them
        raise WorkdirError(
            f"{workdir}/config.json is damaged or of another version of this program "
            f"({one_line(str(e), 200)}); restore it, or choose another --workdir"
        ) from e


def read_card(workdir: Path) -> DataSpec:
    """What the run in ``workdir`` was trained on: image shape, columns or tokenizer; label names;
    not the data."""
    text = _read(workdir, "dataset.json")
    try:
        return from_json(json.loads(text), _require)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise WorkdirError(
            f"{workdir}/dataset.json is damaged or of another version of this program "
            f"({one_line(str(e), 200)})"
        ) from e


def _require(name: str, value: Any, hint: Any) -> None:
    """Raises `ValueError` unless a value is of its type, and an image has a shape that it can
    have."""
    wrong = not fits(value, hint)
    if name == "image_shape" and not wrong:
        wrong = len(value) != 3 or not all(0 < n <= PIXELS for n in value)
    if wrong:
        raise ValueError(f"{name} is {shown(value)}")


def _read(workdir: Path, name: str) -> str:
    try:
        content = files.read_own(workdir / name)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return content.decode()
    except UnicodeDecodeError as e:
        raise WorkdirError(f"{workdir}/{name} is damaged: it is not text") from e
    except OSError as e:
        raise WorkdirError(f"{workdir} is not the workdir of a run: {name}: {e.strerror}") from e
