"""Files of the user's own: which there are, which split they belong to, and what stands in them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.errors import DataError, shortened
from input_pipeline.files import SURROGATE, lines_of, read_text

SPLITS = (("train", "train"), ("val", "validation"), ("dev", "validation"), ("test", "test"))
"""How a file's name begins, and the split it belongs to."""


def find_files(name: str, raw_dir: Path | None, suffixes: Sequence[str]) -> list[Path]:
    """The file that ``raw_dir`` is, or the files in it that end so, by name.

    Args:
        name: of the data set, for messages.
        raw_dir: the user's.
        suffixes: with dots; empty takes every file.

    Raises:
        DataError: there is none.
    """
    kinds = " or ".join(suffixes) or "text"
    if raw_dir is None:
        raise DataError(
            f"{name} needs --config.data.raw_dir: a {kinds} file, or a directory of them"
        )
    if not raw_dir.exists():
        raise DataError(f"{name}: raw_dir {raw_dir} does not exist")
    if raw_dir.is_file():
        return [raw_dir]
    if not raw_dir.is_dir():
        raise DataError(f"{name}: raw_dir {raw_dir} is neither a file nor a directory")
    found = sorted(
        p for p in raw_dir.iterdir() if p.is_file() and (not suffixes or p.suffix in suffixes)
    )
    if not found:
        raise DataError(f"{name}: raw_dir {raw_dir} holds no {kinds} file")
    return found


def _split_of(path: Path) -> str | None:
    return next((split for start, split in SPLITS if path.name.lower().startswith(start)), None)


def by_split(name: str, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the split that their names begin with; all of them under "" if none is named train.

    Raises:
        DataError: some are named train, and others have a name that says nothing.
    """
    if not any(_split_of(path) == "train" for path in files):
        said = [path.name for path in files if _split_of(path)]
        if said:
            raise DataError(f"{name}: beside {', '.join(said[:3])} there is no file named train...")
        return {"": list(files)}
    strays = [path.name for path in files if _split_of(path) is None]
    if strays:
        raise DataError(
            f"{name}: beside files named train..., what are {', '.join(strays[:3])}? Names begin "
            "with train, valid or test"
        )
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(str(_split_of(path)), []).append(path)
    return splits


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, see `lines_of`. Raises `DataError` as `read_text` does."""
    return lines_of(read_text(path))


def read_records(
    path: Path, fields: Sequence[str], *, rest: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number, from 1, and the ``fields`` of each line of a .jsonl file, or of a .tsv file in
    this order.

    A .tsv file may begin with a line of names, which then say the order. Empty lines are passed
    over.

    Args:
        path: of the file; fields: that are needed.
        rest: lines of a .tsv file without names may have one column more, such as the label that
          goes with a text.

    Raises:
        DataError: a line that has them not, or empty, or twice.
    """
    order: Sequence[str] = fields
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() and "\t" not in line:
            continue
        if path.suffix == ".jsonl":
            record = _json_fields(line, fields, f"{path}, line {number}")
        else:
            values = line.split("\t")
            if number == 1 and set(fields) <= {value.strip().lower() for value in values}:
                order = [value.strip().lower() for value in values]
                twice = [field for field in fields if order.count(field) > 1]
                if twice:
                    raise DataError(
                        f"{path}, line 1 names the column {twice[0]!r} {order.count(twice[0])} "
                        "times"
                    )
                continue
            if number == 1 and "label" in fields and values[-1].strip().lower() == "label":
                names = shortened(", ".join(values), 150)
                raise DataError(
                    f"{path}, line 1 names the columns {names}, not {', '.join(fields)}"
                )
            if rest and order is fields and len(values) == len(fields) + 1:
                order = (*fields, "")
            if len(values) != len(order):
                raise DataError(
                    f"{path}, line {number} has {len(values)} columns, not {len(order)}: "
                    f"{shortened(', '.join(order), 150)}, separated by tabs"
                )
            record = {
                field: value for field, value in zip(order, values, strict=True) if field in fields
            }
        for field in fields:
            if not isinstance(record[field], str) or not record[field].strip():
                raise DataError(f"{path}, line {number}: its {field} is empty or no text")
            if SURROGATE.search(record[field]):
                raise DataError(
                    f"{path}, line {number}: its {field} has half of a surrogate pair, which is no "
                    "character"
                )
        if "label" in record:
            record["label"] = record["label"].strip()
        yield number, record


def _json_fields(line: str, fields: Sequence[str], where: str) -> dict[str, Any]:
    """The fields of a JSON object; whole numbers as text."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {shortened(twice)!r} is there twice")
        return found

    try:
        record = json.loads(line, object_pairs_hook=once)
        found = {field: record[field] for field in fields}
        return {
            k: str(v) if isinstance(v, int) and not isinstance(v, bool) else v
            for k, v in found.items()
        }
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply") from error
    except (ValueError, KeyError, TypeError) as error:
        shape = ", ".join(f'"{field}": "..."' for field in fields)
        raise DataError(
            f"{where} is not {{{shape}}} ({type(error).__name__}: {shortened(error, 150)})"
        ) from error


def names_field(path: Path, field: str) -> bool:
    """Whether any line of a .jsonl file, or the line of names of a .tsv file, has a field of this
    name."""
    lines = read_lines(path)
    if path.suffix != ".jsonl":
        return field in [name.strip().lower() for name in lines[0].split("\t")]
    for line in lines:
        if field in line:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue  # read_records says so, with its number
            if isinstance(record, dict) and field in record:
                return True
    return False


def divided(name: str, records: list) -> dict[str, list]:
    """What has no splits of its own: every tenth is in ``test``.

    Raises:
        DataError: there are fewer than ten.
    """
    if len(records) < 10:
        raise DataError(
            f"{name}: {len(records)} examples are too few to set every tenth aside; give 10, or "
            "files named train... and test..."
        )
    return {"train": [r for i, r in enumerate(records) if i % 10 != 9], "test": records[9::10]}


def content_key(files: Sequence[Path]) -> str:
    """The same for files that have the same names and bytes."""
    found = []
    for path in files:
        stat = path.stat()
        found.append(f"{path.name}\n{_file_digest(path, stat.st_size, stat.st_mtime_ns)}")
    return digest(found)


@functools.lru_cache
def _file_digest(path: Path, size: int, changed: int) -> str:
    """Of a file's bytes, read once as long as it has this size and this time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(texts: Iterable[str]) -> str:
    """The same for the same texts."""
    found = hashlib.sha256()
    for text in texts:
        found.update(f"{len(text)}\n{text}".encode())
    return found.hexdigest()[:16]
