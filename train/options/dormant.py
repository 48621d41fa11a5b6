"""Options of a config that do nothing, because what they belong to is off."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

TEXT_OPTIONS = ("tokenizer", "vocab_size", "max_len", "texts")
"""Options of ``config.data`` that only models of text read."""


def dormant(config: Any, *, text: bool) -> dict[str, str]:
    """Fields that differ from their default and have no effect: dotted name -> what they lack.

    Args:
      config: a ``train.config.Config``.
      text: whether its model reads text.
    """
    return {
        name: lack
        for names, on, lack in _groups(config, text)
        if not on
        for name in names
        if _value(config, name) != default(config, name)
    }


def default(config: Any, name: str) -> Any:
    """The default of the field with a dotted name."""
    *sections, last = name.split(".")
    for section in sections:
        config = getattr(config, section)
    (found,) = (f for f in dataclasses.fields(config) if f.name == last)
    return (
        found.default if found.default_factory is dataclasses.MISSING else found.default_factory()
    )


def reset(config: Any, name: str) -> None:
    """Sets the field with a dotted name to its default."""
    section, _, last = name.rpartition(".")
    setattr(_value(config, section) if section else config, last, default(config, name))


def complaint(config: Any, found: Mapping[str, str]) -> str:
    """One line about the first of :func:`dormant`'s fields."""
    name, lack = next(iter(found.items()))
    value = repr(_value(config, name))
    value = value if len(value) <= 80 else f"{value[:77]}..."
    return (
        f"config.{name} = {value} has no effect without {lack}; nearest: {default(config, name)!r}"
    )


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _groups(config: Any, text: bool) -> Iterator[tuple[list[str], bool, str]]:
    """(fields, whether they have an effect, what they need)."""
    data, optim, prune = config.data, config.optim, config.prune

    def of(section: str, *names: str) -> list[str]:
        return [f"{section}.{name}" for name in names]

    yield (
        of("data", "randaugment_magnitude"),
        data.randaugment_layers > 0,
        "config.data.randaugment_layers",
    )
    yield of("data", *TEXT_OPTIONS), text, "a model that reads text"
    sgd, adam = optim.name == "sgd", optim.name == "adamw"
    yield of("optim", "momentum", "nesterov"), sgd, "config.optim.name = 'sgd'"
    yield of("optim", "nesterov"), optim.momentum > 0, "config.optim.momentum"
    yield (
        of("optim", "b1", "b2"),
        adam or optim.name == "lion",
        "config.optim.name = 'adamw' or 'lion'",
    )
    yield of("optim", "eps"), adam, "config.optim.name = 'adamw'"
    yield (
        of("optim", "end_factor"),
        optim.schedule in ("cosine", "linear"),
        "config.optim.schedule = 'cosine'",
    )
    pruning = of("prune", "scope", "method", "begin_step", "end_step", "every", "examples")
    yield pruning, prune.sparsity > 0, "config.prune.sparsity"
    yield of("prune", "examples"), prune.method == "surgeon", "config.prune.method = 'surgeon'"
    gradual = prune.end_step > prune.begin_step
    yield of("prune", "every"), gradual, "config.prune.end_step above config.prune.begin_step"
    teacher = config.distill.teacher is not None
    yield of("distill", "temperature", "alpha", "hidden"), teacher, "config.distill.teacher"
    initial = config.init_from is not None or bool(config.init_parts)
    yield ["init_skip"], initial, "config.init_from or config.init_parts"
