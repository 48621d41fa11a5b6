"""Files that a person names: regular ones, and UTF-8 where they hold text."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from input_pipeline.errors import DataError, shortened

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which is no character."""


def require_file(path: Path) -> None:
    """Raises `DataError` for what is no regular file: to open a pipe would wait, and a device may
    have no end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise DataError("no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(mode):
        raise DataError("is a directory" if stat.S_ISDIR(mode) else "is no regular file")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without the mark that some programs put before it.

    Raises:
        DataError: no such file, or an empty one, one that cannot be read, or that is not UTF-8,
          with the place.
    """
    name = shortened(path, 200)
    try:
        require_file(path)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    text = decoded(data, name)
    if not text.strip():
        raise DataError(f"{name} is empty")
    return text


def decoded(data: bytes, name: str) -> str:
    """Bytes of a text file as text.

    Raises:
        DataError: they are not UTF-8, or hold a NUL.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}; "
            f"convert it with iconv -f LATIN1 -t UTF-8, or whatever it is"
        ) from error
    if (place := data.find(0)) >= 0:
        raise DataError(
            f"{name} has a NUL at offset {place}: it is no text, or UTF-16; convert it to UTF-8"
        )
    return text


def lines_of(text: str) -> list[str]:
    """Lines that newlines alone end: other separators of Unicode may stand in a text."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
