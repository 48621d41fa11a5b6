"""Damage to files: flipped bits, lost, doubled and strange bytes, mixed lines, JSON that says
something else."""

import copy
import json
from typing import Any

import numpy as np

Rng = np.random.Generator

STRANGE = (
    b"\x00",
    b"\xff",
    b"\r",
    b"\n",
    b"\t",
    b'"',
    b",",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"\xc3",
    b"NaN",
    b"-",
    b"[",
)
"""Bytes that readers of text trip over."""

VALUES = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3.5,
        -0.5,
        0.0,
        2**31,
        2**63,
        -(2**63),
        10**18,
        10**30,
        1e-300,
        1e300,
    ),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "a",
        "gelu",
        "0",
        "\x00",
        "\u2028",
        "\ud800",
        "a" * 3000,
    ),
    *([], {}, [1], [[]], {"a": 1}, [0] * 300),
)
"""Values that are put in the place of a value of JSON."""


def pick(rng: Rng, choices: Any) -> Any:
    """One of several."""
    return choices[int(rng.integers(len(choices)))]


def mutated(rng: Rng, content: bytes, other: bytes = b"") -> bytes:
    """Content with one to four changes, most often one.

    Args:
      other: another file of the kind, of which parts are mixed in.
    """
    for _ in range(max(1, int(rng.integers(-3, 5)))):
        content = pick(rng, CHANGES)(rng, content, other or content)
    return content


def flipped(rng: Rng, content: bytes, other: bytes = b"") -> bytes:
    """Content with another value of one bit."""
    if not content:
        return content
    changed, place = bytearray(content), int(rng.integers(len(content)))
    changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _flipped_early(rng: Rng, content: bytes, other: bytes) -> bytes:
    head = min(len(content), 256)
    return flipped(rng, content[:head]) + content[head:]


def _piece(rng: Rng, content: bytes) -> tuple[int, int]:
    start = int(rng.integers(len(content) + 1))
    return start, min(len(content), start + int(rng.integers(1, 2 + min(64, len(content) // 2))))


def _without(rng: Rng, content: bytes, other: bytes) -> bytes:
    start, end = _piece(rng, content)
    return content[:start] + content[end:]


def _doubled(rng: Rng, content: bytes, other: bytes) -> bytes:
    start, end = _piece(rng, content)
    return content[:end] + content[start:]


def _with_strange(rng: Rng, content: bytes, other: bytes) -> bytes:
    start = int(rng.integers(len(content) + 1))
    return content[:start] + pick(rng, STRANGE) + content[start:]


def _cut_off(rng: Rng, content: bytes, other: bytes) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def _spliced(rng: Rng, content: bytes, other: bytes) -> bytes:
    start, end = _piece(rng, other)
    place = int(rng.integers(len(content) + 1))
    return content[:place] + other[start:end] + content[place:]


def _joined(rng: Rng, content: bytes, other: bytes) -> bytes:
    return (
        content[: int(rng.integers(len(content) + 1))] + other[int(rng.integers(len(other) + 1)) :]
    )


def _shuffled_lines(rng: Rng, content: bytes, other: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    if len(lines) < 2:
        return content
    kind, i, j = int(rng.integers(3)), int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    if kind == 0:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 1:
        del lines[i]
    else:
        lines.insert(j, lines[i])
    return b"".join(lines)


CHANGES = (
    *(flipped, flipped, _flipped_early, _without, _doubled, _with_strange),
    *(_cut_off, _spliced, _joined, _shuffled_lines),
)


def json_mutated(rng: Rng, content: bytes) -> bytes:
    """A JSON text with one to three of its values or keys changed, most often one; as it is where
    it is none."""
    try:
        value = json.loads(content)
    except ValueError:
        return content
    for _ in range(max(1, int(rng.integers(-2, 4)))):
        places = [*_places(value)]
        if places:
            _change(rng, *pick(rng, places))
    text = json.dumps(value)  # "DEEP" stands for lists in lists, deeper than any reader goes
    deep = "[" * 50_000 + "]" * 50_000 if rng.integers(2) else '{"a":' * 50_000 + "1" + "}" * 50_000
    return text.replace('"DEEP"', deep).encode()


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for i in range(len(value)):
            yield value, i
            yield from _places(value[i])


def _change(rng: Rng, holder: Any, key: Any) -> None:
    kind = int(rng.integers(8))
    if kind == 0 and isinstance(holder, dict):
        holder[str(key) + pick(rng, ("_", "s", "\n", "\u00e9"))] = holder.pop(key)
    elif kind == 1:
        del holder[key]
    elif kind == 2 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = pick(
            rng,
            (holder[key] + 1, holder[key] * 2, -holder[key], float(holder[key]), str(holder[key])),
        )
    elif kind == 3 and rng.integers(8) == 0:
        holder[key] = "DEEP"
    elif kind == 4 and isinstance(holder, dict):
        holder[pick(rng, sorted(map(str, holder)))] = copy.deepcopy(holder[key])
    else:
        holder[key] = copy.deepcopy(pick(rng, VALUES))
