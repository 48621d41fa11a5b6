"""One reader for JSON files that users bring: whatever is wrong with one is a line that names
it."""

import json
import os
from pathlib import Path
from typing import Any

from jaxmodels.foreign.rules import WeightsError

MAX_BYTES = 2**26
"""A larger file is no config and no index: 64 MiB."""


def read_json_object(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      WeightsError: no file, too large, not UTF-8, not JSON, nested too deeply, not an object, or a
        name is there twice.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise WeightsError(
                f"{path} is {'not a file' if path.exists() else 'not there'}; a JSON file belongs "
                "there"
            )
        size = os.stat(path).st_size
        if size > max_bytes:
            raise WeightsError(
                f"{path} has {size:,} bytes, and a file of JSON here at most {max_bytes:,}"
            )
        found = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_unique)
    except RecursionError as e:
        raise WeightsError(f"{path} is no good JSON: it is nested too deeply") from e
    except WeightsError:
        raise
    except (OSError, ValueError, MemoryError) as e:
        raise WeightsError(f"{path} is no good JSON ({short(e, 200)})") from e
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds {short(found)}, not an object of JSON: {{...}}")
    return found


def short(value: Any, limit: int = 60) -> str:
    """A value, or the message of an exception, for a line of an error: one line, cut, printable in
    any encoding."""
    try:
        text = str(value) if isinstance(value, BaseException) else repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, lists too deep
        text = f"a {type(value).__name__}"
    text = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else text[:limit] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"it names {short(twice)} twice in one object")
    return found
