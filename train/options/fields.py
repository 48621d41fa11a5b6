"""Fields of dataclasses that people set: read from text, checked by type and limits; and errors in
one short line.

Knows nothing of what the fields mean. A mistake is a :class:`ConfigError`.
"""

import ast
import dataclasses
import difflib
import math
import re
import types
import typing
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Number = int | float

LINE = 490
"""Characters of an error's line, with room for the word before it: at most 500 in all."""

PATH, NAME = 4095, 255
"""Bytes of a text and of a part between two slashes: more than that no path of Linux can have."""

COUNT = 2**31 - 1
"""The most of anything that is counted, unless its field has a limit of its own: int32 holds it."""

LENGTH = 2**9
"""The most values of a tuple."""

SMALLEST, LARGEST = 1e-37, 3e38
"""Numbers that computation in float32 can hold."""

_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


class ConfigError(ValueError):
    """A mistake in a config file or on the command line; the message is one line and meant for the
    user."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(text: str, limit: int = LINE) -> str:
    """A message in one line of at most ``limit`` characters: cut in the middle, what cannot be
    printed escaped."""
    text = _BREAKS.sub(" ", _cut(text, 4 * limit).strip())
    return _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), limit)


def shown(value: Any, limit: int = 100) -> str:
    """``repr`` of a value for a message, cut in the middle where it is long."""
    # its own beginning and end, not the quotes alone
    if isinstance(value, str | bytes) and len(value) > 4 * limit:
        value = value[: 2 * limit] + value[-2 * limit :]
    try:
        return _cut(repr(value), limit)
    except ValueError:  # more digits than Python writes
        bits = f" of {value.bit_length():,} bits" if isinstance(value, int) else ""
        return f"<{type(value).__name__}{bits}>"
    except RecursionError:
        return f"<{type(value).__name__}, nested too deeply>"


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 5]} ... {text[-tail:]}"


def limit(
    *,
    low: Number | None = None,
    above: Number | None = None,
    high: Number | None = None,
    below: Number | None = None,
) -> dict[str, Any]:
    """Metadata of a numeric field: ``low <= value <= high`` and ``above < value < below``, each
    optional."""
    return {"low": low, "above": above, "high": high, "below": below}


def set_field(config: Any, key: str, text: str) -> None:
    """Sets the field at the dotted ``key`` from the text of a command line, by the field's
    annotation."""
    holder, full = config, f"config.{_cut(key, 150)}"
    *parents, name = key.split(".")
    for i, parent in enumerate(parents):
        require_field(holder, parent, full)
        if isinstance(getattr(holder, parent), dict):
            if len(parents) - i > 1:
                raise ConfigError(f"{full}: {parent} has no sections")
            getattr(holder, parent)[name] = literal(text)
            return
        holder = getattr(holder, parent)
    require_field(holder, name, full)
    hint = typing.get_type_hints(type(holder))[name]
    if dataclasses.is_dataclass(getattr(holder, name)):
        raise ConfigError(
            f"{full} is a section; set one of its fields: "
            f"{', '.join(_names(getattr(holder, name)))}"
        )
    value = text if hint is str else literal(text)
    setattr(holder, name, value)


def literal(text: str) -> Any:
    """The value that a text of the command line stands for; the text itself if it is no literal of
    Python."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        with warnings.catch_warnings():  # "1if" and "\d" are texts, and no mistakes in Python
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def fill(section: Any, values: Any, path: str) -> None:
    """Sets the fields of a dataclass, and of those in it, from nested mappings."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} = {shown(values)} is not a section")
    for key, value in values.items():
        require_field(section, key, f"{path}.{_cut(key, 150)}")
        if dataclasses.is_dataclass(getattr(section, key)):
            fill(getattr(section, key), value, f"{path}.{key}")
        else:
            setattr(section, key, value)


def check_section(section: Any, path: str) -> None:
    """Checks types, choices and limits of a dataclass and of those in it, and puts values into
    their annotated form."""
    hints = typing.get_type_hints(type(section))
    for f in dataclasses.fields(section):
        name, value, hint = f"{path}.{f.name}", getattr(section, f.name), hints[f.name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):
                raise ConfigError(f"{name} = {shown(value)} is not a {hint.__name__}")
            check_section(value, name)
            continue
        value = coerce(value, hint)
        check_type(value, hint, name)
        check_limits(value, f.metadata, name)
        setattr(section, f.name, value)


def coerce(value: Any, hint: Any) -> Any:
    """Lossless readings that a person expects: 1 for a float, a list or one number for a tuple."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in options:
        return None
    for option in options:
        if option is float and type(value) is int and abs(value) < 2**53:
            return float(value)
        if typing.get_origin(option) in (dict, Mapping) and isinstance(value, dict):
            return {k: coerce(v, typing.get_args(option)[1]) for k, v in value.items()}
        if typing.get_origin(option) is tuple and (
            not isinstance(value, str) or typing.get_args(option)[0] is str
        ):
            inner = typing.get_args(option)[0]
            items = value if isinstance(value, list | tuple) else [value]
            return tuple(coerce(item, inner) for item in items)
    return value


