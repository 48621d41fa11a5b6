"""The oracle of every case: a known error in one short line, or the content of the file; in time
and in memory."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import DataError
from jaxmodels.weights import WeightsError
from train.checkpoint import CheckpointError
from train.config import ConfigError
from train.launch.workdir import WorkdirError

SECONDS = 10.0
BYTES = 2**30
"""That a case may take."""

LINE = 500
"""Characters of an error."""

ERRORS = (ConfigError, DataError, WeightsError, WorkdirError, CheckpointError)
"""Errors that a user can mend."""


class Kind(NamedTuple):
    """A kind of file or setting.

    Attributes:
      prepare: (directory) -> what cases need, with the healthy files, which must be read; once for
        each process.
      attempt: (context, generator, empty directory): one case. Raises Refused or Fault; else it was
        accepted.
    """

    prepare: Callable[[Path], Any]
    attempt: Callable[[Any, np.random.Generator, Path], None]


class Fault(AssertionError):
    """Something that must not be."""


class Refused(Exception):
    """The case was refused as it should be."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turns an error that a user may see into :class:`Refused`, once it is one short line."""
    try:
        yield
    except ERRORS as e:
        require_line(str(e))
        raise Refused from e


def require_line(text: str) -> None:
    """Raises Fault unless a message is one line that is not too long."""
    if len(text) > LINE or len(text.splitlines()) > 1:
        raise Fault(
            f"an error of {len(text):,} characters in {len(text.splitlines())} lines: "
            f"{text[:300]!r}"
        )


def require_same(found: Any, expected: Any, what: str) -> None:
    """Raises Fault unless what was read is what the file says."""
    if found != expected:
        raise Fault(
            f"accepted with changed content, {what}: read {str(found)[:300]!r}, right "
            f"{str(expected)[:300]!r}"
        )


def put(directory: Path, name: str, content: bytes) -> Path:
    """Writes a file of a case."""
    path = directory / name
    path.write_bytes(content)
    return path
