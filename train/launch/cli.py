"""What the commands share: quiet libraries, and errors that are one line for the person who can
mend them."""

import difflib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import absl.logging

from input_pipeline import DataError
from jaxmodels.foreign.original import OriginalError
from jaxmodels.nn.cpu import for_onednn
from train.errors import CheckpointError, NonFiniteError, SaveError, WorkdirError
from train.launch.hardware import (
    choose_libraries,
    keep_compiled_programs,
    keep_freed_memory,
    quiet_without_tpu,
)
from train.options.fields import ConfigError, one_line
from train.records import files


def run(main: Callable[[], int], *, long: bool = False) -> int:
    """Runs a command; what a user can mend becomes ``error: ...`` on standard error.

    Exit codes: 2 for a mistake, 1 for a disk that is full or fails, 3 for NaN or Inf in training, 4
    for a process that ends because of another one, 130 for Ctrl-C.

    Args:
      long: it runs longer than it compiles, so that on CPUs what it runs may be compiled for speed
        at each start.
    """
    # orbax and tfds narrate, and print what they also raise
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("jax").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # of odd metadata, and of sizes that are refused anyway
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # jaxlib tries to keep what calls oneDNN, too, which it cannot
    warnings.filterwarnings(
        "ignore", "Error writing persistent compilation cache entry .*bad_alloc", UserWarning
    )
    keep_freed_memory()
    quiet_without_tpu()
    onednn = choose_libraries(onednn=long)
    keep_compiled_programs()
    try:
        with for_onednn(onednn):
            return main()
    except BrokenPipeError:  # output piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as e:
        known = explain(e)
        if known is None:
            raise
        return _fail(*known)


def explain(error: BaseException) -> tuple[str, int] | None:
    """Line and exit code of what a user can mend; None for anything else."""
    if isinstance(error, ConfigError | OriginalError):
        return str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, SaveError):
        return str(error), 1
    if isinstance(error, WorkdirError | CheckpointError):
        return str(error), 1 if files.is_disk_full(error) else 2
    if isinstance(error, NonFiniteError):
        return str(error), 3
    if isinstance(error, DataError):
        return str(error), 1 if files.is_disk_full(error) else 2
    if isinstance(error, OSError) and (full := files.disk_full(error)):
        return (
            f"{full} while writing {error.filename or 'the workdir'}; finished checkpoints are "
            "kept. Free some space and run the same command again: it goes on from the last one",
            1,
        )
    if isinstance(error, MemoryError):
        return (
            f"out of memory ({error or 'no size is known'}); take smaller batches or fewer "
            "examples",
            1,
        )
    if (
        isinstance(error, OSError)
        and error.strerror
        and (error.filename or error.errno in files.FAULTS)
    ):
        return (
            f"{error.filename or 'a file'}: {error.strerror}; mend that, and run the same command "
            "again",
            1,
        )
    return None


def config_files() -> list[Path]:
    """The configs that there are, by name."""
    return sorted((Path(__file__).parents[2] / "configs").glob("[!_]*.py"))


def overrides(rest: Sequence[str], flags: Sequence[str]) -> list[str]:
    """``FIELD=VALUE`` of each ``--config.FIELD=VALUE`` or ``--config.FIELD VALUE`` among arguments
    that no parser took.

    Raises:
      ConfigError: another argument; the nearest of ``flags`` is named.
    """
    found, words = [], iter(rest)
    for word in words:
        if not word.startswith("--config."):
            close = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
            raise ConfigError(
                f"unknown argument {word}" + (f"; did you mean {close[0]}?" if close else "")
            )
        text = word.removeprefix("--config.")
        found.append(text if "=" in text else f"{text}={next(words, '')}")
    return found


def warn(text: str) -> None:
    """Tells the user something in one line, without stopping."""
    print(f"warning: {one_line(text)}", file=sys.stderr, flush=True)


def _fail(text: str, code: int) -> int:
    print(f"error: {one_line(text)}", file=sys.stderr, flush=True)
    return code


def stdin_text() -> str:
    """Standard input, UTF-8 whatever the locale.

    Raises:
      ConfigError: it is something else.
    """
    binary = getattr(sys.stdin, "buffer", None)  # None: a stream of text is in its place
    try:
        text = sys.stdin.read() if binary is None else binary.read().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigError(
            f"standard input is not UTF-8: byte {e.object[e.start]:#04x} at offset {e.start}; "
            "convert it with iconv"
        ) from e
    if (place := text.find("\0")) >= 0:
        raise ConfigError(
            f"standard input has a NUL at character {place}: it is no text, or UTF-16; convert it "
            "to UTF-8"
        )
    return text


def stdin_lines() -> list[str]:
    """Lines of standard input, ended by newlines alone: other separators of Unicode may stand in a
    text."""
    return stdin_text().replace("\r\n", "\n").removesuffix("\n").split("\n")
