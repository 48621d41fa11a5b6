"""Fields of the config that had another name once. What was written with the old name still works:
a workdir's ``config.json`` and ``--config.OLD=VALUE``. A config file is told the new name."""

import dataclasses
import re
from typing import Any, NamedTuple

from train.options.fields import ConfigError, nearest_name, shown


class Renamed(NamedTuple):
    """Where a field is today.

    Attributes:
      name: dotted.
      tasks: the tasks whose option it is; () if it is of every run.
    """

    name: str
    tasks: tuple[str, ...] = ()


RENAMED: dict[str, Renamed] = {
    "objective": Renamed("task"),
    "label_smoothing": Renamed(
        "options.label_smoothing", ("classification", "causal_lm", "masked_lm", "seq2seq")
    ),
    "data.mask_rate": Renamed("options.mask_rate", ("masked_lm",)),
    "vae.beta": Renamed("options.beta", ("elbo",)),
    "vae.importance_samples": Renamed("options.importance_samples", ("elbo",)),
    "beam.beams": Renamed("options.beams", ("seq2seq",)),
    "beam.length_penalty": Renamed("options.length_penalty", ("seq2seq",)),
    "beam.bleu_tokenizer": Renamed("options.bleu_tokenizer", ("seq2seq",)),
}
"""Dotted name of before -> today's."""

CLASSES = {
    "VAEConfig": "train.tasks.elbo.ELBOOptions",
    "BeamConfig": "train.tasks.seq2seq.Seq2SeqOptions",
}
"""Class of before -> today's."""

_SECTIONS = {old.partition(".")[0] for old in RENAMED if "." in old} - {"data"}


def key_of_today(key: str, task: str, *, default: bool = False) -> str | None:
    """The dotted name of a field, whatever its name on the command line; None for an option of
    another task that has its default, which changes nothing.

    Args:
      default: whether the value is the default of that option.

    Raises:
      ConfigError: an old name of an option that this task does not have, or of a section.
    """
    found, (section, _, name) = RENAMED.get(key), key.partition(".")
    if found is None and section in _SECTIONS:
        known = [old.partition(".")[2] for old in RENAMED if old.startswith(f"{section}.")]
        raise ConfigError(
            f"config.{key} does not exist; config.{section} is config.options now"
            + nearest_name(name, known)
        )
    if found is None:
        return key
    if found.tasks and task not in found.tasks:
        if default:
            return None
        raise ConfigError(
            f"config.{key} is config.{found.name} now, an option of task "
            f"{' or '.join(found.tasks)}, and config.task = {shown(task)}"
        )
    return found.name


def values_of_today(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a ``config.json``, under today's names.

    Options that had no effect on the run, because they were of other tasks, are left out.
    """
    if "objective" not in values:
        return values
    task, options = values["objective"], {}
    kept = {k: v for k, v in values.items() if k not in RENAMED and k not in _SECTIONS}
    for old, (new, tasks) in RENAMED.items():
        section, _, name = old.rpartition(".")
        holder = values.get(section, {}) if section else values
        if isinstance(holder, dict) and name in holder and task in tasks:
            options[new.removeprefix("options.")] = holder[name]
    if isinstance(values.get("data"), dict):
        kept["data"] = {k: v for k, v in values["data"].items() if f"data.{k}" not in RENAMED}
    # the rest of an old section is no name of today either: it is refused by its name
    for section in _SECTIONS & {*values}:
        rest = values[section]
        known = {old.partition(".")[2] for old in RENAMED if old.startswith(f"{section}.")}
        if not isinstance(rest, dict) or {*rest} - known:
            kept[section] = rest
    return {"task": task, "options": options} | kept


def explained(error: Exception) -> str | None:
    """One line about a config file that uses an old name; None if the error is another."""
    text = str(error)
    if found := re.search(
        r"unexpected keyword argument '(\w+)'|'Config' object has no attribute '(\w+)'", text
    ):
        old = found[1] or found[2]
        new = [f"{now.name} for {name}" for name, now in RENAMED.items() if name.startswith(old)]
        if new and (old in RENAMED or old in _SECTIONS or f"data.{old}" in RENAMED):
            return f"config has no {old!r} any more; write {', '.join(new)}"
        if f"data.{old}" in RENAMED:
            return f"config.data has no {old!r} any more; write {RENAMED[f'data.{old}'].name}"
    if (found := re.search(r"cannot import name '(\w+)'", text)) and found[1] in CLASSES:
        return f"{found[1]} is {CLASSES[found[1]]} now, given as options=..."
    return None


def refuse_unknown(section: Any, path: str) -> None:
    """Raises ConfigError for what a config file sets that is no field."""
    for name, value in vars(section).items():
        key = f"{path}.{name}"
        if name not in {f.name for f in dataclasses.fields(section)}:
            now = RENAMED.get(key.removeprefix("config."))
            hint = (
                f"; it is config.{now.name} now"
                if now
                else nearest_name(name, vars(type(section)()))
            )
            raise ConfigError(f"{key} = {shown(value)} does not exist{hint}")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            refuse_unknown(value, key)
