"""Finds the place of each tensor of a file in a model, by names, shapes and types alone; then takes
the values.

:func:`fit` reads no value, so that a file is compared with the model before its tensors are read.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxmodels.catalogue import formats_of
from jaxmodels.foreign.formats import Shape, skipped
from jaxmodels.foreign.rules import Rule, Source, WeightsError, resolve, shape_fault, to_ours

logger = logging.getLogger("jaxmodels.weights")

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Components of names that ``torch.compile`` and PyTorch's wrappers add; no model has such a module
of its own."""
AVERAGED = "n_averaged"
"""The counter that ``torch.optim.swa_utils.AveragedModel`` keeps beside its ``module``."""
DEPTH = 8
"""Components that a prefix of names may have."""


@dataclass(frozen=True)
class Fit:
    """The place of each tensor of a file.

    Attributes:
      model: what the file was compared with; shape: of its images, empty for text; format: of the
        names.
      prefix: in front of the file's names, by which they differ from the format's.
      names: name in the format -> name in the file.
      places: path of our leaf -> its shape and type, where it comes from and the file's tensors.
      twins: names in the file of two tensors that have to be equal.
      constants: name in the file -> name in the format, of tensors to be compared with the family's
        constants.
    """

    model: nn.Module
    shape: Shape
    format: str
    prefix: str
    names: Mapping[str, str]
    places: Mapping[str, tuple[Any, Source, tuple[str, ...]]]
    twins: tuple[tuple[str, str], ...]
    constants: Mapping[str, str]


def rules_of(model: nn.Module, format: str, shape: Shape) -> tuple[Rule, ...]:
    """The rules of one format of a model. Raises WeightsError if the family has no such format."""
    known = formats_of(model).formats
    if format not in known:
        raise WeightsError(
            f"{type(model).__name__} has no format {format!r}; there are {', '.join(known)}"
        )
    return known[format](model, shape)


def fit(
    model: nn.Module,
    shape: Shape,
    leaves: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    format: str | None,
    skip: Sequence[str],
    cast: bool,
    skippable: Iterable[str] = (),
) -> Fit:
    """Compares names, shapes and types of a file's tensors with what the model has.

    Args:
      leaves: the model's variables by path, as shapes and types.
      given: the file's tensors by name, or anything that has their ``shape`` and ``dtype``.
      skip, format, cast: see :func:`jaxmodels.weights.from_torch`.
      skippable: paths that ``skip`` may match besides.

    Raises:
      WeightsError: tensors that are missing, left over, of another shape or of another type; the
        first few are named.
    """
    family, faults = formats_of(model), list[str]()
    plain = _plain_names(given, family.renamed, faults)
    format, prefix = _best(model, shape, leaves, plain, format)
    names = {}
    for name, raw in plain.items():
        names.setdefault(name.removeprefix(prefix), raw)
        if names[name.removeprefix(prefix)] != raw:
            faults.append(f"{names[name.removeprefix(prefix)]} and {raw} are two of one name")
    if names.get(AVERAGED) in given and given[names[AVERAGED]].shape == ():
        del names[AVERAGED]
    rules, ties = rules_of(model, format, shape), family.ties(model, format)
    aliases: dict[str, list[str]] = {}
    for alias, first in ties.items():
        aliases.setdefault(first, []).append(alias)
    known = [
        *leaves,
        *skippable,
        *(f"{format}/{n.replace('.', '/')}" for n in [*names, *names.values()]),
    ]
    faults += [
        f"skip {p!r} matches nothing" for p in skip if not any(skipped(path, [p]) for path in known)
    ]
    counted = any(n.endswith("num_batches_tracked") for n in names)
    places, used, twins = {}, set[str](), []
    for path, leaf in leaves.items():
        source = resolve(rules, path, leaf.shape)
        used.update(source.names)
        if skipped(path, skip):
            continue
        if source.tensor.counter and not counted:
            places[path] = leaf, source, ()
            continue
        found = [_present(name, names, aliases) for name in source.names]
        for name, raw in zip(source.names, found, strict=True):
            fault = "is missing" if raw is None else _fault(source, given[raw], leaf, cast)
            if fault:
                faults.append(f"{prefix}{name} {fault}")
        places[path] = leaf, source, tuple(raw for raw in found if raw is not None)
    dotted, constants = [p for p in skip if "." in p], {}
    unread = family.unread(model)
    for name, raw in names.items():
        if (
            name in used
            or skipped(f"{format}.{name}", dotted)
            or skipped(f"{format}.{raw}", dotted)
        ):
            continue
        if any(re.fullmatch(pattern, name) for pattern in family.constants):
            constants[raw] = name
        elif name in ties:
            first = _present(ties[name], names, aliases)
            if first not in (None, raw) and not re.fullmatch(unread, name):
                twins.append((raw, first))
        elif not re.fullmatch(unread, name):
            faults.append(f"{raw} is left over")
    _raise(model, shape, format, faults)
    return Fit(model, shape, format, prefix, names, places, tuple(twins), constants)


