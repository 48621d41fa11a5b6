"""The tasks of runs: one file each, and helpers that several share.

The loop, ``evaluate``, ``predict``, ``generate``, ``explain`` and ``compress`` know none of them by
its name: they ask the bundle of a run.
"""

import difflib
import pkgutil
from typing import Any

import jax.numpy as jnp

from input_pipeline import DataSpec
from jaxmodels import Module
from jaxmodels.families import Family
from train.options import Config
from train.options.fields import ConfigError, shown
from train.task import Bundle, Report, Setting, Task
from train.tasks import (
    causal_lm,
    classification,
    contrastive,
    elbo,
    masked_lm,
    multitask,
    regression,
    seq2seq,
)
from train.tasks.preprocessing import check_embeddings

TASKS: dict[str, Bundle] = {
    "causal_lm": causal_lm.BUNDLE,
    "masked_lm": masked_lm.BUNDLE,
    "seq2seq": seq2seq.BUNDLE,
    "classification": classification.BUNDLE,
    "regression": regression.BUNDLE,
    "contrastive": contrastive.BUNDLE,
    "elbo": elbo.BUNDLE,
}
"""``config.task`` -> its bundle."""


def bundle_named(name: Any) -> Bundle:
    """The bundle of a built-in task by its short name, or one's own by
    ``"package.module:attribute"``.

    Raises:
      ConfigError: there is none of that name.
    """
    if not isinstance(name, str):
        raise ConfigError(f"config.task = {shown(name)} is not of type str")
    if name in TASKS:
        return TASKS[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.3)
        raise ConfigError(
            f"config.task = {shown(name)} is neither one of {', '.join(TASKS)} nor "
            f"package.module:attribute" + (f"; nearest: {near[0]!r}" if near else "")
        )
    try:
        found = pkgutil.resolve_name(name)
    except (Exception, SystemExit) as e:  # of code that is not the project's
        hint = "; is its folder in PYTHONPATH?" if isinstance(e, ModuleNotFoundError) else ""
        raise ConfigError(
            f"config.task = {shown(name)} cannot be imported ({type(e).__name__}: {e}){hint}"
        ) from e
    if not isinstance(found, Bundle):
        raise ConfigError(
            f"config.task = {shown(name)} is a {type(found).__name__}, not a train.task.Bundle"
        )
    return found


def bundle_of(config: Config) -> Bundle:
    """The bundle that a config names, or that of several labels."""
    return multitask.BUNDLE if config.tasks.labels else bundle_named(config.task)


def fits(task: Bundle, family: Family) -> bool:
    """Whether a task takes what the models of a family give; True where one of them does not say
    what it is."""
    return not (task.outputs and family.outputs) or bool({*task.outputs} & {*family.outputs})


def fitting(family: Family) -> tuple[str, ...]:
    """Names of the built-in tasks that a family of models is for."""
    return tuple(name for name, task in TASKS.items() if fits(task, family))


def suiting(option: str) -> str:
    """In words, the tasks that take an option."""
    return "task " + " or ".join(n for n, task in TASKS.items() if option in task.suits)


def make_task(config: Config, model: Module, card: DataSpec) -> Task:
    """The task of a run.

    Raises:
      ConfigError: the data do not suit the task, or the model has no place for their tokens.
    """
    check_embeddings(model, card)
    setting = Setting(
        options=config.options,
        model=model,
        card=card,
        data=config.data,
        tasks=config.tasks,
        seed=config.seed,
        dtype=jnp.dtype(config.dtype),
        quantized=config.quantization_aware,
    )
    return bundle_of(config).make(setting)


__all__ = [
    "TASKS",
    "Bundle",
    "Report",
    "Task",
    "bundle_named",
    "bundle_of",
    "fits",
    "fitting",
    "make_task",
    "suiting",
]
