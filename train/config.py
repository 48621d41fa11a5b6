"""Typed configuration: dataclasses, overrides from the command line, and checks that run before any
work.

A config file defines ``get_config() -> Config``. Every value, from the file or from
``--config.a.b=value``, is checked against its annotation, its choices and its limits; a mistake is
a :class:`ConfigError` of one line that names the field, the value and the nearest right one.
"""

import copy
import dataclasses
import difflib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jaxmodels
from train import tasks
from train.checks import check, resolve_options
from train.options import (
    EXAMPLES,
    CheckpointConfig,
    Config,
    DataConfig,
    DistillConfig,
    MeshConfig,
    OptimConfig,
    ProcessesConfig,
    PruneConfig,
    TasksConfig,
    dormant,
    renamed,
)
from train.options.fields import (
    ConfigError,
    check_section,
    fill,
    literal,
    section_differences,
    set_field,
    shown,
)
from train.tasks.checks import reads_text

__all__ = [
    "EXAMPLES",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "MeshConfig",
    "OptimConfig",
    "ProcessesConfig",
    "PruneConfig",
    "TasksConfig",
    "check",
    "differences",
    "from_json",
    "load_config",
    "to_json",
]


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Config:
    """Runs ``get_config()`` of a config file, applies ``a.b=value`` overrides and checks the
    result.

    A warm-up of the file that fewer steps leave no room for keeps its share of the steps.

    Args:
      say: told of that, in one line.

    Raises:
      ConfigError: no such file, not a config file, or a field that is unknown, of the wrong type or
        out of its limits.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.py")], n=1)
        hint = (
            f"; did you mean {path.parent / near[0]}.py?"
            if near
            else "; python -m train --list shows those there are"
        )
        raise ConfigError(f"config file {path} does not exist{hint}")
    spec = importlib.util.spec_from_file_location(f"configs.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as e:
        what = renamed.explained(e) or f"{type(e).__name__}: {e}"
        raise ConfigError(f"config file {path}: {what}") from e
    if isinstance(config, Config):
        renamed.refuse_unknown(config, "config")
    else:
        raise ConfigError(
            f"config file {path}: get_config() returned {type(config).__name__}, not a "
            "train.config.Config"
        )
    resolve_options(config)
    of_file, told = copy.deepcopy(config), set()
    given = [override.partition("=") for override in overrides]
    # the task first: it says which options there are
    for key, separator, text in sorted(given, key=lambda one: one[0] not in ("task", "objective")):
        if not separator:
            raise ConfigError(f"--config.{key} has no value; write --config.{key}=VALUE")
        key = renamed.key_of_today(key, config.task, default=_is_former_default(key, text))
        if key is None:
            continue
        told.add(key)
        if key == "task":
            _change_task(config, text, say)
        else:
            set_field(config, key, text)
    check_section(config, "config")
    try:
        check_section(of_file, "config")
    except ConfigError:  # which the command line mends
        of_file = config
    if "optim.warmup_steps" not in told:
        _shorten_warmup(config, of_file, say)
    check(config)
    # what belongs to something that the command line switches off is no mistake
    without = {k: v for k, v in _dormant(config).items() if k in told or k in _dormant(of_file)}
    if without:
        raise ConfigError(dormant.complaint(config, without))
    return config


def _is_former_default(key: str, text: str) -> bool:
    """Whether an option's former name is given with its default."""
    found = renamed.RENAMED.get(key)
    if found is None or not found.tasks:
        return False
    options = tasks.TASKS[found.tasks[0]].options()
    return literal(text) == getattr(options, found.name.removeprefix("options."))


def _change_task(config: Config, task: str, say: Callable[[str], None]) -> None:
    """Sets another task; of the options of the file those stay that it has too."""
    before, then = config.options, config.task
    config.task, config.options = task, {}
    resolve_options(config)
    for field in dataclasses.fields(before):
        value = getattr(before, field.name)
        if hasattr(config.options, field.name):
            setattr(config.options, field.name, value)
        elif value != getattr(type(before)(), field.name):
            say(
                f"config.options.{field.name} = {shown(value)} is of task {then} and has no "
                f"effect on {task}"
            )


def _shorten_warmup(config: Config, of_file: Config, say: Callable[[str], None]) -> None:
    """Gives the warm-up of a file its share of the steps again, where fewer steps leave no room for
    it."""
    warmup, steps = of_file.optim.warmup_steps, config.steps
    if warmup < of_file.steps and warmup >= steps:
        shorter = min(max(1, round(warmup * steps / of_file.steps)), steps - 1)
        of = f"the same share of config.steps = {steps} as {warmup} is of {of_file.steps}"
        say(
            f"config.optim.warmup_steps = {warmup} does not fit and is shortened to {shorter}, {of}"
        )
        config.optim.warmup_steps = shorter


def _awake(config: Config) -> Config:
    """A copy with defaults for options that have no effect."""
    config = copy.deepcopy(config)
    resolve_options(config)
    for name in _dormant(config):
        dormant.reset(config, name)
    return config


def _dormant(config: Config) -> dict[str, str]:
    known = config.model in jaxmodels.MODELS or ":" in config.model
    reads = known and reads_text(config)
    return dormant.dormant(config, text=reads)


def to_json(config: Config) -> str:
    """The resolved config as JSON text; :func:`from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what :func:`to_json` wrote. Raises ConfigError where it does not fit this version's
    fields."""
    config = Config()
    try:
        values = json.loads(text)
    except RecursionError:
        raise ConfigError("the JSON of the config is nested too deeply") from None
    if isinstance(values, dict):
        values = renamed.values_of_today(values)
        config.task = values.get("task", config.task)
        check_section(config, "config")
    resolve_options(config)
    fill(config, values, "config")
    check(config)
    return config


def differences(a: Config, b: Config) -> list[str]:
    """Fields that change what is computed and differ, as ``"config.seed: 0 -> 1"``.

    Resumable fields and those that have no effect are left out.
    """
    a, b = _awake(a), _awake(b)
    if a.task != b.task:  # which have other options
        a.options = b.options = {}
    return section_differences(a, b, "config")