def say(found: Fit, source: str = "", unused: Sequence[str] = ()) -> None:
    """Logs that names lost a prefix, and which tensors go nowhere."""
    begin = f"{source}: " if source else ""
    if found.prefix:
        logger.warning("%sthe names begin with %r, which is taken off", begin, found.prefix)
    if unused:
        logger.warning("%sthe model has no use for %s", begin, few(unused, 3))


def values(found: Fit, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our leaves by path, from the tensors that were compared.

    Raises:
      WeightsError: tensors that the model ties differ, or constants are not what they have to be.
    """
    family, faults = formats_of(found.model), list[str]()
    for raw, first in found.twins:
        if not np.array_equal(tensors[raw], tensors[first]):
            hint = (
                "; it has a field tie_embeddings" if hasattr(found.model, "tie_embeddings") else ""
            )
            faults.append(f"{raw} differs from {first}, to which the model ties it{hint}")
    for raw, name in found.constants.items():
        checks = [
            check for pattern, check in family.constants.items() if re.fullmatch(pattern, name)
        ]
        faults += [
            f"{raw} is not {words}, and the model has no place for another; skip={(name,)} leaves "
            "it out"
            for is_constant, words in checks
            if not is_constant(np.asarray(tensors[raw]))
        ]
    result = {}
    for path, (leaf, source, names) in found.places.items():
        parts = []
        for raw in names:
            try:
                parts.append(
                    to_ours(source.tensor, np.asarray(tensors[raw])).astype(leaf.dtype, copy=False)
                )
            except ValueError as e:
                faults.append(f"{raw} {e}")
        if len(parts) == len(source.names):
            result[path] = np.stack(parts) if source.stacked else parts[0]
        elif source.tensor.counter and not names:
            result[path] = np.zeros(leaf.shape, np.int32)
    _raise(found.model, found.shape, found.format, faults)
    return result


def with_images(shape: Shape) -> str:
    """The end of a sentence about a model."""
    return f" with images {shape}" if shape else ""


def few(texts: Sequence[str], limit: int = 5, room: int = 320) -> str:
    """The first texts, as far as there is room for them, and how many more there are."""
    texts = list(dict.fromkeys(texts))  # one packed tensor may be wrong for several of ours
    shown = [cut(texts[0], room)]
    for text in texts[1:limit]:
        if len("; ".join([*shown, text])) > room:
            break
        shown.append(text)
    more = f", and {len(texts) - len(shown)} more" if len(texts) > len(shown) else ""
    return "; ".join(shown) + more


def cut(text: str, length: int) -> str:
    """A text without its middle, if it is too long."""
    return text if len(text) <= length else f"{text[: length // 2]}...{text[3 - length // 2 :]}"


def _raise(model: nn.Module, shape: Shape, format: str, faults: Sequence[str]) -> None:
    if faults:
        where = f"weights in {format} format do not fit {type(model).__name__}{with_images(shape)}"
        raise WeightsError(f"{where}: {few(faults)}")


def _plain_names(
    given: Iterable[str], renamed: Mapping[str, str], faults: list[str]
) -> dict[str, str]:
    """Names without wrappers and as they are today -> names in the file."""
    plain: dict[str, str] = {}
    for raw in given:
        name = ".".join(part for part in raw.split(".") if part not in WRAPPERS)
        for old, new in renamed.items():
            name = re.sub(old, new, name)
        if plain.setdefault(name, raw) != raw:
            faults.append(f"{plain[name]} and {raw} are two of one name")
    return plain


def _present(
    name: str, names: Mapping[str, str], aliases: Mapping[str, Sequence[str]]
) -> str | None:
    """The file's name of a tensor, or of one that is tied to it: files may keep any of those."""
    return next((names[n] for n in (name, *aliases.get(name, ())) if n in names), None)


def _fault(source: Source, tensor: Any, leaf: Any, cast: bool) -> str | None:
    """The fault of a tensor's shape or type, to follow its name."""
    shape, dtype = tuple(tensor.shape), np.dtype(tensor.dtype)
    if source.tensor.counter:
        good = shape == () and dtype == np.int64
        return None if good else f"is {dtype} {shape}, not an int64 count below 2^31"
    fault = shape_fault(source.tensor, shape, leaf.shape[1:] if source.stacked else leaf.shape)
    if fault or dtype == leaf.dtype:
        return fault
    floating = jnp.issubdtype(dtype, jnp.floating) and jnp.issubdtype(leaf.dtype, jnp.floating)
    if cast and floating:
        return None
    return f"is {dtype}, the model has {leaf.dtype}" + (
        f"; pass cast=True to convert it to {leaf.dtype}" if floating else ""
    )


def _best(
    model: nn.Module,
    shape: Shape,
    leaves: Mapping[str, Any],
    plain: Mapping[str, str],
    format: str | None,
) -> tuple[str, str]:
    """The format, and the prefix of the file's names, with which most names are the model's."""
    candidates: list[tuple[int, str, str, set[str]]] = []
    for name in [format] if format else formats_of(model).formats:
        rules = rules_of(model, name, shape)
        try:
            expected = {
                n for path, leaf in leaves.items() for n in resolve(rules, path, leaf.shape).names
            }
        except WeightsError:
            if format:
                raise
            continue
        expected |= set(formats_of(model).ties(model, name))
        hits = Counter[str]({"": 0})
        for given in plain:
            parts = given.split(".")
            for i in range(min(len(parts), DEPTH + 1)):
                if ".".join(parts[i:]) in expected:
                    hits["".join(f"{part}." for part in parts[:i])] += 1
        prefix = max(hits, key=lambda p: (hits[p], -len(p)))
        candidates.append((hits[prefix], name, prefix, expected))
    if not candidates:
        raise WeightsError(
            f"no format has a place for all that {type(model).__name__} has with these fields"
        )
    most = max(count for count, *_ in candidates)
    count, name, prefix, expected = min(
        (c for c in candidates if c[0] == most), key=lambda c: len(c[2])
    )  # the first of those that need no prefix
    if count < min(len(expected), len(plain)) / 5:
        raise WeightsError(_strangers(model, plain, count, name, expected))
    return name, prefix


def _strangers(
    model: nn.Module, plain: Mapping[str, str], count: int, format: str, expected: set[str]
) -> str:
    theirs = [cut(name, 60) for name in list(plain)[:3]]
    ends = zip(min(plain).split("."), max(plain).split("."), strict=False)
    common = (
        "".join(f"{a}." for a, _ in takewhile(lambda pair: pair[0] == pair[1], ends))
        if len(plain) > 1
        else ""
    )
    begin = f", all beginning with {cut(common, 60)!r}" if common else ""
    wanted = [cut(name, 60) for name in sorted(expected)[:2]]
    return (
        f"these are not weights of {type(model).__name__}, or names that are not known here: "
        f"{count} of the file's {len(plain)} names fit; it has {', '.join(theirs)}{begin}; in "
        f"{format} format there would be {', '.join(wanted)}"
    )