def check_type(value: Any, hint: Any, name: str) -> None:
    """Raises ConfigError unless a value is of an annotated type, its numbers are finite and its
    texts printable."""
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if not isinstance(value, str) or value not in choices:
            close = (
                difflib.get_close_matches(_cut(str(value), 100), choices, 1, 0.3)
                if isinstance(value, str)
                else []
            )
            nearest = f"; nearest: {close[0]!r}" if close else ""
            raise ConfigError(
                f"{name} = {shown(value)} is not one of {', '.join(choices)}{nearest}"
            )
        return
    if not fits(value, hint):
        wanted = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
        raise ConfigError(
            f"{name} = {shown(value)} is not of type {wanted}{_nearest_value(value, hint)}"
        )
    _check_values(value, name)


def fits(value: Any, hint: Any) -> bool:
    """True if a value is of an annotated type, all the way down; bool is not int, and a float is
    finite."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            fits(k, arguments[0]) and fits(v, arguments[1]) for k, v in value.items()
        )
    if hint is Any:
        return True
    if hint is float:
        return type(value) is float and math.isfinite(value)
    return type(value) is hint


def _check_values(value: Any, name: str) -> None:
    """Checks that float32 holds each number in a value, and that each text has no controls and
    could be a path."""
    if isinstance(value, dict):
        for k, v in value.items():
            _check_values(k, name)
            _check_values(v, name)
    elif isinstance(value, list | tuple):
        if len(value) > LENGTH:
            raise ConfigError(
                f"{name} = {shown(value)} has {len(value):,} values; at most {LENGTH}"
            )
        for item in value:
            _check_values(item, name)
    elif isinstance(value, float):
        # NaN and infinity too, in fields of any type
        if value and not SMALLEST <= abs(value) <= LARGEST:
            raise ConfigError(
                f"{name} = {shown(value)} is beyond float32: {SMALLEST:g} to {LARGEST:g}, or 0"
            )
    elif isinstance(value, str):
        wrong = next(
            (c for c in value if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None
        )
        if wrong is not None:
            raise ConfigError(
                f"{name} = {shown(value)} has a character that cannot be printed, {wrong!a}"
            )
        for part, most, of in (
            (value, PATH, "it"),
            (max(value.split("/"), key=len), NAME, "a part between slashes"),
        ):
            if len(part.encode()) > most:
                raise ConfigError(
                    f"{name} = {shown(value)}: {of} has {len(part.encode()):,} bytes; at most "
                    f"{most:,}"
                )


def check_limits(value: Any, metadata: Mapping[str, Any], name: str) -> None:
    """Checks a number, or each of a tuple of them, against what :func:`limit` gave; anything else
    passes."""
    if isinstance(value, tuple):
        for item in value:
            check_limits(item, metadata, name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    low, above, high, below = (metadata.get(k) for k in ("low", "above", "high", "below"))
    high = COUNT if high is None and isinstance(value, int) else high
    if low is not None and value < low:
        raise ConfigError(f"{name} = {shown(value)} must be at least {low}; nearest: {low}")
    if above is not None and value <= above:
        raise ConfigError(f"{name} = {shown(value)} must be above {above}")
    if high is not None and value > high:
        raise ConfigError(f"{name} = {shown(value)} must be at most {high}; nearest: {high}")
    if below is not None and value >= below:
        raise ConfigError(f"{name} = {shown(value)} must be below {below}")


def require_field(section: Any, key: str, full: str) -> None:
    """Raises ConfigError unless a dataclass has the field, with the nearest one that it has."""
    if not dataclasses.is_dataclass(section) or key not in _names(section):
        names = _names(section) if dataclasses.is_dataclass(section) else []
        raise ConfigError(f"{full} does not exist{nearest_name(key, names)}")


def section_differences(a: Any, b: Any, path: str) -> list[str]:
    """Fields of two dataclasses that differ, as ``"config.seed: 0 -> 1"``, but for those marked as
    resumable."""
    found = []
    for f in dataclasses.fields(a):
        x, y, name = getattr(a, f.name), getattr(b, f.name), f"{path}.{f.name}"
        if dataclasses.is_dataclass(x):
            found += section_differences(x, y, name)
        elif (x != y or (f.metadata.get("ordered") and [*x] != [*y])) and not f.metadata.get(
            "resumable"
        ):
            found.append(f"{name}: {shown(x)} -> {shown(y)}")
    return found


def nearest_name(key: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint for an error: the nearest of the names, or all of them."""
    close = difflib.get_close_matches(_cut(str(key), 100), list(names), n=1)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; there are {', '.join(names)}"
        if names
        else ""
    )


def nearest_multiples(value: int, unit: int) -> str:
    """The multiples of ``unit`` below and above a value, in words."""
    below = value // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)


def _nearest_value(value: Any, hint: Any) -> str:
    if hint is int and isinstance(value, float) and abs(value) < 2**53:
        return f"; nearest: {round(value)}"
    if hint is bool:
        return "; write True or False"
    return ""


def _names(section: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(section)]
