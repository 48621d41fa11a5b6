"""Reads the small files of a tokenizer: bounded, and with one line that names the file where one is
damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from input_pipeline.errors import DataError, shortened

MOST_BYTES = 48 << 20
"""The largest file that is read; the largest published tokenizers have about 40 MB."""

MOST_TOKENS = 1 << 24
"""Numbers of tokens lie below it."""


def file_in(directory: Path, name: str) -> Path | None:
    """The file of that name, or None where there is nothing.

    Raises:
        DataError: something else is there.
    """
    path = directory / name
    if path.is_file():
        return path
    if path.exists() or path.is_symlink():
        raise DataError(f"{path} is not a file: remove it or put the tokenizer's own in its place")
    return None


def read_bytes(file: Path) -> bytes:
    """Content of a file.

    Raises:
        DataError: it is larger than `MOST_BYTES`, or cannot be read.
    """
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise DataError(
                f"{file} has {size:,} bytes: a tokenizer's file has at most {MOST_BYTES:,}"
            )
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def read_text(file: Path) -> str:
    """Content of a UTF-8 file.

    Raises:
        DataError: as of `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error.reason} at byte {error.start:,}") from error


def read_object(file: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(read_text(file))
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except RecursionError as error:
        raise DataError(f"{file} is nested too deeply: no tokenizer's file is") from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {brief(error)}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} holds {brief(found)}: a JSON object is needed")
    return found


def brief(value: object) -> str:
    """A value or an error for a message: one line, cut where it is long."""
    return shortened(value if isinstance(value, Exception) else repr(value), 100)


def read_numbers(file: Path) -> dict[str, int]:
    """A vocabulary in JSON: token to number.

    Raises:
        DataError: a number is none, too large or that of two tokens.
    """
    found = read_object(file)
    for token, number in found.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MOST_TOKENS:
            raise DataError(
                f"{file} gives {brief(token)} the number {brief(number)}: it must be in 0 .. "
                f"{MOST_TOKENS - 1:,}"
            )
    if len({*found.values()}) < len(found):
        seen: dict[int, str] = {}
        for token, number in found.items():
            if number in seen:
                raise DataError(
                    f"{file} gives {brief(seen[number])} and {brief(token)} one number, {number}"
                )
            seen[number] = token
    return found


def guarded(file: Path, read: Callable[[], Any]) -> Any:
    """The result of a function of the library, or one line about the file.

    Raises:
        DataError: the library raises; also where Rust panics, which is no Exception in Python.
    """
    try:
        return read()
    except (DataError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise DataError(f"{file} holds no tokenizer that can be read: {brief(error)}") from error
