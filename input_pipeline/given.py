"""Texts that a person gives on the command line: themselves, in files, or on standard input."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from input_pipeline.datasets.local import read_records
from input_pipeline.errors import DataError, shortened
from input_pipeline.files import SURROGATE, lines_of, read_text

SUFFIXES = (".txt", ".tsv", ".jsonl")
"""Files of texts that are read; a .txt file line by line."""

_TEXT = "if this is a text, give it by: echo TEXT | ... -"


def given_texts(
    words: Sequence[str],
    fields: Sequence[str],
    stdin: Callable[[], list[str]],
    *,
    warn: Callable[[str], None],
    documents: bool = False,
) -> list[tuple[str, ...]]:
    """Texts, or pairs of texts with a tab in between.

    Args:
        words: texts, paths of files of `SUFFIXES`, or "-" for the lines of standard input.
        fields: names of the text or texts, by which a .jsonl file, or the first line of a .tsv
          file, has them.
        stdin: gives the lines of standard input.
        warn: told of empty lines, which are passed over.
        documents: a .txt file is one text, as a data set of documents has it.

    Returns:
        A tuple of as many texts as there are fields for each.

    Raises:
        DataError: a file that cannot be read, is no file of texts, or is misspelt; an empty text;
            another number of texts; a text that is not UTF-8.
    """
    found: list[tuple[str, ...]] = []
    for word in words:
        if word == "-":
            found += _lines(stdin(), "standard input", fields, warn)
        elif (path := _file(word)) is None:
            found.append(_parts(word, repr(shortened(word)), fields))
        elif path.suffix == ".txt" and documents:
            found.append((read_text(path),))
        elif path.suffix == ".txt":
            found += _lines(lines_of(read_text(path)), str(path), fields, warn)
        else:
            found += [
                tuple(record[field] for field in fields)
                for _, record in read_records(path, fields, rest=True)
            ]
    return found


def _file(word: str) -> Path | None:
    """The file that a word names; None: it names none."""
    path = Path(word)
    try:
        mode = os.stat(word).st_mode
    except (OSError, ValueError):
        if path.suffix in SUFFIXES and not any(map(str.isspace, word)):
            raise DataError(f"{shortened(word)}: no such file; {_TEXT}") from None
        return None
    if not stat.S_ISREG(mode) or path.suffix not in SUFFIXES:
        kind = (
            "a directory"
            if stat.S_ISDIR(mode)
            else "a file"
            if stat.S_ISREG(mode)
            else "a pipe or a device"
        )
        raise DataError(
            f"{shortened(word)} is {kind}, and texts are read from {', '.join(SUFFIXES)} files "
            f"and, line by line, from standard input: - < FILE; {_TEXT}"
        )
    return path


def _lines(
    lines: list[str], name: str, fields: Sequence[str], warn: Callable[[str], None]
) -> Iterator[tuple[str, ...]]:
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if len(empty) == len(lines):
        raise DataError(f"{name} is empty")
    if empty:
        warn(f"{name}: {len(empty)} empty line(s) are passed over, the first is line {empty[0]}")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _parts(line, f"{name}, line {number}", fields)


def _parts(text: str, name: str, fields: Sequence[str]) -> tuple[str, ...]:
    parts = tuple(text.split("\t")) if len(fields) > 1 else (text,)
    if len(parts) != len(fields):
        raise DataError(
            f"{name} has {len(parts)} part(s): {' and '.join(fields)} go with a tab in between"
        )
    for field, part in zip(fields, parts, strict=True):
        if not part.strip():
            raise DataError(f"{name}: its {field} is empty")
        if SURROGATE.search(part):
            raise DataError(f"{ascii(shortened(part))[1:-1]}: its {field} is not UTF-8")
    return parts
