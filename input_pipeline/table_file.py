"""Rows of numbers from a CSV file, or one with tabs or semicolons, whose first line names the
columns.

A row is used as it is or refused by its file and line: there is no number that stands for one that
is missing.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator, Sequence

import numpy as np

from input_pipeline.errors import DataError, shortened

_SEPARATORS = (",", "\t", ";")


def read_table(
    text: str, name: str, columns: Sequence[str], source: str
) -> tuple[list[int], np.ndarray]:
    """Reads the columns that are needed, in any order and among others.

    Args:
        text: of the file; a quoted cell may hold newlines and separators.
        name: of the file, for messages.
        columns: that are needed.
        source: name of the data set that they are of, for messages.

    Returns:
        The line that each row begins in, from 1, and float32 [rows, columns]; at least one row.

    Raises:
        DataError: a column that is missing or there twice, a row with too many or too few cells, a
            cell that is no number, or none that float32 has.
    """
    separator = _separator(text, columns)
    rows = _rows(text, name, separator)
    _, header = next(rows, (1, []))
    if not header:
        raise DataError(f"{name} is empty")
    places = _places(header, name, columns, source)
    lines, numbers = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{name}:{line} has {len(row)} cells for {len(header)} columns; a cell with a "
                f"{separator!r} in it must be quoted"
            )
        numbers.append(
            [_number(row[i], f"{name}:{line}, {shortened(header[i])!r}") for i in places]
        )
        lines.append(line)
    if not lines:
        raise DataError(f"no rows in {name}: it has a line of names alone")
    return lines, np.array(numbers, np.float32)


def _separator(text: str, columns: Sequence[str]) -> str:
    """The separator by which the first line names the most of the columns."""
    headers = {}
    for separator in _SEPARATORS:
        try:
            headers[separator] = next(
                csv.reader(io.StringIO(text, newline=""), delimiter=separator), []
            )
        except csv.Error:  # said when the rows are read
            headers[separator] = []
    return max(_SEPARATORS, key=lambda s: (len({*columns} & {*headers[s]}), len(headers[s])))


def _rows(text: str, name: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows and the lines they begin in; empty lines are passed over."""
    reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}:{line} is no row of a table ({error}); a cell has at most "
            f"{csv.field_size_limit():,} characters, "
            'and a quote in a quoted one is written twice, ""'
        ) from error


def _places(header: list[str], name: str, columns: Sequence[str], source: str) -> list[int]:
    """Numbers of the columns in a row."""
    missing = [column for column in columns if column not in header]
    if missing:
        near = difflib.get_close_matches(missing[0], header, n=1)
        raise DataError(
            f"{name} lacks {len(missing)} of the {len(columns)} columns of {source}, first "
            f"{shortened(missing[0])!r}"
            + (
                f"; it has {shortened(near[0])!r}"
                if near
                else "; its first line must name them, as dataset.json does"
            )
        )
    twice = [column for column in columns if header.count(column) > 1]
    if twice:
        raise DataError(
            f"{name} has the column {shortened(twice[0])!r} {header.count(twice[0])} times; leave "
            "one"
        )
    return [header.index(column) for column in columns]


def _number(text: str, where: str) -> float:
    shown = repr(shortened(text, 40))
    try:
        value = float(text if "_" not in text else "")  # Python reads 1_000, and nobody else does
    except ValueError as error:
        hint = "; a decimal point is needed" if "," in text else ""
        raise DataError(f"{where}: {shown} is not a number{hint}") from error
    with np.errstate(over="ignore"):
        small = np.float32(value)
    if not np.isfinite(small):
        raise DataError(
            f"{where}: {shown} is not a number"
            if value != value or value in (np.inf, -np.inf)
            else (f"{where}: {shown} is beyond what float32 has, {np.finfo(np.float32).max:.4g}")
        )
    return value
