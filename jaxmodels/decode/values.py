"""Checks of single settings: each takes a name and a value, and gives the value or raises
ValueError in one line."""

import math
from collections.abc import Callable
from typing import Any

Check = Callable[[str, Any], Any]

LARGEST = 2**31 - 1
"""The largest whole number: lengths and tokens are int32."""

NORMAL = (1.1754944e-38, 3.4028235e38)
"""The smallest normal and the largest float32."""


def cut(value: Any) -> str:
    """A value as it stands in a message: at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(low: int, high: int = LARGEST) -> Check:
    """A whole number from ``low`` to ``high``."""

    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(
                f"{name} {cut(value)} must be a whole number, at least {low} and at most {high}"
            )
        return value

    return check


token = whole(0)
"""A token's number."""


def number(low: int | float, high: int | float, *, above: bool = False) -> Check:
    """A finite number from ``low`` (or above it) to ``high``."""
    least = "above" if above else "at least"

    def check(name: str, value: Any) -> float:
        # NaN is not
        good = (
            isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        )
        if not good or (above and value == low):
            raise ValueError(
                f"{name} {cut(value)} must be a number, {least} {low:g} and at most {high:g}"
            )
        return float(value)

    return check


factor = number(*NORMAL)
"""A number that scores are multiplied with or divided by."""


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} {cut(value)} must be true or false")
    return value


def early(name: str, value: Any) -> bool | str:
    """When a beam search ends."""
    if not isinstance(value, bool) and value != "never":
        raise ValueError(f'{name} {cut(value)} must be true, false or "never"')
    return value


def tokens(name: str, value: Any) -> tuple[int, ...]:
    """Tokens in a list."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} {cut(value)} must be a list of tokens")
    return tuple(token(name, one) for one in value)


def token_or_tokens(name: str, value: Any) -> tuple[int, ...]:
    """One token, or several in a list."""
    return tokens(name, value) if isinstance(value, list | tuple) else (token(name, value),)


def words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """A list of lists of tokens, none of them empty."""
    good = isinstance(value, list | tuple) and all(
        isinstance(word, list | tuple) and len(word) for word in value
    )
    if not good:
        raise ValueError(
            f"{name} {cut(value)} must be a list of lists of tokens, none of them empty"
        )
    return tuple(tokens(name, word) for word in value)


def biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """A list of pairs: tokens in a row, and what is added to the score of the last of them."""
    good = isinstance(value, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in value
    )
    if not good:
        raise ValueError(f"{name} {cut(value)} must be a list of pairs [[token, ...], number]")
    found = {}
    for sequence, bias in value:  # of equal sequences the last counts, as in transformers
        (sequence,) = words(name, [sequence])
        low = -math.inf if bias == -math.inf else -NORMAL[1]
        found[sequence] = number(low, NORMAL[1])(name, bias)
    return tuple(found.items())


def decay(name: str, value: Any) -> tuple[int, float]:
    """A number of tokens, and a factor."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name} {cut(value)} must be a pair [tokens, factor]")
    return whole(0)(name, value[0]), factor(name, value[1])
