"""The table of certificates in a Markdown file, between two marks."""

from collections.abc import Sequence
from typing import Any

from jaxmodels.parity.report import table
from train.config import ConfigError

MARKS = ("<!-- certificates -->", "<!-- end of certificates -->")


def with_table(text: str, results: Sequence[dict[str, Any]]) -> str:
    """``text`` with the table of ``results``, which are certificates as JSON values.

    Raises:
      ConfigError: the text lacks a mark.
    """
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ConfigError(
            f"the file for --table needs the lines {MARKS[0]} and {MARKS[1]}, to put the table "
            "between"
        )
    return f"{before}{begin}\n{table(results)}{end}{after}"
