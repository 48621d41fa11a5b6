"""The one exception the data pipeline raises for a person to read."""

from __future__ import annotations


class DataError(ValueError):
    """A data set cannot be found, prepared or read; the message names the cause and the way out."""


def shortened(text: object, most: int = 80) -> str:
    """A value of a message on one line, its middle left out where it is longer than ``most``
    characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most * 2 // 3]}...{line[-(most // 3 - 3) :]}"
