"""The objectives of runs: one file each, and helpers that several share.

The loop, ``evaluate``, ``predict``, ``generate``, ``explain`` and ``compress`` know none of them by
its name: they ask the bundle of a run.
"""

from input_pipeline import DataSpec
from jaxmodels import Module
from train.options import Config
from train.task import Bundle, Report, Task
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
"""``config.objective`` -> its bundle."""


def bundle_of(config: Config) -> Bundle:
    """The bundle that a config names, or that of several labels."""
    return multitask.BUNDLE if config.tasks.labels else TASKS[config.objective]


def fitting(model: type) -> tuple[str, ...]:
    """Names of the tasks that a class of this library's models is for."""
    named = tuple(name for name, task in TASKS.items() if model in task.models)
    return named or tuple(name for name, task in TASKS.items() if task.any_classifier)


def suiting(option: str) -> str:
    """In words, the tasks that take an option."""
    return "objective " + " or ".join(n for n, task in TASKS.items() if option in task.suits)


def options_of_others(objective: str) -> dict[str, str]:
    """Options, or sections, of the config that belong to other tasks -> those tasks in words."""
    return {
        option: f"objective {name}"
        for name, task in TASKS.items()
        for option in task.options
        if name != objective
    }


def make_task(config: Config, model: Module, card: DataSpec) -> Task:
    """The task of a run.

    Raises:
      ConfigError: the data do not suit the task, or the model has no place for their tokens.
    """
    check_embeddings(model, card)
    return bundle_of(config).make(config, model, card)


__all__ = [
    "TASKS",
    "Bundle",
    "Report",
    "Task",
    "bundle_of",
    "fitting",
    "make_task",
    "options_of_others",
    "suiting",
]
